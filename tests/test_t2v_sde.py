"""The stochastic step: its marginals, its limits, its log-probability, and its place in stock pipelines."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from families import shift_of
from pipelines import load_pipeline
from rollout import sample
from sde import STD_CAP, gradient_scale, log_prob, one_step_sde, step_mean, step_std
from t2v_pipelines import PROMPT, build, options_for, sampled
from t2v_training import learner_for

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FLOW = ("wan", "wan_5b", "ltx", "hunyuan")
LEVELS = st.floats(0.02, 0.98)


def schedule(steps, shift):
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    return [*(shift * even / (1 + (shift - 1) * even)).tolist(), 0.0]


def of_a_gaussian(steps, noise, *, mean=0.3, std=0.5, shift=5.0):
    """Level, mean and deviation after each step, of 20 000 samples with the velocity of a normal law."""
    generator = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(20_000, generator=generator, dtype=torch.float64)

    sample, found = normal(), []
    sigmas = schedule(steps, shift)
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        centred = (sample - (1 - sigma) * mean) / variance
        velocity = sigma * centred - (mean + (1 - sigma) * std**2 * centred)
        spread = step_std(sigma, sigma_next, noise)
        sample = (
            step_mean(sample, velocity, sigma=sigma, sigma_next=sigma_next, std=spread) + spread * normal()
        )
        found.append((sigma_next, sample.mean().item(), sample.std().item()))
    return found


@pytest.mark.parametrize("noise", [0.3, 0.7, 1.2])
def test_noise_leaves_every_marginal_as_it_is(noise):
    for sigma, mean, std in of_a_gaussian(200, noise)[19::20]:
        assert mean == pytest.approx((1 - sigma) * 0.3, abs=0.015)
        assert std == pytest.approx(math.hypot((1 - sigma) * 0.5, sigma), abs=0.02)


def test_few_steps_fall_short_as_published():
    # Spread at the end for noise 0 and 0.7, from an independent computation: 10 and 20 steps.
    spreads = [of_a_gaussian(steps, noise)[-1][2] for noise in (0.0, 0.7) for steps in (10, 20)]
    assert spreads[:2] == pytest.approx([0.310, 0.397], abs=0.01)
    assert spreads[2] > spreads[0] and spreads[3] > spreads[1]


@given(LEVELS, LEVELS, st.floats(0.01, 3))
def test_a_step_without_noise_is_eulers_and_little_noise_is_close_to_it(one, other, noise):
    sigma, sigma_next = max(one, other), min(one, other) - 0.01
    sample, velocity = torch.tensor([[0.4, -1.2]]), torch.tensor([[1.5, 0.3]])
    euler = sample + (sigma_next - sigma) * velocity
    assert step_std(sigma, sigma_next, 0) == 0
    plain = step_mean(sample, velocity, sigma=sigma, sigma_next=sigma_next, std=0.0)
    torch.testing.assert_close(plain, euler)
    std = step_std(sigma, sigma_next, noise)
    assert 0 < std <= STD_CAP
    drift = step_mean(sample, velocity, sigma=sigma, sigma_next=sigma_next, std=std) - euler
    # -s^2 h / (2 sigma) times the estimate of the noise.
    expected = -(std**2) / (2 * sigma) * (sample + (1 - sigma) * velocity)
    torch.testing.assert_close(drift, expected, rtol=1e-4, atol=1e-5)


def test_the_spread_by_hand():
    assert step_std(0.5, 0.25, 0.4) == pytest.approx(0.4 * 0.5)
    assert step_std(0.8, 0.55, 0.3) == pytest.approx(0.3 * 1.0)
    assert step_std(0.8, 0.55, 0.7) == STD_CAP == step_std(1.0, 0.96, 0.7)
    assert step_std(1.0, 0.96, 0.0) == 0


def test_a_log_probability_is_the_mean_of_densities():
    generator = torch.Generator().manual_seed(0)
    drawn, mean = (torch.randn(4, 3, 5, generator=generator) for _ in range(2))
    expected = torch.distributions.Normal(mean, 0.3).log_prob(drawn).mean(dim=(1, 2))
    torch.testing.assert_close(log_prob(drawn, mean, 0.3), expected)


@given(LEVELS, LEVELS, st.floats(0.05, 2))
def test_the_rectifier_undoes_the_gradient_scale(one, other, noise):
    sigma, sigma_next = max(one, other), min(one, other) - 0.01
    std = step_std(sigma, sigma_next, noise)
    generator = torch.Generator().manual_seed(0)
    sample, velocity, unit = (torch.randn(2, 6, dtype=torch.float64, generator=generator) for _ in range(3))
    velocity.requires_grad_(True)
    mean = step_mean(sample, velocity, sigma=sigma, sigma_next=sigma_next, std=std)
    log_prob(mean.detach() + std * unit, mean, std).sum().backward()
    # The mean over 6 elements; more velocity means a lower next sample.
    rectified = velocity.grad * 6 / gradient_scale(sigma, sigma_next, std)
    torch.testing.assert_close(rectified, -unit, rtol=1e-6, atol=1e-9)


class SameLevels(FlowMatchEulerDiscreteScheduler):
    """The stock scheduler at sigma = s u / (1 + (s - 1) u) for u = 1, 1 - 1/n ... 1/n."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        number = num_inference_steps or len(sigmas)
        super().set_timesteps(sigmas=torch.linspace(1, 1 / number, number).tolist(), device=device)


