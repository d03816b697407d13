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
    from qsave_reward.best_of import best_of_n
    from qsave_reward.calibration import Calibration
    from qsave_reward.client import RewardClient
    from qsave_reward.holistic.scorer import HolisticScorer
    from qsave_reward.loading import load_scorer
    from qsave_reward.model import RewardModel
    from qsave_reward.reward import VideoReward
    from qsave_reward.video import Clip, read_clip
    from qsave_reward.weighting import advantages

__version__ = "0.1.0"

_LAZY = {
    "Calibration": "qsave_reward.calibration",
    "Clip": "qsave_reward.video",
    "HolisticScorer": "qsave_reward.holistic.scorer",
    "RewardClient": "qsave_reward.client",
    "RewardModel": "qsave_reward.model",
    "VideoReward": "qsave_reward.reward",
    "advantages": "qsave_reward.weighting",
    "best_of_n": "qsave_reward.best_of",
    "load_scorer": "qsave_reward.loading",
    "read_clip": "qsave_reward.video",
}

__all__ = [
    "DIMENSIONS",
    "LEVELS",
    "AnswerError",
    "Calibration",
    "Clip",
    "ConfigError",
    "Defect",
    "DimensionScore",
    "HolisticScorer",
    "QSaveError",
    "Record",
    "RewardClient",
    "RewardModel",
    "Scorer",
    "ServerError",
    "VideoError",
    "VideoReward",
    "VideoScore",
    "advantages",
    "best_of_n",
    "load_scorer",
    "read_clip",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
