"""Video Swin Transformer (arXiv 2106.13230): attention inside boxes that shift between blocks.

Names and shapes of the weights are those of the backbone in the authors' repository Video-Swin-Transformer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.public_weights import load_strictly

Size = tuple[int, int, int]
"""Frames, rows, columns."""

NO_SHIFT: Size = (0, 0, 0)
PREFIX, HEAD = "backbone.", "cls_head."


@dataclass(frozen=True)
class VideoSwinConfig:
    """Sizes of a `VideoSwin`; the defaults are those of swin_tiny_patch244_window877.

    Attributes:
        embed_dim: channels of the first stage; every further one has twice as many.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        patch: frames, rows and columns of a clip that make one token.
        window: frames, rows and columns of tokens that attend to each other.
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    patch: Size = (2, 4, 4)
    window: Size = (8, 7, 7)

    def __post_init__(self) -> None:
        for name in ("depths", "heads", "patch", "window"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.depths or len(self.depths) != len(self.heads):
            raise ConfigError(f"Video Swin needs heads for each stage, got {self.depths} and {self.heads}")
        if (len(self.patch), len(self.window)) != (3, 3):
            raise ConfigError(f"Video Swin needs patch and window of three sides, got {self}")
        if min(self.embed_dim, *self.depths, *self.heads, *self.patch, *self.window) < 1:
            raise ConfigError(f"Video Swin needs sizes of at least 1, got {self}")
        for stage, heads in enumerate(self.heads):
            if self.embed_dim * 2**stage % heads:
                raise ConfigError(
                    f"Video Swin needs heads that divide the channels, got {heads} heads for "
                    f"{self.embed_dim * 2**stage} channels in stage {stage + 1}"
                )


class VideoSwin(nn.Module):
    """The network up to its last map, before any pooling over the clip. Weights start at random.

    There is no stochastic depth. A token outside a shifted window has no influence at all, where the public
    code adds -100 to its logit.

    Attributes:
        config: its sizes.
        out_channels: channels of the map, 768 by default.
    """

    def __init__(self, config: VideoSwinConfig | None = None) -> None:
        super().__init__()
        self.config = config or VideoSwinConfig()
        self.out_channels = self.config.embed_dim * 2 ** (len(self.config.depths) - 1)
        self.patch_embed = _PatchEmbedding(self.config)
        self.layers = nn.ModuleList(_Stage(self.config, stage) for stage in range(len(self.config.depths)))
        self.norm = nn.LayerNorm(self.out_channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """The map after the last norm.

        Args:
            pixels: [B, 3, T, H, W], floating point, normalised with the statistics of the training.

        Returns:
            [B, out_channels, t, h, w]: sides divided by those of a patch, and `h` and `w` by 2 for every
            stage after the first, always rounded up.

        Raises:
            ConfigError: when `pixels` has another form.
        """
        if pixels.ndim != 5 or pixels.shape[1] != 3 or 0 in pixels.shape or not pixels.is_floating_point():
            raise ConfigError(
                f"expected pixels as floating point [B, 3, T, H, W], got {pixels.dtype} {list(pixels.shape)}"
            )
        tokens: Tensor = self.patch_embed(pixels)
        for stage in self.layers:
            tokens = stage(tokens)
        tokens = self.norm(tokens)
        return tokens.permute(0, 4, 1, 2, 3)


class _PatchEmbedding(nn.Module):
    def __init__(self, config: VideoSwinConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.proj = nn.Conv3d(3, config.embed_dim, config.patch, stride=config.patch)
        self.norm = nn.LayerNorm(config.embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, T, H, W] to tokens [B, t, h, w, C]."""
        pixels = _fill_up(pixels.permute(0, 2, 3, 4, 1), self.patch).permute(0, 4, 1, 2, 3)
        tokens: Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 4, 1))
        return tokens


class _Stage(nn.Module):
    def __init__(self, config: VideoSwinConfig, stage: int) -> None:
        super().__init__()
        channels = config.embed_dim * 2**stage
        self.window = config.window
        self.blocks = nn.ModuleList(
            _Block(channels, config.heads[stage], config.window) for _ in range(config.depths[stage])
        )
        self.downsample = _PatchMerging(channels) if stage < len(config.depths) - 1 else None

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, t, h, w, C] to the same, or to [B, t, h / 2, w / 2, 2 C]. Every second block is shifted."""
        frames, rows, columns = tokens.shape[1:4]
        size = (frames, rows, columns)
        window, shift = clip_window(size, self.window)
        pairs = [allowed_pairs(size, window, moved, tokens.device) for moved in (NO_SHIFT, shift)]
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, window, shift=shift if i % 2 else NO_SHIFT, allowed=pairs[i % 2])
        if self.downsample is not None:
            tokens = self.downsample(tokens)
        return tokens


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, window: Size) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _Mlp(channels)

    def forward(self, tokens: Tensor, window: Size, *, shift: Size, allowed: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.norm1(tokens), window, shift=shift, allowed=allowed)
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens

    def _attend(self, tokens: Tensor, window: Size, *, shift: Size, allowed: Tensor) -> Tensor:
        frames, rows, columns = tokens.shape[1:4]
        tokens = _fill_up(tokens, window)  # what is filled up is attended to, as in the public code
        frames_shift, rows_shift, columns_shift = shift
        rolled = tokens.roll((-frames_shift, -rows_shift, -columns_shift), dims=(1, 2, 3))
        attended = _join(self.attn(_split(rolled, window), allowed), window, tokens.shape)
        return attended.roll(shift, dims=(1, 2, 3))[:, :frames, :rows, :columns]


class _WindowAttention(nn.Module):
    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: Size) -> None:
        super().__init__()
        self.heads = heads
        table = torch.empty(math.prod(2 * side - 1 for side in window), heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", _relative_positions(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, allowed: Tensor) -> Tensor:
        """Attention inside each window.

        Args:
            tokens: [B, windows, N, C].
            allowed: bool [windows, N, N]: which tokens see which.
        """
        batch, windows, n, channels = tokens.shape
        # A window that was clipped takes the first rows of the full one's index, as in the public code.
        index = self.relative_position_index[:n, :n]
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)
        bias = bias.masked_fill(~allowed[:, None], -math.inf)
        # The bias is one for all clips, so the batch stands where the heads usually do and shares it.
        qkv = self.qkv(tokens).view(batch, windows, n, 3, self.heads, -1).permute(3, 1, 4, 0, 2, 5)
        query, key, value = qkv.flatten(1, 2)
        seen = functional.scaled_dot_product_attention(query, key, value, bias.flatten(0, 1)[:, None])
        seen = seen.view(windows, self.heads, batch, n, -1).permute(2, 0, 3, 1, 4)
        projected: Tensor = self.proj(seen.reshape(batch, windows, n, channels))
        return projected


