"""Rows, batches and losses of supervised training, against independent computations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.prompt import direct_answer
from qsave_reward.slots import slot_token_ids
from qsave_reward.slowfast import FramePlan
from qsave_reward.supervision import (
    IGNORED,
    PATCH_STEP,
    SFTCollator,
    branch_inputs,
    level_distribution,
    score_losses,
    sft_row,
    text_loss,
)
from qsave_reward.types import DIMENSIONS, Defect, Record
from qsave_reward.video import Clip

CLIP = Clip(
    frames=np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8),
    times=np.arange(8) / 8,
    duration=1.0,
)
RECORD = Record(
    video="x.mp4",
    prompt="a red circle moves left",
    mos=dict(zip(DIMENSIONS, (4.6, 2.4, 3.0), strict=True)),
    ratings=dict(zip(DIMENSIONS, ((5.0, 4.2), (2.4,), (3.0, 3.0)), strict=True)),
    defects=(Defect("dynamic_quality", "freeze", 0.9, 0.2, 0.6),),
    rationale="a red circle moves left; gray plain background",
)
PLAN = FramePlan(token_budget=40)
TAUGHT = ("labels", "slots", "levels", "mos", "direct", "prompts", "answers")


@given(st.lists(st.floats(1, 5), min_size=1, max_size=7))
def test_level_distribution_keeps_the_mean(values):
    probs = level_distribution(values)
    assert math.fsum(probs) == pytest.approx(1) and min(probs) >= 0
    mean = math.fsum(p * (k + 1) for k, p in enumerate(probs))
    assert mean == pytest.approx(math.fsum(values) / len(values))


def test_level_distribution_by_hand():
    assert level_distribution([3.25]) == [0, 0, 0.75, 0.25, 0]
    assert level_distribution([1, 5, 5, 4]) == [0.25, 0, 0, 0.25, 0.5]
    with pytest.raises(ConfigError):
        level_distribution([0.9])


def test_batches_teach_the_answer_and_read_the_slots(processor):
    rows = [sft_row(CLIP, RECORD, processor, PLAN, [mode]) for mode in ("reasoned", "direct")]
    batch = SFTCollator(processor)(rows)
    tokenizer, kept = processor.tokenizer, batch["labels"].shape[1]
    tail = batch["input_ids"][:, -kept:]
    labels = batch["labels"][0]
    # The supervised text of a reasoned row is its answer and the end mark, all but the three slots.
    slots = (batch["slots"] + 1).tolist()
    restored = labels.clone()
    restored[slots[0]] = tail[0][slots[0]]
    written = tokenizer.decode(restored[restored != IGNORED])
    assert written == rows[0]["asked"][0]["answers"][0] + tokenizer.eos_token
    assert [tokenizer.decode(tail[0][i]) for i in slots[0]] == [" excellent", " poor", " fair"]
    assert (labels[slots[0]] == IGNORED).all()
    # A direct row has nothing to write; its slots hold the placeholder.
    assert (batch["labels"][1] == IGNORED).all()
    assert [tokenizer.decode(tail[1][i]) for i in slots[1]] == [" unknown"] * 3
    assert [tokenizer.decode(tail[1][i]) for i in batch["slots"][1]] == [":"] * 3
    assert batch["levels"][0, 0].tolist() == pytest.approx([0, 0, 0, 0.4, 0.6])
    assert batch["direct"].tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("side", [64, 32])  # the smaller clip's text is shorter than the filler
def test_a_filler_row_changes_no_loss(processor, stock_model, side):
    clip = Clip(CLIP.frames[:2, :side, :side], CLIP.times[:2], duration=0.25)
    rows = [sft_row(clip, RECORD, processor, PLAN, [mode]) for mode in ("reasoned", "direct")]
    rows = rows[1:] if side == 32 else rows
    ids, _ = slot_token_ids(processor.tokenizer)
    found = []
    for repeat_shapes in (False, True):
        batch = SFTCollator(processor, repeat_shapes)(rows)
        labels, slots, levels, mos = (batch.pop(name) for name in ("labels", "slots", "levels", "mos"))
        for name in ("prompts", "answers", "direct"):
            batch.pop(name)
        assert len(labels) == len(slots) == len(levels) == len(mos) == len(rows) + repeat_shapes
        with torch.no_grad():
            logits = stock_model(**batch, use_cache=False, logits_to_keep=labels.shape[1]).logits
        losses = (text_loss(logits, labels), *score_losses(logits, slots, levels, mos, ids))
        found.append([loss.item() for loss in losses])
    assert len(batch["pixel_values"]) % PATCH_STEP == 0
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_two_answers_in_one_row_teach_what_two_rows_teach(processor, stock_model):
    short = Clip(CLIP.frames[:4], CLIP.times[:4], duration=0.5)
    ids, _ = slot_token_ids(processor.tokenizer)
    found = []
    for modes in ([["reasoned"], ["direct"]], [["reasoned", "direct"]]):
        rows = [sft_row(clip, RECORD, processor, PLAN, kinds) for clip in (CLIP, short) for kinds in modes]
        batch = SFTCollator(processor)(rows)
        labels, slots, levels, mos, _, prompts, answers = (batch.pop(name) for name in TAUGHT)
        if len(modes) == 1:
            batch = branch_inputs(stock_model, batch, prompts, answers)
        with torch.no_grad():
            logits = stock_model(**batch, use_cache=False, logits_to_keep=labels.shape[1]).logits
        losses = (text_loss(logits, labels), *score_losses(logits, slots, levels, mos, ids))
        found.append([loss.item() for loss in losses])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_end_of_one_answer_is_not_taught_to_begin_the_next(processor):
    row = sft_row(CLIP, RECORD, processor, PLAN, ["direct", "reasoned"])
    batch, ids = (
        SFTCollator(processor)([row]),
        processor.tokenizer(row["asked"][0]["answers"][1])["input_ids"],
    )
    labels, start = batch["labels"][0], -len(ids) - 1  # the answer and its end mark
    assert (labels[: start + 1] == IGNORED).all()
    taught = labels[start + 1 :]
    assert (taught != IGNORED).sum() == len(ids) - len(DIMENSIONS)


def test_prompts_of_one_row_are_read_as_if_each_stood_alone(processor, stock_model):
    # Beside a longer row, so that there is padding.
    clips = Clip(CLIP.frames[:4], CLIP.times[:4], duration=0.5), CLIP

    def read(record, modes, others=()):
        """At each slot of the first row the logits, and what is taught."""
        batch = SFTCollator(processor)([sft_row(c, record, processor, PLAN, modes, others) for c in clips])
        labels, slots, levels, mos, direct, prompts, answers = (batch.pop(name) for name in TAUGHT)
        inputs = branch_inputs(stock_model, batch, prompts, answers)
        with torch.no_grad():
            logits = stock_model(**inputs, use_cache=False, logits_to_keep=labels.shape[1]).logits
        return logits[0, slots[0]], levels[0], mos[0], direct[0]

    # Prompts of other lengths, one of which has the very words that fill slots.
    prompts = ["a bad excellent fair unknown star", "two circles", "a square and a big green ring that falls"]
    others = [
        replace(RECORD, prompt=prompt, mos={**RECORD.mos, "text_alignment": k}, ratings={})
        for k, prompt in enumerate(prompts, start=1)
    ]
    together = read(RECORD, ["reasoned", "direct"], others)
    parts = [read(RECORD, ["reasoned", "direct"]), *(read(other, ["direct"]) for other in others)]
    for found, alone in zip(together, zip(*parts, strict=True), strict=True):
        assert torch.allclose(found, torch.cat(alone), atol=1e-4)
    assert together[2][8::3].tolist() == [1, 2, 3] and together[3].tolist() == [False] * 3 + [True] * 12
    # What is compared differs between the prompts.
    assert not torch.allclose(together[0][6:9], together[0][9:12], atol=1e-3)


def test_text_loss_is_the_mean_negative_log_likelihood():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.tensor([[IGNORED, 3, IGNORED, 1, 6], [IGNORED] * 5])
    expected = [-math.log(torch.softmax(logits[0, i - 1].double(), 0)[labels[0, i]]) for i in (1, 3, 4)]
    assert text_loss(logits, labels).item() == pytest.approx(sum(expected) / 3, rel=1e-6)
    assert text_loss(logits, torch.full_like(labels, IGNORED)) == 0


def test_score_losses_by_hand():
    torch.manual_seed(0)
    logits, slots = torch.randn(1, 6, 9), torch.tensor([[0, 2, 4]])
    levels = torch.tensor([[[0.0, 0, 0, 0.4, 0.6], [0.0] * 5, [0, 0.6, 0.4, 0, 0]]])
    mos, ids = torch.tensor([[4.6, 0.0, 2.4]]), [8, 1, 2, 5, 4]
    entropy, squared = [], []
    for k, slot in ((0, 0), (2, 4)):  # the middle dimension is unrated
        row = logits[0, slot].double().numpy()
        everything = np.exp(row) / np.exp(row).sum()
        entropy.append(-sum(float(levels[0, k, j]) * math.log(everything[ids[j]]) for j in range(5)))
        five = np.exp(row[ids]) / np.exp(row[ids]).sum()
        squared.append((float(five @ np.arange(1, 6)) - float(mos[0, k])) ** 2)
    got = score_losses(logits, slots, levels, mos, ids)
    assert got[0].item() == pytest.approx(np.mean(entropy), rel=1e-5)
    assert got[1].item() == pytest.approx(np.mean(squared), rel=1e-5)


def test_unknown_defects_are_not_taught_as_none(processor):
    unknown = replace(RECORD, defects=None)
    with pytest.raises(ConfigError, match=r"defects.*reasoned_share 0"):
        sft_row(CLIP, unknown, processor, PLAN, ["reasoned", "direct"])
    row = sft_row(CLIP, unknown, processor, PLAN, ["direct"])
    assert row["times"] == [1 / 16, 5 / 16, 9 / 16, 13 / 16]
    assert row["asked"][0]["answers"] == [direct_answer()]
    row = sft_row(CLIP, replace(RECORD, defects=()), processor, PLAN, ["reasoned"])
    assert row["asked"][0]["answers"][0].count("no defect") == 3


def test_unrated_rows(processor):
    unrated = Record(video="x", prompt="a red circle", mos={"visual_quality": 2.0})
    row = sft_row(CLIP, unrated, processor, PLAN, ["direct"])
    assert [sum(levels) for levels in row["asked"][0]["levels"]] == [1, 0, 0]
    with pytest.raises(ConfigError, match="all three ratings"):
        sft_row(CLIP, unrated, processor, PLAN, ["reasoned"])
    losses = score_losses(
        torch.randn(1, 3, 8),
        torch.zeros(1, 3, dtype=torch.long),
        torch.zeros(1, 3, 5),
        torch.zeros(1, 3),
        range(5),
    )
    assert [loss.item() for loss in losses] == [0.0, 0.0]


def test_single_ratings_without_a_mos_are_taught_as_their_mean(processor):
    raters = dict(zip(DIMENSIONS, ((5.0, 4.0), (2.0, 2.0, 3.5), (3.0,)), strict=True))
    alone = replace(RECORD, mos={}, ratings=raters)
    row = sft_row(CLIP, alone, processor, PLAN, ["reasoned", "direct"])
    assert row["asked"][0]["mos"] == [4.5, 2.5, 3.0]
    # As levels and as a written answer they say the same: nothing but the MOS was left out.
    both = replace(alone, mos=dict(zip(DIMENSIONS, (4.5, 2.5, 3.0), strict=True)))
    told = sft_row(CLIP, both, processor, PLAN, ["reasoned", "direct"])
    assert row["asked"] == told["asked"]
    # A MOS that is given counts; no ratings are no rating.
    mixed = replace(alone, mos={"visual_quality": 4.6}, ratings={**raters, "text_alignment": ()})
    taught = sft_row(CLIP, mixed, processor, PLAN, ["direct"])["asked"][0]
    assert taught["mos"] == [4.6, 2.5, 0.0] and sum(taught["levels"][2]) == 0
