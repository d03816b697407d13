"""`RewardModel`: a vision-language model that reads clips with slow and fast eyes and returns report cards.

    model = RewardModel.from_pretrained("tiny")
    card = model.score("clip.mp4", "a red circle moves left")
    card.scores["visual_quality"].mean

One causal forward gives the three scores: the logits just before each slot of a fixed score line,
restricted to the five level words. Nothing is sampled. Reasons are generated only when asked for, and
never change the direct score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from qsave_reward.checkpoint import Metadata
from qsave_reward.checkpoint_scorer import CheckpointScorer, load_weights
from qsave_reward.errors import AnswerError
from qsave_reward.fast_vision import use_fast_vision
from qsave_reward.processor import QSaveProcessor, resize_chunks
from qsave_reward.prompt import direct_answer, parse_report
from qsave_reward.slots import slot_positions, slot_token_ids
from qsave_reward.slowfast import plan_chunks
from qsave_reward.types import VideoScore

MAX_ANSWER_TOKENS = 384


class RewardModel(CheckpointScorer):
    """A `Scorer` around a Qwen3-VL-like model. Build it with `from_pretrained`."""

    holistic = False

    def __init__(
        self,
        model: torch.nn.Module,
        processor: QSaveProcessor,
        metadata: Metadata,
        *,
        name: str,
        batch_size: int,
    ) -> None:
        super().__init__(model, processor, metadata, name=name, batch_size=batch_size)
        self.level_ids, placeholder = slot_token_ids(processor.tokenizer)
        self._slot_ids = torch.tensor([*self.level_ids, placeholder])

    @staticmethod
    def _load(directory: Path, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
        processor = QSaveProcessor.for_model(directory)
        model = load_weights(AutoModelForImageTextToText, directory, dtype=dtype)
        return use_fast_vision(model.to(device)), processor

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

    def _direct(self, items: list[_Item]) -> list[VideoScore | AnswerError]:
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
            card = self._card(item, row)
            if isinstance(card, VideoScore):
                card = replace(card, defects=report.defects, reasoning=report.reasoning)
            cards.append(card)
        return cards

    def _explained(self, items: list[_Item]) -> list[VideoScore | AnswerError]:
        cards: list[VideoScore | AnswerError] = []
        for card, reasoned in zip(self._direct(items), self._reasoned(items), strict=True):
            if isinstance(card, AnswerError):
                cards.append(card)
            elif isinstance(reasoned, AnswerError):
                warnings = (*card.warnings, f"the reasons could not be read: {reasoned}")
                cards.append(replace(card, warnings=warnings))
            else:
                cards.append(replace(card, defects=reasoned.defects, reasoning=reasoned.reasoning))
        return cards

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
            suppress_tokens=[self.processor.image_token_id],  # it would ask for an image that is not there
            max_new_tokens=MAX_ANSWER_TOKENS,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        return written[:, inputs["input_ids"].shape[1] :]


@dataclass(frozen=True, eq=False)
class _Item:
    """One clip ready for the model: rendered question, resized chunks, warnings."""

    question: str
    pairs: list[torch.Tensor]
    warnings: tuple[str, ...]
