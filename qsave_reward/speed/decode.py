"""`qsave bench decode`: `read_clip` beside other decoders, on files of known content."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qsave_reward.speed.decoders import Decode, Frames, in_process, other_decoders, sequential
from qsave_reward.speed.films import FILMS, Film, write_film
from qsave_reward.speed.timing import Clock, machine, measure_in_turn, middle, ratio
from qsave_reward.video import Clip, Sampling, read_clip

_SAME_TIME = 1e-6  # seconds


@dataclass(frozen=True)
class FileBench:
    """One file.

    Attributes:
        film: what is in it.
        bytes: its size.
        ms: median milliseconds of each decoder; `in_process` is that of `read_clip` without its process.
        fastest: the decoder of others with the smallest median.
        vs_fastest: time of `read_clip` over that of `fastest`, median of the rounds.
        range: smallest and largest of the rounds.
        in_process_vs_fastest: the same for `in_process`.
        exact: whether the frames of `read_clip` are those of a sequential decode, bit by bit, at the right
            times.
        difference: mean difference of each other decoder's frames from that sequential decode, in grey
            levels; above 5 or so it handed out other frames.
        rounds: seconds of each decoder.
    """

    film: Film
    bytes: int
    ms: dict[str, float]
    fastest: str
    vs_fastest: float
    range: tuple[float, float]
    in_process_vs_fastest: float
    exact: bool
    difference: dict[str, float]
    rounds: list[dict[str, float]]


@dataclass(frozen=True)
class DecodeBench:
    """Result of `bench_decode`.

    Attributes:
        ratios: `vs_fastest` and `in_process_vs_fastest`, each of the file where it is largest;
            `vs_fastest_per_file`, by the name of the film.
        exact: whether every file was read exactly.
        files: one for each film.
        skipped: decoders that were not measured, and why.
        frames: how many were kept of each file.
        machine: where.
    """

    ratios: dict[str, Any]
    exact: bool
    files: list[FileBench]
    skipped: dict[str, str]
    frames: int
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def bench_decode(
    films: Sequence[Film] = FILMS,
    *,
    frames: int = 16,
    rounds: int = 5,
    clock: Clock = time.perf_counter,
    progress: Callable[[int], None] = lambda done: None,
) -> DecodeBench:
    """Measure the sampling of evenly spread frames from files that are written for it.

    Args:
        films: what to write and read.
        frames: how many to keep of each.
        rounds: how often each decoder reads each file.
        clock: seconds.
        progress: called with 1 after each round of each file.
    """
    others, skipped = other_decoders()
    files = []
    with tempfile.TemporaryDirectory() as folder, _short_collections():
        for number, film in enumerate(films):
            path = str(Path(folder) / f"{number}.mp4")
            write_film(path, film)
            measure = partial(_measure, path, film, others=others, sampling=Sampling(frames))
            files.append(measure(rounds=rounds, clock=clock, progress=progress))
    return DecodeBench(
        ratios={
            "vs_fastest": max(file.vs_fastest for file in files),
            "vs_fastest_per_file": {file.film.name: file.vs_fastest for file in files},
            "in_process_vs_fastest": max(file.in_process_vs_fastest for file in files),
        },
        exact=all(file.exact for file in files),
        files=files,
        skipped=skipped,
        frames=frames,
        machine=machine(),
    )


@contextmanager
def _short_collections() -> Iterator[None]:
    """What exists is left out of garbage collections, as in a worker: `in_process` collects for each file."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def same_frames(clip: Clip, frames: Frames, *, times: Sequence[float]) -> bool:
    """Whether a clip holds exactly these frames (uint8 [n, H, W, 3]) at these times (seconds)."""
    if not np.array_equal(clip.frames, frames) or len(clip.times) != len(times):
        return False
    return bool(np.abs(clip.times - times).max() <= _SAME_TIME)


def _measure(
    path: str,
    film: Film,
    *,
    others: dict[str, Decode],
    sampling: Sampling,
    rounds: int,
    clock: Clock,
    progress: Callable[[int], None],
) -> FileBench:
    index, times = film.picked(sampling)
    variants: dict[str, Callable[[], Any]] = {
        "read_clip": lambda: read_clip(path, sampling),
        "in_process": lambda: in_process(path, sampling),
        **{name: partial(decode, path, index) for name, decode in others.items()},
    }
    found = measure_in_turn(variants, rounds, clock=clock, progress=progress)
    seconds = middle(found.rounds)
    fastest = min(others, key=seconds.__getitem__)
    reference = sequential(path, index)
    ours = ratio(found.rounds, over="read_clip", under=fastest)
    return FileBench(
        film=film,
        bytes=Path(path).stat().st_size,
        ms={name: 1e3 * value for name, value in seconds.items()},
        fastest=fastest,
        vs_fastest=ours.median,
        range=(ours.low, ours.high),
        in_process_vs_fastest=ratio(found.rounds, over="in_process", under=fastest).median,
        exact=same_frames(found.first["read_clip"], reference, times=times),
        difference={name: _difference(found.first[name], reference) for name in others},
        rounds=found.rounds,
    )


def _difference(frames: Frames, reference: Frames) -> float:
    """Mean absolute difference in grey levels, frame by frame so that little memory is needed."""
    pairs = zip(frames, reference, strict=True)
    return float(np.mean([np.abs(one.astype(np.int16) - other).mean() for one, other in pairs]))
