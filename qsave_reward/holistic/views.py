"""What the three encoders are shown of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qsave_reward.errors import VideoError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.video import Clip

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, for all three encoders, as in the public code."""

MAX_ENLARGED = 4096 * 2304
"""Pixels of a frame after it was enlarged to be cut into fragments, as many as `Limits` admits by default. A
strip of 65000x16 would get 200 million, since its length grows with its width."""


@dataclass(frozen=True, eq=False)
class Views:
    """One clip, or with a leading axis a batch, as uint8 pixels.

    Attributes:
        frames: [S, 3, H, W], for the semantic branch.
        motion: [3, T, h, w], for the fast pathway of the motion branch.
        fragments: [3, S, F, F], for the technical branch.
    """

    frames: Tensor
    motion: Tensor
    fragments: Tensor


def make_views(clip: Clip, config: HolisticConfig, *, generator: torch.Generator | None = None) -> Views:
    """Three views of a clip.

    The frames of each are spread evenly over the frames of the clip and repeated where it has fewer. (The
    public code takes 16 consecutive ones for `frames` and `fragments`, so that most of a long clip is never
    seen.) Sizes are reached by taking the nearest pixel, without keeping proportions, as there.

    Args:
        clip: frames uint8 [T, H, W, 3].
        generator: where fragments are cut; `None`: the middle of their cells.
    """
    size = int(config.vision_config.image_size)  # type: ignore[arg-type]
    few = _pick(clip.frames, config.clip_frames)
    many = _pick(clip.frames, config.motion_frames)
    return Views(
        frames=_resize(few, size),
        motion=_resize(many, config.motion_size).transpose(0, 1),
        fragments=cut_fragments(
            few, config.fragments, size=config.fragment_size, generator=generator
        ).transpose(0, 1),
    )


def cut_fragments(
    frames: Tensor, cells: int, *, size: int, generator: torch.Generator | None = None
) -> Tensor:
    """Pieces of frames at native resolution, put together (FAST-VQA, arXiv 2207.02595).

    A frame is divided into `cells` x `cells` equal cells; of each one piece of `size` x `size` pixels is
    cut, at the same place in all frames. Frames smaller than `cells` x `size` are enlarged first, one by one,
    which takes less memory.

    Args:
        frames: uint8 [T, 3, H, W].
        generator: draws the place inside each cell; `None`: its middle.

    Returns:
        uint8 [T, 3, cells * size, cells * size].

    Raises:
        VideoError: `too_large` for thin strips, see `MAX_ENLARGED`.
    """
    side = cells * size
    height, width = frames.shape[2:]
    if min(height, width) < side:
        scale = side / min(height, width)
        enlarged = (max(side, round(height * scale)), max(side, round(width * scale)))
        if math.prod(enlarged) > MAX_ENLARGED:
            raise VideoError(
                f"expected frames of at most {MAX_ENLARGED} pixels once their shorter side is {side}, got "
                f"{width}x{height}, which become {enlarged[1]}x{enlarged[0]}; crop the clip",
                code="too_large",
            )
        frames = torch.cat([_enlarge(frame, enlarged) for frame in frames[:, None]])
    rows = [
        [_piece(frames, i, j, cells=cells, size=size, generator=generator) for j in range(cells)]
        for i in range(cells)
    ]
    return torch.cat([torch.cat(row, dim=3) for row in rows], dim=2)


def _enlarge(frames: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(frames.float(), size, mode="bilinear").round().byte()


def _piece(
    frames: Tensor, row: int, column: int, *, cells: int, size: int, generator: torch.Generator | None
) -> Tensor:
    starts = []
    for index, length in ((row, frames.shape[2]), (column, frames.shape[3])):
        cell = length // cells
        room = max(cell - size, 0)
        offset = room // 2
        if generator is not None and room:
            offset = int(torch.randint(room, (), generator=generator))
        starts.append(min(index * length // cells, length - size) + offset)
    return frames[:, :, starts[0] : starts[0] + size, starts[1] : starts[1] + size]


def stack(views: list[Views]) -> Views:
    """A batch."""
    return Views(*(torch.stack([getattr(view, name) for view in views]) for name in VIEWS))


VIEWS = ("frames", "motion", "fragments")


def normalise(pixels: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """uint8 0 to 255 to numbers around 0; `channels` is the axis of the three colours."""
    shape = [1] * pixels.ndim
    shape[channels] = 3
    mean, std = (torch.tensor(values, device=pixels.device).view(shape) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).to(dtype)


def _pick(frames: NDArray[np.uint8], number: int) -> Tensor:
    """`number` frames, uint8 [number, 3, H, W], evenly from the first to the last."""
    chosen = np.linspace(0, len(frames) - 1, number).round().astype(int)
    return torch.from_numpy(frames[chosen]).permute(0, 3, 1, 2)


def _resize(frames: Tensor, size: int) -> Tensor:
    return functional.interpolate(frames, (size, size), mode="nearest")
