"""What each visual token of a rendered clip shows: the dense labels from which a vision tower learns fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qsave_reward.world import WorldPlan
from qsave_reward.world.scene import COLORS, SHAPES
from qsave_reward.world.stream import plan_tracks

COLOR_NAMES, SHAPE_NAMES = tuple(COLORS), SHAPES
NUMBERS = ("x", "y", "radius", "velocity x", "velocity y", "growth")
"""Of the object in a token: its center, from that of the token, its radius, and how both change from the
first frame of the chunk to the second. Center and radius in tokens, changes in tenths of a token."""

NOTHING = -1


@dataclass(frozen=True, eq=False)
class TokenTargets:
    """Labels of the tokens of a clip, chunk after chunk, each chunk row by row.

    Attributes:
        color: int64 [tokens], index into `COLOR_NAMES`, or `NOTHING` where no object is.
        shape: int64 [tokens], index into `SHAPE_NAMES`, or `NOTHING`.
        numbers: float32 [tokens, len(NUMBERS)]; zeros where no object is.
    """

    color: torch.Tensor
    shape: torch.Tensor
    numbers: torch.Tensor


def token_targets(plan: WorldPlan, grids: Sequence[tuple[int, int]]) -> TokenTargets:
    """Labels for chunks of consecutive pairs of frames with the given token grids (rows, columns).

    A token shows the front-most object whose middle (six tenths of its radius) reaches into it.
    """
    tracks = plan_tracks(plan)
    height, width = plan.config.height, plan.config.width
    colors, shapes, numbers = [], [], []
    for k, (rows, columns) in enumerate(grids):
        color = torch.full((rows, columns), NOTHING)
        shape = torch.full((rows, columns), NOTHING)
        number = torch.zeros(rows, columns, len(NUMBERS))
        scale = torch.tensor([columns / width, rows / height])
        grid_y, grid_x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        for group, track in tracks:
            if track.alpha[2 * k : 2 * k + 2].min() < 0.3:
                continue
            centers = torch.from_numpy(track.centers[2 * k : 2 * k + 2]).float() * scale
            radii = torch.from_numpy(track.radius[2 * k : 2 * k + 2]).float() * scale.mean()
            x, y = centers.mean(dim=0).tolist()
            away = torch.hypot(
                ((grid_x - x).abs() - 0.5).clamp(min=0), ((grid_y - y).abs() - 0.5).clamp(min=0)
            )
            inside = away < 0.6 * radii.mean()
            color[inside] = COLOR_NAMES.index(group.color)
            shape[inside] = SHAPE_NAMES.index(group.shape)
            change = 10 * torch.stack([*(centers[1] - centers[0]), radii[1] - radii[0]])
            place = torch.stack(
                [x - grid_x, y - grid_y, torch.full_like(grid_x, float(radii.mean()))], dim=-1
            )
            number[inside] = torch.cat([place, change.expand(rows, columns, 3)], dim=-1)[inside]
        colors.append(color.flatten())
        shapes.append(shape.flatten())
        numbers.append(number.flatten(0, 1))
    return TokenTargets(torch.cat(colors), torch.cat(shapes), torch.cat(numbers))
