"""How many frames a file that breaks off was to hold.

Two marks must agree. The file ends before its container does, or inside a frame; and its frames end before
the number or the time that a header states. Each alone is met in whole files: durations are copied along when
a clip is cut, dropped frames are counted, and nobody corrects a header behind a pipe.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from av.container import InputContainer
from av.video.stream import VideoStream

TIMED = {"matroska", "flv", "avi", "ivf"}
"""Demuxers of files that state how long they play rather than how many frames they hold."""

_HEAD = 1 << 16  # bytes in which a file says what it holds
_NO_LENGTH = 1 << 30  # a length that nobody filled in is no smaller
_LAG = 0.5  # seconds by which the tracks of a file may end apart where it breaks off


@dataclass(frozen=True)
class Met:
    """What was met in the packets of a file.

    Attributes:
        frames: packets of the video track that are to be shown.
        hidden: those that are not.
        first: seconds at which the first frame begins.
        end: seconds at which the last one ends.
        reach: seconds at which the last packet of any track ends.
        cut_off: whether the file ends inside a frame.
    """

    frames: int
    hidden: int
    first: float
    end: float
    reach: float
    cut_off: bool


def promised_frames(
    file: BinaryIO,
    demuxer: str,
    container: InputContainer,
    stream: VideoStream,
    met: Met,
    note: Callable[[str], None],
) -> int:
    """Frames that the file says its video track holds; 0 where it says nothing that can be relied on.

    Args:
        note: is told where the file breaks off, if it only says how long all its tracks are.
    """
    if demuxer == "mov":
        # MP4 has an index of all its frames, less what an edit list cuts away and what fragments add.
        return len(stream.index_entries) - met.hidden
    if not (met.cut_off if demuxer == "ivf" else _ends_early(file, demuxer)):
        return 0
    interval = (met.end - met.first) / met.frames
    least = 1.5 * interval  # time stamps are rounded, and the length of the last frame may be unknown
    own = _own_end(demuxer, stream)
    if own is None and len(container.streams) == 1:
        own = _whole_end(container)
    if own is not None:
        return met.frames + round((own - met.end) / interval) if own - met.end > least > 0 else 0
    if met.reach - met.end < _LAG and _whole_end(container) - met.reach > least:
        note(f"the file is damaged: it breaks off at {met.reach:.1f} of {_whole_end(container):.1f} s")
    return 0


def _ends_early(file: BinaryIO, demuxer: str) -> bool:
    """Whether the file is shorter than its container says."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(_HEAD)
    if demuxer == "avi":
        stated_size = int.from_bytes(head[4:8], "little")
        return size < stated_size + 8 and stated_size < _NO_LENGTH
    if demuxer == "flv":
        stated = re.search(rb"\0\x08filesize\0(.{8})", head, re.DOTALL)
        return stated is not None and size < struct.unpack(">d", stated[1])[0]
    return demuxer == "matroska" and size < _segment_end(head)


def _segment_end(head: bytes) -> int:
    """Where the Segment of a Matroska file ends (RFC 8794, 4 to 6; RFC 9559, 5.1); 0 when it is open."""
    at = head.find(b"\x18\x53\x80\x67") + 4
    octets = 9 - head[at].bit_length() if 4 <= at < len(head) else 9
    size = int.from_bytes(head[at : at + octets], "big") % (1 << 7 * octets)
    is_open = octets > 8 or size == (1 << 7 * octets) - 1
    return 0 if is_open else at + octets + size


def _own_end(demuxer: str, stream: VideoStream) -> float | None:
    """Seconds at which the last frame should end, as the file says of this track."""
    if demuxer in ("avi", "ivf"):
        # The length counts ticks: in AVI those are frames, shown or dropped. Some writers of IVF count frames
        # in place of ticks, of which there are at least as many.
        return float(stream.frames * (stream.time_base or 0)) if stream.frames < _NO_LENGTH else 0.0
    stated = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return 3600 * int(stated[1]) + 60 * int(stated[2]) + float(stated[3]) if stated else None


def _whole_end(container: InputContainer) -> float:
    """Seconds at which the longest track should end; 0.0 when that is not known."""
    return (container.duration or 0) / 1e6
