"""Updates of a policy: a toy reward rises on each family, and what must not teach does not."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import FakeModel

from qsave_reward.errors import ConfigError, QSaveError, VideoError
from qsave_reward.reward import VideoReward

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

import train
from families import shift_of
from lora import blend, copy_of, using
from rollout import Rollout, group_seeds, run_guided, sample
from run_log import read_log
from sde import OneStepSDE, gradient_scale, step_mean
from t2v_pipelines import PROMPT, build, options_for, sampled
from t2v_training import fill, learner_for
from train_options import TrainOptions

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

CHANNEL = {"wan": 1, "ltx": -1, "cogvideox": 2}
"""The axis of a latent's channels."""


def first_channel(name: str, rollout: Rollout) -> torch.Tensor:
    """The toy reward: mean of a latent's first channel, float32 [K]."""
    return rollout.latents.select(CHANNEL[name], 0).flatten(1).mean(dim=1)


def rollout_of(learner, name, update):
    """Eight videos as a run samples them, by the old policy; for GRPO from one noise, with one noisy step."""
    pipeline, policies, seeds = learner.pipeline, learner.policies, group_seeds(0, update, 0, 8)
    stock = pipeline.scheduler
    if learner.options.algorithm == "grpo":
        pipeline.scheduler = OneStepSDE(shift=shift_of(pipeline))
        pipeline.scheduler.plan(stochastic=0, noise=learner.options.noise, seed=seeds[1])
        seeds = [seeds[0]] * 8
    with using(policies.current, policies.old):
        rollout = sample(pipeline, PROMPT, seeds, options_for(name))
    pipeline.scheduler = stock
    return rollout


def learned(name, *, updates=15, sign=1.0, **changes):
    """The toy reward before and after learning from `sign` times it, and the numbers of the last update."""
    learner = learner_for(build(name), learning_rate=1e-2, **{"kl": 0.0} | changes)
    policies, options = learner.policies, learner.options

    def value():
        return first_channel(name, sampled(learner.pipeline, name, number=16)).mean().item()

    before = value()
    for update in range(updates):
        rollout = rollout_of(learner, name, update)
        values = sign * first_channel(name, rollout)
        advantages = (values - values.mean()) / (values.std() + 1e-4)
        numbers = learner.update([rollout], [advantages], seed=update)
        kept = 0.0 if options.algorithm == "grpo" else min(options.old_rate * (update + 1), options.old_limit)
        blend(policies.old, policies.current, kept)
    return before, value(), numbers


@pytest.mark.parametrize("name", CHANNEL)
def test_nft_raises_a_reward(name):
    before, after, numbers = learned(name)
    assert after > before + 0.5
    assert numbers["drift_reference"] > 0.1


def test_nft_follows_the_sign_of_the_reward():
    before, after, _ = learned("wan", sign=-1.0)
    assert after < before - 0.5


def test_a_large_kl_holds_the_policy_near_the_reference():
    before, after, numbers = learned("wan", kl=1.0)
    assert numbers["drift_reference"] < 0.02 and abs(after - before) < 0.3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_step_grpo_moves_a_reward(sign):
    before, after, numbers = learned("wan", sign=sign, algorithm="grpo", adam_epsilon=1e-15)
    assert sign * (after - before) > 0.4
    # One optimizer step a rollout, which the policy itself made: the ratio stays at 1.
    assert numbers["ratio_error"] < 1e-3


def test_a_large_kl_holds_grpo_too():
    before, after, _ = learned("wan", algorithm="grpo", adam_epsilon=1e-15, kl=1.0)
    assert abs(after - before) < 0.2


def updated(learner, rollouts, advantages, *, seed=0):
    """How far each weight moves in an update."""
    before = copy_of(learner.policies.current)
    learner.update(rollouts, advantages, seed=seed)
    return [after - old for after, old in zip(copy_of(learner.policies.current), before, strict=True)]


@pytest.mark.parametrize("algorithm", ["nft", "grpo"])
@pytest.mark.parametrize("advantage", [0.0, float("nan")])
def test_where_nothing_is_better_or_known_nothing_is_learned(algorithm, advantage):
    learner = learner_for(
        build("wan"), algorithm=algorithm, learning_rate=1e-2, kl=0.0, weight_decay=0.0, adam_epsilon=1e-4
    )
    rollout = rollout_of(learner, "wan", 0)
    moved = updated(learner, [rollout], [torch.full((8,), advantage)])
    assert max(step.abs().max() for step in moved) < 1e-5
    some = updated(learner, [rollout], [torch.linspace(-1, 1, 8)])
    assert max(step.abs().max() for step in some) > 1e-4


