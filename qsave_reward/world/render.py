"""Drawing: a `Scene` becomes frames, at any size and frame rate.

Motion is a function of the time as a share of the clip, so another frame rate samples the same motion. An
object is drawn for all frames at once, inside a window that moves with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.world.background import PAN, draw_background
from qsave_reward.world.scene import COLORS, Group, Place, Scene
from qsave_reward.world.shapes import STEPS, outline

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

# How far objects go (short sides), from which to which scale they grow, how wide their dark rim is (radii).
_BOUNCE, _ORBIT, _SWING = 0.24, 0.13, 0.14
_GROWTH = (0.55, 1.4)
_EDGE = 0.13


@dataclass(frozen=True, eq=False)
class Effects:
    """Defects that act on objects rather than on pixels; every array has one value per frame.

    Attributes:
        time: 0..1, the time at which object motion is evaluated.
        jump: short sides, how far objects are displaced.
        jump_sideways: whether that displacement is horizontal.
        morph: 0..1, weight of the outline an object morphs into.
        targets: for each group the shape it morphs into.
        wobble: 0..1, amplitude of the outline distortion.
        ripple: float64 [STEPS], what is added to an outline at amplitude 1.
    """

    time: Floats
    jump: Floats
    jump_sideways: bool
    morph: Floats
    targets: tuple[str, ...]
    wobble: Floats
    ripple: Floats


@dataclass(frozen=True, eq=False)
class Track:
    """Way of one object, per frame: `centers` [T, 2] (x, y), `radius`, `angle` in turns, opacity `alpha`."""

    centers: Floats
    radius: Floats
    angle: Floats
    alpha: Floats


def no_effects(scene: Scene, times: Floats, duration: float) -> Effects:
    """The effects of a clip without defects."""
    zeros = np.zeros(len(times))
    shapes = tuple(group.shape for group in scene.groups)
    return Effects(times / duration, zeros, True, zeros, shapes, zeros, np.zeros(STEPS))


def render(
    scene: Scene,
    times: Floats,
    *,
    duration: float,
    height: int,
    width: int,
    effects: Effects | None = None,
    film: Pixels | None = None,
) -> Pixels:
    """Draw a scene.

    Args:
        scene: what to draw.
        times: float64 [T], seconds; the motion runs from 0 to `duration`.
        duration: seconds.
        height: pixels.
        width: pixels.
        effects: defects of objects, or `None` for a clean clip.
        film: float32 [T, height, width, 3], a background to draw on instead of the scene's own.

    Returns:
        float32 [T, height, width, 3], 0..255, RGB.
    """
    effects = effects or no_effects(scene, times, duration)
    pan = camera_pan(scene, times / duration)
    frames = draw_background(scene, pan, height=height, width=width) if film is None else film.copy()
    for index, track in object_tracks(scene, effects, pan, height=height, width=width):
        _draw(frames, track, scene.groups[index], effects.targets[index], effects)
    return frames


def object_tracks(
    scene: Scene, effects: Effects, pan: Floats, *, height: int, width: int
) -> Iterator[tuple[int, Track]]:
    """The way of every object in pixels, with the index of its group, in the order of drawing.

    Args:
        scene: what is shown.
        effects: defects of objects, at the times wanted.
        pan: float64 [T, 2], as `camera_pan` gives it for the same times.
        height, width: pixels.
    """
    short = min(height, width)
    size = np.array([width, height]) / short
    for index, (group, places) in enumerate(zip(scene.groups, scene.places, strict=True)):
        for place in places:
            track = _track(group, place, effects, size, scene.camera)
            centers = track.centers + pan
            if effects.jump.any():
                centers = _jump(centers, place.radius, effects, size)
            yield index, replace(track, centers=centers * short, radius=track.radius * short)


def camera_pan(scene: Scene, u: Floats) -> Floats:
    """[T, 2] shift of the picture in short sides; when the camera pans left, everything moves right."""
    way = {"left": (1, 0), "right": (-1, 0), "up": (0, 1), "down": (0, -1)}.get(scene.camera or "", (0, 0))
    shift: Floats = PAN * (u - 0.5)[:, None] * np.array(way)
    return shift


def _track(group: Group, place: Place, effects: Effects, size: Floats, camera: str | None) -> Track:
    """How one object moves; `size` is the frame [2] (x, y) in short sides."""
    u, motion = effects.time, group.motion
    shift, spread = np.zeros((len(u), 2)), np.zeros(2)
    scale, angle, alpha = np.ones_like(u), np.zeros_like(u), np.ones_like(u)
    reach = place.radius * float(outline(group.shape).radii.max())
    if motion in ("left", "right", "up", "down"):
        axis = int(motion in ("up", "down"))
        sign = -1 if motion in ("left", "up") else 1
        shift[:, axis] = sign * place.travel * (u - 0.5)
        spread[axis] = place.travel / 2
    elif motion == "bounce":
        shift[:, 1] = _BOUNCE * (0.5 - np.abs(np.sin(2 * math.pi * u)))
        spread[1] = _BOUNCE / 2
    elif motion == "orbit":
        shift = _ORBIT * np.stack([np.sin(2 * math.pi * u), -np.cos(2 * math.pi * u)], axis=1)
        spread[:] = _ORBIT
    elif motion == "swing":
        shift[:, 0] = _SWING * np.sin(4 * math.pi * u)
        spread[0] = _SWING
    elif motion in ("grow", "shrink"):
        small, large = _GROWTH
        scale = small + (large - small) * (u if motion == "grow" else 1 - u)
        reach *= large
    elif motion == "rotate":
        angle = 0.55 * u
    elif motion in ("appear", "disappear"):
        ramp = np.clip((u - 0.38) / 0.18, 0.0, 1.0)
        alpha = ramp if motion == "appear" else 1 - ramp
    if camera:
        spread[int(camera in ("up", "down"))] += PAN / 2
    low = np.minimum(reach + spread + 0.015, size / 2)
    centers = low + (size - 2 * low) * np.array([place.x, place.y]) + shift
    return Track(centers, scale * place.radius, angle, alpha)


def _jump(centers: Floats, radius: float, effects: Effects, size: Floats) -> Floats:
    """Displace an object towards the farther edge, but not out of the frame."""
    axis = 0 if effects.jump_sideways else 1
    toward = np.where(centers[:, axis].mean() > size[axis] / 2, -1.0, 1.0)
    moved = centers.copy()
    moved[:, axis] += toward * effects.jump
    limited = np.clip(moved[:, axis], radius, size[axis] - radius)
    moved[:, axis] = np.where(effects.jump > 0, limited, moved[:, axis])
    return moved


def _draw(frames: Pixels, track: Track, group: Group, target: str, effects: Effects) -> None:
    """Paint one object into all frames; the track is in pixels."""
    own, other, morph = outline(group.shape), outline(target), effects.morph
    radii = own.radii * (1 - morph)[:, None] + other.radii * morph[:, None]
    radii = radii * (1 + effects.wobble[:, None] * effects.ripple) * track.radius[:, None]
    half = int(radii.max()) + 2
    corner = np.floor(track.centers).astype(np.int64) - half
    steps = np.arange(2 * half + 1) + 0.5
    x = (steps[None, None, :] + _column(corner[:, 0] - track.centers[:, 0])).astype(np.float32)
    y = (steps[None, :, None] + _column(corner[:, 1] - track.centers[:, 1])).astype(np.float32)
    turns = np.arctan2(x, -y) * np.float32(0.5 / math.pi) - _column(track.angle)
    index = np.floor(turns * STEPS).astype(np.int64) % STEPS + _column(np.arange(len(radii))) * STEPS
    depth = radii.astype(np.float32).ravel()[index] - np.hypot(x, y)
    hole = (own.hole * (1 - morph) + other.hole * morph) * track.radius
    if hole.any():
        shift = (own.shift * (1 - morph) + other.shift * morph) * track.radius
        aside, down = (shift * turn(2 * math.pi * track.angle) for turn in (np.cos, np.sin))
        away = np.hypot(x - _column(aside), y - _column(down)) - _column(hole)
        depth = np.where(_column(hole) > 0, np.minimum(depth, away), depth)
    edge = _column(np.maximum(_EDGE * track.radius, 1.0))
    cover = np.clip(depth + 0.5, 0, 1) * _column(track.alpha)
    shade = 0.45 + 0.55 * np.clip(depth - edge + 0.5, 0, 1)
    _paint(frames, corner, cover, shade, COLORS[group.color])


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """One value per frame, shaped to meet [T, height, width]; single precision unless whole."""
    kind = values.dtype if values.dtype.kind == "i" else np.float32
    return values.astype(kind)[:, None, None]


def _paint(
    frames: Pixels, corner: NDArray[np.int64], cover: Pixels, shade: Pixels, color: tuple[int, int, int]
) -> None:
    """Blend a shaded color into the frames, in windows [T, side, side] whose corners are [T, 2] (x, y)."""
    _, height, width, _ = frames.shape
    side = cover.shape[1]
    for k, (left, top) in enumerate(corner.tolist()):
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + side, width), min(top + side, height)
        if x1 <= x0 or y1 <= y0:
            continue
        part = (k, slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        view = frames[k, y0:y1, x0:x1]
        view += cover[part][..., None] * (shade[part][..., None] * np.array(color, np.float32) - view)
