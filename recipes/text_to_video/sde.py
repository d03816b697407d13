"""One stochastic step of a flow-matching sampler: mean, spread, log-probability, and its place in a schedule.

x_sigma = (1 - sigma) x0 + sigma eps and v = eps - x0; sigma falls from 1 to 0. All in float32: latents
stored in bfloat16 move the mean log-probability by as much as the clip ranges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from families import DYNAMIC, shift_of
from torch import Tensor

STD_CAP = 0.45
"""Largest standard deviation of a step (LongCat-Video, arXiv 2510.22200), lest the first ones explode."""


def step_std(sigma: float, sigma_next: float, noise: float) -> float:
    """Standard deviation of a Flow-SDE step (arXiv 2505.05470): noise sqrt(sigma / (1 - sigma) h), at most
    `STD_CAP`.

    Args:
        sigma: noise level before the step, above 0; 1 is the start.
        sigma_next: level after it, below `sigma`.
        noise: eta, 0 or more; 0 is the plain Euler step.
    """
    if noise == 0:
        return 0.0
    below = sigma if sigma < 1 else sigma_next  # as in the public code: at the pole the next level counts
    return min(noise * math.sqrt(sigma / (1 - below) * (sigma - sigma_next)), STD_CAP)


def step_mean(sample: Tensor, velocity: Tensor, *, sigma: float, sigma_next: float, std: float) -> Tensor:
    """Mean of a step: Euler, corrected so that the added noise leaves the marginals as they are.

    x (1 - s^2 h / (2 sigma)) - v h (1 + s^2 (1 - sigma) / (2 sigma)) with s^2 h = std^2.
    """
    half = std**2 / (2 * sigma)
    return sample * (1 - half) - velocity * (sigma - sigma_next + half * (1 - sigma))


def gradient_scale(sigma: float, sigma_next: float, std: float) -> float:
    """g: how strongly the mean log-probability depends on the velocity, per unit of the step's noise.

    h / std + std (1 - sigma) / (2 sigma). Close to 0 where the shift crowds the steps, which is why video
    models hardly learn without 1 / g.
    """
    return (sigma - sigma_next) / std + std * (1 - sigma) / (2 * sigma)


def log_prob(drawn: Tensor, mean: Tensor, std: float) -> Tensor:
    """Gaussian log density of `drawn`, a mean over all axes but the first: float32 [B]."""
    density = -((drawn - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    return density.mean(dim=tuple(range(1, drawn.ndim)))


@dataclass(frozen=True, eq=False)
class Step:
    """The stochastic step of a rollout.

    Attributes:
        before, after: latents, float32 [B, ...].
        timestep: as the transformer received it, a scalar.
        sigma, sigma_next, std: as above.
        log_prob: of `after`, float32 [B].
    """

    before: Tensor
    after: Tensor
    timestep: Tensor
    sigma: float
    sigma_next: float
    std: float
    log_prob: Tensor


class OneStepSDE(FlowMatchEulerDiscreteScheduler):
    """Euler's method with one stochastic step; put it in a stock pipeline in place of its scheduler.

    The noise levels are sigma = s u / (1 + (s - 1) u) for u = 1, 1 - 1/n, ... 1/n, whatever levels the
    pipeline proposes; with `use_dynamic_shifting` its choice of the shift counts: s = exp(mu).
    """

    def plan(self, *, stochastic: int, noise: float, seed: int) -> None:
        """Which step of the next sampling is stochastic, how much, and the seed of its noise."""
        self._stochastic, self._noise, self._seed = stochastic, noise, seed
        self.taken: Step | None = None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        timesteps: Any = None,
    ) -> None:
        if num_inference_steps is None:
            num_inference_steps = len(timesteps if sigmas is None else sigmas)
        shift = math.exp(mu) if self.config.use_dynamic_shifting and mu is not None else self.shift
        even = torch.linspace(1, 1 / num_inference_steps, num_inference_steps, dtype=torch.float64)
        levels = (shift * even / (1 + (shift - 1) * even)).float()
        self.num_inference_steps = num_inference_steps
        self.timesteps = (levels * self.config.num_train_timesteps).to(device)
        self.sigmas = torch.cat([levels, torch.zeros(1)]).to(device)
        self._step_index, self._begin_index = None, None

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        *,
        return_dict: bool = True,
        **_: Any,
    ) -> Any:
        if self.step_index is None:
            self._init_step_index(timestep)
        index = self.step_index
        sigma, sigma_next = self.sigmas[index].item(), self.sigmas[index + 1].item()
        before, velocity = sample.float(), model_output.float()
        chosen = index == self._stochastic
        std = step_std(sigma, sigma_next, self._noise) if chosen else 0.0
        after = mean = step_mean(before, velocity, sigma=sigma, sigma_next=sigma_next, std=std)
        if chosen:
            generator = torch.Generator().manual_seed(self._seed)
            after = mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)
            self.taken = Step(before, after, timestep, sigma, sigma_next, std, log_prob(after, mean, std))
        self._step_index += 1
        if not return_dict:
            return (after,)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=after)


def one_step_sde(pipeline: Any) -> OneStepSDE:
    """A scheduler to put in a pipeline in place of its own, with the same shift."""
    config = pipeline.scheduler.config
    if not config.get("use_dynamic_shifting"):
        return OneStepSDE(shift=shift_of(pipeline))
    return OneStepSDE(use_dynamic_shifting=True, **{name: config[name] for name in DYNAMIC if name in config})
