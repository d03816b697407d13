"""Pictures and clips as data URIs, for pages that must work without a network."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qsave_reward.video import Clip

PREVIEW_SIDE = 360
"""Longest side, in pixels, of an animated preview."""

_MP4_CODECS = (b"avc1", b"avc3", b"vp09", b"av01")
_H264_PROFILES = (66, 77, 100)
"""Baseline, Main and High: 8-bit 4:2:0, what every browser decodes."""


def data_uri(data: bytes, mime: str) -> str:
    """Base64 data URI."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def playable_file(path: str | os.PathLike[str], limit: int) -> tuple[bytes, str] | None:
    """Content and MIME type of a file that browsers play; `None` for other files and those over `limit`.

    Args:
        path: a file; one that cannot be read counts as not playable.
        limit: bytes.
    """
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > limit:
            return None
        data = Path(path).read_bytes()
    except OSError:
        return None
    mime = _browser_mime(data)
    return None if mime is None else (data, mime)


def _browser_mime(data: bytes) -> str | None:
    """MIME type by magic bytes and codec, `None` when some common browser would not play it."""
    if data[:4] == b"GIF8":
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in data[:64]:
        return "video/webm"
    if data[4:8] == b"ftyp" and _mp4_plays(data):
        return "video/mp4"
    return None


def _mp4_plays(data: bytes) -> bool:
    """Whether a track's first sample description names a codec that every browser has."""
    at = data.find(b"stsd")
    while at >= 0:
        # Box name, version and flags, number of entries, size of the first entry (4 bytes each); its codec.
        codec = data[at + 16 : at + 20]
        if codec in (b"avc1", b"avc3"):
            config = data.find(b"avcC", at, at + 4096)
            return config >= 0 and data[config + 5 : config + 6] in (bytes([p]) for p in _H264_PROFILES)
        if codec in _MP4_CODECS:
            return True
        at = data.find(b"stsd", at + 4)
    return False


def still(frame: NDArray[np.uint8], size: tuple[int, int]) -> str:
    """A frame, uint8 [H, W, 3], as a JPEG data URI of the given width and height in pixels."""
    buffer = io.BytesIO()
    image = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    image.save(buffer, "JPEG", quality=82)
    return data_uri(buffer.getvalue(), "image/jpeg")


def preview(clip: Clip) -> str:
    """The frames of a clip as an animated WebP that keeps their timing and repeats forever."""
    images = []
    for frame in clip.frames:
        image = Image.fromarray(frame)
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
        images.append(image)
    stays = np.diff(np.append(clip.times, clip.duration))
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=[max(40, round(1000 * float(stay))) for stay in stays],
        loop=0,
        quality=70,
    )
    return data_uri(buffer.getvalue(), "image/webp")
