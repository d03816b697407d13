"""Families of pipelines: built, sampled, saved; their noise levels; arguments recorded and replayed."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError, QSaveError

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from families import family_of, levels, shift_of, spread_sigmas, timesteps_like
from pipelines import load_pipeline
from rollout import group_seeds, run_at, run_guided, sample
from sde import Step
from t2v_pipelines import BUILDERS, PROMPT, SIDES, build, build_cogvideox, options_for, sampled, wan

NAMES = tuple(BUILDERS)
FLOW = tuple(name for name in NAMES if name != "cogvideox")


@pytest.fixture(scope="module")
def pipelines():
    """One of each, which no test changes."""
    return {name: build(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_gives_the_same_videos_after_it_was_saved(name, pipelines, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    own = sampled(pipelines[name], name)
    assert own.frames.shape == (2, options_for(name).num_frames, SIDES[name], SIDES[name], 3)
    assert own.frames.dtype == np.uint8 and own.frames.std() > 5
    assert own.latents.dtype == torch.float32 and own.latents.isfinite().all() and own.step is None
    pipelines[name].save_pretrained(tmp_path)
    again = load_pipeline(str(tmp_path))
    assert not any(weight.requires_grad for weight in again.transformer.parameters())
    assert not again.transformer.training
    other = sampled(again, name)
    torch.testing.assert_close(other.latents, own.latents, rtol=0, atol=1e-5)
    assert np.abs(other.frames.astype(int) - own.frames).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_its_video_whatever_else_is_in_the_batch(name, pipelines):
    options = options_for(name)
    alone = sample(pipelines[name], PROMPT, [7], options)
    among = sample(pipelines[name], PROMPT, [3, 7, 3], options)
    torch.testing.assert_close(among.latents[1:2], alone.latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(among.latents[0], among.latents[2], rtol=0, atol=1e-5)
    assert (among.latents[0] - among.latents[1]).abs().max() > 0.1
    assert np.abs(among.frames[1].astype(int) - alone.frames[0]).max() <= 1


def test_latents_and_frames_are_the_pipelines_own(pipelines):
    pipeline, options = pipelines["ltx"], options_for("ltx")
    options = replace(options, height=64)

    def stock(output_type):
        return pipeline(
            [PROMPT] * 2,
            height=64,
            width=32,
            num_frames=9,
            num_inference_steps=2,
            guidance_scale=1.0,
            max_sequence_length=16,
            generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
            output_type=output_type,
        ).frames

    rollout = sample(pipeline, PROMPT, [0, 1], options)
    assert torch.equal(rollout.latents, stock("latent"))
    np.testing.assert_array_equal(rollout.frames, np.round(stock("np") * 255))


def test_latents_that_are_not_finite_are_no_video():
    pipeline = build("wan")
    with torch.no_grad():
        pipeline.transformer.proj_out.bias.fill_(torch.inf)
    with pytest.raises((QSaveError, ArithmeticError), match="finite"):
        sampled(pipeline, "wan")


def test_pixels_that_are_not_finite_are_no_black_video():
    pipeline = build("wan")
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(QSaveError, match=f"pixels that are not finite for '{PROMPT}'; try another") as caught:
        sampled(pipeline, "wan")
    assert caught.value.code == "not_finite"


def test_what_is_no_family_is_refused(tmp_path):
    class OtherPipeline:
        pass

    with pytest.raises(ConfigError, match=r"WanPipeline.*CogVideoXPipeline, got OtherPipeline"):
        family_of(OtherPipeline())
    two = build("wan")
    two.register_modules(transformer_2=wan())
    with pytest.raises(ConfigError, match="two transformers"):
        family_of(two)
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        load_pipeline(str(tmp_path))
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        load_pipeline("./there/is/none")


def test_a_saved_pipeline_of_another_family_is_refused(pipelines, tmp_path):
    diffusers.LTXImageToVideoPipeline(**pipelines["ltx"].components).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="got LTXImageToVideoPipeline"):
        load_pipeline(str(tmp_path))


def test_levels_of_cogvideox_are_those_of_its_scheduler(pipelines):
    pipeline = pipelines["cogvideox"]
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(64, 2, 4, 2, 2, generator=generator) for _ in range(2))
    sigmas = torch.linspace(0.0005, 0.9995, 64)
    at = levels(family_of(pipeline), pipeline, sigmas, clean.ndim)
    steps = timesteps_like(torch.tensor([999]), sigmas)
    assert steps[0] == 0 and steps[-1] == 999 and steps.dtype == torch.int64
    noisy = pipeline.scheduler.add_noise(clean, noise, steps)
    torch.testing.assert_close(at.signal * clean + at.noise * noise, noisy, rtol=0, atol=1e-6)
    output = pipeline.scheduler.get_velocity(clean, noise, steps)
    torch.testing.assert_close(at.keep * noisy - at.take * output, clean, rtol=0, atol=2e-6)
    # The mirror image of the scheduler's own way from an output to the clean sample.
    pipeline.scheduler.set_timesteps(1000)
    step = pipeline.scheduler.step(output[40:41], int(steps[40]), noisy[40:41])
    estimate = (at.keep * noisy - at.take * output)[40:41]
    torch.testing.assert_close(step.pred_original_sample, estimate, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FLOW)
def test_levels_of_flow_matching_are_those_of_its_scheduler(name, pipelines):
    pipeline = pipelines[name]
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(8, 3, 5, generator=generator) for _ in range(2))
    at = levels(family_of(pipeline), pipeline, scheduler.sigmas[:8].float(), clean.ndim)
    mix, steps = getattr(scheduler, "scale_noise", None), scheduler.timesteps
    theirs = mix(clean, steps, noise) if mix else scheduler.add_noise(clean, noise, steps)
    noisy = at.signal * clean + at.noise * noise
    torch.testing.assert_close(noisy, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(at.keep * noisy - at.take * (noise - clean), clean, rtol=0, atol=1e-6)


def test_the_shift_is_the_schedulers(pipelines):
    shifts = {name: shift_of(pipeline) for name, pipeline in pipelines.items()}
    assert shifts == {"wan": 3, "wan_5b": 3, "ltx": 1, "cogvideox": 1, "hunyuan": 7}
    even = torch.linspace(1, 0.1, 10)
    unipc = pipelines["wan"].scheduler
    unipc.set_timesteps(10)
    torch.testing.assert_close(spread_sigmas(even, 3.0), unipc.sigmas[:10].float(), rtol=0, atol=2e-3)
    euler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    euler.set_timesteps(sigmas=even.tolist())
    torch.testing.assert_close(spread_sigmas(even, 7.0), euler.sigmas[:10], rtol=0, atol=1e-6)


@given(st.floats(0, 1), st.floats(1, 20))
def test_a_shift_keeps_the_ends_and_the_order(even, shift):
    values = spread_sigmas(torch.tensor([0.0, even, 1.0], dtype=torch.float64), shift)
    assert values[0] == 0 and values[2] == pytest.approx(1, abs=1e-12)
    assert even - 1e-12 <= values[1] <= 1 + 1e-12


def test_timesteps_have_the_layout_that_was_recorded():
    sigmas = torch.tensor([0.1234, 0.9876])
    assert timesteps_like(torch.tensor([999]), sigmas).tolist() == [123, 987]
    rows = timesteps_like(torch.full((1, 4), 999.0), sigmas)
    assert rows.shape == (2, 4) and rows[1].tolist() == pytest.approx([987.6] * 4)


def calls_of(pipeline, name, **how):
    """A rollout, and arguments and outputs of the transformer's calls in it."""
    seen = []
    handle = pipeline.transformer.register_forward_hook(
        lambda _module, _given, keywords, output: seen.append((dict(keywords), output[0].clone())),
        with_kwargs=True,
    )
    try:
        return sampled(pipeline, name, **how), seen
    finally:
        handle.remove()


