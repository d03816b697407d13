"""What supervised training shows the model: rows, batches, and the two losses.

Two supervisions at once: cross-entropy on the written reasons, and a score term at the slots of the
score line (cross-entropy against the raters' level distribution, and the squared error of its
expectation against the MOS). A *direct* row holds only the score line with placeholders; a *reasoned*
row holds the report and the score line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from qsave_reward.errors import ConfigError
from qsave_reward.model import slot_positions, slot_token_ids
from qsave_reward.processor import QSaveProcessor, resize_chunks
from qsave_reward.prompt import direct_answer, reasoned_answer
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.types import DIMENSIONS, LEVELS, Mode, Record
from qsave_reward.video import Clip

IGNORED = -100
LENGTH_STEP = 32
PATCH_STEP = 512


def level_distribution(values: Sequence[float]) -> list[float]:
    """Distribution over the five levels with the mean of `values` (each 1 to 5).

    A value between two levels is split between them so that the mean is kept: 3.25 is 0.75 fair and 0.25
    good.
    """
    probs = [0.0] * len(LEVELS)
    for value in values:
        if not 1.0 <= value <= len(LEVELS):
            raise ConfigError(f"expected ratings in [1, {len(LEVELS)}], got {value}")
        low = min(int(value), len(LEVELS) - 1)
        probs[low - 1] += (low + 1 - value) / len(values)
        probs[low] += (value - low) / len(values)
    return probs


def sft_row(
    clip: Clip, record: Record, processor: QSaveProcessor, plan: FramePlan, mode: Mode
) -> dict[str, Any]:
    """One training row: text, resized chunks and targets.

    Returns:
        `question` and `answer` (text), `images` (uint8 [2, H, W, 3] tensors), `levels` [3][5] (target
        distribution; zeros for a dimension nobody rated), `mos` [3] (0.0 where unrated), `mode`.

    Raises:
        ConfigError: when a reasoned row lacks a rating, since its score line needs all three.
    """
    chunks = plan_chunks(clip, plan)
    if mode == "direct":
        answer = direct_answer()
    elif len(record.mos) < len(DIMENSIONS):
        raise ConfigError(
            f"a reasoned row needs all three ratings, {record.video!r} has {sorted(record.mos)}"
        )
    else:
        written = {dimension: round(value) for dimension, value in record.mos.items()}
        answer = reasoned_answer(record.defects or (), record.rationale, written)
    rated = [record.ratings.get(dimension) or _single(record.mos.get(dimension)) for dimension in DIMENSIONS]
    return {
        "question": processor.question([chunk.time for chunk in chunks], record.prompt),
        "answer": answer,
        "images": resize_chunks(chunks),
        "levels": [level_distribution(values) if values else [0.0] * len(LEVELS) for values in rated],
        "mos": [record.mos.get(dimension, 0.0) for dimension in DIMENSIONS],
        "mode": mode,
    }


def _single(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


@dataclass(frozen=True)
class SFTCollator:
    """Rows to a batch, padded on the left so that all answers end together.

    The batch holds the processor's output plus, for the last `kept` positions only: `labels` int64
    [rows, kept] (the text to write; `IGNORED` elsewhere and at the slots), `slots` int64 [rows, 3]
    (index of the logits that predict each slot), `levels` float32 [rows, 3, 5], `mos` float32 [rows, 3].
    """

    processor: QSaveProcessor
    repeat_shapes: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.processor.tokenizer
        answers = [row["answer"] + tokenizer.eos_token for row in rows]
        batch = self.processor(
            images=[row["images"] for row in rows],
            text=[row["question"] + answer for row, answer in zip(rows, answers, strict=True)],
            padding=True,
            padding_side="left",
            pad_to_multiple_of=LENGTH_STEP if self.repeat_shapes else None,
            return_tensors="pt",
        )
        if self.repeat_shapes:
            _append_filler(batch, self.processor)
        ids = batch["input_ids"]
        lengths = [len(tokenizer(answer)["input_ids"]) for answer in answers]
        level_ids, placeholder = slot_token_ids(tokenizer)
        slots = slot_positions(ids, torch.tensor([*level_ids, placeholder])).clamp(min=1)
        labels = torch.full_like(ids, IGNORED)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if row["mode"] == "reasoned":  # a direct answer is a fixed form: nothing to learn but its slots
                labels[i, -length:] = ids[i, -length:]
        labels.scatter_(1, slots, IGNORED)
        kept = max(lengths) + 1
        unrated = [0.0] * len(DIMENSIONS)
        fillers = len(ids) - len(rows)
        return {
            **batch,
            "labels": labels[:, -kept:],
            "slots": (slots - 1 - (ids.shape[1] - kept)).clamp(min=0),
            "levels": torch.tensor(
                [row["levels"] for row in rows] + [[[0.0] * len(LEVELS)] * len(DIMENSIONS)] * fillers
            ),
            "mos": torch.tensor([row["mos"] for row in rows] + [unrated] * fillers),
        }


def _append_filler(batch: Any, processor: QSaveProcessor) -> None:
    """Add one row that teaches nothing and rounds the number of patches up to a multiple of `PATCH_STEP`.

    In bfloat16 on a CPU, memory grows with every new matrix shape, by about 50 MB a step; with few shapes it
    grows far less (recipes/LOG.md).
    """
    missing = -len(batch["pixel_values"]) % PATCH_STEP
    tokens = missing // processor.merge_size**2
    extra = max(0, tokens + 1 - batch["input_ids"].shape[1])  # short questions: the filler is the longest row
    length = batch["input_ids"].shape[1] + extra
    padding = {"input_ids": processor.tokenizer.pad_token_id, "attention_mask": 0, "mm_token_type_ids": 0}
    image = [processor.image_token_id] * tokens
    ids = (
        [processor.tokenizer.pad_token_id] * (length - tokens - 1)
        + image
        + [processor.tokenizer.eos_token_id]
    )
    rows = {
        "input_ids": ids,
        "attention_mask": [0] * (length - tokens - 1) + [1] * (tokens + 1),
        "mm_token_type_ids": [0] * (length - tokens - 1) + [1] * tokens + [0],
    }
    for name, row in rows.items():
        padded = F.pad(batch[name], (extra, 0), value=padding[name])
        batch[name] = torch.cat([padded, torch.tensor([row])])
    if tokens:
        strip = [[1, processor.merge_size, tokens * processor.merge_size]]
        batch["image_grid_thw"] = torch.cat([batch["image_grid_thw"], torch.tensor(strip)])
        batch["pixel_values"] = F.pad(batch["pixel_values"], (0, 0, 0, missing))


def text_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token over labelled positions; zero when there are none.

    Args:
        logits: [rows, kept, vocabulary].
        labels: int64 [rows, kept], `IGNORED` where nothing is to be learnt.
    """
    wanted = labels[:, 1:]
    chosen = wanted != IGNORED
    loss = F.cross_entropy(logits[:, :-1][chosen].float(), wanted[chosen], reduction="sum")
    return loss / chosen.sum().clamp(min=1)


