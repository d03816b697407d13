"""Clips with one polygon, drawn by Pillow and not by the world: what the gold judge should see is known."""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

TIME = np.arange(17) / 17
FINE = 8


def corners(number, inner=1.0):
    angles = 2 * math.pi * np.arange(number) / number
    radii = np.where(np.arange(number) % 2, inner, 1.0)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


CROSS = [(-0.36, -1), (0.36, -1), (0.36, -0.36), (1, -0.36), (1, 0.36), (0.36, 0.36)]
POLYGONS = {
    "circle": corners(120),
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": corners(3),
    "star": corners(10, 0.42),
    "pentagon": corners(5),
    "diamond": np.array([(0, -1), (0.62, 0), (0, 1), (-0.62, 0)]),
    "cross": np.array([*CROSS, *((-x, -y) for x, y in CROSS)]),
}


def drawn(shape="square", color=(220, 35, 35), *, x=0.5, y=0.5, radius=0.17, angle=0.0, alpha=1.0, side=64):
    """Frames with a polygon on gray; places and radii in shares of a side, each a number or one per frame."""
    rows = np.broadcast(x, y, radius, angle, alpha + 0 * TIME)
    return np.stack([picture(shape, color, side, *(float(value) for value in row)) for row in rows])


@cache
def picture(shape, color, side, x, y, radius, angle, alpha):
    cos, sin = math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)
    points = POLYGONS[shape] @ np.array([[cos, sin], [-sin, cos]]) * radius + (x, y)
    mask = Image.new("L", (side * FINE, side * FINE))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in points * side * FINE], fill=255)
    cover = alpha * np.asarray(mask.reduce(FINE), float)[..., None] / 255
    return np.rint(cover * np.array(color) + (1 - cover) * 128).astype(np.uint8)


WAYS = {
    "left": {"x": 0.7 - 0.42 * TIME},
    "right": {"x": 0.3 + 0.42 * TIME},
    "up": {"y": 0.7 - 0.42 * TIME},
    "down": {"y": 0.3 + 0.42 * TIME},
    "grow": {"radius": 0.1 + 0.16 * TIME},
    "shrink": {"radius": 0.26 - 0.16 * TIME},
    "rotate": {"angle": 0.55 * TIME},
    "bounce": {"y": 0.6 - 0.24 * np.abs(np.sin(2 * np.pi * TIME))},
    "orbit": {"x": 0.5 + 0.13 * np.sin(2 * np.pi * TIME), "y": 0.5 - 0.13 * np.cos(2 * np.pi * TIME)},
    "swing": {"x": 0.5 + 0.14 * np.sin(4 * np.pi * TIME)},
    "appear": {"alpha": np.clip((TIME - 0.38) / 0.18, 0, 1)},
    "disappear": {"alpha": 1 - np.clip((TIME - 0.38) / 0.18, 0, 1)},
    "still": {},
}
"""Keywords of `drawn` for each motion of the world."""
