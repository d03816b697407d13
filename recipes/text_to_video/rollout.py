"""Videos of one prompt by a stock pipeline, with all that is needed to run its transformer on them again.

The transformer's arguments are recorded where the pipeline calls it, so that no family needs its own code to
prepare prompts, masks or position tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from families import timesteps_like
from numpy.typing import NDArray
from sde import OneStepSDE, Step
from torch import Tensor

from qsave_reward.errors import ConfigError, QSaveError

Arguments = Mapping[str, Any]
"""Keyword arguments of a transformer for one sample, without latents and timestep."""


@dataclass(frozen=True)
class SamplingOptions:
    """How a pipeline is called.

    Attributes:
        height, width: pixels.
        num_frames: frames of a video.
        fps: frames per second that the generator means; the reward is told.
        steps: `num_inference_steps`.
        guidance: `guidance_scale`; 1 is without.
        extra: further arguments of the pipeline.
    """

    height: int
    width: int
    num_frames: int
    fps: float
    steps: int
    guidance: float
    extra: Mapping[str, Any]

    @property
    def scale(self) -> float:
        """What outputs with and without the prompt are mixed by; HunyuanVideo's `guidance` is not."""
        return float(self.extra.get("true_cfg_scale", self.guidance))


@dataclass(frozen=True, eq=False)
class Rollout:
    """K videos of one prompt.

    Attributes:
        prompt: the text.
        frames: uint8 [K, T, H, W, 3].
        latents: as the transformer takes them, without noise: float32 [K, ...].
        prompted, unprompted: the transformer's arguments with the prompt and, with guidance, without it.
        timestep: one that the transformer received, [1] or [1, tokens]; its dtype and layout matter.
        dtype: of the latents that the transformer received.
        step: the stochastic step, if there was one.
        together: with guidance, both were one batch.
    """

    prompt: str
    frames: NDArray[np.uint8]
    latents: Tensor
    prompted: Arguments
    unprompted: Arguments | None
    timestep: Tensor
    dtype: torch.dtype
    step: Step | None
    together: bool = False


def sample(pipeline: Any, prompt: str, seeds: list[int], options: SamplingOptions) -> Rollout:
    """One video for each of `seeds`, which alone decide the initial noise.

    Raises:
        ConfigError: the pipeline refuses what it is called with, such as an odd height.
        QSaveError: the pipeline or its VAE overflowed (`not_finite`).
    """
    last: dict[str, Tensor] = {}

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        last.update(tensors)
        return {}

    with recorded_calls(pipeline.transformer) as calls, torch.no_grad():
        try:
            output = pipeline(
                prompt=[prompt] * len(seeds),
                height=options.height,
                width=options.width,
                num_frames=options.num_frames,
                num_inference_steps=options.steps,
                guidance_scale=options.guidance,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
                callback_on_step_end=keep,
                **options.extra,
            )
        except ValueError as error:  # diffusers' way of refusing arguments
            raise ConfigError(f"{type(pipeline).__name__} cannot make such a video: {error}") from error
    prompted, unprompted = split_calls(calls, len(seeds))
    pixels = torch.stack(list(output.frames)).float()  # [K, T, 3, H, W] in [0, 1]
    for name, values in (("latents", last["latents"]), ("pixels", pixels)):
        if not values.isfinite().all():  # as bytes they would be black, a video like any other
            raise QSaveError(
                f"the pipeline gave {name} that are not finite for {prompt!r}; try another dtype "
                "(bfloat16 instead of float16), or a lower learning_rate",
                code="not_finite",
            )
    frames = pixels.mul(255).round().clamp(0, 255).byte().permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
    scheduler = pipeline.scheduler
    return Rollout(
        prompt=prompt,
        frames=frames,
        latents=last["latents"].float().clone(),
        prompted=prompted,
        unprompted=unprompted,
        timestep=calls[0]["timestep"][:1].clone(),
        dtype=calls[0]["hidden_states"].dtype,
        together=len(calls[0]["hidden_states"]) == 2 * len(seeds),
        step=scheduler.taken if isinstance(scheduler, OneStepSDE) else None,
    )


