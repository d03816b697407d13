"""Clips in and out: `read_clip` turns whatever a caller holds into a `Clip`, `write_clip` saves frames as
MP4.

Encoded input is decoded in a separate process (`decoding.worker`), so that a file which hangs, crashes or
swells the decoder costs one typed error. Nothing here opens a network connection or any file but the one
named.
"""

from __future__ import annotations

import importlib.util
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qsave_reward.decoding import worker
from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.frames import count_frames, take_frames
from qsave_reward.limits import MIN_SIDE, Limits
from qsave_reward.sampling import Sampling, even_timeline, given_timeline, pick_frames

__all__ = ["MIN_SIDE", "Clip", "Limits", "Sampling", "Video", "read_clip", "write_clip"]

Decoder = Literal["pyav", "decord"]
Video: TypeAlias = Any
"""What `read_clip` accepts: path, bytes, `Clip`, PIL images, arrays, tensors."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one video with their true times.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB, T >= 1, sides of at least `MIN_SIDE` pixels.
        times: float64 [T], seconds from the first frame of the source, strictly increasing.
        duration: seconds of the whole source: the time of its last frame plus one frame interval.
        warnings: what limits the trust in these frames, in plain words. Damage in frames that are neither
            kept nor needed for kept ones is not looked for.
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    duration: float
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        frames, times = self.frames, self.times
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            raise VideoError(
                "Clip.frames must be a uint8 array; read_clip converts other forms", code="bad_dtype"
            )
        if frames.ndim != 4 or frames.shape[3] != 3:
            raise VideoError(f"Clip.frames must be [T,H,W,3], got {frames.shape}", code="bad_shape")
        if len(frames) == 0:
            raise VideoError("expected at least one frame, got none", code="no_frames")
        height, width = frames.shape[1:3]
        if min(height, width) < MIN_SIDE:
            raise VideoError(
                f"expected sides of at least {MIN_SIDE} pixels, got {width}x{height}", code="too_small"
            )
        if not isinstance(times, np.ndarray) or times.dtype != np.float64 or times.shape != (len(frames),):
            raise VideoError(f"Clip.times must be a float64 array [{len(frames)}]", code="bad_times")
        if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
            raise VideoError(
                "Clip.times must be finite, at least 0 and strictly increasing", code="bad_times"
            )
        if not (math.isfinite(self.duration) and self.duration >= times[-1]):
            raise VideoError(
                f"Clip.duration must not be below the last time {times[-1]}, got {self.duration}",
                code="bad_times",
            )


_SAMPLING = Sampling()
_LIMITS = Limits()


def read_clip(
    video: Video,
    sampling: Sampling = _SAMPLING,
    *,
    fps: float | None = None,
    times: Sequence[float] | None = None,
    limits: Limits = _LIMITS,
    decoder: Decoder = "pyav",
) -> Clip:
    """Read a clip and keep the frames that `sampling` asks for.

    Args:
        video: a path; the bytes of a file; a `Clip` (resampled); or frames: a list of PIL images or of
            arrays, or an array or torch tensor [T,H,W,3] or [T,3,H,W] holding uint8 or floats in [0, 1]. URLs
            are refused.
        sampling: which frames to keep.
        fps: frame rate of the source. Needed for frames unless `times` is given; overrides what a file says.
        times: seconds of every frame of the source, before sampling; the other way to give the rate.
        limits: bounds for encoded input.
        decoder: `"pyav"` checks every frame against the file's own list of times. `"decord"` is for trusted
            files only: on clips cut without re-encoding and on open-GOP clips it may hand out wrong frames
            without a sign, it can hang, and it has been seen to follow the addresses inside playlists.

    Returns:
        The clip. Rotation tags are applied, transparency lies over white, BT.601/709/2020 and full or limited
        range are honoured; anamorphic pixels, HDR transfer curves and colours under the transparency of AVIF
        are left as stored, with a warning. Of a stream that breaks part-way the sound beginning is returned
        with a warning, if it is at least half. What is missing at the end is noticed where a file says how
        much it holds: MP4, GIF, WebP and PNG, as a rule Matroska, WebM, FLV, AVI and IVF, unless they were
        written to a pipe; not fragmented MP4, MPEG-TS, MPEG-PS, ASF, Ogg, Y4M and raw streams. Bit errors
        that the codec itself cannot notice (most of those in HEVC, VP8, VP9) stay unnoticed.

    Raises:
        VideoError: with `code`
            `not_found`, `not_a_file`, `url`, `not_a_video`, `no_video`, `no_decoder`, `encrypted`,
            `no_frames`, `corrupt`, `external_data`, `bad_times`, `frame_sizes` for what the input is;
            `too_small`, `too_large`, `too_long`, `too_many_frames`, `out_of_memory`, `timeout`,
            `decoder_crashed` for what it costs; `decord_failed`; `no_fps`, `bad_type`, `bad_shape`,
            `bad_dtype`, `bad_values` for frames in memory.
        ConfigError: a wrong argument, or decord asked for and not installed.

    Example:
        >>> read_clip("clip.mp4", Sampling(max_frames=8)).frames.shape
        (8, 480, 832, 3)
    """
    _check_arguments(fps, times, decoder)
    rate = None if fps is None else float(fps)
    if isinstance(video, Clip):
        if fps is not None or times is not None:
            raise ConfigError("a Clip brings its own times; leave fps and times out")
        return _thin(video, sampling)
    given = None if times is None else [float(time) for time in times]
    if isinstance(video, str | os.PathLike | bytes | bytearray | memoryview):
        request = {"sampling": asdict(sampling), "fps": rate, "times": given, "decoder": decoder}
        return _decode(video, request, limits)
    total = count_frames(video)
    if given is not None:
        clock = given_timeline(total, given)
    elif rate is not None:
        clock = even_timeline(total, rate)
    else:
        raise VideoError(f"{total} frames came without times; pass fps= (or times=)", code="no_fps")
    index = pick_frames(clock.times, sampling)
    return Clip(take_frames(video, index), clock.times[index], clock.duration)


def write_clip(path: str | os.PathLike[str], frames: Video, *, fps: float, crf: int = 18) -> None:
    """Write frames as an H.264 MP4 (BT.709, limited range); the same frames give the same bytes.

    Even sizes are stored as yuv420p, which every player shows. Odd sizes are stored as yuv444p, because only
    that keeps the exact size; some hardware players refuse it. The file appears complete or not at all.

    Args:
        path: target, replaced if it exists.
        frames: a `Clip` or frames in any form `read_clip` accepts.
        fps: frames per second.
        crf: x264 quality, 0 (lossless for its pixel format) to 51.

    Raises:
        VideoError: frames that `read_clip` would refuse.
        ConfigError: a wrong `fps` or `crf`.
        OSError: the file cannot be written.
    """
    _check_arguments(fps, None, "pyav")
    if not 0 <= crf <= 51:
        raise ConfigError(f"crf must lie in 0..51, got {crf}")
    clip = frames if isinstance(frames, Clip) else read_clip(frames, Sampling(count_frames(frames)), fps=fps)
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        _encode(partial, clip.frames, fps=fps, crf=crf)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, frames: NDArray[np.uint8], *, fps: float, crf: int) -> None:
    # Imported here so that reading clips keeps the media libraries out of the caller's process.
    import av
    from av.video.reformatter import ColorRange, Colorspace

    height, width = frames.shape[1:3]
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        # x264's output depends on the number of threads, so that is fixed.
        stream.options = {"crf": str(crf), "threads": "4"}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = (
            1  # BT.709 in each of the three lists
        )
        context.color_range = ColorRange.MPEG
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            yuv = frame.reformat(
                format=stream.pix_fmt, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))


def _decode(video: Video, request: dict[str, Any], limits: Limits) -> Clip:
    source = video if isinstance(video, bytes | bytearray | memoryview) else _absolute(video)
    frames, report = worker.decode(source, request, limits=asdict(limits))
    times = np.array(report["times"], dtype=np.float64)
    return Clip(frames, times, float(report["duration"]), tuple(report["warnings"]))


def _thin(clip: Clip, sampling: Sampling) -> Clip:
    index = pick_frames(clip.times, sampling)
    if len(index) == len(clip.times):
        return clip
    return Clip(clip.frames[index], clip.times[index], clip.duration, clip.warnings)


def _absolute(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    if "://" in name:
        raise VideoError(f"URLs are never fetched, got {name!r}; download it and pass the path", code="url")
    # As the system would open it: to shorten `link/..` is to name another file where `link` is a link.
    return name if os.path.isabs(name) else os.path.join(os.getcwd(), name)


def _check_arguments(fps: float | None, times: Sequence[float] | None, decoder: str) -> None:
    if fps is not None and not (math.isfinite(fps) and 0 < fps <= 1000):
        raise ConfigError(f"fps must be a number above 0 and up to 1000, got {fps}")
    if fps is not None and times is not None:
        raise ConfigError("pass fps or times, not both")
    if decoder not in ("pyav", "decord"):
        raise ConfigError(f"decoder must be 'pyav' or 'decord', got {decoder!r}")
    if decoder == "decord" and importlib.util.find_spec("decord") is None:
        raise ConfigError("decoder='decord' needs the decord package: pip install 'qsave_reward[decord]'")
