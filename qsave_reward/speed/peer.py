"""Scoring as published reward models do it: clip by clip, every frame large, an answer written and parsed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from qsave_reward.errors import AnswerError
from qsave_reward.model import MAX_ANSWER_TOKENS, RewardModel
from qsave_reward.prompt import parse_report
from qsave_reward.slowfast import FramePlan
from qsave_reward.speed.passes import prepare
from qsave_reward.speed.workload import Workload


@dataclass(frozen=True)
class PeerAnswer:
    """What was written about one clip.

    Attributes:
        levels: the level, 1 to 5, of each dimension; `None` when the text has not the agreed form.
        tokens: tokens written.
    """

    levels: Mapping[str, int] | None
    tokens: int


def peer_plan(plan: FramePlan) -> FramePlan:
    """`plan` with every chunk slow and a budget that lets each be as large as a slow one may be."""
    chunks = -(-plan.max_frames // 2)
    budget = max(plan.token_budget, chunks * plan.max_slow_tokens)
    return replace(plan, mode="all_slow", token_budget=budget)


@torch.inference_mode()
def peer_style(scorer: RewardModel, work: Workload) -> list[PeerAnswer]:
    """An answer for each clip: one generation a clip, greedy, read as text."""
    plan = peer_plan(scorer.frame_plan)
    tokenizer: Any = scorer.processor.tokenizer
    answers = []
    for part in work.batches(1):
        inputs = prepare(scorer, part, plan=plan, answer="")
        written = scorer.model.generate(
            **inputs,
            do_sample=False,
            use_cache=True,
            max_new_tokens=MAX_ANSWER_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
        )[0, inputs["input_ids"].shape[1] :]
        answers.append(read_answer(tokenizer.decode(written, skip_special_tokens=True), len(written)))
    return answers


def read_answer(text: str, tokens: int) -> PeerAnswer:
    """The levels that a written answer states."""
    try:
        return PeerAnswer(parse_report(text).levels, tokens)
    except AnswerError:
        return PeerAnswer(None, tokens)


def summary(answers: Sequence[PeerAnswer]) -> dict[str, float]:
    """`failed`: answers without scores; `tokens_per_answer`: the mean."""
    return {
        "failed": sum(answer.levels is None for answer in answers),
        "tokens_per_answer": sum(answer.tokens for answer in answers) / len(answers),
    }
