"""What reading one clip may cost."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from qsave_reward.errors import ConfigError

MIN_SIDE = 16
"""Smallest accepted height and width in pixels; anything smaller shows nothing that could be judged."""


@dataclass(frozen=True)
class Limits:
    """What one encoded clip may cost; whatever exceeds a limit is a `VideoError`.

    Attributes:
        max_source_frames: frames in the file.
        max_seconds: duration of the file.
        max_pixels: width x height of a frame (the default admits 4096x2304).
        max_bytes: size of the file.
        max_frame_bytes: all kept frames together, as RGB.
        max_memory: address space of the decoder process in bytes.
        timeout: wall-clock seconds for reading one clip, once a decoder process is free and running.
    """

    max_source_frames: int = 7200
    max_seconds: float = 120.0
    max_pixels: int = 4096 * 2304
    max_bytes: int = 256 << 20
    max_frame_bytes: int = 1 << 30
    max_memory: int = 1 << 30
    timeout: float = 8.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"Limits.{name} must be a positive number, got {value}")
