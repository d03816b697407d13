"""What the log says of an update besides its losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from evaluation import measures
from rollout import Rollout

from qsave_reward.types import DIMENSIONS


def reward_numbers(values: np.ndarray, groups: Sequence[int]) -> dict[str, float]:
    """Means and spreads of the dimensions, how alike they order videos within groups, the masked."""
    known = ~np.isnan(values).any(axis=1)
    numbers = {"masked": float((~known).sum()), "reward.overall": float(values[known].mean())}
    names = list(DIMENSIONS)
    within = np.full_like(values, np.nan)
    numbers["tied_groups"] = 0.0
    for group in set(groups):
        rows = known & (np.array(groups) == group)
        if rows.any():
            within[rows] = values[rows] - values[rows].mean(axis=0)
            numbers["tied_groups"] += float(np.ptp(values[rows], axis=0).max() == 0)
    for d, name in enumerate(names):
        numbers[f"reward.{name}"] = float(values[known, d].mean())
        numbers[f"spread.{name}"] = float(within[known, d].std())
    pairs = [(0, 1), (0, 2), (1, 2)]
    for a, b in pairs:
        spread = within[known][:, [a, b]]
        same = np.corrcoef(spread.T)[0, 1] if (spread.std(axis=0) > 0).all() else float("nan")
        numbers[f"correlation.{names[a]}.{names[b]}"] = float(same)
    return numbers


def guard_numbers(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means of `measures` over this process's videos."""
    rows = [measures(clip) for rollout in rollouts for clip in rollout.frames]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
