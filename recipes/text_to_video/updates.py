"""One update of a policy from scored rollouts: what is run through the transformer, and in which order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from families import Family, levels, shift_of, spread_sigmas
from lora import Policies, using
from losses import Loss, grpo_loss, nft_loss, optimality
from rollout import Rollout, run_at, run_guided
from sde import gradient_scale, step_mean
from torch import Tensor
from train_options import TrainOptions

from qsave_reward.errors import QSaveError

LOWEST, HIGHEST = 0.02, 0.98
"""Noise levels that NFT trains at; at the ends the estimate of x0 is worth nothing or is the input."""


class Learner:
    """Everything an update needs, in one place.

    Attributes:
        model: the transformer as the accelerator wraps it; only the forward with gradient goes through it.
        pipeline: has the same transformer unwrapped, and its own stock scheduler.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: Any,
        optimizer: Any,
        *,
        pipeline: Any,
        family: Family,
        policies: Policies,
        options: TrainOptions,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.pipeline, self.family, self.policies, self.options = pipeline, family, policies, options

    def update(
        self, rollouts: Sequence[Rollout], advantages: Sequence[Tensor], *, seed: int, first: int = 0
    ) -> dict[str, float]:
        """Learn from rollouts of equal size and their advantages [B], NaN where a video has no score.

        Args:
            seed: of the update.
            first: number of the first rollout among those of all processes, which must not share noise.

        Returns:
            means of the parts of the loss, and `grad_norm`.
        """
        totals: dict[str, float] = defaultdict(float)
        repeats = self.options.levels_per_video if self.options.algorithm == "nft" else 1
        number = len(rollouts) * repeats
        for rollout, advantage, sigmas, noise in self._runs(rollouts, advantages, repeats, [seed, first]):
            with self.accelerator.accumulate(self.model):
                loss = self._loss(rollout, advantage, sigmas, noise)
                if not loss.loss.isfinite():
                    raise QSaveError(
                        f"the loss is {loss.loss.item()}: lower learning_rate, or raise kl", code="diverged"
                    )
                self.accelerator.backward(loss.loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.policies.current, self.options.max_grad_norm)
                    totals["grad_norm"] += float(norm or 0.0) / self.options.minibatches
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in loss.parts.items():
                if name == "ratio_error":  # of the worst chunk: in the first update it must be 0
                    totals[name] = max(totals[name], value.item())
                else:
                    totals[name] += value.item() / number
        return dict(totals)

    def _runs(
        self, rollouts: Sequence[Rollout], advantages: Sequence[Tensor], repeats: int, seed: list[int]
    ) -> Any:
        """Each rollout `repeats` times with advantages [B], noise levels [B] and noise.

        Each optimizer step sees whole groups, at all of their levels.

        The videos of a group get the same levels and noise, as the two of a pair do in Flow-DPO: what these
        add to every video's gradient cancels, since the advantages of a group sum to zero. The levels of an
        update are spread evenly over its groups.
        """
        options = self.options
        batches = options.group_size // options.batch_size
        groups = [(seed[1] + i) // batches for i in range(len(rollouts))]
        generators = [_generator(seed[0], group) for group in groups]
        order = torch.randperm(len(rollouts), generator=_generator(*seed, 1)).tolist()
        number = options.prompts_per_update
        for repeat, i in _in_whole_groups(order, groups, repeats, options.minibatches):
            places = torch.randperm(number, generator=_generator(seed[0], repeat, 2)).tolist()
            latents, generator = rollouts[i].latents, generators[i]
            within = (places[groups[i]] + torch.rand(1, generator=generator)) / number
            shift = shift_of(self.pipeline, tokens=latents.shape[1])
            sigma = spread_sigmas((within + repeat) / repeats, shift).clamp(LOWEST, HIGHEST)
            noise = torch.randn(latents[:1].shape, generator=generator)
            yield rollouts[i], advantages[i], sigma.expand(len(latents)), noise.expand_as(latents)

    def _loss(self, rollout: Rollout, advantages: Tensor, sigmas: Tensor, noise: Tensor) -> Loss:
        device = self.accelerator.device
        # Where all videos are equal the gradient is only rounding, which AdamW would blow up to full steps.
        compared = advantages.nan_to_num(0.0).abs().max() > 0
        known = (~advantages.isnan() & compared).float().to(device)
        limit = self.options.advantage_limit
        advantages = advantages.nan_to_num(0.0).clamp(-limit, limit).float().to(device)
        if self.options.algorithm == "nft":
            return self._nft(rollout, advantages, known, sigmas.to(device), noise.to(device))
        return self._grpo(rollout, advantages, known)

    def _nft(
        self, rollout: Rollout, advantages: Tensor, known: Tensor, sigmas: Tensor, noise: Tensor
    ) -> Loss:
        clean = rollout.latents.to(sigmas.device)
        at = levels(self.family, self.pipeline, sigmas, clean.ndim)
        noisy = at.signal * clean + at.noise * noise
        bare = self.pipeline.transformer
        with using(self.policies.current, self.policies.old), self.accelerator.autocast():
            old = run_at(bare, rollout, noisy, sigmas)
        with using(self.policies.current, self.policies.reference), self.accelerator.autocast():
            reference = run_at(bare, rollout, noisy, sigmas)
        with self.accelerator.autocast():
            output = run_at(self.model, rollout, noisy, sigmas)
        return nft_loss(
            (output, old, reference),
            noisy,
            clean,
            levels=at,
            r=optimality(advantages, self.options.advantage_limit),
            known=known,
            beta=self.options.beta,
            limit=self.options.advantage_limit,
            kl=self.options.kl,
        )

    def _grpo(self, rollout: Rollout, advantages: Tensor, known: Tensor) -> Loss:
        step = rollout.step
        assert step is not None
        guidance = self.options.sampling().scale

        def mean(velocity: Tensor) -> Tensor:
            return step_mean(
                step.before, velocity, sigma=step.sigma, sigma_next=step.sigma_next, std=step.std
            )

        with using(self.policies.current, self.policies.reference), self.accelerator.autocast():
            reference = mean(run_guided(self.pipeline.transformer, rollout, step, guidance))
        with self.accelerator.autocast():
            own = mean(run_guided(self.model, rollout, step, guidance))
        return grpo_loss(
            (own, reference),
            step.after,
            std=step.std,
            old_log_prob=step.log_prob,
            advantages=advantages,
            known=known,
            clip=self.options.clip,
            rectifier=1 / gradient_scale(step.sigma, step.sigma_next, step.std),
            kl=self.options.kl,
        )


def _in_whole_groups(
    order: Sequence[int], groups: Sequence[int], repeats: int, minibatches: int
) -> Iterator[tuple[int, int]]:
    """Repeat and rollout, for one optimizer step after the other.

    Args:
        order: numbers of rollouts, mixed.
        groups: of each rollout.
        minibatches: must divide the number of different groups.
    """
    mixed = list(dict.fromkeys(groups[i] for i in order))
    size = len(mixed) // minibatches
    for start in range(0, len(mixed), size):
        chosen = mixed[start : start + size]
        for repeat in range(repeats):
            yield from ((repeat, i) for i in order if groups[i] in chosen)


def _generator(*seed: int) -> torch.Generator:
    """Random numbers that depend on all of `seed`."""
    state = np.random.SeedSequence(seed).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))