@pytest.mark.parametrize("algorithm", ["nft", "grpo"])
def test_videos_without_a_score_are_not_pulled_to_the_reference_either(algorithm):
    learner = learner_for(build("wan"), algorithm=algorithm, kl=1.0, weight_decay=0.0, adam_epsilon=1e-4)
    rollout = rollout_of(learner, "wan", 0)
    fill(learner.policies.reference, 3)
    assert max(s.abs().max() for s in updated(learner, [rollout], [torch.full((8,), torch.nan)])) == 0
    assert max(s.abs().max() for s in updated(learner, [rollout], [torch.linspace(-1e-6, 1e-6, 8)])) > 1e-6


@pytest.mark.parametrize("algorithm", ["nft", "grpo"])
def test_advantages_are_clipped(algorithm):
    limited = torch.linspace(-2, 2, 8)
    moved = []
    for advantages in (limited, torch.cat([torch.tensor([-9.0]), limited[1:7], torch.tensor([3.0])])):
        learner = learner_for(build("wan"), algorithm=algorithm, learning_rate=1e-2, advantage_limit=2.0)
        moved.append(updated(learner, [rollout_of(learner, "wan", 0)], [advantages]))
    assert all(torch.equal(one, other) for one, other in zip(*moved, strict=True))


def test_the_gradient_scale_of_the_step_is_taken_out():
    learner = learner_for(build("wan"), algorithm="grpo", kl=0.0)
    rollout = rollout_of(learner, "wan", 0)
    step = rollout.step
    numbers = learner.update([rollout], [torch.full((8,), 2.0)], seed=0)
    scale = gradient_scale(step.sigma, step.sigma_next, step.std)
    assert numbers["loss_policy"] == pytest.approx(-2 / scale, rel=1e-5)


@pytest.mark.parametrize(("name", "other"), [("old", "reference"), ("reference", "old")])
def test_the_policy_is_compared_with_the_old_one_and_the_reference(name, other):
    learner = learner_for(build("wan"), levels_per_video=1)
    rollout = sampled(learner.pipeline, "wan", number=3)
    fill(getattr(learner.policies, name), 2)
    numbers = learner.update([rollout], [torch.tensor([1.0, 0.0, -1.0])], seed=0)
    assert numbers[f"drift_{other}"] == 0 < numbers[f"drift_{name}"]


def test_gradients_are_clipped_and_their_norm_is_told():
    # With an epsilon far above the gradients a first step of AdamW is the learning rate times the gradient.
    fixed = {"learning_rate": 1e-2, "adam_epsilon": 10.0, "weight_decay": 0.0, "max_grad_norm": 1e-3}
    learner = learner_for(build("wan"), **fixed)
    rollout = sampled(learner.pipeline, "wan", number=3)
    before = copy_of(learner.policies.current)
    numbers = learner.update([rollout], [torch.tensor([3.0, -1.0, -2.0])], seed=0)
    moved = [after - old for after, old in zip(learner.policies.current, before, strict=True)]
    assert torch.stack([step.norm() for step in moved]).norm().item() == pytest.approx(
        1e-2 * 1e-3 / 10, rel=0.05
    )
    assert numbers["grad_norm"] > 1e-2


def rows(rollout: Rollout, part: slice) -> Rollout:
    """Some of the videos of a rollout."""
    step = rollout.step
    step = replace(step, before=step.before[part], after=step.after[part], log_prob=step.log_prob[part])
    return replace(rollout, frames=rollout.frames[part], latents=rollout.latents[part], step=step)


def test_a_group_in_parts_teaches_what_it_teaches_whole():
    advantages = torch.linspace(-1.5, 1.5, 8)
    moved = []
    for parts in ([slice(0, 8)], [slice(0, 4), slice(4, 8)]):
        learner = learner_for(build("wan"), algorithm="grpo", kl=0.1, adam_epsilon=1e-4)
        learner.accelerator.gradient_accumulation_steps = len(parts)
        rollout = rollout_of(learner, "wan", 0)
        chunks = [rows(rollout, part) for part in parts]
        moved.append(updated(learner, chunks, [advantages[part] for part in parts]))
    for whole, halves in zip(*moved, strict=True):
        torch.testing.assert_close(whole, halves, rtol=1e-3, atol=1e-8)


