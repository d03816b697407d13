"""What is seen in a clip, by classical means: the object that stands out from the background, frame by frame.

The background is taken as a smooth surface of color with a texture of brightness; what differs from it more
than the rim of the picture does is salient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from qsave_reward.errors import VideoError
from qsave_reward.world.scene import COLORS

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Mask = NDArray[np.bool_]

MIN_FRAMES, MIN_SIDE = 8, 32
SHORT_SIDE = 64
"""Pixels to which larger frames are reduced, by whole factors, before an object is looked for."""
CLEAR = 0.5
"""Opacity from which on an object is measured."""
FAINTEST = 3.0
"""Distance in color (0..100) below which nothing is salient."""
GRID, REACH = 28, 1.95
"""Cells on a side of the small picture of an object; its half width in radii of the disk of equal area."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """The most salient object, per frame; lengths in short sides of the frame.

    Attributes:
        contrast: [T], distance in color (0..100) from the background; 0 where nothing was found.
        centers: [T, 2], x and y.
        size: [T], radius of the disk of equal area.
        alone: [T], 0..1, its share of all that is salient.
        colors: [T, 10], distance to each of `COLORS` of the pixels that are nearest to it.
        patches: [T, GRID, GRID], 0..1, the object in the middle, scaled to a common area.
        light: [T, 3], brightness of the border, 0..255, RGB.
        mask: bool [T, h, w], where it is, in frames reduced to about `SHORT_SIDE`.
        grain: strength of the noise, gray values.
    """

    contrast: Floats
    centers: Floats
    size: Floats
    alone: Floats
    colors: Floats
    patches: Singles
    light: Floats
    mask: Mask
    grain: float

    @property
    def opacity(self) -> Floats:
        """[T], 0..1: contrast as a share of that in the clearest quarter of the frames."""
        best = np.sort(self.contrast)[-max(1, len(self.contrast) // 4)]
        opacity: Floats = np.clip(self.contrast / max(float(best), 1e-9), 0, 1)
        return opacity


def check_frames(frames: Frames) -> None:
    """Raise `VideoError` (`code="bad_shape"`) unless `frames` are uint8 [T >= 8, H >= 32, W >= 32, 3]."""
    good = isinstance(frames, np.ndarray) and frames.dtype == np.uint8 and frames.ndim == 4
    if not good or frames.shape[3] != 3 or len(frames) < MIN_FRAMES or min(frames.shape[1:3]) < MIN_SIDE:
        got = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise VideoError(
            f"expected uint8 [T, H, W, 3] of at least {MIN_FRAMES} frames and {MIN_SIDE} pixels a side, "
            f"got {got}; sample such clips",
            code="bad_shape",
        )


def oklab(pixels: Frames) -> Singles:
    """Lightness and two opponent colors, times 100, of sRGB bytes [..., 3] (Ottosson 2020, "Oklab")."""
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = [[0.41222147, 0.53633254, 0.05144599], [0.2119035, 0.68069955, 0.10739696]]
    cones.append([0.08830246, 0.28171884, 0.6299787])
    mixed = [[0.21045426, 0.79361779, -0.00407205], [1.9779985, -2.42859221, 0.45059371]]
    mixed.append([0.02590404, 0.78277177, -0.80867577])
    response = np.cbrt(linear.astype(np.float32)[pixels] @ np.array(cones, np.float32).T)
    lab: Singles = response @ np.array(mixed, np.float32).T * 100
    return lab


def _reduced(frames: Frames) -> Frames:
    """Means over square cells that leave 64 to 127 pixels of the short side; smaller frames stay."""
    count, height, width, _ = frames.shape
    cell = _cell(frames)
    rows, columns = height // cell, width // cell
    cells = frames[:, : rows * cell, : columns * cell].reshape(count, rows, cell, columns, cell, 3)
    return frames if cell == 1 else np.rint(cells.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def _cell(frames: Frames) -> int:
    return max(1, int(min(frames.shape[1:3])) // SHORT_SIDE)


def _noise_level(frames: Frames) -> float:
    """Standard deviation of noise, gray values, from the median of a mask that flat areas and straight edges
    leave at zero (Immerkaer 1996, with the median against corners)."""
    gray = frames[::3].astype(np.float32).mean(axis=-1)
    rows = gray[:, :-2] - 2 * gray[:, 1:-1] + gray[:, 2:]
    both = rows[..., :-2] - 2 * rows[..., 1:-1] + rows[..., 2:]
    return float(np.median(np.abs(both))) / (6 * 0.6745)


def find_object(frames: Frames) -> Sighting:
    """Find the most salient object of a clip that is uint8 [T, H, W, 3]."""
    small = _reduced(frames)
    border = _border(*small.shape[1:3])
    light = small[:, border].mean(axis=1)
    # Brightness and tint of the frames are made equal, or a flickering object would seem to change.
    gains = np.clip(np.median(light, axis=0) / np.maximum(light, 1), 0.2, 5)
    even = np.clip(np.rint(small * gains[:, None, None].astype(np.float32)), 0, 255).astype(np.uint8)
    grain = _noise_level(small)
    sigma = 0.7 + min(grain / 30, 1.0)
    lab = ndimage.gaussian_filter(oklab(even), (0, sigma, sigma, 0), truncate=2.5)
    salience = _salience(lab, border)
    count = salience[0].size // 100
    contrast = np.partition(salience.reshape(len(lab), -1), -count, axis=1)[:, -count:].mean(axis=1)
    mask, alone = _component(salience, np.maximum(0.33 * contrast, 0.12 * contrast.max()), border)
    seen = mask.any(axis=(1, 2))
    contrast = np.where(seen, contrast, 0.0).astype(np.float64)
    near = _grown(mask)
    matte = np.clip((salience / np.maximum(contrast, 1)[:, None, None] - 0.15) / 0.3, 0, 1) * near
    area = np.maximum(matte.sum(axis=(1, 2)), 1e-9)
    middles = [
        (matte.sum(axis=other) @ (np.arange(matte.shape[axis]) + 0.5)) / area
        for axis, other in ((2, 1), (1, 2))
    ]
    centers, size = np.stack(middles, axis=1), np.sqrt(area / math.pi)
    short = min(small.shape[1:3])
    return Sighting(
        contrast=contrast,
        centers=centers / short,
        size=size / short,
        alone=alone,
        colors=_color_distances(lab, mask),
        patches=_patches(matte, centers, size),
        light=light.astype(np.float64),
        mask=mask,
        grain=grain,
    )


def _grown(mask: Mask) -> Mask:
    """A mask [T, H, W] with the eight neighbors of every pixel in it."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    full: Mask = wide.copy()
    full[..., 1:] |= wide[..., :-1]
    full[..., :-1] |= wide[..., 1:]
    return full


