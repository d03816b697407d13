"""Backgrounds: a muted color, a pattern of it that the camera may pan over, and a fixed soft vignette."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.world.scene import BACKGROUND_COLORS, Scene

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

PAN = 0.26
"""How far a camera pan shifts the picture over a clip, in short sides."""


def draw_background(scene: Scene, pan: Floats, *, height: int, width: int) -> Pixels:
    """float32 [T, height, width, 3]: the pattern, shifted by `pan` [T, 2], under a fixed soft vignette."""
    short = min(height, width)
    margin = math.ceil(PAN / 2 * short) + 2 if scene.camera else 0
    x = (np.arange(-margin, width + margin, dtype=np.float32) + np.float32(0.5)) / short
    y = (np.arange(-margin, height + margin, dtype=np.float32) + np.float32(0.5)) / short
    pattern = _pattern(scene, x[None, :], y[:, None], short).astype(np.float32)
    if scene.camera:
        pattern = np.stack([_shifted(pattern, shift * short, margin) for shift in pan])
    else:
        pattern = pattern[None]
    across = np.linspace(-1, 1, width, dtype=np.float32) ** 2
    down = np.linspace(-1, 1, height, dtype=np.float32) ** 2
    light = pattern + 8 - 14 * (across[None, :] + down[:, None])
    color = np.array(BACKGROUND_COLORS[scene.background_color], dtype=np.float32)
    frames = light[..., None] + color
    return np.array(np.broadcast_to(frames, (len(pan), height, width, 3)))


def _shifted(pattern: Pixels, shift: Floats, margin: int) -> Pixels:
    """Crop a padded pattern [H + 2m, W + 2m] moved by (x, y) pixels along one axis, linearly interpolated."""
    axis = 1 if shift[0] else 0
    start = margin - float(shift.sum())
    whole = math.floor(start)
    part = np.float32(start - whole)
    length = pattern.shape[axis] - 2 * margin
    lines = np.moveaxis(pattern, axis, 0)
    mixed = (1 - part) * lines[whole : whole + length] + part * lines[whole + 1 : whole + 1 + length]
    return np.moveaxis(mixed, 0, axis)[margin:-margin] if axis == 1 else mixed[:, margin:-margin]


def _pattern(scene: Scene, x: NDArray[Any], y: NDArray[Any], short: int) -> Any:
    """Brightness offset of the background at x [1, W], y [H, 1] (short sides), about -35..35."""
    kind, phase = scene.background, scene.phase
    turn = 2 * math.pi * phase
    sharp = short / 25
    if kind == "gradient":
        return 42 * ((x - x.mean()) * math.cos(turn) + (y - y.mean()) * math.sin(turn))
    if kind == "checkered":
        wave = np.sin(math.pi * 6 * (x + phase)) * np.sin(math.pi * 6 * (y + phase))
        return 17 * np.clip(wave * sharp, -1, 1)
    if kind == "striped":
        wave = np.sin(2 * math.pi * 5 * (x * math.cos(turn) + y * math.sin(turn)) + turn)
        return 17 * np.clip(wave * sharp, -1, 1)
    if kind == "dotted":
        wave = np.cos(2 * math.pi * 5 * (x + phase)) + np.cos(2 * math.pi * 5 * (y + phase)) - 0.9
        return 30 * np.clip(wave * sharp / 2, 0, 1)
    if kind == "cloudy":
        first = np.sin(2 * math.pi * (1.1 * x + 0.7 * y) + turn)
        second = np.sin(2 * math.pi * (1.9 * y - 0.8 * x) - 2 * turn)
        third = np.sin(2 * math.pi * (2.3 * x + 1.3 * y) + 3 * turn)
        return 13 * (first + second + 0.6 * third)
    return np.zeros((y.shape[0], x.shape[1]))
