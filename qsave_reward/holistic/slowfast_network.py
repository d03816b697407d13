"""SlowFast (arXiv 1812.03982): two ResNets over one clip, of few and of many frames.

Names and shapes of the weights are those of pytorchvideo 0.1.5, without its classification head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.public_weights import load_strictly

SLOW_TEMPORAL_KERNELS = (1, 1, 3, 3)
FAST_TEMPORAL_KERNELS = (3, 3, 3, 3)
SPATIAL_STRIDES = (1, 2, 2, 2)
HEAD = "blocks.6.proj."


@dataclass(frozen=True)
class SlowFastConfig:
    """Sizes of a `SlowFastEncoder`; the defaults are those of SLOWFAST_8x8_R50.

    Attributes:
        width: channels of the slow stem.
        fast_width: channels of the fast stem; the paper's beta is `fast_width / width`.
        depths: residual blocks of each of the four stages.
        alpha: fast frames for each slow one.
        lateral_kernel: frames that a connection from the fast to the slow pathway looks at, an odd number.
    """

    width: int = 64
    fast_width: int = 8
    depths: tuple[int, ...] = (3, 4, 6, 3)
    alpha: int = 4
    lateral_kernel: int = 7

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ConfigError(f"SlowFast needs four depths of at least 1, got {self.depths}")
        if min(self.width, self.fast_width, self.alpha, self.lateral_kernel) < 1:
            raise ConfigError(f"SlowFast needs sizes of at least 1, got {self}")
        if self.lateral_kernel % 2 == 0:
            raise ConfigError(f"SlowFast needs an odd lateral_kernel, got {self.lateral_kernel}")


class SlowFastEncoder(nn.Module):
    """Both pathways up to their last maps, before any pooling over the clip. Weights start at random.

    Attributes:
        config: its sizes.
        slow_channels, fast_channels: channels of the maps, 2048 and 256 by default.
    """

    def __init__(self, config: SlowFastConfig | None = None) -> None:
        super().__init__()
        self.config = config or SlowFastConfig()
        slow, fast = self.config.width, self.config.fast_width
        self.slow_channels, self.fast_channels = 32 * slow, 32 * fast
        stems = [_Stem(slow, temporal_kernel=1), _Stem(fast, temporal_kernel=5)]
        self.blocks = nn.ModuleList([_Pathways(stems, _Lateral(fast, self.config))])
        for stage, depth in enumerate(self.config.depths):
            out = 4 * 2**stage
            stages = [
                _Stage(slow + 2 * fast, out * self.config.width, stage=stage, depth=depth, slow=True),
                _Stage(fast, out * self.config.fast_width, stage=stage, depth=depth, slow=False),
            ]
            slow, fast = out * self.config.width, out * self.config.fast_width
            self.blocks.append(_Pathways(stages, _Lateral(fast, self.config) if stage < 3 else None))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of both pathways.

        Args:
            slow: [B, 3, T / alpha, H, W], floating point, normalised with the statistics of the training.
            fast: [B, 3, T, H, W], the same clip.

        Returns:
            slow [B, slow_channels, T / alpha, h, w] and fast [B, fast_channels, T, h, w], where `h` is
            H / 32 and `w` is W / 32, rounded up.

        Raises:
            ConfigError: when the shapes do not fit.
        """
        _check_clip(slow, "slow")
        _check_clip(fast, "fast")
        batch, channels, frames, *size = slow.shape
        if fast.shape != (batch, channels, frames * self.config.alpha, *size):
            raise ConfigError(
                f"expected fast frames of the slow ones' batch and size, {self.config.alpha} times as many, "
                f"got slow {tuple(slow.shape)} and fast {tuple(fast.shape)}"
            )
        for block in self.blocks:
            slow, fast = block(slow, fast)
        return slow, fast

    def fast(self, fast: Tensor) -> Tensor:
        """The fast map of `forward` alone: nothing flows from the slow pathway to the fast one."""
        _check_clip(fast, "fast")
        for block in self.blocks:
            fast = block.get_submodule("multipathway_blocks.1")(fast)
        return fast


