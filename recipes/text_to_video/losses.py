"""The two losses, as pure functions of tensors. B is the number of samples; other axes are a latent's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from families import Levels
from sde import log_prob
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss and what is worth a look beside it; each a scalar float32 tensor."""

    loss: Tensor
    parts: dict[str, Tensor]


def optimality(advantages: Tensor, limit: float) -> Tensor:
    """Advantages [B] as NFT's r in [0, 1]: clip(a / (2 limit) + 1/2); 1/2 means neither good nor bad."""
    return (advantages / (2 * limit) + 0.5).clamp(0.0, 1.0)


def nft_loss(
    outputs: tuple[Tensor, Tensor, Tensor],
    noisy: Tensor,
    clean: Tensor,
    *,
    levels: Levels,
    r: Tensor,
    known: Tensor,
    beta: float,
    limit: float,
    kl: float,
) -> Loss:
    """DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117), eq. 9 with the adaptive weight of its code.

    v+ = beta v + (1 - beta) v_old and v- = (1 + beta) v_old - beta v are the implicit good and bad policies;
    the good one is pulled to samples with r near 1, the bad one to those with r near 0. The value is not
    informative: while v = v_old it does not depend on r, only its gradient does.

    Args:
        outputs: of the policy (with gradient), of the old policy that made the samples, of the reference;
            float32 [B, ...].
        noisy: x_t, float32 [B, ...].
        clean: x0, the samples, float32 [B, ...].
        levels: of `noisy`.
        r: what `optimality` gives, float32 [B].
        known: 1 for samples that were compared, 0 for those without a score or in a group of equals, which
            change nothing; float32 [B].
        beta: how far the implicit policies lie from the old one, above 0.
        limit: the clip of the advantages; the loss is scaled by limit / beta.
        kl: weight of the mean squared distance of the outputs of policy and reference.
    """
    output, old, reference = outputs
    axes = tuple(range(1, clean.ndim))

    def error(mixed: Tensor) -> Tensor:
        estimate = levels.keep * noisy - levels.take * mixed
        with torch.no_grad():
            weight = (estimate - clean).abs().mean(dim=axes).clamp_min(1e-5)
        return (estimate - clean).square().mean(dim=axes) / weight

    good = error(beta * output + (1 - beta) * old)
    bad = error((1 + beta) * old - beta * output)
    policy = (limit / beta) * _mean(r * good + (1 - r) * bad, known)
    drift = (output - reference).square().mean(dim=axes)
    moved = (output - old).square().mean(dim=axes)
    parts = {"loss_policy": policy, "drift_reference": drift.mean(), "drift_old": moved.mean()}
    return Loss(policy + kl * _mean(drift, known), {name: value.detach() for name, value in parts.items()})


def grpo_loss(
    means: tuple[Tensor, Tensor],
    drawn: Tensor,
    *,
    std: float,
    old_log_prob: Tensor,
    advantages: Tensor,
    known: Tensor,
    clip: float,
    rectifier: float,
    kl: float,
) -> Loss:
    """One-step Flow-GRPO: the clipped objective on one stochastic step of the sampler.

    Flow-GRPO (arXiv 2505.05470) with the rectifier of LongCat-Video (2510.22200) and Flash-GRPO (2605.15980):
    the loss is multiplied by 1 / (gradient scale of the step). The penalty is the KL divergence of the two
    steps times 2 / (the square of that scale), the squared distance of the velocities, as for NFT.

    Args:
        means: mean of the step under the policy (with gradient) and under the reference, float32 [B, ...].
        drawn: the latents that the rollout went to, float32 [B, ...].
        std: standard deviation of the step.
        old_log_prob: of `drawn` in the rollout, float32 [B]; a mean over elements, as `log_prob` gives it.
        advantages: float32 [B].
        known: as for `nft_loss`.
        clip: half width of the interval around ratio 1; mean log-probs make ratios small: 1e-5 to 1e-3.
        rectifier: 1 / `gradient_scale`.
        kl: weight of the mean squared distance of the velocities of policy and reference.
    """
    mean, reference = means
    log_ratio = log_prob(drawn, mean, std) - old_log_prob
    ratio = log_ratio.exp()
    limited = ratio.clamp(1 - clip, 1 + clip)
    axes = tuple(range(1, drawn.ndim))
    policy = _mean(torch.maximum(-advantages * ratio, -advantages * limited), known) * rectifier
    drift = ((mean - reference) * (rectifier / std)).square().mean(dim=axes)
    clipped = _mean(((ratio - 1).abs() > clip).float(), known)
    parts = {
        "loss_policy": policy,
        "drift_reference": drift.mean(),
        "ratio_error": (ratio - 1).abs().max(),
        "clipped": clipped,
    }
    return Loss(
        policy + kl * _mean(drift, known),
        {name: value.detach() for name, value in parts.items()},
    )


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean over the batch; a share of it when some are not known, so that every video weighs the same."""
    return (values * known).mean()
