"""A scorer by the name of its checkpoint, whichever of the two kinds it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qsave_reward.checkpoint import find_checkpoint, is_holistic

if TYPE_CHECKING:
    import torch

    from qsave_reward.checkpoint_scorer import CheckpointScorer


def load_scorer(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 8,
) -> CheckpointScorer:
    """A `RewardModel` or a `HolisticScorer`; arguments and errors as in `RewardModel.from_pretrained`."""
    if is_holistic(find_checkpoint(name)):
        from qsave_reward.holistic.scorer import HolisticScorer

        return HolisticScorer.from_pretrained(name, device=device, dtype=dtype, batch_size=batch_size)
    from qsave_reward.model import RewardModel

    return RewardModel.from_pretrained(name, device=device, dtype=dtype, batch_size=batch_size)
