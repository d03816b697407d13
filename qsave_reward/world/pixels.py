"""Defects as operations on frames: severity 0..1, frames uint8 [T, H, W, 3] in and out.

Lengths are shares of the short side, so that a defect looks the same at any size. Operations of single frames
get the affected frames only; those of motion get the whole clip and a mask, and return the affected frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CASTS = (
    (0.6, -0.3, -0.9),
    (-0.9, -0.1, 0.7),
    (-0.8, 0.5, -0.8),
    (0.5, -0.9, 0.5),
)
"""Channel gains of a color cast at full strength: warm, cold, green, magenta."""
GHOST_LAG = 0.3
"""Seconds between a ghost and what it follows."""


def _short(frames: Frames) -> int:
    return int(min(frames.shape[1:3]))


def _lookup(frames: Frames, values: NDArray[Any]) -> Frames:
    """Map each gray value through `values` (float64 [256], 0..255 and beyond)."""
    table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    mapped: Frames = table[frames]
    return mapped


def blur(frames: Frames, severity: float, rng: np.random.Generator) -> Frames:
    """Gaussian blur."""
    blurring = ImageFilter.GaussianBlur((0.003 + 0.047 * severity) * _short(frames))
    return np.stack([np.asarray(Image.fromarray(frame).filter(blurring)) for frame in frames])


def noise(frames: Frames, severity: float, rng: np.random.Generator) -> Frames:
    """Colored grain that changes in every frame; a grain is 1/128 of the short side."""
    count, height, width, _ = frames.shape
    cell = max(1, round(_short(frames) / 128))
    rows, columns = -(-height // cell), -(-width // cell)
    # One field larger than a frame, read from another corner for each frame, is far cheaper than fresh noise.
    field = rng.standard_normal((rows + 48, columns + 48, 3), dtype=np.float32)
    field = np.rint(field * (255 * (0.015 + 0.26 * severity))).astype(np.int16)
    result = np.empty_like(frames)
    for k in range(count):
        top, left = rng.integers(49, size=2)
        grain = field[top : top + rows, left : left + columns]
        if cell > 1:
            grain = grain.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
        result[k] = np.clip(frames[k] + grain, 0, 255)
    return result


def blockiness(frames: Frames, severity: float, rng: np.random.Generator) -> Frames:
    """Square blocks of one color, as after far too strong compression."""
    _, height, width, _ = frames.shape
    block = (0.018 + 0.1 * severity) * _short(frames)
    coarse = (max(1, round(width / block)), max(1, round(height / block)))
    box, nearest = Image.Resampling.BOX, Image.Resampling.NEAREST
    blocks = (Image.fromarray(f).resize(coarse, box).resize((width, height), nearest) for f in frames)
    return np.stack([np.asarray(image) for image in blocks])


def exposure(frames: Frames, severity: float, rng: np.random.Generator) -> Frames:
    """Much too dark or much too bright."""
    gain = 1 - (0.04 + 0.8 * severity) if rng.random() < 0.5 else 1 + 0.08 + 1.5 * severity
    return _lookup(frames, gain * np.arange(256))


def color_cast(frames: Frames, severity: float, rng: np.random.Generator) -> Frames:
    """One of four tints over the whole picture."""
    gains = 1 + (0.08 + 0.72 * severity) * np.array(CASTS[int(rng.integers(len(CASTS)))])
    return np.stack([_lookup(frames[..., c], gains[c] * np.arange(256)) for c in range(3)], axis=-1)


def banding(frames: Frames, severity: float, rng: np.random.Generator) -> Frames:
    """Too few color levels: smooth shades fall apart into bands."""
    step = 10 + 84 * severity
    return _lookup(frames, (np.floor(np.arange(256) / step) + 0.5) * step)


def freeze(frames: Frames, times: Floats, inside: Mask, severity: float, rng: np.random.Generator) -> Frames:
    """The picture stands still; how long is the severity, which is in the span already."""
    first = int(np.argmax(inside))
    return np.repeat(frames[first : first + 1], int(inside.sum()), axis=0)


def ghosting(
    frames: Frames, times: Floats, inside: Mask, severity: float, rng: np.random.Generator
) -> Frames:
    """Two fading copies trail behind whatever moves."""
    near, far = 0.16 + 0.3 * severity, 0.08 + 0.2 * severity
    affected = np.flatnonzero(inside)
    before = [np.searchsorted(times, times[affected] - k * GHOST_LAG - 1e-9) for k in (1, 2)]
    own, first, second = (frames[index].astype(np.float32) for index in (affected, *before))
    mixed = np.float32(1 - near - far) * own + np.float32(near) * first + np.float32(far) * second
    ghosted: Frames = np.rint(mixed).astype(np.uint8)
    return ghosted


def jitter(frames: Frames, times: Floats, inside: Mask, severity: float, rng: np.random.Generator) -> Frames:
    """The whole picture shakes, another way in each frame."""
    count, height, width, _ = frames.shape
    reach = (0.012 + 0.06 * severity) * _short(frames)
    draws = rng.uniform(0.5, 1, (count, 2)) * np.where(rng.random((count, 2)) < 0.5, -1, 1)
    shifts = np.sign(draws) * np.maximum(np.rint(np.abs(draws) * reach), 1)
    result = []
    for k in np.flatnonzero(inside):
        rows = np.clip(np.arange(height) + int(shifts[k, 0]), 0, height - 1)
        columns = np.clip(np.arange(width) + int(shifts[k, 1]), 0, width - 1)
        result.append(frames[k][rows][:, columns])
    return np.stack(result)


def flicker(frames: Frames, times: Floats, inside: Mask, severity: float, rng: np.random.Generator) -> Frames:
    """Brightness jumps up and down from frame to frame."""
    signs = np.where(rng.random(len(frames)) < 0.5, -1, 1)
    # Three alike in a row look steady; strict alternation vanishes when every second frame is dropped.
    for k in range(2, len(signs)):
        if signs[k - 2] == signs[k - 1]:
            signs[k] = -signs[k - 1]
    strength = rng.uniform(0.6, 1, len(frames)) * signs
    gains = 1 + (0.04 + 0.6 * severity) * strength
    return np.stack([_lookup(frames[k], gains[k] * np.arange(256)) for k in np.flatnonzero(inside)])


def jump(frames: Frames, times: Floats, inside: Mask, severity: float, rng: np.random.Generator) -> Frames:
    """The picture leaps aside and, at the end of the span, back."""
    axis, sign = 1 + int(rng.integers(2)), -1 if rng.random() < 0.5 else 1
    shift = sign * max(1, round((0.06 + 0.3 * severity) * _short(frames)))
    last = frames.shape[axis] - 1
    lines = last - np.abs(last - np.abs(np.arange(last + 1) + shift))  # mirrored at both edges
    moved: Frames = np.take(frames[inside], lines, axis=axis)
    return moved


def implausible_speed(
    frames: Frames, times: Floats, inside: Mask, severity: float, rng: np.random.Generator
) -> Frames:
    """Time races, stops and runs back inside the span."""
    affected = np.flatnonzero(inside)
    x = (times[affected] - times[affected[0]]) / max(times[affected[-1]] - times[affected[0]], 1e-9)
    return frames[affected[np.rint(uneven_progress(x, severity) * (len(affected) - 1)).astype(np.int64)]]


def uneven_progress(x: Floats, severity: float) -> Floats:
    """Where in a span (0..1) a motion of implausible speed is when it should be at `x` (0..1)."""
    return np.clip(x + (1.4 + 4 * severity) * np.sin(4 * np.pi * x) / (4 * np.pi), 0, 1)


def shape_distortion(frames: Frames, severity: float, rng: np.random.Generator) -> Frames:
    """Everything is bent, the same way in all frames."""
    field = _bend(frames, rng) * (0.006 + 0.06 * severity)
    return np.stack([_warped(frame, field) for frame in frames])


def morphing(
    frames: Frames, times: Floats, inside: Mask, severity: float, rng: np.random.Generator
) -> Frames:
    """Everything bends more and more, and back where the span ends before the clip."""
    affected = np.flatnonzero(inside)
    x = np.arange(len(affected)) / max(len(affected) - 1, 1)
    strength = x * x * (3 - 2 * x) if inside.all() else np.sin(np.pi * x) ** 2
    field = _bend(frames, rng) * (0.012 + 0.09 * severity)
    return np.stack(
        [_warped(frames[k], amount * field) for k, amount in zip(affected, strength, strict=True)]
    )


def _bend(frames: Frames, rng: np.random.Generator) -> Floats:
    """A smooth random displacement [2, H, W] in pixels, at most one short side long in each direction."""
    _, height, width, _ = frames.shape
    short = _short(frames)
    y, x = np.mgrid[:height, :width] / short
    field = np.zeros((2, height, width))
    for axis in range(2):
        for waves in (2.0, 3.5, 5.0):
            turn, phase = rng.uniform(0, 2 * np.pi, 2)
            field[axis] += np.sin(2 * np.pi * waves * (x * np.cos(turn) + y * np.sin(turn)) + phase) / 3
    return field * short


def _warped(frame: Frames, field: Floats) -> Frames:
    """Read every pixel of [H, W, 3] from where `field` [2, H, W] points, linearly interpolated."""
    height, width, _ = frame.shape
    places = np.indices((height, width)) + field
    y, x = np.clip(places[0], 0, height - 1), np.clip(places[1], 0, width - 1)
    top, left = np.minimum(y.astype(np.int64), height - 2), np.minimum(x.astype(np.int64), width - 2)
    down, right = (y - top)[..., None], (x - left)[..., None]
    upper = (1 - right) * frame[top, left] + right * frame[top, left + 1]
    lower = (1 - right) * frame[top + 1, left] + right * frame[top + 1, left + 1]
    bent: Frames = np.rint((1 - down) * upper + down * lower).astype(np.uint8)
    return bent


FRAME_DEFECTS: dict[str, Callable[[Frames, float, np.random.Generator], Frames]] = {
    "shape distortion": shape_distortion,
    "blur": blur,
    "noise": noise,
    "blockiness": blockiness,
    "color cast": color_cast,
    "exposure": exposure,
    "banding": banding,
}
"""Defects of single frames, in the order in which they are applied (after those of motion)."""

MOTION_DEFECTS: dict[str, Callable[[Frames, Floats, Mask, float, np.random.Generator], Frames]] = {
    "implausible speed": implausible_speed,
    "morphing": morphing,
    "jump": jump,
    "freeze": freeze,
    "ghosting": ghosting,
    "jitter": jitter,
    "flicker": flicker,
}
"""Defects of motion, in the order in which they are applied."""
