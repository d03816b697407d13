"""`qsave bench drift`: how far scores move with the batch, and with the number type of the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsave_reward.checkpoint_scorer import CheckpointScorer
from qsave_reward.errors import ConfigError
from qsave_reward.metrics import srcc
from qsave_reward.speed.cost import settler
from qsave_reward.speed.invariance import Invariance, batch_sizes, invariance, mean_scores
from qsave_reward.speed.mixture import mixed
from qsave_reward.speed.precisions import other_precisions, reloaded
from qsave_reward.speed.timing import Clock, Measured, machine, measure_in_turn, middle, ratio
from qsave_reward.speed.workload import Workload
from qsave_reward.types import DIMENSIONS


@dataclass(frozen=True)
class PrecisionDrift:
    """A number type beside float32, on the same clips in the same batches.

    Attributes:
        max_difference, mean_difference: of its scores from those in float32, on the scale of 1 to 5, over all
            clips and dimensions.
        srcc: rank correlation of the two lists of scores of each dimension; `None` where all are equal.
        clips_per_s: clips scored a second, by the median time.
        ratio_vs_float32: the time of float32 over its time, median of the rounds: how often it is faster.
        range: smallest and largest of the rounds.
    """

    max_difference: float
    mean_difference: float
    srcc: dict[str, float | None]
    clips_per_s: float
    ratio_vs_float32: float
    range: tuple[float, float]


@dataclass(frozen=True)
class DriftBench:
    """Result of `bench_drift`.

    Attributes:
        invariance: batches beside single clips, in float32.
        precisions: other number types, by name.
        skipped: those that were not measured, and why.
        clips_per_s: clips scored a second in float32.
        rounds: seconds of each number type.
        clips: how many.
        batch_size: clips in one forward pass.
        seed: of the clips and the shuffles.
        model, revision, machine: what ran where.
    """

    invariance: Invariance
    precisions: dict[str, PrecisionDrift]
    skipped: dict[str, str]
    clips_per_s: float
    rounds: list[dict[str, float]]
    clips: int
    batch_size: int
    seed: int
    model: str
    revision: str
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def bench_drift(
    scorer: CheckpointScorer,
    *,
    clips: int = 64,
    seed: int = 0,
    rounds: int = 3,
    clock: Clock = time.perf_counter,
    progress: Callable[[int], None] = lambda done: None,
) -> DriftBench:
    """Compare a model's scores with its own, on rendered clips of many shapes.

    Args:
        scorer: the model; it is loaded anew in each number type, and all of them are held at a time.
        clips: how many, at least the scorer's `batch_size`, which is at least 2.
        seed: of the clips and the shuffles.
        rounds: how often each number type is timed.
        clock: seconds.
        progress: called with 1, `sum(batch_sizes(batch_size)) + rounds` times.

    Raises:
        ConfigError: fewer clips than a batch holds, or batches of one.
    """
    size = scorer.batch_size
    if not 2 <= size <= clips:
        raise ConfigError(
            f"expected batches of at least 2 clips and as many clips as a batch holds, got {clips} clips and "
            f"a batch size of {size}"
        )
    device = scorer.model.device
    if scorer.model.dtype != torch.float32:
        scorer = reloaded(scorer, torch.float32)
    whole = mixed(range(clips), seed=seed)
    work = Workload([scorer.read(clip) for clip in whole.clips], whole.prompts)
    promised = invariance(scorer, work, sizes=batch_sizes(size), seed=seed, progress=progress)
    others, skipped = other_precisions(scorer, next(work.batches(size)))
    variants = {"float32": scorer, **others}
    found = measure_in_turn(
        {name: partial(mean_scores, variant, work) for name, variant in variants.items()},
        rounds,
        clock=clock,
        settle=settler(device),
        progress=progress,
    )
    speeds = {name: clips / seconds for name, seconds in middle(found.rounds).items()}
    return DriftBench(
        invariance=promised,
        precisions={name: _drift(found, name, clips_per_s=speeds[name]) for name in others},
        skipped=skipped,
        clips_per_s=speeds["float32"],
        rounds=found.rounds,
        clips=clips,
        batch_size=size,
        seed=seed,
        model=scorer.provenance.model,
        revision=scorer.provenance.revision,
        machine=machine() | {"device": str(device), "threads": torch.get_num_threads()},
    )


def _drift(found: Measured, name: str, *, clips_per_s: float) -> PrecisionDrift:
    scores, exact = found.first[name], found.first["float32"]
    difference = np.abs(scores - exact)
    faster = ratio(found.rounds, over="float32", under=name)
    return PrecisionDrift(
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        srcc={dimension: _srcc(scores[:, k], exact[:, k]) for k, dimension in enumerate(DIMENSIONS)},
        clips_per_s=clips_per_s,
        ratio_vs_float32=faster.median,
        range=(faster.low, faster.high),
    )


def _srcc(scores: NDArray[np.float64], exact: NDArray[np.float64]) -> float | None:
    try:
        return srcc(scores, exact)
    except ConfigError as error:
        if error.code != "undefined":
            raise
        return None