def _border(height: int, width: int) -> Mask:
    rim = max(1, round(min(height, width) / 32))
    border = np.ones((height, width), bool)
    border[rim:-rim, rim:-rim] = False
    return border


def _salience(lab: Singles, border: Mask) -> Singles:
    """How far each pixel is from the background, 0..100 [T, H, W]."""
    height, width = border.shape
    still = np.median(lab[::3], axis=0)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    basis = np.stack([np.ones_like(x), x, y, x * x, y * y], axis=-1).reshape(-1, 5)
    pixels, weight = still.reshape(-1, 3), border.ravel() + np.float32(0.02)
    for _ in range(4):  # from the border inward; pixels far from the surface lose their weight
        weighted = basis * weight[:, None]
        surface = basis @ np.linalg.solve(weighted.T @ basis + 1e-3 * np.eye(5), weighted.T @ pixels)
        off = np.sqrt(((pixels - surface) ** 2).sum(axis=1))
        weight = (1 / (1 + (off / max(2.0, 1.5 * float(np.median(off[border.ravel()])))) ** 4)).astype(
            np.float32
        )
    surface = surface.reshape(height, width, 3).astype(np.float32)
    room = 0.6 + 1.15 * np.quantile(np.abs((lab - surface)[:, border]), 0.93, axis=(0, 1))
    room = np.minimum(room, (16, 6, 6)).astype(np.float32)
    far: Singles = np.sqrt((np.maximum(np.abs(lab - surface) - room, 0) ** 2).sum(axis=-1))
    return far