def stochastic(pipeline, name, *, step, noise=0.7, seed=0, steps=3, **how):
    """A rollout with one stochastic step, and its latents after every step."""
    pipeline.scheduler = one_step_sde(pipeline)
    pipeline.scheduler.plan(stochastic=step, noise=noise, seed=seed)
    path = []
    own = pipeline.scheduler.step

    def watched(*arguments, **keywords):
        result = own(*arguments, **keywords)
        path.append(result[0].clone())
        return result

    pipeline.scheduler.step = watched
    return sampled(pipeline, name, steps=steps, **how), path


@pytest.mark.parametrize("name", FLOW)
def test_with_hardly_any_noise_a_stock_pipeline_runs_as_with_its_own_scheduler(name):
    pipeline = build(name)
    if name.startswith("wan"):
        pipeline.scheduler = SameLevels(shift=3.0)
    expected = sampled(pipeline, name, steps=4)
    found, path = stochastic(pipeline, name, step=2, noise=1e-6, steps=4)
    assert len(path) == 4 and found.step is not None and expected.step is None
    torch.testing.assert_close(found.latents, expected.latents, rtol=0, atol=1e-4)
    assert torch.equal(found.timestep, expected.timestep)


LTX_VIDEO = {"base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "max_image_seq_len": 4096}


@pytest.mark.parametrize("own", [{}, LTX_VIDEO, {"base_shift": 1.5, "max_image_seq_len": 300}])
def test_a_shift_that_depends_on_the_number_of_tokens_is_followed(own):
    pipeline = build("ltx")
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **own)
    expected = sampled(pipeline, "ltx", steps=4)
    levels = pipeline.scheduler.sigmas.clone()
    shift = shift_of(pipeline, tokens=expected.latents.shape[1])  # NFT trains at the levels that are sampled
    assert levels.tolist() == pytest.approx(schedule(4, shift), abs=1e-6)
    found, _ = stochastic(pipeline, "ltx", step=2, noise=1e-6, steps=4)
    torch.testing.assert_close(pipeline.scheduler.sigmas, levels, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.latents, expected.latents, rtol=0, atol=1e-4)
    assert levels.tolist() != pytest.approx(schedule(4, 1.0))


