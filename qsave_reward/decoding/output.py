"""What every decoder in the worker does with its frames: settle the clock, choose, check, hand over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import VideoError
from qsave_reward.limits import MIN_SIDE, Limits
from qsave_reward.sampling import Sampling, Timeline, even_timeline, given_timeline, pick_frames

Emit = Callable[[NDArray[np.uint8], int, int], None]
"""Takes uint8 [H, W, 3], its position among the kept frames, and their number; position 0 begins anew."""


@dataclass(frozen=True)
class Job:
    """One request to the worker; the fields are the arguments of `video.read_clip`."""

    sampling: Sampling
    limits: Limits
    fps: float | None
    times: list[float] | None
    decoder: str
    emit: Emit

    @staticmethod
    def from_header(header: dict[str, Any], emit: Emit) -> Job:
        return Job(
            sampling=Sampling(**header["sampling"]),
            limits=Limits(**header["limits"]),
            fps=header["fps"],
            times=header["times"],
            decoder=header["decoder"],
            emit=emit,
        )

    def check_count(self, count: int) -> None:
        """Raises `too_many_frames`."""
        if count > self.limits.max_source_frames:
            raise VideoError(
                f"expected at most {self.limits.max_source_frames} frames, got more; cut the clip or raise "
                "Limits.max_source_frames",
                code="too_many_frames",
            )

    def check_size(self, width: int, height: int) -> None:
        """Raises `too_small`, `too_large`."""
        if min(width, height) < MIN_SIDE:
            raise VideoError(
                f"expected sides of at least {MIN_SIDE} pixels, got {width}x{height}", code="too_small"
            )
        if width * height > self.limits.max_pixels:
            raise VideoError(
                f"expected at most {self.limits.max_pixels} pixels a frame, got {width}x{height}; scale the "
                "clip down or raise Limits.max_pixels",
                code="too_large",
            )


class Delivery:
    """Picks the frames to keep from a source of known length and hands them to the parent.

    Args:
        job: the request.
        count: number of frames the decoder will put out.
        natural: builds the clock the file itself states; not called when the caller gave one.
    """

    def __init__(self, job: Job, count: int, natural: Callable[[], Timeline]) -> None:
        job.check_count(count)
        if job.times is not None:
            self.clock = given_timeline(count, job.times)
        elif job.fps is not None:
            self.clock = even_timeline(count, job.fps)
        else:
            self.clock = natural()
        if self.clock.duration > job.limits.max_seconds:
            raise VideoError(
                f"expected at most {job.limits.max_seconds:g} s, got {self.clock.duration:.1f} s; cut the "
                "clip or raise Limits.max_seconds",
                code="too_long",
            )
        self.job = job
        self.index = pick_frames(self.clock.times, job.sampling)
        self.wanted = [int(position) for position in self.clock.shown[self.index]]
        self.delivered = 0
        self.shape: tuple[int, ...] = ()
        self.notes = list(self.clock.warnings)
        if count == 1:
            self.note("a single frame: nothing can be said about motion")

    @property
    def done(self) -> bool:
        return self.delivered == len(self.wanted)

    def wants(self, position: int) -> bool:
        """Whether the frame at this position of the decoder's output is the next one to keep."""
        return not self.done and self.wanted[self.delivered] == position

    def give(self, picture: NDArray[np.uint8]) -> None:
        """Hand over the next kept frame, uint8 [H, W, 3]. Raises `frame_sizes`, `too_large`."""
        kept = len(self.wanted)
        if self.delivered == 0:
            self.shape = picture.shape
            if picture.nbytes * kept > self.job.limits.max_frame_bytes:
                raise VideoError(
                    f"{kept} frames of {picture.shape[1]}x{picture.shape[0]} exceed "
                    f"{self.job.limits.max_frame_bytes} bytes; keep fewer or raise Limits.max_frame_bytes",
                    code="too_large",
                )
        if picture.shape != self.shape:
            raise VideoError(
                f"expected frames of one size, got {self.shape[1]}x{self.shape[0]} and "
                f"{picture.shape[1]}x{picture.shape[0]} in one file; re-encode it",
                code="frame_sizes",
            )
        self.job.emit(picture, self.delivered, kept)
        self.delivered += 1

    def note(self, warning: str) -> None:
        if warning not in self.notes:
            self.notes.append(warning)

    def report(self) -> dict[str, Any]:
        return {
            "times": self.clock.times[self.index].tolist(),
            "duration": self.clock.duration,
            "warnings": self.notes,
        }
