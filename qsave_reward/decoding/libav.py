"""libav as the worker uses it: containers that reach only their own file, frames that can be trusted."""

from __future__ import annotations

import gc
import math
import os
import re
from collections.abc import Generator, Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from qsave_reward.errors import VideoError

_Place = tuple[int, float]
"""Of a packet or its frame: position in the file, and time stamp in ticks."""

READ_ERRORS = (FFmpegError, IndexError)
"""What demuxing raises; PyAV an IndexError at a track that begins after the file was opened (MPEG-TS)."""

ALPHA_IGNORED = "the clip is partly transparent; that is ignored and its colours are returned as stored"

_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}

_ENCRYPTION = re.compile(rb"encv|sinf|pssh|senc|\x6d\x80.{1,40}\x50\x35", re.DOTALL)
"""Boxes of encrypted MP4 files; the element ContentEncryption inside ContentEncodings of Matroska."""


def open_container(file: BinaryIO, demuxer: str, *, max_pixels: int) -> InputContainer:
    """Open a file with a named demuxer that can reach nothing but this file.

    Raises:
        VideoError: `corrupt`, `external_data`.
        MemoryError: not enough memory or threads.
    """
    gc.collect()  # a container that was closed and its decoder hold on to each other, and to their memory
    file.seek(0)
    try:
        return av.open(
            file,
            "r",
            format=demuxer,
            options=_options(max_pixels),
            metadata_errors="replace",
            buffer_size=1 << 18,
            io_open=_refuse_to_open,
        )
    except FFmpegError as e:
        raise damaged(e) from e


def _options(max_pixels: int) -> dict[str, str]:
    """Bound what libav allocates for a frame; with a margin, since it counts padding. `Job` has the exact
    bound. More than 2^31 - 1 it does not take."""
    return {"max_pixels": str(min(2 * int(max_pixels) + (1 << 16), (1 << 31) - 1))}


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:
    raise VideoError(f"the file refers to {url!r}, and other files are never opened", code="external_data")


def damaged(error: FFmpegError | IndexError) -> VideoError:
    """An error of libav as ours; lack of memory or threads says nothing about the file, and is raised."""
    if isinstance(error, MemoryError | BlockingIOError):
        raise MemoryError from error
    reason = error.strerror if isinstance(error, FFmpegError) else "a track begins in the middle"
    return VideoError(f"the file is damaged: {reason}", code="corrupt")


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Tracks that can be decoded, without cover pictures of audio files.

    Raises:
        VideoError: `no_video`, `no_decoder`.
    """
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        raise VideoError("the file has no video track", code="no_video")
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        raise VideoError(
            "no decoder for the video track; re-encode it, for example as H.264", code="no_decoder"
        )
    return decodable


def has_alpha(stream: VideoStream) -> bool:
    """Whether a track of VP8 or VP9 has its transparency beside it, as a second stream in the same packets
    (WebM)."""
    marks = {key.lower(): value for key, value in stream.metadata.items()}
    return stream.codec_context.name in _ALPHA_DECODERS and marks.get("alpha_mode") == "1"


def alpha_decoder(stream: VideoStream) -> VideoCodecContext | None:
    """A decoder that puts the two together, which libav's own do not; `None` where it was built without.

    It leaves out frames without a second stream, so what it puts out must be compared with what was promised.
    """
    try:
        codec = av.CodecContext.create(_ALPHA_DECODERS[stream.codec_context.name], "r")
    except UnknownCodecError:
        return None
    codec.extradata = stream.codec_context.extradata
    return cast(VideoCodecContext, codec)


def is_cut_off(packet: Packet[Any], container: InputContainer) -> bool:
    """Whether the file ends inside this packet. Not every decoder would mind; and the mark that is looked for
    means other things elsewhere, such as in MPEG-TS."""
    return packet.is_corrupt and container.format.name in ("avi", "flv", "ivf")


def looks_encrypted(file: BinaryIO) -> bool:
    """Whether the first or last megabyte names an encryption scheme; for files that do not decode at all."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(1 << 20)
    file.seek(max(0, size - (1 << 20)))
    return any(_ENCRYPTION.search(part) for part in (head, file.read()))


