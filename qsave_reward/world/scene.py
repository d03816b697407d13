"""Scenes of the procedural world: what is in a clip, how it moves, and how a prompt says it.

A `Scene` is one to three groups of equal objects in front of a background. No pixels here: positions
are shares of the area in which an object stays in frame, lengths are in units of the frame's short side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 35, 35),
    "orange": (240, 130, 25),
    "yellow": (245, 222, 50),
    "green": (45, 165, 65),
    "cyan": (60, 210, 225),
    "blue": (40, 75, 215),
    "purple": (140, 50, 185),
    "pink": (248, 150, 195),
    "white": (246, 246, 246),
    "black": (24, 24, 27),
}
"""Object colors, RGB 0..255."""

BACKGROUND_COLORS: dict[str, tuple[int, int, int]] = {
    "gray": (128, 128, 128),
    "tan": (176, 156, 128),
    "slate": (92, 106, 124),
    "olive": (112, 116, 88),
    "plum": (112, 88, 108),
    "charcoal": (66, 66, 72),
    "cream": (212, 205, 188),
}
"""Muted background colors, RGB 0..255."""

BACKGROUNDS = ("plain", "gradient", "checkered", "striped", "dotted", "cloudy")
FILMED = "filmed"
"""The background of a scene in front of a real clip."""
TEXTURED = ("checkered", "striped", "dotted", FILMED)
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "diamond",
    "crescent",
    "pentagon",
)
ROUND_SHAPES = ("circle", "ring")
MOTIONS = (
    "left",
    "right",
    "up",
    "down",
    "grow",
    "shrink",
    "rotate",
    "bounce",
    "orbit",
    "swing",
    "appear",
    "disappear",
    "still",
)
STEADY = ("left", "right", "up", "down", "grow", "shrink", "rotate", "orbit")
"""Motions that never pause or turn back, so that a change of speed shows."""
MOVING = (*STEADY, "bounce", "swing")
"""Motions that change every frame."""
TRAVELING = ("left", "right", "up", "down", "bounce", "orbit", "swing")
"""Motions that change the place, so that a trail shows."""
FADING = ("appear", "disappear")
DIRECTIONS = ("left", "right", "up", "down")
RELATIONS = ("left of", "right of", "above", "below")
COUNT_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}
MAX_OBJECTS = 4

RADII = {1: 0.19, 2: 0.15, 3: 0.125, 4: 0.105}
"""Radius of a shape without a size word, by the number of objects in the scene; units of the short side."""
SIZE_FACTORS = {"small": 0.7, "": 1.0, "large": 1.3}


@dataclass(frozen=True)
class Group:
    """Equal objects that move alike: "three small red circles move left"."""

    shape: str
    color: str
    motion: str
    count: int = 1
    size: str = ""


@dataclass(frozen=True)
class Place:
    """Where one object is: `x`, `y` in [0, 1] across its safe area; `radius`, `travel` in short sides."""

    x: float
    y: float
    radius: float
    travel: float


@dataclass(frozen=True)
class Scene:
    """Everything a clip shows, apart from its defects.

    Attributes:
        groups: what is there; empty when a defect removed everything.
        places: for each group one `Place` per object.
        background: one of `BACKGROUNDS`, or `FILMED`.
        background_color: a key of `BACKGROUND_COLORS`.
        phase: 0..1, shifts and turns the background pattern.
        camera: where the camera pans, one of `DIRECTIONS`, or `None`.
        relation: where the first group is relative to the second, one of `RELATIONS`, or `None`.
    """

    groups: tuple[Group, ...]
    places: tuple[tuple[Place, ...], ...]
    background: str
    background_color: str
    phase: float
    camera: str | None = None
    relation: str | None = None


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, each equally likely."""
    return options[int(rng.integers(len(options)))]


