"""Slow and fast eyes: which chunks of a clip are large, and how large.

A clip becomes a list of *chunks*: two consecutive sampled frames with one timestamp and one target size, what
Qwen3-VL calls a temporal patch. Slow chunks get many tokens, fast chunks a fixed share of that. A chunk
is slow when it is the first one or when it no longer looks like the latest slow chunk; the sizes follow
from a token budget. The selection rule and its numbers follow the public code of Keye-VL-1.5 (arXiv
2509.01563): patchwise cosine similarity in HSV, 30 % of the tokens for a fast frame, binary search for
the slow size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.video import Clip

SIMILARITY_PATCH = 8
SIMILARITY_PATCHES = 64


@dataclass(frozen=True)
class FramePlan:
    """How a clip is turned into slow and fast chunks.

    Attributes:
        mode: `"slowfast"` (by similarity), `"uniform"` (every `slow_every`-th chunk is slow) or `"all_slow"`.
        max_frames: most frames sampled from a clip, spread over its whole length.
        fps: highest sampling rate in frames per second; `None` leaves it to `max_frames`.
        token_budget: most visual tokens of a clip, all chunks together.
        max_slow_tokens: most tokens of one slow chunk.
        fast_share: tokens of a fast chunk as a share of a slow one's.
        min_fast_tokens: a fast chunk is not shrunk below this, if a slow one has as many.
        similarity: a chunk with a smaller share of similar patches than this becomes the new slow chunk.
        patch_similarity: two patches are similar when the cosine of their HSV values exceeds this.
        slow_every: distance of the slow chunks in `"uniform"` mode.
        token_side: side of one token in pixels (patch size times merge size of the vision tower).
    """

    mode: Literal["slowfast", "uniform", "all_slow"] = "slowfast"
    max_frames: int = 16
    fps: float | None = None
    token_budget: int = 3072
    max_slow_tokens: int = 768
    fast_share: float = 0.3
    min_fast_tokens: int = 4
    similarity: float = 0.9
    patch_similarity: float = 0.7
    slow_every: int = 4
    token_side: int = 32

    def __post_init__(self) -> None:
        if self.mode not in ("slowfast", "uniform", "all_slow"):
            raise ConfigError(f"frame plan mode must be slowfast, uniform or all_slow, got {self.mode!r}")
        for name in (
            "max_frames",
            "token_budget",
            "max_slow_tokens",
            "min_fast_tokens",
            "slow_every",
            "token_side",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"frame plan needs {name} >= 1, got {getattr(self, name)}")
        if self.fps is not None and self.fps <= 0:
            raise ConfigError(f"frame plan needs fps > 0 or null, got {self.fps}")
        for name in ("fast_share", "similarity", "patch_similarity"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ConfigError(f"frame plan needs 0 < {name} <= 1, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Chunk:
    """Two consecutive frames that the model sees as one timestamped image.

    Attributes:
        frames: uint8 [2, H, W, 3], RGB, at the size of the source; a part of the clip's, not to be changed.
        time: seconds from the start of the clip, the mean of the two frames' true times.
        height, width: target size in pixels, multiples of the plan's `token_side`.
        slow: whether this is a slow (large) chunk.
    """

    frames: NDArray[np.uint8]
    time: float
    height: int
    width: int
    slow: bool


def plan_chunks(clip: Clip, plan: FramePlan) -> list[Chunk]:
    """Cut a sampled clip into chunks. An odd last frame is paired with itself, as Qwen3-VL does.

    Raises:
        ConfigError: when the budget is smaller than one token for each chunk.
    """
    frames, times = clip.frames, clip.times
    if len(frames) % 2:
        frames, times = np.concatenate([frames, frames[-1:]]), np.append(times, times[-1])
    slow = _choose_slow(frames[::2], plan)
    height, width = frames.shape[1:3]
    slow_grid, fast_grid = chunk_grids(height, width, sum(slow), len(slow) - sum(slow), plan)
    return [
        Chunk(
            frames=frames[2 * k : 2 * k + 2],
            time=float(times[2 * k] + times[2 * k + 1]) / 2,
            height=(slow_grid if is_slow else fast_grid)[0] * plan.token_side,
            width=(slow_grid if is_slow else fast_grid)[1] * plan.token_side,
            slow=is_slow,
        )
        for k, is_slow in enumerate(slow)
    ]


def _choose_slow(frames: NDArray[np.uint8], plan: FramePlan) -> list[bool]:
    """Decide for each chunk, given its first frame ([N, H, W, 3]), whether it is slow."""
    if plan.mode == "all_slow":
        return [True] * len(frames)
    if plan.mode == "uniform":
        return [i % plan.slow_every == 0 for i in range(len(frames))]
    similar = patch_similarity(_hsv_patches(frames), plan.patch_similarity).tolist()
    slow, reference = [True], 0
    for i in range(1, len(similar)):
        changed = similar[reference][i] < plan.similarity
        slow.append(changed)
        reference = i if changed else reference
    return slow


def _hsv_patches(frames: NDArray[np.uint8]) -> torch.Tensor:
    """Frames shrunk to at most `SIMILARITY_PATCHES` patches, in HSV: float32 [N, patches, values]."""
    height, width = frames.shape[1:3]
    rows, columns = fit_grid(height, width, SIMILARITY_PATCHES, SIMILARITY_PATCH)
    size = (rows * SIMILARITY_PATCH, columns * SIMILARITY_PATCH)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    hsv = _rgb_to_hsv(pixels.float())
    patches = hsv.unfold(2, SIMILARITY_PATCH, SIMILARITY_PATCH).unfold(3, SIMILARITY_PATCH, SIMILARITY_PATCH)
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(len(frames), rows * columns, -1)


def _rgb_to_hsv(rgb: torch.Tensor) -> torch.Tensor:
    """RGB 0..255 to the 8-bit HSV of OpenCV (hue 0..179, the others 0..255), [N, 3, H, W]."""
    value, argmax = rgb.max(dim=1)
    spread = value - rgb.min(dim=1).values
    red, green, blue = rgb.unbind(dim=1)
    # One of three formulas applies, by the largest channel; index them instead of nesting three `where`.
    sextants = torch.stack([green - blue, blue - red, red - green], dim=1) / spread.clamp(min=1e-6)[:, None]
    hue = (sextants.gather(1, argmax[:, None])[:, 0] + 2 * argmax) * 30 % 180
    saturation = torch.where(value > 0, 255 * spread / value.clamp(min=1e-6), 0.0)
    return torch.stack([hue, saturation, value], dim=1)


def patch_similarity(patches: torch.Tensor, threshold: float) -> torch.Tensor:
    """For each two frames the share of patches whose cosine exceeds `threshold`; black pairs are left out.

    Args:
        patches: [frames, patches, values].
        threshold: positive.

    Returns:
        [frames, frames], 0 to 1; 1 where all pairs are black.
    """
    unit = F.normalize(patches, dim=2).transpose(0, 1)  # what is black stays 0, and like nothing
    similar = (unit @ unit.transpose(1, 2) > threshold).sum(dim=0)
    black = (patches == 0).all(dim=2)
    counted = (~(black[:, None] & black)).sum(dim=2)
    return torch.where(counted > 0, similar / counted.clamp(min=1), 1.0)


def fit_grid(height: int, width: int, tokens: int, token_side: int) -> tuple[int, int]:
    """Largest grid of whole tokens that keeps the aspect ratio, holds at most `tokens`, and does not enlarge.

    Returns:
        Rows and columns; each differs by less than one token from its exact value, unless a side is
        already one.
    """
    scale = min(math.sqrt(tokens * token_side**2 / (height * width)), 1.0)
    exact = (height * scale / token_side, width * scale / token_side)
    rows, columns = (max(1, round(side)) for side in exact)
    if rows * columns > tokens:
        rows, columns = (max(1, math.floor(side)) for side in exact)
    # A very long strip has one side below a token: that side is one token, the other takes what is left.
    return min(rows, max(1, tokens // columns)), min(columns, max(1, tokens // rows))


@lru_cache(maxsize=4096)
def chunk_grids(
    height: int, width: int, n_slow: int, n_fast: int, plan: FramePlan
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Token grids (rows, columns) of slow and fast chunks: the largest that keep the plan's budget.

    Raises:
        ConfigError: when the budget is smaller than one token for each chunk.
    """
    if n_slow + n_fast > plan.token_budget:
        raise ConfigError(
            f"a token budget of {plan.token_budget} cannot hold {n_slow + n_fast} chunks; "
            "raise token_budget or lower max_frames"
        )

    def grids(tokens: int) -> tuple[tuple[int, int], tuple[int, int]]:
        slow = fit_grid(height, width, tokens, plan.token_side)
        slow_tokens = math.prod(slow)
        fast_tokens = max(int(plan.fast_share * slow_tokens), min(plan.min_fast_tokens, slow_tokens))
        return slow, fit_grid(height, width, fast_tokens, plan.token_side)

    best = grids(1)
    low, high = 1, plan.max_slow_tokens
    while low <= high:
        tokens = (low + high) // 2
        slow, fast = grids(tokens)
        if n_slow * math.prod(slow) + n_fast * math.prod(fast) <= plan.token_budget:
            best, low = (slow, fast), tokens + 1
        else:
            high = tokens - 1
    return best