@contextmanager
def recorded_calls(transformer: torch.nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Collect the keyword arguments of the first two calls of a transformer."""
    calls: list[dict[str, Any]] = []

    def record(_module: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
        if len(calls) < 2:
            calls.append(dict(keywords))

    handle = transformer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def split_calls(calls: list[dict[str, Any]], number: int) -> tuple[Arguments, Arguments | None]:
    """Arguments for one sample with and without the prompt, from the calls of a sampling step.

    With guidance Wan calls its transformer twice, with the prompt first; the other families call it once, on
    the samples without the prompt followed by those with it.
    """
    first, second = calls[0], calls[1] if len(calls) > 1 else calls[0]
    if len(first["hidden_states"]) == 2 * number:
        return _one_row(first, number, 2 * number), _one_row(first, 0, 2 * number)
    same_step = torch.equal(first["timestep"], second["timestep"]) and second is not first
    same_input = same_step and torch.equal(first["hidden_states"], second["hidden_states"])
    return _one_row(first, 0, number), _one_row(second, 0, number) if same_input else None


def _one_row(call: Mapping[str, Any], row: int, rows: int) -> Arguments:
    kept: dict[str, Any] = {}
    for name, value in call.items():
        if name in ("hidden_states", "timestep"):
            continue
        batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows
        kept[name] = value[row : row + 1].clone() if batched else value
    return kept


def run_at(transformer: Any, rollout: Rollout, latents: Tensor, sigmas: Tensor) -> Tensor:
    """Prompted output float32 [B, ...] for latents [B, ...] at noise levels `sigmas` [B]."""
    timesteps = timesteps_like(rollout.timestep, sigmas)
    return _run(transformer, rollout, _repeated(rollout.prompted, len(latents)), latents, timesteps).float()


def run_guided(transformer: Any, rollout: Rollout, step: Step, scale: float) -> Tensor:
    """Output float32 [B, ...] before the stochastic step, with guidance.

    Batches, dtypes and the order of operations are those of the rollout: what differs there moves the ratio
    of old and new probabilities by more than its clip.
    """
    latents, rows = step.before, len(step.before)
    timestep = step.timestep.to(rollout.timestep).expand(rows, *rollout.timestep.shape[1:])
    prompted = _repeated(rollout.prompted, rows)
    if rollout.unprompted is None:
        return _run(transformer, rollout, prompted, latents, timestep).float()
    unprompted = _repeated(rollout.unprompted, rows)
    if rollout.together:
        both = {
            name: torch.cat([unprompted[name], value]) if _is_row(rollout.prompted[name]) else value
            for name, value in prompted.items()
        }
        output = _run(transformer, rollout, both, torch.cat([latents] * 2), torch.cat([timestep] * 2))
        without, within = output.float().chunk(2)
        return without + scale * (within - without)
    within = _run(transformer, rollout, prompted, latents, timestep)
    without = _run(transformer, rollout, unprompted, latents, timestep)
    return (without + scale * (within - without)).float()


def _run(
    transformer: Any, rollout: Rollout, arguments: Arguments, latents: Tensor, timesteps: Tensor
) -> Tensor:
    whole = {**arguments, "return_dict": False}
    return transformer(hidden_states=latents.to(rollout.dtype), timestep=timesteps, **whole)[0]


def _repeated(arguments: Arguments, rows: int) -> dict[str, Any]:
    """Arguments for `rows` samples; contiguous, since other strides lead to other kernels."""
    return {
        name: value.expand(rows, *value.shape[1:]).contiguous() if _is_row(value) else value
        for name, value in arguments.items()
    }


def _is_row(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1


def group_seeds(seed: int, update: int, prompt: int, number: int) -> list[int]:
    """`number` different seeds for the videos of a prompt in an update."""
    entropy = np.random.SeedSequence([seed, update, prompt])
    return [int(value) for value in entropy.generate_state(number)]
