"""`HolisticScorer`: AIGVEval's architecture as a `Scorer`, interchangeable with `RewardModel`.

    scorer = HolisticScorer.from_pretrained("checkpoints/holistic")
    scorer.score("clip.mp4", "a red circle moves left").overall

It has one score for the whole or one for each dimension, as it was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from qsave_reward.checkpoint import Metadata
from qsave_reward.checkpoint_scorer import CheckpointScorer, load_weights
from qsave_reward.errors import AnswerError
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.text import Reading, compose, level_token_ids, pad
from qsave_reward.holistic.views import VIEWS, Views, make_views, stack
from qsave_reward.prompt import check_prompt
from qsave_reward.types import DIMENSIONS, VideoScore

NO_REASONS = "this model names no defects and writes no reasons"
OVERALL_ONLY = "this model judges the whole: its one score stands for all three dimensions"


class HolisticScorer(CheckpointScorer):
    """A `Scorer` around a `HolisticModel`. Build it with `from_pretrained`. It writes no reasons."""

    holistic = True

    def __init__(
        self, model: HolisticModel, tokenizer: Any, metadata: Metadata, *, name: str, batch_size: int
    ) -> None:
        super().__init__(model, tokenizer, metadata, name=name, batch_size=batch_size)
        self._level_ids = torch.tensor(level_token_ids(tokenizer))
        self._fragments = torch.Generator().manual_seed(0) if model.config.random_fragments else None

    @staticmethod
    def _load(directory: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
        model, tokenizer = load_holistic(directory, dtype=dtype)
        return model.to(device), tokenizer

    def _prepare(self, video: Any, prompt: str) -> _Item:
        check_prompt(prompt)
        clip, config = self.read(video), self.model.config
        warnings = [*clip.warnings]
        if config.show_prompt:
            warnings += self.metadata.warnings(prompt)
        if not config.per_dimension:
            warnings.append(OVERALL_ONLY)
        views = make_views(clip, config, generator=self._fragments)
        return _Item(views, compose(self.processor, config, prompt), tuple(warnings))

    @torch.inference_mode()
    def _direct(self, items: list[_Item]) -> list[VideoScore | AnswerError]:
        inputs = model_inputs(
            [item.views for item in items], [item.reading for item in items], device=self.model.device
        )
        logits = self.model(**inputs, level_ids=self._level_ids.to(self.model.device))
        probs = logits.double().softmax(dim=-1).expand(-1, len(DIMENSIONS), -1).tolist()
        return [self._card(item, rows) for item, rows in zip(items, probs, strict=True)]

    def _reasoned(self, items: list[_Item]) -> list[AnswerError]:
        return [AnswerError(NO_REASONS, code="no_reasons") for _ in items]

    def _explained(self, items: list[_Item]) -> list[VideoScore | AnswerError]:
        return [
            replace(card, warnings=(*card.warnings, NO_REASONS)) if isinstance(card, VideoScore) else card
            for card in self._direct(items)
        ]


def load_holistic(directory: Path, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint.

    Raises:
        ConfigError: when weights are missing or left over.
    """
    model = load_weights(HolisticModel, directory, dtype=dtype)
    # With its own configuration; that of the whole would be unknown to transformers.
    return model, AutoTokenizer.from_pretrained(directory, config=model.config.text_config)


def model_inputs(views: list[Views], readings: list[Reading], *, device: torch.device) -> dict[str, Any]:
    """Arguments of `HolisticModel` for a batch, but the ids of the levels."""
    ids, masks = pad(readings, 0)
    batch = stack(views)
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(masks, device=device),
        "read_at": torch.tensor([reading.read_at for reading in readings], device=device),
        "views": Views(*(getattr(batch, name).to(device) for name in VIEWS)),
    }


@dataclass(frozen=True, eq=False)
class _Item:
    """One clip ready for the model."""

    views: Views
    reading: Reading
    warnings: tuple[str, ...]
