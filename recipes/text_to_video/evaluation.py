"""What a generator is worth: rewards, the gold judge, and measures that show when a reward is gamed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from gold_judge import GOLD_PARTS, gold_scores
from numpy.typing import NDArray
from rewards import Scored, Scoring
from rollout import Rollout, SamplingOptions, group_seeds, sample

from qsave_reward.types import DIMENSIONS

FloatArray = NDArray[np.float64]

EVALUATION = 2**31
"""Stands in for the update in the seeds of an evaluation, so that all evaluations use the same ones."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Videos of some prompts and what was measured of them.

    Attributes:
        prompts: P texts.
        metrics: name to float64 [P, S]; NaN for a video without a score.
        frames: uint8 [S, T, H, W, 3] for each prompt; after `merged` of the first ones only.
        revisions: of the weights behind each group of metrics (`reward`, `held_out`).
        errors: why videos have no score.
    """

    prompts: list[str]
    metrics: dict[str, FloatArray]
    frames: list[NDArray[np.uint8]]
    revisions: dict[str, str]
    errors: tuple[str, ...] = ()

    def means(self) -> dict[str, float]:
        """Mean of each metric over all videos that have it; NaN if none has."""
        return {name: _mean(values) for name, values in self.metrics.items()}

    def failed(self) -> int:
        """Videos without a score."""
        return int(np.isnan(self.metrics["reward.overall"]).sum())


def evaluate(
    pipeline: Any,
    prompts: Sequence[str],
    scorings: Mapping[str, Scoring],
    *,
    sampling: SamplingOptions,
    videos: int,
    seed: int,
    gold: bool,
    batch_size: int = 8,
    share: slice = slice(None),
    progress: Callable[[], Any] = lambda: None,
) -> Evaluation:
    """Sample `videos` for each prompt with the stock sampler and measure them; the same seeds every time.

    Args:
        scorings: name of a group of metrics (`reward`, `held_out`) to what scores it.
        gold: whether the prompts are the world's, which the gold judge understands.
        share: which of the prompts; at least one.
        progress: called after every prompt.
    """
    own = prompts[share]
    rollouts: list[list[Rollout]] = []
    pending: dict[str, list[list[Future[Scored]]]] = {name: [] for name in scorings}
    for i, prompt in zip(range(len(prompts))[share], own, strict=True):
        seeds = group_seeds(seed, EVALUATION, i, videos)
        chunks = [seeds[at : at + batch_size] for at in range(0, videos, batch_size)]
        rollouts.append([sample(pipeline, prompt, chunk, sampling) for chunk in chunks])
        for name, scoring in scorings.items():
            pending[name].append([scoring.submit(rollout) for rollout in rollouts[-1]])
        progress()
    frames = [np.concatenate([rollout.frames for rollout in row]) for row in rollouts]
    metrics: dict[str, FloatArray] = {}
    errors: list[str] = []
    for name, rows in pending.items():
        scored = [[future.result() for future in row] for row in rows]
        errors += [error for row in scored for one in row for error in one.errors]
        values = np.stack([np.concatenate([one.values for one in row]) for row in scored])
        metrics |= {f"{name}.{dimension}": values[..., d] for d, dimension in enumerate(DIMENSIONS)}
        metrics[f"{name}.overall"] = values.mean(axis=-1)
    measured = [[measures(clip) for clip in clips] for clips in frames]
    metrics |= {name: np.array([[m[name] for m in row] for row in measured]) for name in measured[0][0]}
    if gold:
        metrics |= gold_metrics(own, frames)
    revisions = {name: scoring.revision for name, scoring in scorings.items()}
    return Evaluation(list(own), metrics, frames, revisions, tuple(errors))


def merged(parts: Sequence[Evaluation]) -> Evaluation:
    """The whole of evaluations of every n-th prompt, `slice(0, None, n)` first; with the same metrics."""
    number = sum(len(part.prompts) for part in parts)
    places = [(parts[i % len(parts)], i // len(parts)) for i in range(number)]
    return Evaluation(
        [part.prompts[row] for part, row in places],
        {name: np.stack([part.metrics[name][row] for part, row in places]) for name in parts[0].metrics},
        [part.frames[row] for part, row in places if row < len(part.frames)],
        parts[0].revisions,
        tuple(error for part in parts for error in part.errors),
    )


def metric_names(groups: Sequence[str], *, gold: bool) -> list[str]:
    """Names of the metrics that `evaluate` gives, in order."""
    names = [f"{group}.{part}" for group in groups for part in (*DIMENSIONS, "overall")]
    names += ["motion", "brightness", "saturation"]
    return names + [f"gold.{part}" for part in GOLD_PARTS] if gold else names


def finite(value: Any) -> Any:
    """A number as JSON has it: six decimals; null for NaN and infinity. Other values as they are."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _mean(values: FloatArray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def gold_metrics(prompts: Sequence[str], frames: Sequence[NDArray[np.uint8]]) -> dict[str, FloatArray]:
    """Scores of the gold judge: name to float64 [P, S]."""
    rows = [
        [gold_scores(clip, prompt).as_dict() for clip in clips]
        for prompt, clips in zip(prompts, frames, strict=True)
    ]
    return {
        f"gold.{name}": np.array([[scores[name] for scores in row] for row in rows]) for name in rows[0][0]
    }


def measures(frames: NDArray[np.uint8]) -> dict[str, float]:
    """Guards against gaming, of one clip uint8 [T, H, W, 3], each 0 to 1.

    `motion`: mean absolute difference of neighbouring frames, which falls when videos become still.
    `brightness` and `saturation` (largest minus smallest channel) rise when a reward for pretty frames is
    gamed.
    """
    clip = frames.astype(np.float32) / 255
    return {
        "motion": float(np.abs(np.diff(clip, axis=0)).mean()),
        "brightness": float(clip.mean()),
        "saturation": float((clip.max(axis=-1) - clip.min(axis=-1)).mean()),
    }


def interval(values: FloatArray, *, seed: int = 0, rounds: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over prompts, for values float64 [P, S]; NaN for none."""
    rows = np.array([_mean(row) for row in values if not np.isnan(row).all()])
    if not len(rows):
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(rows), size=(rounds, len(rows)))
    low, high = np.percentile(rows[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def alarms(first: Mapping[str, float | None], now: Mapping[str, float]) -> list[str]:
    """What an evaluation shows that a rising reward hides, in words; empty if all is well."""
    before = {name: math.nan if first.get(name) is None else first[name] for name in now}
    change = {name: value - before[name] for name, value in now.items()}
    found = []
    if lacking := [name for name, value in change.items() if math.isnan(value)]:
        found.append(f"no score to compare: {', '.join(lacking)}")
    if change["reward.overall"] > 0:
        for name in DIMENSIONS:
            if change[f"reward.{name}"] < -0.05:
                found.append(f"{name} fell by {-change[f'reward.{name}']:.2f} while the sum of rewards rose")
    if now["motion"] < 0.8 * before["motion"]:
        found.append(
            f"motion fell from {before['motion']:.4f} to {now['motion']:.4f}: are the videos becoming still?"
        )
    for name in ("brightness", "saturation"):
        if abs(change[name]) > 0.1:
            found.append(f"{name} went from {before[name]:.2f} to {now[name]:.2f}")
    for group in ("held_out", "gold"):
        if f"{group}.overall" in now and change[f"{group}.overall"] < 0 < change["reward.overall"]:
            found.append(f"{group} fell by {-change[f'{group}.overall']:.3f} while the reward rose")
    return found