def score_losses(
    logits: torch.Tensor,
    slots: torch.Tensor,
    levels: torch.Tensor,
    mos: torch.Tensor,
    level_ids: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two score terms, averaged over rated dimensions.

    Args:
        logits: [rows, kept, vocabulary].
        slots: int64 [rows, 3], where the logits of each slot are.
        levels: target distributions [rows, 3, 5], all zero where unrated.
        mos: mean opinion scores [rows, 3].
        level_ids: token ids of the five level words.

    Returns:
        Cross-entropy over the whole vocabulary against the level distribution (so that no other word is
        likely in a slot), and the squared error between the expected level (over the five words) and the
        MOS.
    """
    at_slots = logits.gather(1, slots[:, :, None].expand(-1, -1, logits.shape[-1])).float()
    chosen = at_slots[:, :, list(level_ids)]
    log_probs = chosen - at_slots.logsumexp(dim=-1, keepdim=True)
    rated = (levels.sum(dim=-1) > 0).float()
    count = rated.sum().clamp(min=1)
    level_term = -(levels * log_probs).sum() / count
    worth = torch.arange(1, len(level_ids) + 1, device=logits.device, dtype=torch.float32)
    expected = (chosen.softmax(dim=-1) * worth).sum(dim=-1)
    return level_term, ((expected - mos).square() * rated).sum() / count
