"""What supervised training shows the model: rows, batches, and the two losses.

Two supervisions at once: cross-entropy on the written reasons, and a score term at the slots of the
score line (cross-entropy against the raters' level distribution, and the squared error of its
expectation against the MOS). A *direct* answer is only the score line with placeholders; a *reasoned*
answer is the report and the score line. A row holds one answer or several, which do not see each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F

from qsave_reward.errors import ConfigError
from qsave_reward.processor import QSaveProcessor, resize_chunks
from qsave_reward.prompt import direct_answer, reasoned_answer
from qsave_reward.slots import slot_positions, slot_token_ids
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.types import DIMENSIONS, LEVELS, Mode, Record
from qsave_reward.video import Clip

IGNORED = -100
LENGTH_STEP = 32
PATCH_STEP = 512
UNRATED_LEVELS = [[0.0] * len(LEVELS)] * len(DIMENSIONS)
UNRATED_MOS = [0.0] * len(DIMENSIONS)


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
    clip: Clip, record: Record, processor: QSaveProcessor, plan: FramePlan, modes: Sequence[Mode]
) -> dict[str, Any]:
    """One training row: text, resized chunks and targets.

    Args:
        modes: the answers to teach, in this order, each right after the question.

    Returns:
        `question` (text), `answers` (texts), `times` (seconds of each chunk), `images` (uint8 [2, H, W, 3]
        tensors), `levels` [3][5] (target distribution; zeros for a dimension nobody rated), `mos` [3] (the
        mean of the single ratings where these alone are known; 0.0 where unrated), `modes`.

    Raises:
        ConfigError: when a reasoned answer lacks a rating, since its score line needs all three, or when the
            record's defects are unknown.
    """
    chunks = plan_chunks(clip, plan)
    times = [chunk.time for chunk in chunks]
    mos = _known_mos(record)
    rated = [record.ratings.get(dimension) or _single(mos.get(dimension)) for dimension in DIMENSIONS]
    return {
        "question": processor.question(times, record.prompt),
        "times": times,
        "answers": [direct_answer() if mode == "direct" else _reasoned(record, mos) for mode in modes],
        "images": resize_chunks(chunks),
        "levels": [level_distribution(values) if values else [0.0] * len(LEVELS) for values in rated],
        "mos": [mos.get(dimension, 0.0) for dimension in DIMENSIONS],
        "modes": list(modes),
    }


def _known_mos(record: Record) -> dict[str, float]:
    """The MOS of each rated dimension; where only single ratings are given, their mean."""
    means = {dimension: fmean(values) for dimension, values in record.ratings.items() if values}
    return means | dict(record.mos)


def _reasoned(record: Record, mos: Mapping[str, float]) -> str:
    if len(mos) < len(DIMENSIONS):
        raise ConfigError(f"a reasoned answer needs all three ratings, {record.video!r} has {sorted(mos)}")
    if record.defects is None:
        raise ConfigError(
            f"a reasoned answer needs the defects, those of {record.video!r} are unknown: give `defects` (an "
            "empty list says that there are none), or train direct rows only (reasoned_share 0, without "
            "paired_answers)"
        )
    # Half up: Python's round would send 2.5 to poor and 3.5 to good.
    written = {dimension: math.floor(value + 0.5) for dimension, value in mos.items()}
    return reasoned_answer(record.defects, record.rationale, written)


def _single(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


@dataclass(frozen=True)
class SFTCollator:
    """Rows to a batch, padded on the left so that all answers end together.

    All rows hold equally many answers. The batch holds the processor's output plus `branches` int64 [rows,
    length] (0: question and padding; k: the k-th answer) and, for the last `kept` positions only: `labels`
    int64 [rows, kept] (the text to write; `IGNORED` elsewhere and at the slots), `slots` int64 [rows, 3 *
    answers] (index of the logits that predict each slot), `levels` float32 [rows, 3 * answers, 5], `mos`
    float32 [rows, 3 * answers].
    """

    processor: QSaveProcessor
    repeat_shapes: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.processor.tokenizer
        answers = [[answer + tokenizer.eos_token for answer in row["answers"]] for row in rows]
        batch = self.processor(
            images=[row["images"] for row in rows],
            text=[row["question"] + "".join(texts) for row, texts in zip(rows, answers, strict=True)],
            padding=True,
            padding_side="left",
            pad_to_multiple_of=LENGTH_STEP if self.repeat_shapes else None,
            return_tensors="pt",
        )
        if self.repeat_shapes:
            _append_filler(batch, self.processor)
        ids = batch["input_ids"]
        lengths = [[len(tokenizer(text)["input_ids"]) for text in texts] for texts in answers]
        level_ids, placeholder = slot_token_ids(tokenizer)
        count = len(answers[0])
        slots = slot_positions(ids, torch.tensor([*level_ids, placeholder]), count).clamp(min=1)
        labels, branches = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for i, row in enumerate(rows):
            start = ids.shape[1] - sum(lengths[i])
            for k, (mode, length) in enumerate(zip(row["modes"], lengths[i], strict=True)):
                branches[i, start : start + length] = k + 1
                if mode == "reasoned":  # a direct answer is a fixed form: nothing to learn but its slots
                    # What comes before a second answer is the first one's end, which does not lead to it.
                    first = start + (k > 0)
                    labels[i, first : start + length] = ids[i, first : start + length]
                start += length
        labels.scatter_(1, slots, IGNORED)
        kept = max(map(sum, lengths)) + 1
        fillers = len(ids) - len(rows)
        levels = torch.tensor([row["levels"] for row in rows] + [UNRATED_LEVELS] * fillers)
        mos = torch.tensor([row["mos"] for row in rows] + [UNRATED_MOS] * fillers)
        return {
            **batch,
            "branches": branches,
            "labels": labels[:, -kept:],
            "slots": (slots - 1 - (ids.shape[1] - kept)).clamp(min=0),
            "levels": levels.repeat(1, count, 1),
            "mos": mos.repeat(1, count),
        }


def branch_inputs(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], branches: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Inputs under which the answers of a row do not see each other and each starts right after the question.

    Args:
        model: a Qwen3-VL model, bare or wrapped; its attention must take a mask.
        inputs: the processor's output for [rows, length] tokens.
        branches: [rows, length], 0 for the question and padding, k for the k-th answer.

    Returns:
        `inputs` with `attention_mask` bool [rows, 1, length, length] and `position_ids` [3, rows, length].
    """
    mask, length = inputs["attention_mask"], branches.shape[1]
    diagonal = torch.eye(length, dtype=torch.bool, device=branches.device)
    own = (branches[:, None, :] == branches[:, :, None]) | (branches[:, None, :] == 0)
    seen = own & mask[:, None, :].bool() & torch.ones_like(diagonal).tril()
    offsets = torch.zeros_like(branches)
    for k in range(1, int(branches.max())):
        offsets += (branches > k) * (branches == k).sum(dim=1, keepdim=True)
    inner: Any = next(part for part in model.modules() if hasattr(part, "get_rope_index"))
    positions, _ = inner.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=mask,
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    # Padding sees itself, so that no softmax is empty.
    return {**inputs, "attention_mask": (seen | diagonal)[:, None], "position_ids": positions - offsets}


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
        slots: int64 [rows, slots], where the logits of each slot are.
        levels: target distributions [rows, slots, 5], all zero where unrated.
        mos: mean opinion scores [rows, slots].
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