class _Mlp(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.fc2(functional.gelu(self.fc1(tokens)))
        return tokens


class _PatchMerging(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = _fill_up(tokens, (1, 2, 2))
        quarters = [tokens[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        tokens = self.reduction(self.norm(torch.cat(quarters, dim=-1)))
        return tokens


def clip_window(size: Size, window: Size) -> tuple[Size, Size]:
    """The window and its shift for a map of `size` tokens.

    A side that is no longer than the window is covered by one, which is not shifted; else the shift is half
    the window.
    """
    (t, h, w), (frames, rows, columns) = size, window
    shift = (frames // 2 * (t > frames), rows // 2 * (h > rows), columns // 2 * (w > columns))
    return (min(t, frames), min(h, rows), min(w, columns)), shift


def allowed_pairs(size: Size, window: Size, shift: Size, device: torch.device) -> Tensor:
    """Which tokens of a window see each other: bool [windows, N, N].

    Shifting turns the map round, so that the last window of a side joins both ends of the clip. Tokens of
    different ends do not see each other.
    """
    ends = torch.zeros(1, 1, 1, 1, 1, dtype=torch.long, device=device)
    for axis in range(3):
        filled = -(-size[axis] // window[axis]) * window[axis]
        turned = torch.arange(filled, device=device) >= filled - shift[axis]
        shape = [1, 1, 1, 1, 1]
        shape[axis + 1] = filled
        ends = 2 * ends + turned.view(shape)
    ends = _split(ends, window).squeeze(0).squeeze(-1)
    return ends[:, :, None] == ends[:, None, :]


def _relative_positions(window: Size) -> Tensor:
    """Row of the bias table for each pair of tokens of a window: int64 [N, N]."""
    positions = torch.stack(torch.meshgrid(*map(torch.arange, window), indexing="ij")).flatten(1)
    frames, rows, columns = positions[:, :, None] - positions[:, None]
    t, h, w = window
    index: Tensor = ((frames + t - 1) * (2 * h - 1) + rows + h - 1) * (2 * w - 1) + columns + w - 1
    return index


def _fill_up(tokens: Tensor, window: Size) -> Tensor:
    """Append zeros to [B, t, h, w, C] until every side is a multiple of the window's."""
    frames, rows, columns = (-n % side for n, side in zip(tokens.shape[1:4], window, strict=True))
    return functional.pad(tokens, (0, 0, 0, columns, 0, rows, 0, frames))


def _split(tokens: Tensor, window: Size) -> Tensor:
    """Cut [B, t, h, w, C] into windows: [B, windows, N, C]."""
    batch, channels = tokens.shape[0], tokens.shape[4]
    t, h, w = (n // side for n, side in zip(tokens.shape[1:4], window, strict=True))
    cut = tokens.reshape(batch, t, window[0], h, window[1], w, window[2], channels)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t * h * w, math.prod(window), channels)


def _join(windows: Tensor, window: Size, shape: torch.Size) -> Tensor:
    """The reverse of `_split`, to `shape`."""
    t, h, w = (n // side for n, side in zip(shape[1:4], window, strict=True))
    cut = windows.view(shape[0], t, h, w, *window, shape[4])
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(shape)


def load_video_swin(encoder: VideoSwin, path: str | Path) -> None:
    """Load the weights of a public checkpoint, such as swin_tiny_patch244_window877_kinetics400_1k.pth.

    The file is what `load_strictly` reads; its classification head is left out.

    Raises:
        ConfigError: as `load_strictly`.
    """
    load_strictly(encoder, path, head=HEAD, prefix=PREFIX)
