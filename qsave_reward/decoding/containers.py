"""What a file is, by its first bytes only; the demuxer for that kind is then named, never guessed.

Guessing is what makes media libraries open playlists, manifests and concat scripts, and with them the
network.
"""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

from qsave_reward.errors import VideoError

IMAGES = {"WEBP", "PNG", "JPEG"}
"""Kinds that Pillow decodes; the other names that `sniff` returns are libav demuxers."""

_ISO_BOXES = {
    b"ftyp",
    b"moov",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
    b"pnot",
    b"styp",
    b"sidx",
    b"moof",
    b"uuid",
}

_MAGIC = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"DKIF", "ivf"),
    (b"YUV4MPEG2 ", "yuv4mpegpipe"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpegvideo"),
    (b"\x00\x00\x01\xb0", "m4v"),
    (b"\x12\x00\x0a", "obu"),
)


def open_file(path: str, *, max_bytes: int) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        VideoError: `not_found`, `not_a_file` (folder, pipe, device, no permission), `too_large`.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe waits for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise VideoError("no such file", code="not_found") from e
    except (OSError, ValueError) as e:
        raise VideoError(f"cannot be opened: {e}", code="not_a_file") from e
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise VideoError("expected a regular file, got a folder, pipe or device", code="not_a_file")
    if status.st_size > max_bytes:
        os.close(fd)
        raise VideoError(
            f"expected at most {max_bytes} bytes, got {status.st_size}; raise Limits.max_bytes",
            code="too_large",
        )
    return os.fdopen(fd, "rb")


def sniff(head: bytes) -> str:
    """Name the kind of a file from its first bytes (200 suffice).

    Returns:
        A member of `IMAGES`, or the name of a libav demuxer.

    Raises:
        VideoError: `not_a_video`.
    """
    if head[4:8] in _ISO_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return "avi" if head[8:12] == b"AVI " else "WEBP"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    for start in (0, 4):  # Blu-ray puts four bytes before each packet
        if head[start : start + 1] == b"\x47" == head[start + 188 + start : start + 189 + start]:
            return "mpegts"
    start_code = head.find(b"\x00\x00\x01", 0, 4)
    if start_code in (0, 1) and len(head) > start_code + 4:
        kind_of_unit = _sniff_unit(head[start_code + 3], head[start_code + 4])
        if kind_of_unit:
            return kind_of_unit
    seen = "an empty file" if not head else f"one that begins with {bytes(head[:12])!r}"
    raise VideoError(
        f"expected a video file (MP4, WebM, AVI, MPEG-TS, GIF, WebP ...), got {seen}; playlists, manifests "
        "and other text are never followed",
        code="not_a_video",
    )


def _sniff_unit(first: int, second: int) -> str | None:
    """Which raw stream begins with this unit header: parameter sets, delimiters or supplemental
    information."""
    if first in (0x40, 0x42, 0x44, 0x46, 0x4E) and second == 0x01:
        return "hevc"
    if first == 0x00 and second in (0x61, 0x69, 0x71, 0x79, 0xA1):
        return "vvc"
    if first & 0x80 == 0 and first & 0x1F in (5, 6, 7, 9):
        return "h264"
    return None
