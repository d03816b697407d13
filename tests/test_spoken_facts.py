"""Tokens that say what is seen: labels, their places in a batch, and the loss by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qsave_reward.errors import ConfigError
from qsave_reward.slowfast import FramePlan
from qsave_reward.supervision import sft_row
from qsave_reward.types import LEVELS, Defect
from qsave_reward.video import Sampling, read_clip
from qsave_reward.world import LABELS, WorldConfig, render_plan, world_plan
from qsave_reward.world.scene import MOTIONS
from qsave_reward.world.stream import plan_record, plan_tracks

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from object_severity import SEVERITY_KINDS
from reprompt import reprompt
from spoken_facts import (
    DEFECTS,
    PLACES,
    WORDS,
    SpokenCollator,
    check_layers,
    defect_labels,
    prompt_labels,
    spoken_loss,
    visual_labels,
    word_ids,
)
from token_targets import NOTHING, token_targets

PLAN = FramePlan(max_frames=16, token_budget=128, max_slow_tokens=16, fast_share=0.5625, token_side=32)
GRIDS = [(4, 4), *[(3, 3)] * 6, (4, 4)]
HALF = 16 + 3 * 9
OF_TOKENS = ("motion", *PLACES, *SEVERITY_KINDS)


def one_object(motion):
    """A clean clip of one object that moves so."""
    plans = (world_plan("train", index, config=WorldConfig(clean=True)) for index in range(2000))
    return next(p for p in plans if [(g.motion, g.count) for g in p.shown.groups] == [(motion, 1)])


@pytest.mark.parametrize("motion", ["left", "orbit", "still"])
def test_tokens_of_the_second_half_name_the_motion_where_the_object_is(motion):
    plan = one_object(motion)
    labels = visual_labels(plan, 16, GRIDS)["motion"]
    there = token_targets(plan, GRIDS).color != NOTHING
    assert (labels[:HALF] == NOTHING).all() and there[:HALF].any()
    assert torch.equal(labels[HALF:] != NOTHING, there[HALF:])
    assert set(labels[HALF:][there[HALF:]].tolist()) == {MOTIONS.index(motion)}


def test_letters_say_in_which_tenth_of_the_picture_an_object_is_and_was():
    plan = one_object("right")
    ((_, track),) = plan_tracks(plan)
    tenths = (10 * track.centers.reshape(8, 2, 2).mean(axis=1) / 128).astype(int).tolist()
    assert tenths[0] != tenths[-1]
    labels, there = visual_labels(plan, 16, GRIDS), token_targets(plan, GRIDS).color != NOTHING
    chunk = torch.repeat_interleave(torch.arange(8), torch.tensor([a * b for a, b in GRIDS]))
    for token in range(len(there)):
        k = int(chunk[token])
        now = tenths[k] if there[token] else [NOTHING] * 2
        before = tenths[k - 1] if there[token] and k else [NOTHING] * 2
        assert [int(labels[kind][token]) for kind in PLACES] == [*now, *before]
    letters = [letter for kind in PLACES for letter in WORDS[kind]]
    assert len(set(letters)) == 40 and "".join(WORDS["column"]) == "abcdefghij"


def test_nothing_is_asked_where_frames_were_left_out():
    plan = world_plan("train", 0, config=WorldConfig(num_frames=24))
    for frames, grids in ((16, GRIDS), (24, GRIDS), (16, GRIDS[:7])):
        said = visual_labels(plan, frames, grids)
        assert set(said) == set(OF_TOKENS)
        for labels in said.values():
            assert labels.shape == (sum(rows * columns for rows, columns in grids),)
            assert (labels == NOTHING).all()


def test_each_fact_has_a_word_of_its_own(processor):
    words = {
        kind: [processor.tokenizer.decode([one]).strip() for one in ids]
        for kind, ids in word_ids(processor.tokenizer).items()
    }
    assert dict(zip(MOTIONS, words["motion"], strict=True)) == {
        **{name: name for name in ("left", "right", "up", "down", "still")},
        **{name: f"{name}s" for name in ("grow", "shrink", "rotate", "bounce", "swing")},
        **{"orbit": "loops", "appear": "appears", "disappear": "disappears"},
    }
    assert words["verb"] == words["motion"]
    assert words["shape"] == list(WORDS["shape"]) and words["color"] == list(WORDS["color"])
    assert all(full.startswith(begun) for full, begun in zip(WORDS["count"], words["count"], strict=True))
    for dimension in ("visual_quality", "dynamic_quality"):
        assert words[f"{dimension}_defect"] == ["no", *(label.split()[0] for label in LABELS[dimension])]
        assert words[f"{dimension}_second"] == words[f"{dimension}_defect"]
        assert words[f"{dimension}_level"] == list(LEVELS)


def test_a_model_that_ends_before_the_last_fact_is_read_is_refused():
    check_layers(5)
    with pytest.raises(ConfigError, match="at least 5 layers, got 4.*--facts_weight 0"):
        check_layers(4)


def test_words_that_begin_alike_are_refused():
    with pytest.raises(ConfigError, match="begin differently"):
        word_ids(lambda text: {"input_ids": list(text.encode())})


def plan_with(*defects):
    return replace(world_plan("train", 0), defects=defects)


def test_chunk_ends_name_the_defect_of_their_time_and_the_last_one_what_it_leaves():
    times = [k / 4 + 1 / 16 for k in range(8)]
    jump = Defect("dynamic_quality", "jump", 0.5, 0.5, 1.0)
    both = plan_with(jump, Defect("visual_quality", "blur", 1.0))
    said = defect_labels(both, times, "dynamic_quality")
    # Chunks at 0.56 and 0.81 seconds; 1 - 0.85 * 0.5 ** 0.85 of the quality is left: 3.11, fair.
    assert said == [(0, NOTHING, 0)] * 2 + [(4, NOTHING, 0), (4, 2, 0)] + [(0, NOTHING, 0)] * 4
    assert DEFECTS["dynamic_quality"][4] == "jump" and LEVELS[2] == "fair"
    assert defect_labels(both, times, "visual_quality") == [(1, NOTHING, 0)] * 7 + [(1, 0, 0)]
    whole = Defect("dynamic_quality", "flicker", 1.0)
    labels = defect_labels(plan_with(whole), times, "dynamic_quality")
    assert labels == [(3, NOTHING, 0)] * 7 + [(3, 0, 0)]


def test_of_two_defects_at_a_time_the_worse_one_is_named_first():
    mild, bad = Defect("dynamic_quality", "jitter", 0.2), Defect("dynamic_quality", "jump", 0.9, 0.0, 1.0)
    for order in ((mild, bad), (bad, mild)):
        labels = defect_labels(plan_with(*order), [0.0, 0.5, 1.0, 1.5], "dynamic_quality")
        said = [DEFECTS["dynamic_quality"][label] for label, _, _ in labels]
        assert said == ["jump", "jump", "jump", "jitter"]
        second = [DEFECTS["dynamic_quality"][label] for _, _, label in labels]
        assert second == ["jitter", "jitter", "jitter", "no"]


def test_a_clip_without_defects_says_so_in_every_chunk():
    assert defect_labels(plan_with(), [0.1, 0.3], "visual_quality") == [(0, NOTHING, 0)] * 2


@pytest.mark.parametrize("repeat_shapes", [False, True])
def test_labels_of_a_batch_stand_at_its_visual_tokens_chunk_ends_and_words(processor, repeat_shapes):
    rows = []
    for index, marker in ((0, 3), (1, 7)):
        plan = world_plan("train", index)
        item, other = render_plan(plan), reprompt(plan, np.random.default_rng(index))
        clip = read_clip(item.frames, Sampling(max_frames=16), times=item.times.tolist())
        others = [plan_record(other)]
        row = sft_row(clip, item.record, processor, PLAN, ["reasoned", "direct"], others)
        tokens = sum(pair.shape[1] * pair.shape[2] // 32**2 for pair in row["images"])
        words = [
            [(kind, end, 20 + k) for k, (kind, end, _) in enumerate(prompt_labels(each, each.prompt))]
            for each in (plan, other)
        ]
        seen = {kind: torch.arange(tokens) % 2 * marker + k for k, kind in enumerate(OF_TOKENS)}
        facts = {"seen": seen, "prompted": words}
        facts["defects"] = {
            kind: [(start + index + k, start + 50 + k, start + 99 - k) for k in range(len(row["images"]))]
            for kind, start in (("visual_quality", 100), ("dynamic_quality", 300))
        }
        rows.append({**row, **facts, "prompts": [plan.prompt, other.prompt]})
    batch = SpokenCollator(processor, repeat_shapes)(rows)
    ids = batch["input_ids"]
    spoken = {kind: batch[f"spoken_{kind}"] for kind in WORDS}
    for labels in spoken.values():
        assert labels.shape == ids.shape and len(labels) == 2 + repeat_shapes
        assert (labels[2:] == NOTHING).all()

    def before(i, kind):
        """For each label of a row the text up to its token, and the label."""
        places = (spoken[kind][i] != NOTHING).nonzero().flatten().tolist()
        texts = [processor.tokenizer.decode(ids[i][: place + 1]) for place in places]
        return texts, spoken[kind][i][places].tolist()

    for i, row in enumerate(rows):
        visual = ids[i] == processor.image_token_id
        for kind in OF_TOKENS:
            assert torch.equal(spoken[kind][i][visual], row["seen"][kind])
            assert (spoken[kind][i][~visual] == NOTHING).all()
        for kind in (
            "verb",
            "shape",
            "color",
            "count",
            "across",
            "height",
            "relation",
            "stated",
            "word_level",
            "relation_level",
        ):
            texts, said = before(i, kind)
            words = [
                (prompt[: end + 1], label)
                for prompt, labels in zip(row["prompts"], row["prompted"], strict=True)
                for name, end, label in labels
                if name == kind
            ]
            assert said == [label for _, label in words]
            assert [t.split("Prompt: ")[-1] for t in texts] == [text for text, _ in words]
        for dimension, labels in row["defects"].items():
            texts, said = before(i, f"{dimension}_defect")
            assert said == [label for label, _, _ in labels]
            assert all(text.endswith("<|vision_end|>") for text in texts)
            for kind, place in (("level", 1), ("second", 2)):
                texts, said = before(i, f"{dimension}_{kind}")
                assert said == [label[place] for label in labels]
                assert [t.split("<|vision_end|>")[-1] for t in texts] == ["<"] * (len(texts) - 1) + ["\n"]


def test_loss_by_hand(tiny):
    ids = word_ids(tiny.processor.tokenizer)["motion"]
    states = torch.randn(6, 192, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([NOTHING, 0, 5, NOTHING, 12, 5])
    with torch.no_grad():
        loss, right = spoken_loss(tiny.model, states, labels, ids)
    x = states.double().numpy()
    norm = tiny.model.model.language_model.norm
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6) * norm.weight.detach().double().numpy()
    logits = x @ tiny.model.model.language_model.embed_tokens.weight.detach().double().numpy()[ids].T
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    known = [(1, 0), (2, 5), (4, 12), (5, 5)]
    assert loss.item() == pytest.approx(-np.mean([np.log(chances[k, word]) for k, word in known]), rel=1e-4)
    assert right.item() == pytest.approx(np.mean([chances[k].argmax() == word for k, word in known]))


def test_nothing_to_say_costs_nothing(tiny):
    ids = word_ids(tiny.processor.tokenizer)["motion"]
    states = torch.randn(3, 192, requires_grad=True)
    loss, right = spoken_loss(tiny.model, states, torch.full((3,), NOTHING), ids)
    loss.backward()
    assert loss.item() == right.item() == 0 and (states.grad == 0).all()
