"""What can be asked for: words, shapes as small pictures, motions as functions of time; and what fits them.

The shapes are drawn from formulas of their own, not by the renderer of the world, so that a fault there
cannot cancel out here. A motion is fitted by least squares to the way of the object; its place, size, turn
and opacity are brought to one scale, in which every full motion of the world is about 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from gold_objects import CLEAR, GRID, REACH, Floats, Mask, Sighting, Singles, cells
from numpy.typing import NDArray
from scipy import ndimage

from qsave_reward.errors import ConfigError
from qsave_reward.world.phrasing import SIZE_WORDS, VERBS, words_of
from qsave_reward.world.scene import BACKGROUND_COLORS, BACKGROUNDS, COLORS, SHAPES

SYMMETRY = {"star": 5, "pentagon": 5, "square": 4, "cross": 4, "triangle": 3, "diamond": 2} | dict.fromkeys(
    ("heart", "crescent"), 1
)
"""Into how many equal parts a full turn of a shape falls; round shapes are missing."""
MOMENTS = SYMMETRY | {"heart": 3, "crescent": 2}
"""Order of the angular moment that is strong in a shape."""
THIN, RIM = ("ring", "crescent"), 0.13
"""Shapes that look different where their dark rim is as dark as the background; its width in radii."""
TURNS, SCALES, FINE = 60, (0.92, 1.0, 1.09), 3
"""Angles in a full turn and sizes at which shapes are tried; points per cell in each direction."""

UNITS = np.array([0.12, 0.12, 0.25, 0.15, 0.45])
"""Standard deviation of a full motion: x and y (short sides), relative size, full turns, opacity."""
TRAVEL = {"line": 0.42, "bounce": 0.24, "orbit": 0.13, "swing": 0.14, "growth": 0.87, "turn": 0.55}
"""How far a full motion goes, in the units of its channel."""
ENOUGH = 0.6
"""Share of it that counts as all of it."""
STILL, ROUGH = 0.06, 0.03
"""Mean square motion by which a resting object loses 63 %; what a moving one may have of no kind."""
LIVELY = 0.25
"""Mean square motion below which an object that should move counts as frozen."""
X, Y, SIZE, TURN, OPACITY = range(5)


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for: one of `COLORS`, `SHAPES` and `MOTIONS` each."""

    color: str
    shape: str
    motion: str


@dataclass(frozen=True)
class MotionFit:
    """How an object moves.

    Attributes:
        scores: 0..1 for each motion: what it explains of all that happens, less if it goes not far enough.
        activity: mean square of all that happens; about 1 for a full motion of any kind.
        rough: root mean square of what no smooth motion of the world explains, in the same units.
    """

    scores: dict[str, float]
    activity: float
    rough: float


def parse_prompt(prompt: str) -> Asked:
    """What a prompt of the world with one single object asks for.

    Raises:
        ConfigError: `code="bad_prompt"`, for everything else.
    """
    found = _sentence().fullmatch(" ".join(words_of(prompt))) if isinstance(prompt, str) else None
    if found is None:
        raise ConfigError(
            "expected a prompt with one object of the world and no camera, such as 'a small red circle moves "
            f"left on a gray plain background', got {prompt!r}; leave such prompts out",
            code="bad_prompt",
        )
    return Asked(found["color"], found["shape"], _verbs()[found["verb"]])


@cache
def _verbs() -> dict[str, str]:
    return {verb: motion for motion, pairs in VERBS.items() for verb, _ in pairs}


@cache
def _sentence() -> re.Pattern[str]:
    def one_of(words: Iterable[str]) -> str:
        return "|".join(re.escape(word) for word in words if word)

    sizes = one_of(word for words in SIZE_WORDS.values() for word in words)
    ground = f"an? (?:{one_of(BACKGROUND_COLORS)}) (?:{one_of(BACKGROUNDS)}) background"
    return re.compile(
        f"(?:on {ground} )?(?:a video of )?an? (?:(?:{sizes}) )?(?P<color>{one_of(COLORS)}) "
        f"(?P<shape>{one_of(SHAPES)}) (?:that )?(?P<verb>{one_of(_verbs())})(?: (?:on|in front of) {ground})?"
    )


def shape_matches(patches: Singles) -> Floats:
    """[T, 10]: highest correlation of patches [T, GRID, GRID] with any size and turn of each of `SHAPES`."""
    rows = _centered(patches.reshape(len(patches), -1))
    found = [np.max([(rows @ block.T).max(axis=1) for block in blocks], axis=0) for blocks in _templates()]
    return np.stack(found, axis=1).astype(np.float64)


def shape_score(matches: Floats, shape: str) -> float:
    """Mean over frames [T, 10] of the correlation with a shape (0.5 is 0, 0.85 is 1) and its share of all."""
    own = matches[:, SHAPES.index(shape)]
    share = 1 / np.exp(250 * (matches - own[:, None])).sum(axis=1)
    return float((share * np.clip((own - 0.5) / 0.35, 0, 1)).mean())