def _component(salience: Singles, level: Singles, border: Mask) -> tuple[Mask, Floats]:
    """The connected salient part that is the object [T, H, W], and its share of what is salient [T].

    It is the heaviest one; among those half as heavy, the one nearest to where the object was before.
    """
    count, height, width = salience.shape
    links = np.zeros((3, 3, 3), bool)
    links[1] = ndimage.generate_binary_structure(2, 1)
    labels, number = ndimage.label(salience > np.maximum(level, FAINTEST)[:, None, None], links)
    at = np.flatnonzero(labels)
    label, (frame, y, x) = labels.ravel()[at], np.unravel_index(at, labels.shape)
    area, mass = (np.bincount(label, w, number + 1) for w in (None, salience.ravel()[at]))
    when, rows, columns = (np.bincount(label, w, number + 1) / np.maximum(area, 1) for w in (frame, y, x))
    rim = np.bincount(label, border[y, x], number + 1)
    fits = (area > 0.006 * height * width) & (area < 0.45 * height * width) & (rim < 0.25 * border.sum())
    chosen, alone, last = np.zeros(count, int), np.zeros(count), None
    for k in range(count):
        here = np.flatnonzero((np.rint(when) == k) & (area > 0))
        able = here[fits[here]]
        if not len(able):
            continue
        able = able[mass[able] > 0.5 * mass[able].max()]
        if last is not None:
            able = able[np.argsort(np.hypot(rows[able] - rows[last], columns[able] - columns[last]))]
        else:
            able = able[np.argsort(-mass[able])]
        chosen[k] = last = able[0]
        weights = mass[here][mass[here] > 0.2 * mass[last]]
        alone[k] = mass[last] / weights.sum()
    mask: Mask = (labels == chosen[:, None, None]) & (chosen > 0)[:, None, None]
    return mask, alone


def _color_distances(lab: Singles, mask: Mask) -> Floats:
    """[T, 10]: for each color the distance that a tenth of the object's pixels is within; inf where unseen.

    A tenth, because objects have a dark rim and a thin ring is little else.
    """
    named = oklab(np.array(list(COLORS.values()), np.uint8))
    found = np.full((len(lab), len(named)), np.inf)
    for k, (frame, inside) in enumerate(zip(lab, mask, strict=True)):
        if inside.any():
            off = np.sqrt(((frame[inside][:, None] - named) ** 2).sum(axis=-1))
            place = len(off) // 10
            found[k] = np.partition(off, place, axis=0)[place]
    return found


def cells() -> Floats:
    """[GRID]: where the cells of a patch are, in radii of the disk of equal area."""
    return ((np.arange(GRID) + 0.5) / GRID * 2 - 1) * REACH


def _patches(matte: Singles, centers: Floats, size: Floats) -> Singles:
    steps = cells()[None] * size[:, None]
    y = (centers[:, 1, None] - 0.5 + steps)[:, :, None]
    x = (centers[:, 0, None] - 0.5 + steps)[:, None, :]
    where = np.broadcast_arrays(np.arange(len(matte), dtype=np.float64)[:, None, None], y, x)
    patches: Singles = ndimage.map_coordinates(matte, np.stack(where), order=1)
    return patches


def edges(frames: Frames, seen: Sighting) -> tuple[Floats, Floats]:
    """How steep and how blocky the outline of an object is, in up to eight frames in which it is clear.

    Args:
        frames: uint8 [T, H, W, 3], those of the sighting.
        seen: an object that was found.

    Returns:
        the step in color between neighboring pixels that a tenth of those near the object exceed (fewer in
        large frames), as a share of its contrast, about 0.65 for a clean outline; and the share of large
        steps, 0..1, that have none beside them, as between the blocks of a coarse picture.
    """
    cell = _cell(frames)
    which = np.flatnonzero(seen.opacity > CLEAR)
    which = which[:: -(-len(which) // 8)]
    near = _grown(_grown(seen.mask[which]))
    rows, columns = (np.flatnonzero(near.any(axis=(0, other))) for other in (2, 1))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = frames[which, top * cell : bottom * cell, left * cell : right * cell].astype(np.float32)
    near = near[:, top:bottom, left:right].repeat(cell, axis=1).repeat(cell, axis=2)
    steep, blocky = [], []
    for picture, inside in zip(part, near, strict=True):
        pixels = np.sort(picture[inside], axis=0)
        low, high = pixels[len(pixels) // 20], pixels[-1 - len(pixels) // 20]
        contrast = max(float(np.linalg.norm(high - low)), 1.0)
        downward, aside = (np.sqrt((np.diff(picture, axis=axis) ** 2).sum(axis=-1)) for axis in (0, 1))
        steps = np.sort(np.hypot(downward[:, 1:], aside[1:])[inside[1:, 1:]])
        # The outline is as thin in large frames, but what counts as near it is wider.
        steep.append(steps[int((1 - 0.1 / cell) * len(steps))] / contrast)
        lonely = []
        for step, here in ((downward, inside[1:]), (aside.T, inside[:, 1:].T)):
            large = (step[1:-1] > 0.25 * contrast) & here[1:-1]
            lonely.append((np.maximum(step[:-2], step[2:]) < 0.12 * step[1:-1])[large])
        blocky.append(np.concatenate(lonely).mean() if sum(map(len, lonely)) else 0.0)
    return np.array(steep, np.float64), np.array(blocky, np.float64)
