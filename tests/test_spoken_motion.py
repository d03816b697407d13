"""Tokens that say how objects move: labels, their places in a batch, and the loss by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from qsave_reward.errors import ConfigError
from qsave_reward.slowfast import FramePlan
from qsave_reward.supervision import sft_row
from qsave_reward.video import Sampling, read_clip
from qsave_reward.world import WorldConfig, render_plan, world_plan
from qsave_reward.world.phrasing import VERBS
from qsave_reward.world.scene import MOTIONS

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from spoken_motion import MotionCollator, motion_ids, motion_labels, motion_loss, verb_labels
from token_targets import NOTHING, token_targets

PLAN = FramePlan(max_frames=16, token_budget=128, max_slow_tokens=16, fast_share=0.5625, token_side=32)
GRIDS = [(4, 4), *[(3, 3)] * 6, (4, 4)]
HALF = 16 + 3 * 9


def one_object(motion):
    """A clean clip of one object that moves so."""
    plans = (world_plan("train", index, config=WorldConfig(clean=True)) for index in range(2000))
    return next(p for p in plans if [(g.motion, g.count) for g in p.shown.groups] == [(motion, 1)])


@pytest.mark.parametrize("motion", ["left", "orbit", "still"])
def test_tokens_of_the_second_half_name_the_motion_where_the_object_is(motion):
    plan = one_object(motion)
    labels = motion_labels(plan, 16, GRIDS)
    there = token_targets(plan, GRIDS).color != NOTHING
    assert (labels[:HALF] == NOTHING).all() and there[:HALF].any()
    assert torch.equal(labels[HALF:] != NOTHING, there[HALF:])
    assert set(labels[HALF:][there[HALF:]].tolist()) == {MOTIONS.index(motion)}


def test_nothing_is_asked_where_frames_were_left_out():
    plan = world_plan("train", 0, config=WorldConfig(num_frames=24))
    for frames, grids in ((16, GRIDS), (24, GRIDS), (16, GRIDS[:7])):
        labels = motion_labels(plan, frames, grids)
        assert labels.shape == (sum(rows * columns for rows, columns in grids),)
        assert (labels == NOTHING).all()


def test_each_motion_has_a_word_of_its_own(processor):
    words = [processor.tokenizer.decode([one]).strip() for one in motion_ids(processor.tokenizer)]
    assert dict(zip(MOTIONS, words, strict=True)) == {
        **{name: name for name in ("left", "right", "up", "down", "still")},
        **{name: f"{name}s" for name in ("grow", "shrink", "rotate", "bounce", "swing")},
        **{"orbit": "loops", "appear": "appears", "disappear": "disappears"},
    }


def test_words_that_begin_alike_are_refused():
    with pytest.raises(ConfigError, match="begin differently"):
        motion_ids(lambda text: {"input_ids": list(text.encode())})


def verbs_of(plan):
    """What each labelled verb ends with, and what it is to say."""
    return [(plan.prompt[: end + 1], MOTIONS[label]) for end, label in verb_labels(plan, plan.prompt)]


def test_each_verb_says_what_its_own_object_does():
    seen, altered = set(), 0
    for index in range(600):
        plan = world_plan("train", index)
        said = verbs_of(plan)
        if len(plan.shown.groups) < len(plan.scene.groups):
            assert said == []
            continue
        alike = len({g.motion for g in plan.scene.groups}) == 1
        assert len(said) == len(plan.scene.groups) or (alike and len(said) < 2)
        if len(said) == len(plan.scene.groups):
            for (text, motion), meant, shown in zip(said, plan.scene.groups, plan.shown.groups, strict=True):
                form = max((f for pair in VERBS[meant.motion] for f in pair if text.endswith(f)), key=len)
                # Nothing of the phrase is left, and its object is the last that was named before it.
                assert not any(
                    plan.prompt.startswith(f"{text[: -len(form)]}{f}") for f in longer(meant.motion, form)
                )
                nouns = [text.rfind(f"{g.color} {g.shape}") for g in plan.scene.groups]
                assert len(said) == 1 or nouns.index(max(nouns)) == plan.scene.groups.index(meant)
                assert motion == shown.motion
                seen.add(form)
        altered += any(defect.label == "wrong motion" for defect in plan.defects) and bool(said)
    assert altered > 20 and len(seen) > 50


def longer(motion, form):
    return [f for pair in VERBS[motion] for f in pair if f.startswith(form) and f != form]


def test_a_verb_for_two_objects_is_asked_only_while_they_agree():
    plans = [world_plan("train", index) for index in range(4000)]
    shared = [p for p in plans if len(p.scene.groups) > len(verb_labels(p, p.prompt))]
    shared = [p for p in shared if len(p.shown.groups) == len(p.scene.groups)]
    agree = [p for p in shared if len({g.motion for g in p.shown.groups}) == 1]
    assert len(agree) > 5 and len(shared) > len(agree)
    assert all(len(verbs_of(p)) == (p in agree) for p in shared)


def test_verbs_of_another_clips_prompt_say_nothing():
    plan = world_plan("train", 0)
    assert verb_labels(plan, plan.prompt) and verb_labels(plan, world_plan("train", 1).prompt) == []


@pytest.mark.parametrize("repeat_shapes", [False, True])
def test_labels_of_a_batch_stand_at_its_visual_tokens_and_at_its_verbs(processor, repeat_shapes):
    rows = []
    for index, marker in ((0, 3), (1, 7)):
        plan = world_plan("train", index)
        item = render_plan(plan)
        clip = read_clip(item.frames, Sampling(max_frames=16), times=item.times.tolist())
        row = sft_row(clip, item.record, processor, PLAN, ["reasoned", "direct"])
        tokens = sum(pair.shape[1] * pair.shape[2] // 32**2 for pair in row["images"])
        verbs = [(end, 20 + k) for k, (end, _) in enumerate(verb_labels(plan, plan.prompt))]
        rows.append(
            {**row, "motions": torch.arange(tokens) % 2 * marker, "verbs": verbs, "prompt": plan.prompt}
        )
    batch = MotionCollator(processor, repeat_shapes)(rows)
    ids, motions = batch["input_ids"], batch["motions"]
    visual = ids == processor.image_token_id
    assert motions.shape == ids.shape and len(motions) == 2 + repeat_shapes
    assert (motions[2:] == NOTHING).all()
    for row, line, mask, said in zip(rows, ids, visual, motions, strict=False):
        assert torch.equal(said[mask], row["motions"])
        asked = ((said != NOTHING) & ~mask).nonzero().flatten().tolist()
        assert said[asked].tolist() == [20 + k for k in range(len(row["verbs"]))]
        for place, (end, _) in zip(asked, row["verbs"], strict=True):
            before = processor.tokenizer.decode(line[: place + 1])
            assert before.split("Prompt: ")[-1] == row["prompt"][: end + 1]


def test_loss_by_hand(tiny):
    ids = motion_ids(tiny.processor.tokenizer)
    states = torch.randn(6, 192, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([NOTHING, 0, 5, NOTHING, 12, 5])
    with torch.no_grad():
        loss, right = motion_loss(tiny.model, states, labels, ids)
    x = states.double().numpy()
    norm = tiny.model.model.language_model.norm
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6) * norm.weight.detach().double().numpy()
    logits = x @ tiny.model.model.language_model.embed_tokens.weight.detach().double().numpy()[ids].T
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    known = [(1, 0), (2, 5), (4, 12), (5, 5)]
    assert loss.item() == pytest.approx(-np.mean([np.log(chances[k, word]) for k, word in known]), rel=1e-4)
    assert right.item() == pytest.approx(np.mean([chances[k].argmax() == word for k, word in known]))


def test_nothing_to_say_costs_nothing(tiny):
    ids = motion_ids(tiny.processor.tokenizer)
    states = torch.randn(3, 192, requires_grad=True)
    loss, right = motion_loss(tiny.model, states, torch.full((3,), NOTHING), ids)
    loss.backward()
    assert loss.item() == right.item() == 0 and (states.grad == 0).all()