def test_a_loss_that_is_not_finite_stops_the_run():
    learner = learner_for(build("wan"))
    rollout = sampled(learner.pipeline, "wan", number=3)
    broken = replace(rollout, latents=torch.full_like(rollout.latents, torch.inf))
    before = copy_of(learner.policies.current)
    with pytest.raises(Exception, match="the loss is (nan|inf): lower learning_rate"):
        learner.update([broken], [torch.tensor([1.0, 0.0, -1.0])], seed=0)
    assert all(torch.equal(a, b) for a, b in zip(learner.policies.current, before, strict=True))


def test_equal_videos_that_are_judged_differently_teach_nothing():
    """Only what differs between the videos of a group may count, not the noise that is added to them."""
    learner = learner_for(build("wan"), kl=0.0, adam_epsilon=1.0, weight_decay=0.0)
    fill(learner.policies.current, 3)
    blend(learner.policies.old, learner.policies.current, 0.0)
    rollout = sampled(learner.pipeline, "wan", number=2)
    other = learner.update([rollout], [torch.tensor([1.0, -1.0])], seed=0)["grad_norm"]
    twins = replace(rollout, latents=rollout.latents[:1].repeat(2, *[1] * (rollout.latents.ndim - 1)))
    blend(learner.policies.old, learner.policies.current, 0.0)
    same = learner.update([twins], [torch.tensor([1.0, -1.0])], seed=0)["grad_norm"]
    assert same < 1e-4 * other


@pytest.fixture
def scorer(monkeypatch):
    """Scores the videos of runs; it has no weights."""
    own = FakeModel()
    monkeypatch.setattr("rewards.open_reward", lambda *_, **__: VideoReward(own, on_error="mask"))
    return own


@pytest.fixture
def start(scorer, tmp_path):
    """Begins a run of a tiny pipeline in a folder of its own."""

    def begin(name, **changes):
        folder = tmp_path / name
        if not folder.exists():
            build(name).save_pretrained(folder)
            (tmp_path / "prompts.txt").write_text(PROMPT)
        sizes = {"height": 16, "width": 16, "num_frames": 9, "steps": 2, "lora_rank": 4, "eval_count": 1}
        sizes |= {"prompts_per_update": 1, "group_size": 4, "batch_size": 2}
        sizes |= {name: str(tmp_path / "prompts.txt") for name in ("prompts", "eval_prompts")}
        own = sizes | {"output_dir": str(tmp_path / "run"), "pipeline": str(folder)} | changes
        return train.Run(TrainOptions(**own))

    return begin


def test_grpo_is_refused_where_there_is_no_flow_and_the_advice_can_be_followed(start):
    with pytest.raises(ConfigError, match="a flow-matching pipeline, got CogVideoXPipeline; use nft"):
        start("cogvideox", algorithm="grpo", num_frames=8)
    start("cogvideox", algorithm="nft", num_frames=8)


def test_the_noise_of_a_grpo_step_has_nothing_to_do_with_the_first_latents(start):
    run = start("wan", algorithm="grpo")
    rollouts, _ = run.rollouts(0)
    unit = []
    for rollout in rollouts:
        step = rollout.step
        assert torch.allclose(step.before, rollouts[0].step.before[:1], atol=1e-5)
        with torch.no_grad():
            velocity = run_guided(run.pipeline.transformer, rollout, step, 1.0)
        between = {"sigma": step.sigma, "sigma_next": step.sigma_next, "std": step.std}
        unit.append((step.after - step_mean(step.before, velocity, **between)) / step.std)
    noises = torch.cat([*unit, rollouts[0].step.before[:1]]).flatten(1)
    alike = np.corrcoef(noises.numpy()) - np.eye(5)
    assert np.abs(alike).max() < 0.3


def test_a_run_that_is_stopped_before_its_first_checkpoint_begins_anew(start, scorer):
    class Stopped(Exception):
        pass

    def stop(_update):
        raise Stopped

    for revision in ("4567", "0123"):
        scorer.provenance = replace(scorer.provenance, revision=revision)
        run = start("wan")
        run.update = stop
        with pytest.raises(Stopped):
            run.train()
    rows = read_log(run.output / "log.jsonl")
    assert [(row["kind"], row["step"]) for row in rows] == [("reward", 0), ("evaluation", 0)]
    # This is the reward that the run holds on to from now on.
    assert rows[0]["identity"]["revision"] == "0123"


def test_an_evaluation_without_a_score_has_no_number_and_ends_no_run(start, scorer, monkeypatch):
    monkeypatch.setattr(scorer, "_card", lambda *_: VideoError("nothing to see"))
    run = start("wan")
    try:
        run.evaluate(0)
        run.evaluate(1)
    except QSaveError as error:  # or it says so
        assert "score" in str(error)
    else:
        assert [row["reward.overall"] for row in read_log(run.output / "log.jsonl")] == [None, None]