def color_distance(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """How different two RGB colors look, 0 to about 765 ("redmean", compuphase.com/cmetric.htm)."""
    mean_red = (first[0] + second[0]) / 2
    red, green, blue = (a - b for a, b in zip(first, second, strict=True))
    weighted = (2 + mean_red / 256) * red**2 + 4 * green**2 + (2 + (255 - mean_red) / 256) * blue**2
    return float(weighted**0.5)


def stands_out(color: str, background_color: str) -> bool:
    """Whether an object of this color is easy to see on this background."""
    return color_distance(COLORS[color], BACKGROUND_COLORS[background_color]) > 130


def split_of(groups: Sequence[Group]) -> str:
    """The split ("train", "val" or "test") that owns every scene prompted with these groups.

    Order, phrasing, places, background, camera and relation do not matter: no part of a test scene leaks.
    """
    digest = hashlib.sha256(meaning(groups).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    return {0: "val", 1: "test"}.get(bucket, "train")


def meaning(groups: Sequence[Group]) -> str:
    """Canonical text of what is prompted, equal for any order of the groups."""
    return "; ".join(sorted(f"{g.count} {g.size} {g.color} {g.shape} {g.motion}" for g in groups))


def draw_scene(rng: np.random.Generator, split: str) -> Scene:
    """A random scene whose meaning belongs to `split`."""
    while True:
        groups, relation, camera = _draw_groups(rng)
        if split_of(groups) == split:
            break
    kinds = [kind for kind in BACKGROUNDS if kind in TEXTURED or not camera]
    clear = [name for name in BACKGROUND_COLORS if all(stands_out(g.color, name) for g in groups)]
    return Scene(
        groups=groups,
        places=draw_places(rng, groups, relation),
        background=pick(rng, kinds),
        background_color=pick(rng, clear),
        phase=float(rng.random()),
        camera=camera,
        relation=relation,
    )


def _draw_groups(rng: np.random.Generator) -> tuple[tuple[Group, ...], str | None, str | None]:
    """Groups with their relation and camera direction; at most one of the two is set."""
    number = 1 + int(np.searchsorted((0.45, 0.85), rng.random(), side="right"))
    kind = rng.random()
    relation = pick(rng, RELATIONS) if number == 2 and kind < 0.35 else None
    camera = pick(rng, DIRECTIONS) if relation is None and kind > 0.85 else None
    groups: list[Group] = []
    while len(groups) < number:
        shape, color = pick(rng, SHAPES), pick(rng, tuple(COLORS))
        motion = pick(rng, allowed_motions(shape, relation, camera))
        if any((g.shape, g.color) == (shape, color) for g in groups):
            continue
        count, size = 1, ""
        extra = rng.random()
        if number < 3 and relation is None and extra < 0.25 and sum(g.count for g in groups) == len(groups):
            count = 2 + int(extra < 0.1)
        elif number < 3 and not camera and motion not in ("grow", "shrink") and extra > 0.75:
            size = "small" if extra > 0.875 else "large"
        groups.append(Group(shape, color, motion, count, size))
    if sum(g.count for g in groups) > 2:
        groups = [Group(g.shape, g.color, g.motion, g.count) for g in groups]
    palette = [g.color for g in groups]
    if not any(all(stands_out(c, name) for c in palette) for name in BACKGROUND_COLORS):
        return _draw_groups(rng)
    return tuple(groups), relation, camera


def allowed_motions(shape: str, relation: str | None, camera: str | None) -> tuple[str, ...]:
    """Motions that show on this shape, keep a stated relation true and do not cancel out a camera pan."""
    banned: tuple[str, ...] = ("rotate",) if shape in ROUND_SHAPES else ()
    if camera:
        banned += DIRECTIONS
    if relation in ("left of", "right of"):
        banned += ("left", "right", "swing")
    if relation in ("above", "below"):
        banned += ("up", "down", "bounce")
    return tuple(motion for motion in MOTIONS if motion not in banned)


def draw_places(
    rng: np.random.Generator, groups: Sequence[Group], relation: str | None
) -> tuple[tuple[Place, ...], ...]:
    """Put the objects of a scene side by side or on top of each other, in the order a relation demands."""
    number = sum(group.count for group in groups)
    motions = [g.motion for g in groups]
    sideways = sum(m in ("left", "right", "swing") for m in motions)
    upward = sum(m in ("up", "down", "bounce") for m in motions)
    if relation:
        columns = relation in ("left of", "right of")
    else:
        columns = upward > sideways or (upward == sideways and rng.random() < 0.5)
    slots = np.arange(number) if relation else rng.permutation(number)
    if relation in ("right of", "below"):
        slots = slots[::-1]
    places = []
    for group in groups:
        row = []
        for _ in range(group.count):
            slot, slots = int(slots[0]), slots[1:]
            along = slot / (number - 1) if number > 1 else rng.uniform(0.25, 0.75)
            across = rng.uniform(0.2, 0.8)
            x, y = (along, across) if columns else (across, along)
            along_axis = group.motion in (("left", "right") if columns else ("up", "down"))
            travel = 0.42 if number == 1 else 0.24 if along_axis else 0.38
            radius = RADII[number] * SIZE_FACTORS[group.size] * rng.uniform(0.95, 1.05)
            row.append(Place(float(x), float(y), float(radius), travel))
        places.append(tuple(row))
    return tuple(places)
