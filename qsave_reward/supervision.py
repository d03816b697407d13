"""What supervised training shows the model: rows, batches, and the two losses.

Two supervisions at once: cross-entropy on the written reasons, and a score term at the slots of the
score line (cross-entropy against the raters' level distribution, and the squared error of its
expectation against the MOS). A *direct* answer is only the score line with placeholders; a *reasoned*
answer is the report and the score line. A row holds one clip, one prompt or several, and of each one answer
or several. Prompts do not see each other, nor do answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F

from qsave_reward.errors import ConfigError
from qsave_reward.processor import QSaveProcessor, resize_chunks
from qsave_reward.prompt import BEFORE_PROMPT, direct_answer, reasoned_answer
from qsave_reward.slots import slot_positions, slot_token_ids
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
    clip: Clip,
    record: Record,
    processor: QSaveProcessor,
    plan: FramePlan,
    modes: Sequence[Mode],
    others: Sequence[Record] = (),
) -> dict[str, Any]:
    """One training row: text, resized chunks and targets.

    Args:
        modes: the answers to teach, in this order, each right after the question.
        others: what is known of the clip with other prompts, which get a direct answer each.

    Returns:
        `video` (the text up to the prompt), `times` (seconds of each chunk), `images` (uint8 [2, H, W, 3]
        tensors) and `asked`, for each prompt: `question` (the text from the prompt on), `answers` (texts),
        `modes`, `levels` [3][5] (target distribution; zeros for a dimension nobody rated) and `mos` [3] (the
        mean of the single ratings where these alone are known; 0.0 where unrated).

    Raises:
        ConfigError: when a reasoned answer lacks a rating, since its score line needs all three, or when the
            record's defects are unknown.
    """
    chunks = plan_chunks(clip, plan)
    times = [chunk.time for chunk in chunks]
    direct: list[Mode] = ["direct"]
    asked: list[tuple[Record, Sequence[Mode]]] = [(record, modes), *((other, direct) for other in others)]
    questions = [processor.question(times, each.prompt) for each, _ in asked]
    # The mark of a chunk's end before it is a token of its own, so the parts have the tokens of the whole.
    cuts = [question.rindex(BEFORE_PROMPT) for question in questions]
    return {
        "video": questions[0][: cuts[0]],
        "times": times,
        "images": resize_chunks(chunks),
        "asked": [
            {"question": question[cut:], **_targets(each, wanted)}
            for question, cut, (each, wanted) in zip(questions, cuts, asked, strict=True)
        ],
    }


def _targets(record: Record, modes: Sequence[Mode]) -> dict[str, Any]:
    mos = _known_mos(record)
    rated = [record.ratings.get(dimension) or _single(mos.get(dimension)) for dimension in DIMENSIONS]
    return {
        "answers": [direct_answer() if mode == "direct" else _reasoned(record, mos) for mode in modes],
        "modes": list(modes),
        "levels": [level_distribution(values) if values else [0.0] * len(LEVELS) for values in rated],
        "mos": [mos.get(dimension, 0.0) for dimension in DIMENSIONS],
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
    """Rows to a batch, padded on the left so that all rows end together.

    All rows hold equally many answers. The batch holds the processor's output plus `prompts` and `answers`
    int64 [rows, length] (which prompt, and which of its answers, a token belongs to, from 1; 0: neither, as
    the video and padding) and, for the last `kept` positions only: `labels` int64 [rows, kept] (the text to
    write; `IGNORED` elsewhere and at the slots), `slots` int64 [rows, 3 * answers] (index of the logits that
    predict each slot), `levels` float32 [rows, 3 * answers, 5], `mos` float32 [rows, 3 * answers], `direct`
    bool [rows, 3 * answers] (whether a slot is one of a direct answer).
    """

    processor: QSaveProcessor
    repeat_shapes: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.processor.tokenizer
        pieces = [list(_pieces(row, tokenizer.eos_token)) for row in rows]
        batch = self.processor(
            images=[row["images"] for row in rows],
            text=[
                row["video"] + "".join(piece.text for piece in some)
                for row, some in zip(rows, pieces, strict=True)
            ],
            padding=True,
            padding_side="left",
            pad_to_multiple_of=LENGTH_STEP if self.repeat_shapes else None,
            return_tensors="pt",
        )
        if self.repeat_shapes:
            _append_filler(batch, self.processor)
        ids = batch["input_ids"]
        level_ids, placeholder = slot_token_ids(tokenizer)
        slot_ids = torch.tensor([*level_ids, placeholder])
        lengths = [[len(tokenizer(piece.text)["input_ids"]) for piece in some] for some in pieces]
        count = sum(piece.answer > 0 for piece in pieces[0]) * len(DIMENSIONS)
        labels, prompts, answers = torch.full_like(ids, IGNORED), torch.zeros_like(ids), torch.zeros_like(ids)
        slots = torch.ones(len(ids), count, dtype=torch.long)
        levels, mos = torch.zeros(len(ids), count, len(LEVELS)), torch.zeros(len(ids), count)
        direct = torch.zeros(len(ids), count, dtype=torch.bool)
        for i, some in enumerate(pieces):
            start, filled = ids.shape[1] - sum(lengths[i]), 0
            for piece, length in zip(some, lengths[i], strict=True):
                own = slice(start, start + length)
                prompts[i, own], answers[i, own] = piece.prompt, piece.answer
                if piece.answer:
                    found = slice(filled, filled + len(DIMENSIONS))
                    slots[i, found] = start + slot_positions(ids[i : i + 1, own], slot_ids)[0]
                    levels[i, found], mos[i, found] = torch.tensor(piece.levels), torch.tensor(piece.mos)
                    direct[i, found] = piece.mode == "direct"
                    filled = found.stop
                # A direct answer is a fixed form: nothing to learn but its slots.
                if piece.mode == "reasoned":
                    # What comes before a second answer is the first one's end, which does not lead to it.
                    taught = slice(start + (piece.answer > 1), own.stop)
                    labels[i, taught] = ids[i, taught]
                start = own.stop
        labels.scatter_(1, slots, IGNORED)
        kept = max(sum(some[1:]) for some in lengths) + 1
        return {
            **batch,
            "prompts": prompts,
            "answers": answers,
            "labels": labels[:, -kept:],
            "slots": (slots - 1 - (ids.shape[1] - kept)).clamp(min=0),
            "levels": levels,
            "mos": mos,
            "direct": direct,
        }


@dataclass(frozen=True)
class _Piece:
    """A question (`answer` 0) or an answer, each counted from 1, with what it is to teach."""

    text: str
    prompt: int
    answer: int = 0
    mode: Mode | None = None
    levels: Sequence[Sequence[float]] = ()
    mos: Sequence[float] = ()


def _pieces(row: Mapping[str, Any], end: str) -> Iterator[_Piece]:
    """What follows the video in a row, in order."""
    for k, asked in enumerate(row["asked"], start=1):
        yield _Piece(asked["question"], k)
        for j, (text, mode) in enumerate(zip(asked["answers"], asked["modes"], strict=True), start=1):
            yield _Piece(text + end, k, j, mode, asked["levels"], asked["mos"])


def branch_inputs(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], prompts: torch.Tensor, answers: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Inputs under which each answer of a row sees the video, its own prompt and itself, as if alone.

    Args:
        model: a Qwen3-VL model, bare or wrapped; its attention must take a mask.
        inputs: the processor's output for [rows, length] tokens.
        prompts: [rows, length], as `SFTCollator` gives them.
        answers: [rows, length], likewise.

    Returns:
        `inputs` with `attention_mask` bool [rows, 1, length, length] and `position_ids` [3, rows, length].
    """
    mask = inputs["attention_mask"]
    diagonal = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    seen = mask[:, None, :].bool() & torch.ones_like(diagonal).tril()
    for owner in (prompts, answers):
        seen = seen & ((owner[:, None, :] == owner[:, :, None]) | (owner[:, None, :] == 0))
    inner: Any = next(part for part in model.modules() if hasattr(part, "get_rope_index"))
    positions, _ = inner.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=mask,
        mm_token_type_ids=inputs["mm_token_type_ids"],
    )
    # What a token does not see of the text before it takes no place before it.
    hidden = mask.cumsum(dim=1) - seen.sum(dim=2)
    # Padding sees itself, so that no softmax is empty.
    return {**inputs, "attention_mask": (seen | diagonal)[:, None], "position_ids": positions - hidden}


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
