"""`RewardModel`: a vision-language model that reads clips with slow and fast eyes and returns report cards.

    model = RewardModel.from_pretrained("tiny")
    card = model.score("clip.mp4", "a red circle moves left")
    card.scores["visual_quality"].mean

One causal forward gives the three scores: the logits just before each slot of a fixed score line,
restricted to the five level words. Nothing is sampled. Reasons are generated only when asked for, and
never change the direct score.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from qsave_reward.batches import judge_in_batches
from qsave_reward.checkpoint import Metadata, find_checkpoint, read_metadata
from qsave_reward.errors import AnswerError, ConfigError, QSaveError
from qsave_reward.fast_vision import use_fast_vision
from qsave_reward.processor import QSaveProcessor, resize_chunks
from qsave_reward.prompt import direct_answer, parse_report
from qsave_reward.slots import slot_positions, slot_token_ids
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.types import DIMENSIONS, DimensionScore, Mode, OnError, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip

MAX_ANSWER_TOKENS = 384


class RewardModel:
    """A `Scorer` around a Qwen3-VL-like model. Build it with `from_pretrained`."""

    def __init__(
        self,
        model: torch.nn.Module,
        processor: QSaveProcessor,
        metadata: Metadata,
        *,
        name: str,
        batch_size: int,
    ) -> None:
        self.model: Any = model.eval()
        self.processor = processor
        self.metadata = metadata
        self.batch_size = batch_size
        # Forward passes of several threads take turns, so that one thread's preparation overlaps them.
        self._forward = threading.Lock()
        self.provenance = metadata.provenance(name)
        self.level_ids, placeholder = slot_token_ids(processor.tokenizer)
        self._slot_ids = torch.tensor([*self.level_ids, placeholder])

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 8,
    ) -> RewardModel:
        """Load a trained reward model.

        Args:
            name: `"tiny"` (bundled), a checkpoint directory, or a hub id.
            device: default: the first GPU if there is one, else the CPU.
            dtype: default: bfloat16 on a GPU, float32 on a CPU.
            batch_size: clips in one forward pass.

        Raises:
            ConfigError: for an unknown model, a directory that is no checkpoint, or another prompt version.
        """
        directory = find_checkpoint(name)
        metadata = read_metadata(directory)
        device, dtype = place(device, dtype)
        processor = QSaveProcessor.for_model(directory)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            directory, dtype=dtype, output_loading_info=True
        )
        model, found = loaded
        if missing := sorted(found["missing_keys"]):
            # Transformers would draw them at random and only warn.
            raise ConfigError(
                f"{directory} lacks {len(missing)} weights, such as {missing[0]}; it is damaged or not of "
                "the architecture that its config.json names"
            )
        return cls(
            use_fast_vision(model.to(device)), processor, metadata, name=str(name), batch_size=batch_size
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as name, device, dtype and batch size; the other side loads the weights anew."""
        options = {"device": self.model.device, "dtype": self.model.dtype, "batch_size": self.batch_size}
        return partial(RewardModel.from_pretrained, self.provenance.model, **options), ()

    @property
    def frame_plan(self) -> FramePlan:
        """The plan the weights were trained with."""
        return self.metadata.frame_plan

    def read(self, video: Any, *, fps: float | None = None, times: Sequence[float] | None = None) -> Clip:
        """Read a clip as this model samples it; see `read_clip` for what `video` may be."""
        sampling = Sampling(max_frames=self.frame_plan.max_frames, fps=self.frame_plan.fps)
        return read_clip(video, sampling, fps=fps, times=times)

    def score(self, video: Any, prompt: str, *, fps: float | None = None) -> VideoScore:
        """Scores of one clip, without reasons.

        Args:
            video: a path, bytes, frames or a `Clip`; frames need `fps`.
            prompt: the text the clip was generated from.
            fps: frame rate in frames per second, for frames or to overrule a file's own.

        Raises:
            VideoError: when the clip cannot be read.
            ConfigError: for an empty prompt.
        """
        return self._only(self.score_batch([self.read(video, fps=fps)], [prompt]))

    def explain(self, video: Any, prompt: str, *, fps: float | None = None) -> VideoScore:
        """Scores of one clip as `score` gives them, with defects and the written reasons attached."""
        return self._only(self.explain_batch([self.read(video, fps=fps)], [prompt]))

    @staticmethod
    def _only(cards: list[VideoScore | QSaveError]) -> VideoScore:
        card = cards[0]
        if isinstance(card, QSaveError):
            raise card
        return card

    def score_batch(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        mode: Mode = "direct",
        on_error: OnError = "raise",
    ) -> list[VideoScore | QSaveError]:
        """Score many clips; see `Scorer` for the contract."""
        if mode not in ("direct", "reasoned"):
            raise ConfigError(f"mode must be 'direct' or 'reasoned', got {mode!r}")
        judge = self._direct if mode == "direct" else self._reasoned
        return self._in_batches(videos, prompts, on_error, judge)

    def explain_batch(
        self, videos: Sequence[Any], prompts: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[VideoScore | QSaveError]:
        """Direct scores of many clips, with defects and reasons attached.

        An answer whose form is broken leaves the scores as they are, `defects=None`, and a warning.
        """
        return self._in_batches(videos, prompts, on_error, self._explained)

    def _in_batches(
        self, videos: Sequence[Any], prompts: Sequence[str], on_error: OnError, judge: Any
    ) -> list[VideoScore | QSaveError]:
        def judged(items: list[_Item]) -> Sequence[VideoScore | QSaveError]:
            with self._forward:
                cards: Sequence[VideoScore | QSaveError] = judge(items)
            return cards

        return judge_in_batches(
            videos,
            prompts,
            prepare=self._prepare,
            judge=judged,
            batch_size=self.batch_size,
            on_error=on_error,
        )

    def _prepare(self, video: Any, prompt: str) -> _Item:
        clip = self.read(video)
        chunks = plan_chunks(clip, self.frame_plan)
        question = self.processor.question([chunk.time for chunk in chunks], prompt)
        warnings = (*clip.warnings, *self.metadata.warnings(prompt))
        return _Item(question, resize_chunks(chunks, self.model.device), warnings)

    def _inputs(self, items: list[_Item], answer: str) -> dict[str, torch.Tensor]:
        inputs = self.processor(
            images=[item.pairs for item in items],
            text=[item.question + answer for item in items],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return dict(inputs.to(self.model.device))

    def _direct(self, items: list[_Item]) -> list[VideoScore]:
        probs = self._read_slots(self._inputs(items, direct_answer()))
        return [self._card(item, row) for item, row in zip(items, probs, strict=True)]

    def _reasoned(self, items: list[_Item]) -> list[VideoScore | AnswerError]:
        inputs = self._inputs(items, "")
        answers = self._write(inputs)
        texts = self.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
        mask = (answers != self.processor.tokenizer.pad_token_id) & (
            answers != self.processor.tokenizer.eos_token_id
        )
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answers], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], mask.long()], dim=1)
        inputs["mm_token_type_ids"] = torch.cat(
            [inputs["mm_token_type_ids"], torch.zeros_like(answers)], dim=1
        )
        probs = self._read_slots(inputs)
        cards: list[VideoScore | AnswerError] = []
        for item, text, row in zip(items, texts, probs, strict=True):
            try:
                report = parse_report(text)
            except AnswerError as error:
                cards.append(error)
                continue
            cards.append(replace(self._card(item, row), defects=report.defects, reasoning=report.reasoning))
        return cards

    def _explained(self, items: list[_Item]) -> list[VideoScore]:
        cards = []
        for card, reasoned in zip(self._direct(items), self._reasoned(items), strict=True):
            if isinstance(reasoned, AnswerError):
                warnings = (*card.warnings, f"the reasons could not be read: {reasoned}")
                cards.append(replace(card, warnings=warnings))
            else:
                cards.append(replace(card, defects=reasoned.defects, reasoning=reasoned.reasoning))
        return cards

    def _card(self, item: _Item, probs: Sequence[Sequence[float]]) -> VideoScore:
        scores = {
            dimension: DimensionScore.from_probs(row)
            for dimension, row in zip(DIMENSIONS, probs, strict=True)
        }
        return VideoScore(scores, self.provenance, warnings=item.warnings)

    @torch.inference_mode()
    def _read_slots(self, inputs: dict[str, torch.Tensor]) -> list[list[list[float]]]:
        """Level distributions [clips][3][5]: softmax over the level words' logits just before each slot."""
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        before = slot_positions(inputs["input_ids"], self._slot_ids.to(hidden.device)) - 1
        states = hidden.gather(1, before[:, :, None].expand(-1, -1, hidden.shape[-1]))
        head = self.model.get_output_embeddings().weight[list(self.level_ids)]
        probs: list[list[list[float]]] = (states.float() @ head.float().T).double().softmax(dim=-1).tolist()
        return probs

    @torch.inference_mode()
    def _write(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Greedy answers, int64 [clips, tokens], padded on the right."""
        written: torch.Tensor = self.model.generate(
            **inputs,
            do_sample=False,
            use_cache=True,  # trainers save a configuration that says no
            max_new_tokens=MAX_ANSWER_TOKENS,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        return written[:, inputs["input_ids"].shape[1] :]


def place(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Where a model goes when nothing is said: the first GPU in bfloat16, else the CPU in float32."""
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}: expected cpu, cuda, cuda:1 or the like") from error
    return device, dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)


@dataclass(frozen=True, eq=False)
class _Item:
    """One clip ready for the model: rendered question, resized chunks, warnings."""

    question: str
    pairs: list[torch.Tensor]
    warnings: tuple[str, ...]
