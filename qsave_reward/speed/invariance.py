"""Whether a clip's score depends on the clips it is scored with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.speed.workload import Workload
from qsave_reward.types import DIMENSIONS, Scorer

TOLERANCE = 1e-3
"""Scores of a clip in single precision differ by less, on the scale of 1 to 5, whatever its batch."""


@dataclass(frozen=True)
class Worst:
    """The comparison with the largest difference.

    Attributes:
        clip: number of the clip.
        dimension: the one that differs.
        batch: numbers of the clips in the batch, in their order.
        position: of the clip in the batch.
        alone, together: the two scores.
    """

    clip: int
    dimension: str
    batch: tuple[int, ...]
    position: int
    alone: float
    together: float


@dataclass(frozen=True)
class Invariance:
    """Result of `invariance`.

    Attributes:
        max_difference: largest difference between a score in a batch and that of the clip alone.
        holds: whether it is below `tolerance`.
        comparisons: how often a clip in a batch was compared with itself alone, in all three dimensions.
        sizes: clips in a batch.
        worst: where the difference is largest.
        tolerance: `TOLERANCE`.
    """

    max_difference: float
    holds: bool
    comparisons: int
    sizes: tuple[int, ...]
    worst: Worst
    tolerance: float


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The sizes to compare: a quarter, a half and the whole of `largest`, none below 2."""
    return tuple(sorted({max(2, largest // share) for share in (4, 2, 1)}))


def invariance(
    scorer: Scorer,
    work: Workload,
    *,
    sizes: Sequence[int],
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Invariance:
    """Score every clip alone, then at every position of a batch of every size.

    Args:
        scorer: takes batches of the largest size in one pass.
        work: clips of different shapes, at least as many as the largest size.
        sizes: clips in a batch.
        seed: of the shuffles.
        progress: called with 1 whenever all clips were scored once in batches.
    """
    alone = np.concatenate([mean_scores(scorer, part) for part in work.batches(1)])
    random = np.random.default_rng(seed)
    worst, comparisons = Worst(0, DIMENSIONS[0], (0,), 0, alone[0, 0].item(), alone[0, 0].item()), 0
    for size in sizes:
        for batches in arrangements(len(work.clips), size, random=random):
            for batch in batches.tolist():
                part = Workload([work.clips[i] for i in batch], [work.prompts[i] for i in batch])
                found = _largest(batch, alone=alone[batch], together=mean_scores(scorer, part))
                worst = max(worst, found, key=_difference)
                comparisons += size
            progress(1)
    largest = _difference(worst)
    return Invariance(largest, largest < TOLERANCE, comparisons, tuple(sizes), worst, TOLERANCE)


def arrangements(count: int, size: int, *, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """`size` ways to put clips into batches, int64 [batches, size].

    Every clip is once at every position, each time with other neighbours. The last places are filled with
    clips that come twice when `size` does not divide `count`.
    """
    table = np.resize(random.permutation(count), (-(-count // size), size))
    for turn in range(size):
        # Columns move on together; then each is shuffled for itself.
        yield random.permuted(np.roll(table, turn, axis=1), axis=0)


def mean_scores(scorer: Scorer, work: Workload) -> NDArray[np.float64]:
    """Mean scores, float64 [clips, 3]."""
    cards: Any = scorer.score_batch(work.clips, work.prompts)
    return np.array([[card.scores[name].mean for name in DIMENSIONS] for card in cards])


def _largest(batch: Sequence[int], *, alone: NDArray[np.float64], together: NDArray[np.float64]) -> Worst:
    position, dimension = divmod(int(np.abs(together - alone).argmax()), len(DIMENSIONS))
    return Worst(
        clip=batch[position],
        dimension=DIMENSIONS[dimension],
        batch=tuple(batch),
        position=position,
        alone=alone[position, dimension].item(),
        together=together[position, dimension].item(),
    )


def _difference(found: Worst) -> float:
    return abs(found.together - found.alone)
