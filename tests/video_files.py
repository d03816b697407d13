"""Small video files for the tests; every frame carries its number as a bar code, so a wrong one shows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
HEIGHT, WIDTH = 64, 160


def numbered(number: int, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Frame with `number` in `BITS` vertical bars over a slow gradient; uint8 [H, W, 3]."""
    bars = np.array([number >> bit & 1 for bit in range(BITS)], dtype=np.uint8).repeat(width // BITS)
    row = np.pad(bars, (0, width - len(bars)), mode="edge") * 200 + 28
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    """Read the bar codes of uint8 [T, H, W, 3]."""
    step = frames.shape[2] // BITS
    middles = frames[:, frames.shape[1] // 2, step // 2 : step * BITS : step].mean(axis=-1) > 128
    return [int(sum(1 << bit for bit in range(BITS) if row[bit])) for row in middles]


def encode(
    path: Path,
    count: int = 40,
    *,
    codec: str = "libx264",
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    stamps: list[int] | None = None,
    rotation: int = 0,
    container_format: str | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    """Write numbered frames; `stamps` are presentation times in milliseconds for a variable rate."""
    height, width = size
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        stream.options = {
            "threads": "1",
            **({"preset": "ultrafast"} if "264" in codec else {}),
            **(options or {}),
        }
        if stamps is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number, height=height, width=width), format="rgb24")
            frame = frame.reformat(format=pix_fmt, threads=1)
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut(source: Path, target: Path, start: float) -> Path:
    """Stream-copy from `start` seconds on, as `ffmpeg -ss ... -c copy`: an edit list hides the lead-in."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        video = old.streams.video[0]
        copy = new.add_stream_from_template(video)
        first = round(start / video.time_base)
        old.seek(first, stream=video, backward=True)
        for packet in old.demux(video):
            if packet.size == 0:
                continue
            packet.pts -= first
            packet.dts -= first
            packet.stream = copy
            new.mux(packet)
    return target


def audio(path: Path, *, cover: bool = False) -> Path:
    """A second of silence as AAC; with `cover`, with a picture as MP4 players show it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        picture = None
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.height, picture.width, picture.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        for block in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            frame.pts = 1000 * block
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if picture is not None:
            frame = av.VideoFrame.from_ndarray(numbered(1), format="rgb24").reformat(format="yuvj420p")
            frame.pts = 0
            container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
    return path


def sequential(path: Path) -> list[tuple[float, np.ndarray]]:
    """The reference: every frame of a plain PyAV decode, with its time from the first."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [(float((f.pts - frames[0].pts) * f.time_base), f.to_ndarray(format="rgb24")) for f in frames]


def box(data: bytes, *path: bytes) -> tuple[int, int]:
    """Start and end of an MP4 box, header included, found by the names of the boxes around it."""
    start, end = 0, len(data)
    for depth, name in enumerate(path):
        at = start + (8 if depth else 0)
        while data[at + 4 : at + 8] != name:
            at += int.from_bytes(data[at : at + 4], "big")
            assert at < end, f"no box {name!r}"
        start, end = at, at + int.from_bytes(data[at : at + 4], "big")
    return start, end


def replace_box(data: bytes, path: list[bytes], content: bytes) -> bytes:
    """Put a whole new box in place of one, and correct the sizes of the boxes around it."""
    start, end = box(data, *path)
    growth = len(content) - (end - start)
    changed = bytearray(data[:start] + content + data[end:])
    for depth in range(1, len(path)):
        at, _ = box(data, *path[:depth])
        changed[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + growth).to_bytes(4, "big")
    return bytes(changed)
