"""`qsave bench memory`: whether memory grows while clip after clip is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from qsave_reward.checkpoint_scorer import CheckpointScorer
from qsave_reward.errors import ConfigError
from qsave_reward.speed.cost import peak_mb
from qsave_reward.speed.mixture import mixed
from qsave_reward.speed.process_memory import allocated_mb, resident_mb
from qsave_reward.speed.timing import machine

TOLERANCE_PERCENT = 5.0
"""The peak may grow by so much after the first reading."""


@dataclass(frozen=True)
class Reading:
    """Memory in 10^6 bytes after so many clips.

    Attributes:
        clips: scored so far.
        now_mb: when the reading was taken.
        peak_mb: the most while the clips since the reading before were scored.
    """

    clips: int
    now_mb: float
    peak_mb: float


@dataclass(frozen=True)
class Growth:
    """How memory of one kind went.

    Attributes:
        growth_mb: largest peak after the first reading less that of the first, in 10^6 bytes.
        growth_percent: the same in percent of the first.
        slope_mb_per_100_clips: of the straight line through `now_mb`, by least squares.
        flat: whether `growth_percent` is at most `TOLERANCE_PERCENT`.
        readings: in their order.
    """

    growth_mb: float
    growth_percent: float
    slope_mb_per_100_clips: float
    flat: bool
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class MemoryBench:
    """Result of `bench_memory`.

    Attributes:
        flat: whether memory of every kind is.
        resident: of this process.
        allocated: what the process holds of that between batches, without free pieces (`allocated_mb`);
            `None` where malloc does not tell.
        cuda: what torch had allocated on the device; `None` elsewhere.
        tolerance_percent: `TOLERANCE_PERCENT`.
        clips: how many were scored.
        every: clips from one reading to the next.
        batch_size: clips in one forward pass.
        model, revision, dtype, machine: what ran where.
    """

    flat: bool
    resident: Growth
    allocated: Growth | None
    cuda: Growth | None
    tolerance_percent: float
    clips: int
    every: int
    batch_size: int
    model: str
    revision: str
    dtype: str
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def bench_memory(
    scorer: CheckpointScorer,
    *,
    clips: int = 1000,
    every: int = 50,
    progress: Callable[[int], None] = lambda done: None,
) -> MemoryBench:
    """Score clips that are rendered batch by batch and dropped, and read the memory now and then.

    Up to each reading come clips of the same shapes in the same order, with other content.

    Args:
        scorer: the model.
        clips: how many.
        every: clips from one reading to the next.
        progress: called with the number of clips after each batch.

    Raises:
        ConfigError: clips for one reading only, or a system that does not tell its memory.
    """
    if not 1 <= every < clips:
        raise ConfigError(f"expected more clips than the {every} up to the first reading, got {clips}")
    device = scorer.model.device
    readings: dict[str, list[Reading]] = {}
    for start in range(0, clips, every):
        stop = min(start + every, clips)
        peaks: dict[str, float] = {}
        for first in range(start, stop, scorer.batch_size):
            numbers = range(first, min(first + scorer.batch_size, stop))
            for kind, value in _score(scorer, numbers, period=every, device=device).items():
                peaks[kind] = max(peaks.get(kind, 0.0), value)
            progress(len(numbers))
        now = _memory_now(device)
        for kind, peak in peaks.items():
            readings.setdefault(kind, []).append(Reading(stop, now[kind], peak))
    grown = {kind: growth(found) for kind, found in readings.items()}
    return MemoryBench(
        flat=all(one.flat for one in grown.values()),
        resident=grown["resident"],
        allocated=grown.get("allocated"),
        cuda=grown.get("cuda"),
        tolerance_percent=TOLERANCE_PERCENT,
        clips=clips,
        every=every,
        batch_size=scorer.batch_size,
        model=scorer.provenance.model,
        revision=scorer.provenance.revision,
        dtype=str(scorer.model.dtype).removeprefix("torch."),
        machine=machine() | {"device": str(device), "threads": torch.get_num_threads()},
    )


def growth(readings: Sequence[Reading]) -> Growth:
    """What at least two readings say."""
    first, *later = [reading.peak_mb for reading in readings]
    grown = max(later) - first
    slope = np.polyfit([one.clips for one in readings], [one.now_mb for one in readings], 1)[0]
    percent = 100 * grown / first
    return Growth(grown, percent, 100 * float(slope), percent <= TOLERANCE_PERCENT, tuple(readings))


def _score(
    scorer: CheckpointScorer, numbers: range, *, period: int, device: torch.device
) -> dict[str, float]:
    """Peaks of memory while these clips are scored; their rendering is left out."""
    work = mixed(numbers, period=period)
    peaks: dict[str, float | None] = {}

    def score() -> None:
        scorer.score_batch(work.clips, work.prompts)

    def on_device() -> None:
        if device.type == "cuda":
            peaks["cuda"] = peak_mb(device, score)
        else:
            score()

    peaks["resident"] = peak_mb(torch.device("cpu"), on_device)
    return {kind: _known(value) for kind, value in peaks.items()} | _allocated()


def _memory_now(device: torch.device) -> dict[str, float]:
    now = {"resident": _known(resident_mb())} | _allocated()
    if device.type == "cuda":
        now["cuda"] = torch.cuda.memory_allocated(device) / 1e6
    return now


def _allocated() -> dict[str, float]:
    value = allocated_mb()
    return {} if value is None else {"allocated": value}


def _known(value: float | None) -> float:
    if value is None:
        raise ConfigError("expected a system that tells a process its memory in /proc; run this on Linux")
    return value
