"""A scorer without weights: its scores follow the brightness of the clip, so that tests can foretell them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from qsave_reward.errors import AnswerError, ConfigError, QSaveError, VideoError
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, Defect, DimensionScore, Mode, OnError, Provenance, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip

REASONING = "It looks dark.\nvisual quality: exposure (severe, 0.5-1.0 s)"


def spread(mean: float) -> DimensionScore:
    """A distribution over two neighbouring levels with the given mean."""
    probs = np.zeros(5)
    below = min(int(mean) - 1, 3)
    probs[below], probs[below + 1] = 1 - (mean - 1 - below), mean - 1 - below
    return DimensionScore.from_probs(probs.tolist())


class FakeModel:
    """Stands in for `RewardModel`. A prompt with "broken" gives an `AnswerError` in a reasoned pass."""

    def __init__(self) -> None:
        self.frame_plan = FramePlan(max_frames=8, token_budget=96, max_slow_tokens=64, token_side=16)
        self.provenance = Provenance("fake", "0123", "1", asdict(self.frame_plan))
        self.batches: list[tuple[str, int]] = []

    def score_batch(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        mode: Mode = "direct",
        on_error: OnError = "raise",
    ) -> list[VideoScore | QSaveError]:
        self.batches.append((mode, len(videos)))
        cards = [self._card(video, prompt, mode) for video, prompt in zip(videos, prompts, strict=True)]
        for card in cards:
            if on_error == "raise" and isinstance(card, QSaveError):
                raise card
        return cards

    def explain_batch(
        self, videos: Sequence[Any], prompts: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[VideoScore | QSaveError]:
        cards = self.score_batch(videos, prompts, on_error=on_error)
        return [
            card
            if isinstance(card, QSaveError)
            else replace(card, defects=self._defects(), reasoning=REASONING)
            for card in cards
        ]

    @staticmethod
    def _defects() -> tuple[Defect, ...]:
        return Defect("visual_quality", "exposure", 0.85, 0.5, 1.0), Defect("dynamic_quality", "frozen", 0.25)

    def _card(self, video: Any, prompt: str, mode: Mode) -> VideoScore | QSaveError:
        if not prompt.strip():
            return ConfigError("expected a prompt", code="empty_prompt")
        try:
            clip = video if isinstance(video, Clip) else read_clip(video, Sampling(max_frames=8))
        except VideoError as error:
            return error
        if mode == "reasoned" and "broken" in prompt:
            return AnswerError("expected <think>")
        mean = 1 + 4 * float(clip.frames.mean()) / 255
        card = VideoScore(
            {name: spread(mean) for name in DIMENSIONS}, self.provenance, warnings=clip.warnings
        )
        return card if mode == "direct" else replace(card, defects=self._defects(), reasoning=REASONING)


class Company(FakeModel):
    """The more clips there are in a batch, the higher each score, by little."""

    def score_batch(
        self, videos: Sequence[Any], prompts: Sequence[str], **options: Any
    ) -> list[VideoScore | QSaveError]:
        cards = super().score_batch(videos, prompts, **options)
        return [self._lifted(card, len(videos)) for card in cards]

    def _lifted(self, card: VideoScore | QSaveError, company: int) -> VideoScore | QSaveError:
        if not isinstance(card, VideoScore):
            return card
        scores = {
            name: type(score).from_probs([p + 1e-6 * company * (0.2 - p) for p in score.probs])
            for name, score in card.scores.items()
        }
        return VideoScore(scores, card.provenance)
