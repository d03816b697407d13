"""When the frames of a source are shown, and which of them are kept. NumPy only, no decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import ConfigError, VideoError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]

DEFAULT_FPS = 8.0
"""Frames per second assumed, with a warning, for a source that says nothing about time."""

_FASTEST_FPS = 250.0
"""A file that states more gets a warning: no generator or camera at hand makes that."""

_SHORTEST_DELAY = 0.015
"""Image delays below this (seconds) mean "no delay given", and viewers show them for `_VIEWER_DELAY`."""
_VIEWER_DELAY = 0.1


@dataclass(frozen=True)
class Sampling:
    """Which frames of a source are kept.

    Attributes:
        max_frames: upper bound; the frames kept are spread evenly over the clip's time.
        fps: `None` keeps as many as `max_frames` allows; otherwise at most this many a second on average.
    """

    max_frames: int = 16
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise ConfigError(f"max_frames must be at least 1, got {self.max_frames}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"sampling fps must be a positive number or None, got {self.fps}")


@dataclass(frozen=True)
class Timeline:
    """The clock of a source.

    Attributes:
        shown: int [N], positions (in the order of the decoder's output) of the frames that have a time of
        their own.
        times: float64 [N], seconds from the first frame, strictly increasing.
        duration: seconds; last time plus one frame interval.
        warnings: what had to be assumed.
    """

    shown: IndexArray
    times: FloatArray
    duration: float
    warnings: tuple[str, ...] = ()


def pick_frames(times: FloatArray, sampling: Sampling) -> IndexArray:
    """Choose frames spread evenly over time: the frame nearest to each of n evenly spaced instants.

    The first instant is the first frame, the last one the last frame. A frame is taken once: an instant whose
    nearest frame is already taken gets the next free one, so that exactly n frames come back, also where the
    frame rate varies.

    Args:
        times: float64 [N], strictly increasing seconds, N >= 1.
        sampling: n = min(N, max_frames), and with `fps` at most one frame more than fit into the span.

    Returns:
        int [n], strictly increasing, beginning with 0.
    """
    total, span = len(times), float(times[-1] - times[0])
    count = min(total, sampling.max_frames)
    if sampling.fps is not None:
        # The tolerance keeps a 24 fps clip whole when 24 fps are asked for.
        count = min(count, 1 + math.floor(min(span * sampling.fps, float(total)) + 1e-6))
    targets = times[0] + np.linspace(0.0, span, count)
    right = np.searchsorted(times, targets).clip(1, max(total - 1, 1))
    left = right - 1
    right = right.clip(max=total - 1)
    # The tolerance lets rounding errors of the same clock, read from a file or computed, not decide a tie.
    nearest = np.where(targets - times[left] <= times[right] - targets + 1e-6, left, right)
    picked = np.empty(count, dtype=np.intp)
    earliest = 0
    for slot, frame in enumerate(nearest):
        latest = total - (count - slot)  # leaves one frame for each later instant
        picked[slot] = min(max(int(frame), earliest), latest)
        earliest = picked[slot] + 1
    return picked


def even_timeline(count: int, fps: float, *, warnings: tuple[str, ...] = ()) -> Timeline:
    """Clock of `count` frames at a constant rate."""
    return Timeline(np.arange(count), np.arange(count) / fps, count / fps, warnings)


def given_timeline(count: int, times: Sequence[float]) -> Timeline:
    """Clock of `count` frames shown at the caller's `times` (seconds), which are shifted to begin at 0.

    Raises:
        VideoError: `bad_times` unless there are `count` finite, strictly increasing numbers.
    """
    given = np.asarray(times, dtype=np.float64)
    if given.shape != (count,):
        raise VideoError(
            f"expected one time for each of the {count} frames, got {given.size}; pass {count} times or fps=",
            code="bad_times",
        )
    if not np.isfinite(given).all() or (np.diff(given) <= 0).any():
        raise VideoError("expected finite, strictly increasing times (seconds)", code="bad_times")
    given = given - given[0]
    return Timeline(np.arange(count), given, float(given[-1]) + _interval(given, None))


def delay_timeline(delays: Sequence[float]) -> Timeline:
    """Clock of an animated image from the seconds each frame is shown.

    Delays of 0 and 10 ms do not mean what they say: with nothing else in the file `DEFAULT_FPS` is assumed,
    and single ones count 100 ms, as in every browser.
    """
    shown_for = np.asarray(delays, dtype=np.float64)
    unusable = shown_for < _SHORTEST_DELAY
    if unusable.all():
        return even_timeline(len(shown_for), DEFAULT_FPS, warnings=(_no_times(),))
    warnings: tuple[str, ...] = ()
    if unusable.any():
        warnings = (
            f"{int(unusable.sum())} of {len(shown_for)} frames have no delay; counted as 100 ms each",
        )
    ends = np.cumsum(np.where(unusable, _VIEWER_DELAY, shown_for))
    times = np.concatenate(([0.0], ends[:-1]))
    return Timeline(np.arange(len(times)), times, float(ends[-1]), warnings)


def stamp_timeline(
    stamps: Sequence[int | None], time_base: Fraction, *, packets: Sequence[int | None], last: float | None
) -> Timeline:
    """Clock of a video track from the time stamps of its frames.

    Args:
        stamps: time stamps in the order in which the decoder puts the frames out.
        time_base: seconds of one tick.
        packets: all time stamps in the file; used, sorted, where the decoder hands them out in another order
            than it hands out the frames (AVI and old Matroska files store the times of decoding).
        last: seconds the only frame of a one-frame file is shown, when known.

    Raises:
        VideoError: `bad_times` when most frames share their time with another.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps):
        return even_timeline(len(stamps), DEFAULT_FPS, warnings=(_no_times(),))
    warnings: list[str] = []
    if any(later < earlier for earlier, later in zip(known, known[1:], strict=False)):
        in_file = sorted(stamp for stamp in packets if stamp is not None)
        if len(in_file) < len(known):
            raise VideoError(
                "the time stamps contradict the order of the frames; pass fps= or times=", code="bad_times"
            )
        known = in_file[: len(known)]
        warnings.append("the time stamps contradict the order of the frames; they were sorted")
    ticks = np.array(known, dtype=np.int64)
    shown = np.flatnonzero(np.concatenate(([True], np.diff(ticks) > 0)))
    if 2 * len(shown) < len(ticks):
        raise VideoError(
            f"only {len(shown)} of {len(ticks)} frames have a time of their own; pass fps= or times=",
            code="bad_times",
        )
    if len(shown) < len(ticks):
        warnings.append(
            f"{len(ticks) - len(shown)} frames share their time with the one before and are left out"
        )
    times = (ticks[shown] - ticks[0]) * time_base.numerator / time_base.denominator
    interval = _interval(times, last)
    if interval < 1.0 / _FASTEST_FPS:
        warnings.append(f"the file states {1.0 / interval:.0f} fps, which cannot be meant; pass fps=")
    return Timeline(shown, times, float(times[-1]) + interval, tuple(warnings))


def _interval(times: FloatArray, last: float | None) -> float:
    """Seconds between two frames: the median, or for a single frame what the file says, or `1 /
    DEFAULT_FPS`."""
    if len(times) > 1:
        return float(np.median(np.diff(times)))
    return last or 1.0 / DEFAULT_FPS


def _no_times() -> str:
    return f"the source has no usable frame times; {DEFAULT_FPS:g} fps assumed, pass fps= to say otherwise"
