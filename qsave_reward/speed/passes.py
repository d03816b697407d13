"""Other ways to the scores of `RewardModel.score_batch`: naive padded batches, one prefill for each score.

They are written out here, apart from the code they are compared with, and give the same scores.
"""

from __future__ import annotations

from typing import Any

import torch

from qsave_reward.model import RewardModel
from qsave_reward.processor import resize_chunks
from qsave_reward.prompt import direct_answer
from qsave_reward.slots import slot_positions, slot_token_ids
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.speed.workload import Workload
from qsave_reward.types import LEVELS

_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")


def prepare(scorer: RewardModel, work: Workload, *, plan: FramePlan, answer: str) -> dict[str, torch.Tensor]:
    """The inputs of one forward pass over all clips, shorter ones padded on the left.

    Args:
        scorer: whose tokenizer and device.
        work: clips that are short enough for `plan`.
        plan: how the clips are cut.
        answer: what follows each question.
    """
    device = scorer.model.device
    planned = [plan_chunks(clip, plan) for clip in work.clips]
    texts = [
        scorer.processor.question([chunk.time for chunk in chunks], prompt) + answer
        for chunks, prompt in zip(planned, work.prompts, strict=True)
    ]
    pairs = [resize_chunks(chunks, device) for chunks in planned]
    inputs = scorer.processor(
        images=pairs, text=texts, padding=True, padding_side="left", return_tensors="pt"
    )
    return dict(inputs.to(device))


@torch.inference_mode()
def padded(scorer: RewardModel, work: Workload) -> list[list[float]]:
    """Mean scores [clips][3] from batches in the order given, each padded to its longest clip."""
    means = []
    for part in work.batches(scorer.batch_size):
        inputs = prepare(scorer, part, plan=scorer.frame_plan, answer=direct_answer())
        hidden = scorer.model.model(**inputs, use_cache=False).last_hidden_state
        before = _slots(scorer, inputs) - 1
        means.append(_means(scorer, hidden.gather(1, before[:, :, None].expand(-1, -1, hidden.shape[-1]))))
    return [row for batch in means for row in batch.tolist()]


@torch.inference_mode()
def three_passes(scorer: RewardModel, work: Workload) -> list[list[float]]:
    """Mean scores [clips][3] from three forward passes, each of which ends where one score is read.

    A clip is planned, resized and tokenized once; only the network, vision tower included, runs three times.
    """
    means = []
    for part in work.batches(scorer.batch_size):
        inputs = prepare(scorer, part, plan=scorer.frame_plan, answer=direct_answer())
        # All rows end with the same words and padding is on the left: slots are in the same columns.
        columns = _slots(scorer, inputs)[0].tolist()
        states = []
        for column in columns:
            cut = inputs | {name: inputs[name][:, :column] for name in _TEXT}
            states.append(scorer.model.model(**cut, use_cache=False).last_hidden_state[:, -1])
        means.append(_means(scorer, torch.stack(states, dim=1)))
    return [row for batch in means for row in batch.tolist()]


def _slots(scorer: RewardModel, inputs: dict[str, Any]) -> torch.Tensor:
    levels, placeholder = slot_token_ids(scorer.processor.tokenizer)
    ids = inputs["input_ids"]
    return slot_positions(ids, torch.tensor([*levels, placeholder], device=ids.device))


def _means(scorer: RewardModel, states: torch.Tensor) -> torch.Tensor:
    """Expected level of hidden states [clips, 3, hidden]: float64 [clips, 3]."""
    head = scorer.model.get_output_embeddings().weight[list(scorer.level_ids)]
    probs = (states.float() @ head.float().T).double().softmax(dim=-1)
    means: torch.Tensor = (probs * torch.arange(1, len(LEVELS) + 1, device=probs.device)).sum(dim=-1)
    return means