class _Pathways(nn.Module):
    """One step of both pathways, then the connection from the fast to the slow one."""

    def __init__(self, steps: Sequence[nn.Module], lateral: nn.Module | None) -> None:
        super().__init__()
        self.multipathway_blocks = nn.ModuleList(steps)
        self.multipathway_fusion = lateral

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        slow, fast = self.multipathway_blocks[0](slow), self.multipathway_blocks[1](fast)
        if self.multipathway_fusion is not None:
            slow = torch.cat([slow, self.multipathway_fusion(fast)], dim=1)
        return slow, fast


class _Lateral(nn.Module):
    def __init__(self, channels: int, config: SlowFastConfig) -> None:
        super().__init__()
        self.conv_fast_to_slow = _convolution(
            channels, 2 * channels, (config.lateral_kernel, 1, 1), (config.alpha, 1, 1)
        )
        self.norm = nn.BatchNorm3d(2 * channels)

    def forward(self, fast: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv_fast_to_slow(fast)))


class _Stem(nn.Module):
    def __init__(self, channels: int, *, temporal_kernel: int) -> None:
        super().__init__()
        self.conv = _convolution(3, channels, (temporal_kernel, 7, 7), (1, 2, 2))
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(pixels)))
        return functional.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, stage: int, depth: int, slow: bool) -> None:
        super().__init__()
        kernel = (SLOW_TEMPORAL_KERNELS if slow else FAST_TEMPORAL_KERNELS)[stage]
        stride = SPATIAL_STRIDES[stage]
        first = _ResidualBlock(inputs, outputs, temporal_kernel=kernel, stride=stride)
        rest = [_ResidualBlock(outputs, outputs, temporal_kernel=kernel, stride=1) for _ in range(depth - 1)]
        self.res_blocks = nn.ModuleList([first, *rest])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.res_blocks:
            x = block(x)
        return x


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        self.branch1_conv = self.branch1_norm = None
        if inputs != outputs or stride != 1:
            self.branch1_conv = _convolution(inputs, outputs, (1, 1, 1), (1, stride, stride))
            self.branch1_norm = nn.BatchNorm3d(outputs)
        self.branch2 = _Bottleneck(inputs, outputs, temporal_kernel=temporal_kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.branch1_conv is not None and self.branch1_norm is not None:
            shortcut = self.branch1_norm(self.branch1_conv(x))
        return functional.relu(shortcut + self.branch2(x))


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv_a = _convolution(inputs, inner, (temporal_kernel, 1, 1))
        self.norm_a = nn.BatchNorm3d(inner)
        self.conv_b = _convolution(inner, inner, (1, 3, 3), (1, stride, stride))
        self.norm_b = nn.BatchNorm3d(inner)
        self.conv_c = _convolution(inner, outputs, (1, 1, 1))
        self.norm_c = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm_a(self.conv_a(x)))
        x = functional.relu(self.norm_b(self.conv_b(x)))
        x = self.norm_c(self.conv_c(x))
        return x


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Conv3d:
    """Without bias, and padded so that a stride of one keeps the size."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)


def _check_clip(pixels: Tensor, name: str) -> None:
    if pixels.ndim != 5 or pixels.shape[1] != 3 or 0 in pixels.shape or not pixels.is_floating_point():
        raise ConfigError(
            f"expected {name} frames as floating point [B, 3, T, H, W], got {pixels.dtype} "
            f"{list(pixels.shape)}"
        )


def load_slowfast(encoder: SlowFastEncoder, path: str | Path) -> None:
    """Load the weights of a pytorchvideo checkpoint, such as SLOWFAST_8x8_R50.pyth, into `encoder`.

    The file is what `load_strictly` reads; its classification head is left out.

    Raises:
        ConfigError: as `load_strictly`.
    """
    load_strictly(encoder, path, head=HEAD)
