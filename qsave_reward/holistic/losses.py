"""Losses on scores of a batch: AIGVEval's correlation and rank terms. Pure functions of float32 [B]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def plcc_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Zero when the scores are a rising linear function of the targets; B >= 2.

    With both standardised in the batch and rho = mean(p y): (mean (p - y)^2 + mean (rho p - y)^2) / 8, as in
    the public code of AIGVEval and T2VQA.
    """
    scores, targets = _standardised(scores), _standardised(targets)
    rho = (scores * targets).mean()
    return (functional.mse_loss(scores, targets) + functional.mse_loss(rho * scores, targets)) / 8


def rank_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """How far pairs are in the wrong order: zero when all are right; pairs with equal targets count nothing.

    Sum over pairs of relu((p_i - p_j) sign(y_j - y_i)) / (B (B - 1)) / (1 + the largest of them). The public
    code subtracts the transpose of a vector, which is the vector itself, so that its term is always zero.
    """
    number = len(scores)
    wrong = functional.relu((scores[:, None] - scores[None]) * torch.sign(targets[None] - targets[:, None]))
    return wrong.sum() / (number * (number - 1)) / (1 + wrong.max())


def quality_loss(
    scores: Tensor, targets: Tensor, *, rank_weight: float = 0.3, level_weight: float = 0.0
) -> Tensor:
    """Mean over read-outs of plcc + rank_weight rank + level_weight mean squared error.

    Args:
        scores: float32 [B, R].
        targets: float32 [B, R], 1 to 5; NaN where a clip was not rated. A read-out with fewer than two rated
            clips is left out; the loss is 0 when all are.
        level_weight: ties the scores to the scale 1 to 5; correlations alone leave it free, as in the paper.
    """
    losses = []
    for column in range(scores.shape[1]):
        rated = ~targets[:, column].isnan()
        if rated.sum() < 2:
            continue
        score, target = scores[rated, column], targets[rated, column]
        loss = plcc_loss(score, target) + rank_weight * rank_loss(score, target)
        losses.append(loss + level_weight * functional.mse_loss(score, target))
    return torch.stack(losses).mean() if losses else scores.sum() * 0


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / (values.std(correction=0) + 1e-8)