def replay(pipeline, rollout, keywords, rows=slice(None)):
    """What the transformer says of the same latents, from the arguments that the rollout kept."""
    latents, timestep = keywords["hidden_states"][rows], keywords["timestep"][rows]
    scalar = timestep.flatten()[0]
    step = Step(latents, latents, scalar, 1.0, 0.5, 0.1, torch.zeros(len(latents)))
    with torch.no_grad():
        return run_guided(pipeline.transformer, rollout, step, 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_without_guidance_repeats_every_bit(name, pipelines):
    rollout, seen = calls_of(pipelines[name], name, number=3)
    assert len(seen) == 2 and rollout.unprompted is None
    for keywords, output in seen:
        assert torch.equal(replay(pipelines[name], rollout, keywords), output)


@pytest.mark.parametrize("name", ["wan", "wan_5b"])
def test_a_replay_with_guidance_repeats_both_calls(name, pipelines):
    rollout, seen = calls_of(pipelines[name], name, number=3, guidance=4.0)
    assert len(seen) == 4 and rollout.unprompted is not None
    without = SimpleNamespace(**vars(rollout) | {"unprompted": None})
    for keywords, output in seen[::2]:
        assert torch.equal(replay(pipelines[name], without, keywords), output)
    without.prompted = rollout.unprompted
    for keywords, output in seen[1::2]:
        assert torch.equal(replay(pipelines[name], without, keywords), output)
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("name", ["ltx", "cogvideox"])
def test_a_replay_with_guidance_repeats_both_halves(name, pipelines):
    rollout, seen = calls_of(pipelines[name], name, number=3, guidance=4.0)
    assert len(seen) == 2 and rollout.unprompted is not None
    prompted = SimpleNamespace(**vars(rollout) | {"unprompted": None})
    unprompted = SimpleNamespace(**vars(prompted) | {"prompted": rollout.unprompted})
    for keywords, output in seen:
        assert len(output) == 6 and not torch.equal(output[:3], output[3:])
        for kept, rows in ((unprompted, slice(0, 3)), (prompted, slice(3, 6))):
            again = replay(pipelines[name], kept, keywords, rows)
            torch.testing.assert_close(again, output[rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2])
def test_few_videos_are_no_reason_to_take_one_call_for_another(number, pipelines):
    for name in ("wan", "ltx"):
        alone, _ = calls_of(pipelines[name], name, number=number)
        guided, _ = calls_of(pipelines[name], name, number=number, guidance=4.0)
        assert alone.unprompted is None and guided.unprompted is not None
        texts = [rollout.prompted["encoder_hidden_states"] for rollout in (alone, guided)]
        assert len(texts[0]) == 1 and torch.equal(*texts)


def test_hunyuan_is_told_its_guidance(pipelines):
    pipeline = pipelines["hunyuan"]
    rollout, seen = calls_of(pipeline, "hunyuan", number=2, guidance=4.0)
    assert len(seen) == 2 and rollout.unprompted is None
    assert rollout.prompted["guidance"].tolist() == [4000.0]
    assert torch.equal(replay(pipeline, rollout, seen[0][0]), seen[0][1])


def test_hunyuan_with_true_guidance_keeps_both_prompts(pipelines):
    true = {"true_cfg_scale": 3.0, "negative_prompt": "blue"}
    rollout, seen = calls_of(pipelines["hunyuan"], "hunyuan", number=2, **true)
    assert len(seen) == 4 and rollout.unprompted is not None
    assert torch.equal(rollout.unprompted["pooled_projections"], seen[1][0]["pooled_projections"][:1])


def test_rotary_positions_are_kept():
    pipeline = build_cogvideox(rotary=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.eval()
    rollout, seen = calls_of(pipeline, "cogvideox", number=2)
    assert rollout.prompted["image_rotary_emb"] is not None
    assert torch.equal(replay(pipeline, rollout, seen[0][0]), seen[0][1])


@pytest.mark.parametrize("name", NAMES)
def test_each_row_has_its_own_level(name, pipelines):
    rollout = sampled(pipelines[name], name, number=3)
    sigmas = torch.tensor([0.2, 0.5, 0.9])
    with torch.no_grad():
        together = run_at(pipelines[name].transformer, rollout, rollout.latents, sigmas)
        for row in range(3):
            one = slice(row, row + 1)
            alone = run_at(pipelines[name].transformer, rollout, rollout.latents[one], sigmas[one])
            torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-5)
        other = run_at(pipelines[name].transformer, rollout, rollout.latents, sigmas.flip(0))
    assert together.dtype == torch.float32 and (together - other)[0].abs().max() > 1e-4


def test_seeds_differ_between_videos_prompts_and_updates():
    seen = [tuple(group_seeds(0, update, prompt, 8)) for update in range(20) for prompt in range(20)]
    assert len({seed for seeds in seen for seed in seeds}) == 20 * 20 * 8
    assert group_seeds(0, 3, 4, 8) == list(seen[3 * 20 + 4]) and group_seeds(1, 3, 4, 8) != list(seen[64])
