"""Q-Save: a reward model for AI-generated video.

    from qsave_reward import RewardModel

    model = RewardModel.from_pretrained("tiny")
    card = model.explain("clip.mp4", "a red circle moves left")

Public names are loaded when they are first used: importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qsave_reward.errors import AnswerError, ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.types import DIMENSIONS, LEVELS, Defect, DimensionScore, Record, Scorer, VideoScore

if TYPE_CHECKING:
    from qsave_reward.model import RewardModel
    from qsave_reward.video import Clip, read_clip

__version__ = "0.1.0"

_LAZY = {
    "RewardModel": "qsave_reward.model",
    "Clip": "qsave_reward.video",
    "read_clip": "qsave_reward.video",
}

__all__ = [
    "DIMENSIONS",
    "LEVELS",
    "AnswerError",
    "Clip",
    "ConfigError",
    "Defect",
    "DimensionScore",
    "QSaveError",
    "Record",
    "RewardModel",
    "Scorer",
    "ServerError",
    "VideoError",
    "VideoScore",
    "read_clip",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
