"""`HolisticScorer`: AIGVEval's architecture as a `Scorer`, interchangeable with `RewardModel`.

scorer = HolisticScorer.from_pretrained("checkpoints/holistic")
scorer.score("clip.mp4", "a red circle moves left").overall
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from qsave_reward.batches import judge_in_batches
from qsave_reward.checkpoint import Metadata, find_checkpoint, read_metadata
from qsave_reward.errors import AnswerError, ConfigError, QSaveError
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.text import Reading, compose, level_token_ids, pad
from qsave_reward.holistic.views import Views, make_views, stack
from qsave_reward.model import place
from qsave_reward.prompt import check_prompt
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, DimensionScore, Mode, OnError, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip

NO_REASONS = "this model names no defects and writes no reasons"
OVERALL_ONLY = "this model judges the whole: its one score stands for all three dimensions"


class HolisticScorer:
    """A `Scorer` around a `HolisticModel`. Build it with `from_pretrained`. It writes no reasons."""

    def __init__(
        self, model: HolisticModel, tokenizer: Any, metadata: Metadata, *, name: str, batch_size: int
    ) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.metadata = metadata
        self.batch_size = batch_size
        self._forward = threading.Lock()
        self.provenance = metadata.provenance(name)
        self._level_ids = torch.tensor(level_token_ids(tokenizer))
        self._fragments = torch.Generator().manual_seed(0) if model.config.random_fragments else None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 8,
    ) -> HolisticScorer:
        """Load a trained scorer; arguments and errors are those of `RewardModel.from_pretrained`."""
        directory = find_checkpoint(name)
        metadata = read_metadata(directory)
        device, dtype = place(device, dtype)
        model, tokenizer = load_holistic(directory, dtype=dtype)
        return cls(model.to(device).eval(), tokenizer, metadata, name=str(name), batch_size=batch_size)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as name, device, dtype and batch size; the other side loads the weights anew."""
        options = {"device": self.model.device, "dtype": self.model.dtype, "batch_size": self.batch_size}
        return partial(HolisticScorer.from_pretrained, self.provenance.model, **options), ()

    @property
    def frame_plan(self) -> FramePlan:
        """How clips are sampled; its sizes do not matter here."""
        return self.metadata.frame_plan

    def read(self, video: Any, *, fps: float | None = None, times: Sequence[float] | None = None) -> Clip:
        """Read a clip as this model samples it; see `read_clip` for what `video` may be."""
        sampling = Sampling(max_frames=self.frame_plan.max_frames, fps=self.frame_plan.fps)
        return read_clip(video, sampling, fps=fps, times=times)

    def score(self, video: Any, prompt: str, *, fps: float | None = None) -> VideoScore:
        """Scores of one clip; arguments and errors are those of `RewardModel.score`."""
        card = self.score_batch([self.read(video, fps=fps)], [prompt])[0]
        assert isinstance(card, VideoScore)
        return card

    def score_batch(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        mode: Mode = "direct",
        on_error: OnError = "raise",
    ) -> list[VideoScore | QSaveError]:
        """Score many clips; see `Scorer` for the contract. `mode="reasoned"` is an error for each."""
        if mode not in ("direct", "reasoned"):
            raise ConfigError(f"mode must be 'direct' or 'reasoned', got {mode!r}")
        return judge_in_batches(
            videos,
            prompts,
            prepare=self._prepare,
            judge=self._judge if mode == "direct" else _no_answers,
            batch_size=self.batch_size,
            on_error=on_error,
        )

    def explain_batch(
        self, videos: Sequence[Any], prompts: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[VideoScore | QSaveError]:
        """Direct scores with a warning that there are no defects and no reasons."""
        cards = self.score_batch(videos, prompts, on_error=on_error)
        return [
            card if isinstance(card, QSaveError) else replace(card, warnings=(*card.warnings, NO_REASONS))
            for card in cards
        ]

    def _prepare(self, video: Any, prompt: str) -> _Item:
        check_prompt(prompt)
        clip, config = self.read(video), self.model.config
        warnings = [*clip.warnings]
        if config.show_prompt:
            warnings += self.metadata.warnings(prompt)
        if not config.per_dimension:
            warnings.append(OVERALL_ONLY)
        views = make_views(clip, config, generator=self._fragments)
        return _Item(views, compose(self.tokenizer, config, prompt), tuple(warnings))

    @torch.inference_mode()
    def _judge(self, items: list[_Item]) -> list[VideoScore]:
        with self._forward:
            logits = self.model(
                **model_inputs(
                    [item.views for item in items],
                    [item.reading for item in items],
                    device=self.model.device,
                ),
                level_ids=self._level_ids.to(self.model.device),
            )
        probs = logits.double().softmax(dim=-1).expand(-1, len(DIMENSIONS), -1).tolist()
        return [self._card(item, rows) for item, rows in zip(items, probs, strict=True)]

    def _card(self, item: _Item, rows: list[list[float]]) -> VideoScore:
        scores = [DimensionScore.from_probs(row) for row in rows]
        return VideoScore(dict(zip(DIMENSIONS, scores, strict=True)), self.provenance, warnings=item.warnings)


def load_holistic(directory: Path, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint.

    Raises:
        ConfigError: when some are missing or left over.
    """
    loaded: Any = HolisticModel.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    model, found = loaded
    for kind, words in (("missing_keys", "lacks"), ("unexpected_keys", "has unknown")):
        if names := sorted(found[kind]):
            raise ConfigError(
                f"{directory} {words} {len(names)} weights, such as {names[0]}; it is damaged or not of the "
                "architecture that its config.json names"
            )
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
        "views": Views(*(getattr(batch, name).to(device) for name in ("frames", "motion", "fragments"))),
    }


def _no_answers(items: list[_Item]) -> list[AnswerError]:
    return [AnswerError(NO_REASONS, code="no_reasons") for _ in items]


@dataclass(frozen=True, eq=False)
class _Item:
    """One clip ready for the model."""

    views: Views
    reading: Reading
    warnings: tuple[str, ...]
