"""What differs between families of text-to-video pipelines, as far as reward fine-tuning can see it.

Sampling, decoding and conditioning are left to the stock diffusers pipeline. A trainer needs to know
three more things: how noise is mixed into latents and what the transformer predicts (`levels`), how the noise
levels are spread (`shift`), and which layers carry a LoRA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from torch import Tensor

from qsave_reward.errors import ConfigError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Family:
    """A family of pipelines.

    Attributes:
        pipeline: name of the diffusers class.
        flow: flow matching; else DDPM with velocity prediction.
        lora_targets: endings of the names of the layers that get a LoRA.
    """

    pipeline: str
    flow: bool
    lora_targets: tuple[str, ...] = ATTENTION


FAMILIES = (
    Family("WanPipeline", flow=True),
    Family("LTXPipeline", flow=True),
    Family("HunyuanVideoPipeline", flow=True),
    Family("CogVideoXPipeline", flow=False),
)


@dataclass(frozen=True, eq=False)
class Levels:
    """Coefficients of a noise level, each a tensor that broadcasts over latents.

    x_t = `signal` x0 + `noise` eps; the estimate of x0 is `keep` x_t - `take` output.
    """

    signal: Tensor
    noise: Tensor
    keep: Tensor
    take: Tensor


def family_of(pipeline: Any) -> Family:
    """The family of a pipeline.

    Raises:
        ConfigError: for a family that this recipe does not know, or a pipeline with two experts.
    """
    name = type(pipeline).__name__
    known = {family.pipeline: family for family in FAMILIES}
    if name not in known:
        raise ConfigError(
            f"expected one of {', '.join(known)}, got {name}; "
            "add its noise levels and LoRA layers to families.py"
        )
    if getattr(pipeline, "transformer_2", None) is not None:
        raise ConfigError(
            f"{name} with two transformers (Wan 2.2 A14B) cannot be trained here; use one with one"
        )
    return known[name]


DYNAMIC = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""What a shift that grows with the number of tokens depends on: names in a scheduler's configuration, and
diffusers' defaults."""


def shift_of(pipeline: Any, tokens: int = 0) -> float:
    """Shift of the noise levels: s in sigma = s u / (1 + (s - 1) u); 1 where the scheduler has none.

    Args:
        tokens: of a video; counts where the scheduler shifts by them (LTX), as `LTXPipeline` does it.
    """
    config = pipeline.scheduler.config
    if config.get("use_dynamic_shifting"):
        return math.exp(calculate_shift(tokens, *(config.get(name, own) for name, own in DYNAMIC.items())))
    return float(config.get("flow_shift") or config.get("shift") or 1.0)


def spread_sigmas(even: Tensor, shift: float) -> Tensor:
    """Noise levels for numbers `even` in [0, 1], float32; more of them are high if shift > 1."""
    return shift * even / (1 + (shift - 1) * even)


def levels(family: Family, pipeline: Any, sigmas: Tensor, ndim: int) -> Levels:
    """Coefficients of noise levels `sigmas` float32 [B] in (0, 1) for latents with `ndim` axes.

    Flow matching: x_t = (1 - sigma) x0 + sigma eps, output v = eps - x0. DDPM (Salimans & Ho 2022): level
    sigma stands for step floor(1000 sigma) of the scheduler, a^2 + s^2 = 1, x_t = a x0 + s eps, output a eps
    - s x0.
    """
    sigmas = sigmas.view(-1, *[1] * (ndim - 1))
    if family.flow:
        return Levels(1 - sigmas, sigmas, torch.ones_like(sigmas), sigmas)
    kept = pipeline.scheduler.alphas_cumprod.to(sigmas.device)[(sigmas * 1000).long()].float()
    signal, noise = kept.sqrt(), (1 - kept).sqrt()
    return Levels(signal, noise, signal, noise)


def timesteps_like(recorded: Tensor, sigmas: Tensor) -> Tensor:
    """`sigmas` [B] as the transformer wants them: 1000 sigma in the dtype and layout of a recorded timestep.

    Wan 2.2 5B gives each token a timestep: [1, tokens] instead of [1].
    """
    steps = (sigmas * 1000).to(recorded.dtype).view(-1, *[1] * (recorded.ndim - 1))
    return steps.expand(-1, *recorded.shape[1:])
