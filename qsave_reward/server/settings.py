"""What a reward server takes on and how long it waits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qsave_reward.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """Limits of a server.

    Attributes:
        token: bearer token that every request but `/health` and `/ready` must carry; `None` asks for none.
        media_root: folder under which clients may name files; `None` allows no paths.
        batch_tokens: visual tokens of one forward pass; a batch holds at least one clip.
        batch_window: seconds a batch waits for company while every replica is at work, counted from its first
            clip.
        max_queue: clips that wait; what comes on top gets 429.
        max_body: bytes of one request.
        max_bytes: bytes of all requests at a time; what comes on top gets 429. Also bytes of decoded frames:
            beyond it, further files wait until some of those are scored.
        max_pixels: width times height of a frame.
        body_timeout: seconds in which a body has to arrive.
        item_timeout: seconds from arrival to score, after which a clip is given up.
        remembered: finished requests kept for those that send the same `request_id` again.
    """

    token: str | None = None
    media_root: str | None = None
    batch_tokens: int = 8192
    batch_window: float = 0.005
    max_queue: int = 512
    max_body: int = 256 << 20
    max_bytes: int = 2 << 30
    max_pixels: int = 4096 * 2304
    body_timeout: float = 30.0
    item_timeout: float = 120.0
    remembered: int = 1024

    def __post_init__(self) -> None:
        positive = ("batch_tokens", "max_queue", "max_body", "max_bytes", "max_pixels")
        for name in (*positive, "body_timeout", "item_timeout", "remembered"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"server settings need {name} > 0, got {value}")
        if not (math.isfinite(self.batch_window) and 0 <= self.batch_window <= 1):
            raise ConfigError(f"server settings need 0 <= batch_window <= 1 s, got {self.batch_window}")
        if self.token is not None and len(self.token) < 16:
            raise ConfigError("expected a token of at least 16 characters")
