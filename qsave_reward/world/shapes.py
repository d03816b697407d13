"""Shapes: a table R(angle) of the outline plus one round hole.

One formula draws every shape, rotated, scaled, blended into another shape or distorted:
depth = min(R(angle) - distance, distance to the hole's center - radius of the hole).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEPS = 1024
"""Angles in an outline table; angle 0 points up, angles run clockwise."""


@dataclass(frozen=True, eq=False)
class Outline:
    """A shape of unit size: `radii` float64 [STEPS], and a hole of radius `hole`, centered `shift` aside."""

    radii: Floats
    hole: float = 0.0
    shift: float = 0.0


@cache
def outline(shape: str) -> Outline:
    """The outline of one of `SHAPES`."""
    angles = np.arange(360) * math.pi / 180
    if shape in ("circle", "ring", "crescent"):
        hole, shift = {"circle": (0.0, 0.0), "ring": (0.52, 0.0), "crescent": (0.78, 0.52)}[shape]
        return Outline(np.full(STEPS, 0.95), hole * 0.95, shift * 0.95)
    if shape == "heart":
        x = 16 * np.sin(angles) ** 3
        y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
        points = np.stack([x, y + 2.5], axis=1)
    elif shape == "cross":
        a = 0.36
        corner = [(-a, 1), (a, 1), (a, a), (1, a), (1, -a), (a, -a), (a, -1)]
        points = np.array([*corner, (-a, -1), (-a, -a), (-1, -a), (-1, a), (-a, a)])
    elif shape == "diamond":
        points = np.array([(0, 1), (0.62, 0), (0, -1), (-0.62, 0)])
    elif shape == "star":
        points = _star(10, inner=0.42)
    else:
        points = _star({"triangle": 3, "square": 4, "pentagon": 5}[shape], inner=1.0)
        if shape == "square":
            points = points @ (np.array([[1, 1], [-1, 1]]) / math.sqrt(2))
    return Outline(_radii(points))


def _star(number: int, *, inner: float) -> Floats:
    """Corners [number, 2] at equal angles, every second one at radius `inner`, the first one up."""
    angles = 2 * math.pi * np.arange(number) / number
    radii = np.where(np.arange(number) % 2 == 1, inner, 1.0)
    return np.stack([radii * np.sin(angles), radii * np.cos(angles)], axis=1)


def _radii(points: Floats) -> Floats:
    """Distance from the origin to a polygon around it, at each angle; scaled so that shapes look as large."""
    angles = 2 * math.pi * np.arange(STEPS) / STEPS
    rays = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    radii = np.full(STEPS, np.inf)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        side = end - start
        cross = rays[:, 0] * side[1] - rays[:, 1] * side[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (start[0] * side[1] - start[1] * side[0]) / cross
            along = (start[0] * rays[:, 1] - start[1] * rays[:, 0]) / cross
        hit = (reach > 0) & (along >= -1e-9) & (along <= 1 + 1e-9)
        radii[hit] = np.minimum(radii[hit], reach[hit])
    return radii * 2 / (math.sqrt(float(np.mean(radii**2))) + float(radii.max()))


@cache
def shape_distance(first: str, second: str) -> float:
    """How different two shapes look, 0 to 1: the share of area they differ in, more if one has a hole."""
    grid = np.linspace(-1.4, 1.4, 96)
    x, y = np.meshgrid(grid, grid)
    one, two = (depth(x, y, outline(s)) > 0 for s in (first, second))
    pierced = 0.3 if (outline(first).hole > 0) != (outline(second).hole > 0) else 0.0
    return min(float((one ^ two).sum() / (one | two).sum()) + pierced, 1.0)


def depth(x: Floats, y: Floats, shape: Outline) -> Floats:
    """How deep points (x right, y down, unit size) lie inside an outline; negative outside."""
    index = (np.arctan2(x, -y) * (STEPS / (2 * math.pi))).astype(np.int32) % STEPS
    inside: Floats = shape.radii[index] - np.hypot(x, y)
    if shape.hole > 0:
        inside = np.minimum(inside, np.hypot(x - shape.shift, y) - shape.hole)
    return inside
