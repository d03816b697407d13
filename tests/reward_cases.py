"""Clips whose three scores are known beforehand, and the scorer that gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
from fake_model import FakeModel, spread

from qsave_reward.calibration import Calibration
from qsave_reward.errors import QSaveError
from qsave_reward.types import DIMENSIONS, Mode, VideoScore
from qsave_reward.video import Clip, read_clip


class ColorModel(FakeModel):
    """A fake whose three scores follow red, green and blue; it keeps the clips it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def _card(self, video: Any, prompt: str, mode: Mode) -> VideoScore | QSaveError:
        self.seen.append(video)
        card = super()._card(video, prompt, mode)
        if isinstance(card, QSaveError):
            return card
        clip = video if isinstance(video, Clip) else read_clip(video)
        red, green, blue = clip.frames.mean(axis=(0, 1, 2)) / 255
        scores = [spread(1 + 4 * float(share)) for share in (red, green, blue)]
        return VideoScore(dict(zip(DIMENSIONS, scores, strict=True)), self.provenance)


def solid(*colors: tuple[int, int, int], frames: int = 4) -> np.ndarray:
    """Clips of one color each: uint8 [n, frames, 16, 16, 3]."""
    return np.broadcast_to(
        np.array(colors, dtype=np.uint8)[:, None, None, None, :], (len(colors), frames, 16, 16, 3)
    )


def score_of(level: int) -> float:
    """The raw score of a color level 0..255."""
    return 1 + 4 * level / 255


BROKEN = np.full((4, 16, 16, 3), np.nan)
"""Frames that no scorer may give a score to."""

CALIBRATION = Calibration(
    mean={"visual_quality": 2.0, "dynamic_quality": 3.0, "text_alignment": 4.0},
    std={"visual_quality": 0.5, "dynamic_quality": 1.0, "text_alignment": 2.0},
    n=100,
    date="2026-01-31",
    data="made up",
    revision="0123",
)