def turns(patches: Singles, shape: str) -> Floats:
    """[T]: full turns, unwrapped, from the phase of the angular moment of a shape; 0 for round ones."""
    order = MOMENTS.get(shape)
    if order is None:
        return np.zeros(len(patches))
    x, y = np.meshgrid(cells(), cells())
    power = ((x + 1j * y) / REACH) ** order
    phase = np.angle((patches * power).sum(axis=(1, 2)))
    turned: Floats = np.unwrap(phase) / (2 * math.pi * order)
    return turned


@cache
def _templates() -> tuple[list[Singles], ...]:
    """For each shape its pictures in blocks [N, GRID * GRID], centered as patches are.

    Products of larger blocks would be spread over threads, which takes longer and up to 50 times the work.
    """
    axis = np.linspace(-1.3, 1.3, 261)
    x, y = np.meshgrid(axis, axis)
    steps = ((np.arange(GRID * FINE) + 0.5) / (GRID * FINE) * 2 - 1) * REACH
    across, down = np.meshgrid(steps, steps)
    found = []
    for shape in SHAPES:
        order, rows = SYMMETRY.get(shape, TURNS), []
        for scale, rim in product(SCALES, (0.0, RIM) if shape in THIN else (0.0,)):
            inside = _inside(shape, x, y, rim)
            unit = math.sqrt(inside.mean() * 2.6**2 / math.pi) / scale
            for angle in 2 * math.pi * np.arange(TURNS // order) / TURNS:
                u = (across * math.cos(angle) + down * math.sin(angle)) * unit + x[inside].mean()
                v = (down * math.cos(angle) - across * math.sin(angle)) * unit + y[inside].mean()
                picture = _inside(shape, u, v, rim).reshape(GRID, FINE, GRID, FINE).mean(axis=(1, 3))
                rows.append(ndimage.gaussian_filter(picture.astype(np.float32), 0.7).ravel())
        found.append(np.array_split(_centered(np.stack(rows)), math.ceil(len(rows) / 16)))
    return tuple(found)


def _centered(rows: Singles) -> Singles:
    """Zero mean and unit length."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    unit: Singles = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit


def _inside(shape: str, x: Floats, y: Floats, rim: float) -> Mask:
    """Which points (x right, y down) are inside a shape of radius about 1; round ones may lose a rim."""
    away = np.hypot(x, y)
    if shape in ("circle", "ring", "crescent"):
        hole, aside = {"circle": (0.0, 0.0), "ring": (0.52, 0.0), "crescent": (0.78, 0.52)}[shape]
        return (away < 1 - rim) & (np.hypot(x - aside, y) >= hole + rim * (hole > 0))
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) < 0.8
    if shape == "cross":
        return (np.minimum(np.abs(x), np.abs(y)) < 0.36) & (np.maximum(np.abs(x), np.abs(y)) < 1)
    if shape == "diamond":
        return np.abs(x) / 0.62 + np.abs(y) < 1
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 90, endpoint=False)
        high = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        corners = np.stack([16 * np.sin(t) ** 3, -high - 2.5], axis=1) / 15
    else:
        number = {"triangle": 3, "pentagon": 5, "star": 10}[shape]
        radii = np.where((np.arange(number) % 2 == 1) & (shape == "star"), 0.42, 1.0)
        t = 2 * math.pi * np.arange(number) / number
        corners = np.stack([radii * np.sin(t), -radii * np.cos(t)], axis=1)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 != y1:  # a ray to the right crosses this side
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def fit_motions(seen: Sighting, shape: str) -> MotionFit:
    """Fit every motion to the way of an object that has a certain shape."""
    values, weights = _channels(seen, shape)
    time = np.arange(len(values)) / len(values)
    held = np.array([_fit(values[:, c], weights[:, c])[0] for c in range(5)])
    total = float(held.sum())
    scores = {"still": math.exp(-total / STILL)}
    left = held.copy()

    def explained(channels: Sequence[int], rest: float, reached: float) -> float:
        changed = float(held[list(channels)].sum()) - rest
        return max(changed, 0.0) / (total + ROUGH) * min(max(reached, 0.0) / ENOUGH, 1.0)

    lines = ((X, "right", "left", "line"), (Y, "down", "up", "line"), (SIZE, "grow", "shrink", "growth"))
    for channel, plus, minus, kind in lines:
        rest, (slope,) = _fit(values[:, channel], weights[:, channel], time)
        reached = slope * UNITS[channel] / TRAVEL[kind]
        scores[plus] = explained([channel], rest, reached)
        scores[minus] = explained([channel], rest, -reached)
        left[channel] = min(left[channel], rest)
    rest, (slope,) = _fit(values[:, TURN], weights[:, TURN], time)
    scores["rotate"] = explained([TURN], rest, abs(slope) * UNITS[TURN] / TRAVEL["turn"])
    left[TURN] = min(left[TURN], rest)
    circle = np.stack([np.sin(2 * math.pi * time), np.cos(2 * math.pi * time)])
    (rest_x, way_x), (rest_y, way_y) = (_fit(values[:, c], weights[:, c], *circle) for c in (X, Y))
    narrow = np.linalg.svd(np.stack([way_x, way_y]), compute_uv=False)[-1]
    scores["orbit"] = explained([X, Y], rest_x + rest_y, narrow * UNITS[X] / TRAVEL["orbit"])
    twice = (np.sin(4 * math.pi * time), np.cos(4 * math.pi * time))
    rest, way = _fit(values[:, X], weights[:, X], *twice)
    scores["swing"] = explained([X], rest, float(np.hypot(*way)) * UNITS[X] / TRAVEL["swing"])
    left[X] = min(left[X], rest_x, rest)
    arcs = [-np.abs(np.sin(2 * math.pi * time + start)) for start in np.arange(8) * math.pi / 8]
    rest, reached = _best(values[:, Y], weights[:, Y], arcs)
    scores["bounce"] = explained([Y], rest, reached * UNITS[Y] / TRAVEL["bounce"])
    left[Y] = min(left[Y], rest_y, rest)
    ramps = [np.clip((time - start) / 0.18, 0, 1) for start in (0.18, 0.28, 0.38, 0.48, 0.58)]
    for name, sign in (("appear", 1), ("disappear", -1)):
        rest, reached = _best(values[:, OPACITY], weights[:, OPACITY], [sign * ramp for ramp in ramps])
        scores[name] = explained([OPACITY], rest, reached * UNITS[OPACITY])
        left[OPACITY] = min(left[OPACITY], rest)
    return MotionFit(scores, total, math.sqrt(max(float(left.sum()), 0.0)))


def _channels(seen: Sighting, shape: str) -> tuple[Floats, Floats]:
    """Values and weights [T, 5] of x, y, size, turn and opacity; without an object only opacity counts."""
    opacity = seen.opacity
    clear = opacity > CLEAR
    weights = np.repeat(clear[:, None], 5, axis=1).astype(np.float64)
    weights[:, OPACITY] = 1
    turned = np.zeros(len(clear))
    turned[clear] = turns(seen.patches[clear], shape)
    size = seen.size / max(float(seen.size[clear].mean()), 1e-9) if clear.any() else seen.size
    values = np.stack([*seen.centers.T, size, turned, np.minimum(opacity / 0.85, 1)], axis=1) / UNITS
    return np.where(weights > 0, values, 0.0), weights


def _best(values: Floats, weights: Floats, forms: Sequence[Floats]) -> tuple[float, float]:
    """What the best of some forms leaves, and how strongly it is there; infinity if all are upside down."""
    fits = [_fit(values, weights, form) for form in forms]
    return min(((rest, float(way[0])) for rest, way in fits if way[0] > 0), default=(math.inf, 0.0))


def _fit(values: Floats, weights: Floats, *forms: Floats) -> tuple[float, NDArray[np.float64]]:
    """Mean square of what a weighted sum of forms and a constant leaves, and the factors of the forms."""
    root = np.sqrt(weights)
    design = np.stack([np.ones_like(values), *forms], axis=1) * root[:, None]
    factors = np.linalg.solve(design.T @ design + 1e-9 * np.eye(design.shape[1]), design.T @ (values * root))
    rest = ((values * root - design @ factors) ** 2).sum() / max(weights.sum(), 1e-9)
    return float(rest), factors[1:]


def steadiness(seen: Sighting, fit: MotionFit, *, shapes: Floats, resting: bool) -> float:
    """0..1: little roughness of the way, flicker of the light and change of the shape; half of it if frozen.

    Flicker is brightness that goes and comes back between three frames; a step that stays is none.

    Args:
        seen: the object.
        fit: its motion.
        shapes: [T, 10], as `shape_matches` gives it.
        resting: whether it should not move.
    """
    steps = np.diff(np.log(np.maximum(seen.light.mean(axis=1), 1)))
    back = np.minimum(np.abs(steps[1:]), np.abs(steps[:-1])) * (steps[1:] * steps[:-1] < 0)
    clear = shapes[seen.opacity > CLEAR]
    changed = math.sqrt(float(((clear - np.median(clear, axis=0)) ** 2).mean()))
    rough = max(fit.rough - 0.03 - 0.01 * seen.grain, 0)
    lively = 1.0 if resting else 0.5 + 0.5 * min(fit.activity / LIVELY, 1.0)
    return lively * math.exp(-float(back.mean()) / 0.06 - rough / 0.25 - max(changed - 0.015, 0) / 0.15)