@pytest.mark.parametrize("name", ["wan", "ltx"])
@pytest.mark.parametrize("step", [0, 1])
def test_only_the_chosen_step_is_stochastic(name, step):
    pipeline = build(name)
    rollout, path = stochastic(pipeline, name, step=step)
    _, again = stochastic(pipeline, name, step=step)
    _, other = stochastic(pipeline, name, step=step, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(path, again, strict=True))
    same = [torch.equal(a, b) for a, b in zip(path, other, strict=True)]
    assert same == [True] * step + [False] * (3 - step)
    taken = rollout.step
    assert torch.equal(taken.after, path[step]) and torch.equal(rollout.latents, path[-1])
    if step:
        assert torch.equal(taken.before, path[step - 1])
    sigmas = schedule(3, shift_of(pipeline))
    assert (taken.sigma, taken.sigma_next) == pytest.approx(tuple(sigmas[step : step + 2]))
    # Two draws of the same step differ by noise of twice its variance.
    spread = (path[step] - other[step]).std().item() / math.sqrt(2)
    assert spread == pytest.approx(taken.std, rel=0.15)


def test_videos_of_a_group_begin_alike_and_part_at_the_stochastic_step():
    pipeline = build("wan")
    pipeline.scheduler = one_step_sde(pipeline)
    pipeline.scheduler.plan(stochastic=1, noise=0.7, seed=5)
    step = sample(pipeline, PROMPT, [9, 9, 9], options_for("wan", steps=3)).step
    torch.testing.assert_close(step.before[:1].expand(3, -1, -1, -1, -1), step.before, rtol=0, atol=1e-6)
    assert (step.after[0] - step.after[1]).abs().max() > step.std
    assert step.log_prob.shape == (3,) and step.before.dtype == torch.float32


def grpo_learner(pipeline, *, guidance=1.0, extra="{}"):
    return learner_for(pipeline, algorithm="grpo", guidance=guidance, extra=extra, learning_rate=1e-3)


def ratio_error(learner, rollout):
    """Largest distance of a ratio from 1 in the first update."""
    advantages = torch.tensor([1.0, -0.5, -0.5])
    return learner.update([rollout], [advantages], seed=0)["ratio_error"]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", FLOW)
def test_the_ratio_of_the_first_update_is_one(name, guidance):
    learner = grpo_learner(build(name), guidance=guidance)
    rollout, _ = stochastic(learner.pipeline, name, step=1, number=3, guidance=guidance)
    assert ratio_error(learner, rollout) < 1e-6
    # The second time the policy has moved.
    assert ratio_error(learner, rollout) > 1e-5


def test_the_ratio_of_the_first_update_is_one_with_true_guidance():
    true = {"true_cfg_scale": 2.0, "negative_prompt": "blue"}
    learner = grpo_learner(build("hunyuan"), guidance=4.0, extra=json.dumps(true))
    rollout, _ = stochastic(learner.pipeline, "hunyuan", step=1, number=3, guidance=4.0, **true)
    assert ratio_error(learner, rollout) < 1e-6


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_the_ratio_of_the_first_update_is_one_for_a_pipeline_in_bfloat16(name, guidance, tmp_path):
    build(name).save_pretrained(tmp_path)
    learner = grpo_learner(load_pipeline(str(tmp_path), dtype="bfloat16"), guidance=guidance)
    rollout, _ = stochastic(learner.pipeline, name, step=1, number=3, guidance=guidance)
    assert (
        rollout.dtype == torch.bfloat16
        and rollout.latents.dtype == rollout.step.before.dtype == torch.float32
    )
    assert all(weight.dtype == torch.float32 for weight in learner.policies.current)
    assert ratio_error(learner, rollout) < 1e-6


def test_latents_stored_in_bfloat16_are_noticed():
    learner = grpo_learner(build("wan"))
    rollout, _ = stochastic(learner.pipeline, "wan", step=1, number=3)
    step = rollout.step
    rough = replace(step, before=step.before.bfloat16().float(), after=step.after.bfloat16().float())
    assert ratio_error(learner, replace(rollout, step=rough)) > 1e-4
