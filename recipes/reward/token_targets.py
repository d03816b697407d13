"""What each visual token of a rendered clip shows: the dense labels from which a vision tower learns fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsave_reward.world import WorldPlan
from qsave_reward.world.render import Track
from qsave_reward.world.scene import COLORS, MOTIONS, SHAPES, Group
from qsave_reward.world.shapes import STEPS, depth, outline
from qsave_reward.world.stream import plan_tracks

COLOR_NAMES, SHAPE_NAMES = tuple(COLORS), SHAPES
NUMBERS = ("x", "y", "radius", "velocity x", "velocity y", "growth")
"""Of the object in a token: its center, from that of the token, its radius, and how both change from the
first frame of the chunk to the second. Center and radius in tokens, changes in tenths of a token."""

NOTHING = -1

FINE = 8
"""A token's mask has this many points in each direction."""
VISIBLE = 0.3
"""Opacity from which an object is taken to be there."""
RAYS = 16
"""Directions in which the outline of an object is told."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenTargets:
    """Labels of the tokens of a clip, chunk after chunk, each chunk row by row.

    Attributes:
        color: int64 [tokens], index into `COLOR_NAMES`, or `NOTHING` where no object is.
        shape: int64 [tokens], index into `SHAPE_NAMES`, or `NOTHING`.
        motion: int64 [tokens], index into `MOTIONS`, or `NOTHING`.
        numbers: float32 [tokens, len(NUMBERS)]; zeros where no object is.
        outline: float32 [tokens, RAYS + 3], of the first frame, in radii: how far the object's outline is
            from its center in directions clockwise from up, then radius and place (x, y) of its hole.
        mask: float32 [tokens, 2 * FINE * FINE], row by row, of the first frame, then of the second: 1 where
            an object covers it, else 0.
        center: float32 [tokens, 2, 2], of the object, in this chunk, then in the one before: x and y as
            shares of the picture's width and height; NaN where no object is or it cannot be seen.
    """

    color: torch.Tensor
    shape: torch.Tensor
    motion: torch.Tensor
    numbers: torch.Tensor
    outline: torch.Tensor
    mask: torch.Tensor
    center: torch.Tensor


def token_targets(plan: WorldPlan, grids: Sequence[tuple[int, int]]) -> TokenTargets:
    """Labels for chunks of consecutive pairs of frames with the given token grids (rows, columns).

    A token shows the front-most object whose middle (six tenths of its radius) reaches into it.
    """
    tracks = plan_tracks(plan)
    size = np.array([plan.config.width, plan.config.height])
    labelled = {
        grid: _label(tracks, [k for k, other in enumerate(grids) if other == grid], grid, size)
        for grid in set(grids)
    }
    by_chunk = [next(labelled[grid]) for grid in grids]
    return TokenTargets(*(torch.from_numpy(np.concatenate(parts)) for parts in zip(*by_chunk, strict=True)))


def _label(
    tracks: Sequence[tuple[Group, Track]],
    chunks: Sequence[int],
    grid: tuple[int, int],
    size: NDArray[np.int64],
) -> Iterator[tuple[NDArray[Any], ...]]:
    """For each of some chunks of one grid what `TokenTargets` holds, in its order."""
    rows, columns = grid
    pairs = 2 * np.array(chunks)[:, None] + np.arange(2)
    scale = np.array([columns, rows]) / size
    places = _middles(columns, rows)
    points = (places[:, None] - 0.5 + _middles(FINE, FINE) / FINE) / scale
    color = np.full((len(chunks), len(places)), NOTHING)
    shape = np.full((len(chunks), len(places)), NOTHING)
    motion = np.full((len(chunks), len(places)), NOTHING)
    numbers = np.zeros((len(chunks), len(places), len(NUMBERS)), np.float32)
    outlines = np.zeros((len(chunks), len(places), RAYS + 3), np.float32)
    mask = np.zeros((len(chunks), len(places), 2 * FINE**2), np.float32)
    middle = np.full((len(chunks), len(places), 2, 2), np.nan, np.float32)
    lately = np.stack([pairs, pairs - 2], axis=1)
    for group, track in tracks:
        centers = track.centers[pairs] * scale
        radii = track.radius[pairs] * scale.mean()
        offsets = centers.mean(axis=1)[:, None] - places
        radius = np.broadcast_to(radii.mean(axis=1)[:, None, None], (*color.shape, 1))
        gap = np.hypot(*np.moveaxis(np.clip(np.abs(offsets) - 0.5, 0, None), -1, 0))
        visible = track.alpha[pairs].min(axis=1) >= VISIBLE
        inside = visible[:, None] & (gap < 0.6 * radius[..., 0])
        change = 10 * np.concatenate([centers[:, 1] - centers[:, 0], radii[:, 1:] - radii[:, :1]], axis=1)
        change = np.broadcast_to(change[:, None], (*color.shape, 3))
        color[inside] = COLOR_NAMES.index(group.color)
        shape[inside] = SHAPE_NAMES.index(group.shape)
        motion[inside] = MOTIONS.index(group.motion)
        numbers[inside] = np.concatenate([offsets, radius, change], axis=-1)[inside]
        told = _outline(group, track.angle[pairs[:, 0]])
        outlines[inside] = np.broadcast_to(told[:, None], outlines.shape)[inside]
        covered = np.concatenate([_covered(group, track, pairs[:, k], points) for k in (0, 1)], axis=-1)
        mask[visible] = np.maximum(mask, covered)[visible]
        seen = (track.alpha[lately] >= VISIBLE).all(axis=2) & (lately[..., 0] >= 0)
        where = np.where(seen[..., None], (track.centers[lately] / size).mean(axis=2), np.nan)
        middle[inside] = np.broadcast_to(where[:, None], middle.shape)[inside]
    return zip(color, shape, motion, numbers, outlines, mask, middle, strict=True)


def _middles(columns: int, rows: int) -> Floats:
    """[rows * columns, 2] (x, y), row by row: the middles of the cells of a grid, in cells."""
    return np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), axis=-1).reshape(-1, 2)


def _outline(group: Group, turns: Floats) -> Floats:
    """What `TokenTargets.outline` tells of an object turned by each of some angles: [angles, RAYS + 3]."""
    shape = outline(group.shape)
    steps = np.floor((np.arange(RAYS) / RAYS - turns[:, None]) * STEPS).astype(np.int64) % STEPS
    hole = [
        np.full(len(turns), shape.hole),
        *(shape.shift * turn(2 * np.pi * turns) for turn in (np.cos, np.sin)),
    ]
    return np.concatenate([shape.radii[steps], np.stack(hole, axis=1)], axis=1)


def _covered(group: Group, track: Track, frames: NDArray[np.int64], points: Floats) -> NDArray[np.bool_]:
    """Whether an object covers points [..., 2] (pixels) in each of some frames: [frames, ...].

    Distorted and morphing outlines are taken for what they were meant to be.
    """
    spread = (len(frames), *(1 for _ in points.shape[:-1]))
    center, radius = track.centers[frames].reshape(*spread, 2), track.radius[frames].reshape(spread)
    angle = 2 * np.pi * track.angle[frames].reshape(spread)
    x, y = np.moveaxis((points - center) / radius[..., None], -1, 0)
    turned = (x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle))
    covered: NDArray[np.bool_] = depth(*turned, outline(group.shape)) > 0
    return covered