@dataclass
class Reading:
    """What one pass over a stream has met so far.

    Attributes:
        troubles: a line for each damage.
        damaged_from: position in the file of the first damaged packet after the first sound frame.
    """

    troubles: list[str] = field(default_factory=list)
    damaged_from: float = math.inf


def sound_frames(
    container: InputContainer,
    stream: VideoStream,
    reading: Reading,
    *,
    max_pixels: int,
    threads: int = 1,
    left_out: Set[int | None] = frozenset(),
    decoder: VideoCodecContext | None = None,
) -> Generator[tuple[int, VideoFrame]]:
    """Frames in the order of the decoder's output, each with the place of its packet in the file.

    Frames are predicted from frames read before them, and a decoder conceals holes. So what was read after
    the first damage is not trusted, and the iteration ends there; frames already handed out whose place is
    not before `reading.damaged_from` must be dropped. Only at the beginning, where a file may have been cut
    inside a group of pictures, damage is skipped, up to the next key frame.

    To be closed before the container is.

    Args:
        threads: frames that are decoded side by side. With several, libav loses errors near the end: then
            what comes must be compared with what was promised. (Threads for slices would be worse: they
            leave most damage of H.264 unmarked.)
        left_out: time stamps of packets that the decoder is not given.
        decoder: other than the stream's own, see `alpha_decoder`.
    """
    codec = decoder or stream.codec_context
    codec.thread_type, codec.thread_count = "FRAME", threads
    codec.copy_opaque = True
    codec.options = _options(max_pixels)
    try:
        packets = (p for p in _packets(container, stream, reading) if p is None or p.pts not in left_out)
        yield from _sound_frames(packets, codec, reading)
    finally:
        # A thread at work may let go of `opaque`, for which it needs the lock of the interpreter; freeing the
        # decoder holds that lock and waits for its threads. This waits for them without it.
        codec.flush_buffers()


def _sound_frames(
    packets: Iterable[Packet[VideoStream] | None], codec: VideoCodecContext, reading: Reading
) -> Iterator[tuple[int, VideoFrame]]:
    started = False
    keys: list[_Place] = []
    since: _Place | None = (-1, -math.inf)  # the key frame from which frames are sound; None: not met yet
    for order, packet in enumerate(packets):
        here = (order, _stamp(packet))
        if packet is not None:
            packet.opaque = order
            if packet.is_keyframe:
                keys.append(here)
                since = since or here
        try:
            frames = codec.decode(packet)
        except FFmpegError as e:
            reading.troubles.append(str(damaged(e)))
            _check_memory(codec.width * codec.height)
            if started:
                reading.damaged_from = min(reading.damaged_from, order)
            else:
                since = _next_key(keys, here)
            continue
        for frame in frames:
            place = (order if frame.opaque is None else cast(int, frame.opaque), _stamp(frame))
            if frame.is_corrupt:
                reading.troubles.append("a frame is marked as damaged")
                _check_memory(codec.width * codec.height)
                if started:
                    reading.damaged_from = min(reading.damaged_from, place[0])
                    return
                since = _next_key(keys, place)
            elif place[0] >= reading.damaged_from:
                return
            elif since is not None and place[0] >= since[0] and place[1] >= since[1]:
                started = True
                yield place[0], frame


def _check_memory(pixels: int) -> None:
    """Raise MemoryError when a few frames more would not fit: libav calls that damage, too."""
    np.empty((32 << 20) + 8 * pixels, dtype=np.uint8)


def _next_key(keys: list[_Place], damage: _Place) -> _Place | None:
    """First key frame that damage cannot reach: read later, or read before and shown later."""
    shown = damage[1] if damage[1] > -math.inf else math.inf  # without a time stamp it may be shown any time
    return next((key for key in keys if key[0] > damage[0] or key[1] > shown), None)


def _stamp(timed: Packet[Any] | VideoFrame | None) -> float:
    return -math.inf if timed is None or timed.pts is None else timed.pts


def _packets(
    container: InputContainer, stream: VideoStream, reading: Reading
) -> Iterator[Packet[VideoStream] | None]:
    """The stream's packets, then `None`, which makes the decoder hand out what it holds back."""
    try:
        for packet in container.demux(stream):
            # An empty one would end the decoding here.
            if packet.size and not is_cut_off(packet, container):
                yield packet
    except READ_ERRORS as e:
        reading.troubles.append(str(damaged(e)))
    yield None
