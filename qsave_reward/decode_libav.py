"""libav as the worker uses it: containers that reach only their own file, frames that can be trusted."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from qsave_reward.errors import VideoError

THREADS = min(4, os.cpu_count() or 1)

_ENCRYPTION_MARKS = (b"encv", b"sinf", b"pssh", b"senc", b"\x50\x35")
"""Boxes of encrypted MP4 files; the element ContentEncryption of Matroska."""


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
            options={"max_pixels": str(max_pixels)},
            metadata_errors="replace",
            buffer_size=1 << 18,
            io_open=_refuse_to_open,
        )
    except FFmpegError as e:
        raise damaged(e) from e


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:
    raise VideoError(f"the file refers to {url!r}, and other files are never opened", code="external_data")


def damaged(error: FFmpegError) -> VideoError:
    """An error of libav as ours; being out of memory, or of threads, says nothing about the file and is
    raised."""
    if isinstance(error, MemoryError | BlockingIOError):
        raise MemoryError from error
    return VideoError(f"the file is damaged: {error.strerror}", code="corrupt")


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


def looks_encrypted(file: BinaryIO) -> bool:
    """Whether the first or last megabyte names an encryption scheme; for files that do not decode at all."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(1 << 20)
    file.seek(max(0, size - (1 << 20)))
    return any(mark in part for part in (head, file.read()) for mark in _ENCRYPTION_MARKS)


def sound_frames(
    container: InputContainer, stream: VideoStream, troubles: list[str], *, max_pixels: int
) -> Iterator[VideoFrame]:
    """Frames in the order of the decoder's output, up to the first damage.

    After damage nothing is trusted, because frames are predicted from one another and the decoder would conceal
    the hole. Only at the beginning, where a file may have been cut inside a group of pictures, damage is skipped:
    sound are the frames shown from a key frame on that was read after it, or just before it when the damaged
    frame is one that is stored after the key frame and shown before it.

    Args:
        troubles: receives a line for each damage met.
        max_pixels: the decoder refuses larger frames.
    """
    codec = stream.codec_context
    codec.thread_type = "SLICE"
    codec.thread_count = THREADS
    codec.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}
    sound = False
    key, since = -math.inf, -math.inf  # time stamps of the last key frame, and of the first frame to be trusted
    for packet in _packets(container, stream, troubles):
        if packet is not None and packet.is_keyframe:
            key = _stamp(packet)
            since = min(since, key)
        try:
            frames = codec.decode(packet)
        except FFmpegError as e:
            troubles.append(str(damaged(e)))
            if sound:
                return
            since = key if packet is not None and _stamp(packet) < key else math.inf
            continue
        for frame in frames:
            if frame.is_corrupt:
                troubles.append("a frame is marked as damaged")
                if sound:
                    return
            elif _stamp(frame) >= since:
                sound = True
                yield frame


def _stamp(timed: Packet[Any] | VideoFrame) -> float:
    return -math.inf if timed.pts is None else timed.pts


def _packets(
    container: InputContainer, stream: VideoStream, troubles: list[str]
) -> Iterator[Packet[VideoStream] | None]:
    """The stream's packets, then `None`, which makes the decoder hand out what it holds back."""
    try:
        for packet in container.demux(stream):
            if packet.size:  # an empty one would end the decoding here
                yield packet
    except FFmpegError as e:
        troubles.append(str(damaged(e)))
    yield None
