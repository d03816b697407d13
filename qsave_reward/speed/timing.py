"""Times of variants that are measured in turn, and what is said about them.

Times differ from minute to minute on a shared machine. So every round measures every variant once, each round
in another order, ratios are taken within a round, and what is reported is their median and range.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Clock = Callable[[], float]
Round = Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """What `measure_in_turn` found.

    Attributes:
        first: what the warm-up call of each variant returned.
        rounds: seconds of each variant in each round, in the order in which the variants were given.
    """

    first: dict[str, Any]
    rounds: list[dict[str, float]]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some values."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """How times grow with a size.

    Attributes:
        exponent: slope of the straight line through the logarithms; 1 is growth in proportion.
        r2: share of the variance that a straight line through the points themselves explains.
    """

    exponent: float
    r2: float


def measure_in_turn(
    variants: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    clock: Clock = time.perf_counter,
    settle: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Call every variant once to warm up, then once a round; each round begins with the next variant.

    Args:
        variants: what is to be timed, by name.
        rounds: how often.
        clock: seconds.
        settle: waits for work that a variant has left to the device.
        progress: called with 1 after each round.
    """
    names = list(variants)
    first = {name: variants[name]() for name in names}
    found = []
    for number in range(rounds):
        start = number % len(names)
        seconds = {
            name: timed(variants[name], clock=clock, settle=settle) for name in names[start:] + names[:start]
        }
        found.append({name: seconds[name] for name in names})
        progress(1)
    return Measured(first, found)


def timed(work: Callable[[], Any], *, clock: Clock, settle: Callable[[], None]) -> float:
    """Seconds of one call, with what it left to the device."""
    settle()
    started = clock()
    work()
    settle()
    return clock() - started


def spread(values: Sequence[float]) -> Spread:
    """Median and range of at least one value."""
    return Spread(float(np.median(values)), float(min(values)), float(max(values)))


def ratio(rounds: Sequence[Round], *, over: str, under: str) -> Spread:
    """The time of one variant over that of another, taken within each round."""
    return spread([one[over] / one[under] for one in rounds])


def middle(rounds: Sequence[Round]) -> dict[str, float]:
    """Median of each name over the rounds."""
    return {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """How `seconds` grow with `sizes`, by least squares; at least two different sizes, all above 0."""
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    line = np.polyval(np.polyfit(sizes, seconds, 1), sizes)
    left, whole = np.square(seconds - line).sum(), np.square(np.subtract(seconds, np.mean(seconds))).sum()
    return Fit(float(exponent), 1.0 - float(left / whole) if whole > 0 else 1.0)


def machine() -> dict[str, Any]:
    """Where the times were taken."""
    return {"system": platform.platform(), "cores": os.cpu_count()}
