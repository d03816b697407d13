"""What reading one clip may cost."""

from __future__ import annotations

from dataclasses import dataclass, fields

from qsave_reward.errors import ConfigError

MIN_SIDE = 16
"""Smallest accepted height and width in pixels; anything smaller shows nothing that could be judged."""

_MOST = 1 << 62  # what system calls take


@dataclass(frozen=True)
class Limits:
    """What one encoded clip may cost; whatever exceeds a limit is a `VideoError`.

    Whole numbers may be given as floats, such as `max_memory=2e9`.

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
        for field in fields(self):
            value = getattr(self, field.name)
            try:
                usable = bool(0 < value <= _MOST)
            except (TypeError, ValueError):
                usable = False
            if not usable:
                raise ConfigError(
                    f"Limits.{field.name} must be a positive number of at most 2^62, got {value!r}"
                )
            # The decoder process and the system calls behind the limits take nothing but plain numbers.
            whole = isinstance(field.default, int)
            plain = int(value) if whole else float(value)
            if whole and plain != value:
                raise ConfigError(f"Limits.{field.name} must be a whole number, got {value!r}")
            object.__setattr__(self, field.name, plain)
