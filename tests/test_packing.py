"""`recipes/holistic/packing.py`: several prompts of a clip in one text score as each in its own."""

import sys
from pathlib import Path

import pytest
import torch
from holistic_cases import small_base, small_config
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from clips import WorldMix, open_clips, world_plans
from packing import pack_readings, packed_inputs
from training_rows import collate, make_dataset

from qsave_reward.checkpoint import BUNDLED
from qsave_reward.holistic.scorer import load_holistic, model_inputs
from qsave_reward.holistic.text import compose, level_token_ids
from qsave_reward.slowfast import FramePlan

PROMPTS = (
    "a red circle moves left",
    "a red circle moves left and two blue squares spin in front of a gray plain background",
    "a ring",
)
PLAN = FramePlan(max_frames=8, mode="uniform", slow_every=4)


@pytest.mark.parametrize("per_dimension", [True, False])
def test_packed_scores_are_those_of_each_prompt_alone(tmp_path, per_dimension):
    model, tokenizer = load_holistic(
        small_base(tmp_path / "base", per_dimension=per_dimension), dtype=torch.float32
    )
    source = open_clips("world:train", PLAN)
    dataset = make_dataset(source, 2, config=model.config, tokenizer=tokenizer, seed=None)
    views = [dataset[index]["views"] for index in range(2)]
    ids = torch.tensor(level_token_ids(tokenizer))
    sets = (PROMPTS, PROMPTS[:1])  # one text is longer than the other, which is filled up
    packed = [pack_readings([compose(tokenizer, model.config, prompt) for prompt in some]) for some in sets]
    reads = [1 + 2 * per_dimension, 3 * (1 + 2 * per_dimension)]
    even = [packed[0], packed[1].__class__(**(vars(packed[1]) | {"read_at": packed[1].read_at * 3}))]
    inputs = model_inputs(views, even, device=torch.device("cpu")) | packed_inputs(packed)
    with torch.no_grad():
        found = model(**inputs, level_ids=ids)
        for row, some in enumerate(sets):
            for text, prompt in enumerate(some):
                alone = model_inputs(
                    [views[row]], [compose(tokenizer, model.config, prompt)], device=torch.device("cpu")
                )
                expected = model(**alone, level_ids=ids)[0]
                own = found[row, text * reads[0] : (text + 1) * reads[0]]
                assert torch.allclose(own, expected, atol=1e-5) and expected.std() > 1e-3


def test_places_of_tokens_are_found_again():
    tokenizer, config = AutoTokenizer.from_pretrained(BUNDLED["tiny"]), small_config()
    texts = [compose(tokenizer, config, prompt) for prompt in PROMPTS]
    packed = pack_readings(texts)
    for number, text in enumerate(texts):
        for position, token in enumerate(text.ids):
            place = packed.place(number, position)
            assert packed.ids[place] == token and packed.positions[place] == position
    at = [packed.place(number, place) for number, text in enumerate(texts) for place in text.read_at]
    assert packed.read_at == tuple(at)
    assert len(packed.ids) < sum(len(text.ids) for text in texts)
    (alone,) = {pack_readings([text]).ids for text in texts[:1]}
    assert alone == texts[0].ids


def test_rows_hold_labels_and_facts_of_each_prompt(tmp_path):
    model, tokenizer = load_holistic(small_base(tmp_path / "base"), dtype=torch.float32)
    options = {"config": model.config, "tokenizer": tokenizer, "seed": 5}
    plans = {"plan_of": world_plans("world:train", WorldMix()), "facts": True}
    source = open_clips("world:train", PLAN)
    dataset = make_dataset(source, 6, **options, **plans, prompts=3)
    rows = [dataset[index] for index in range(6)]
    batch = collate(rows)
    assert batch["labels"].shape == (6, 3, 3) and batch["read_at"].shape == (6, 9)
    # Ratings of the pixels are those of the clip, whatever the prompt.
    assert (batch["labels"][:, :, :2] == batch["labels"][:, :1, :2]).all()
    assert (batch["labels"][:, 1:, 2] != batch["labels"][:, :1, 2]).any()
    again = make_dataset(source, 6, **options, **plans, prompts=3)[4]
    assert again["labels"] == rows[4]["labels"] and again["reading"] == rows[4]["reading"]
    single = make_dataset(source, 6, **options, **plans)
    for index, row in enumerate(rows):
        assert set(single[index]["facts"]) <= set(row["facts"])
        assert row["labels"][0] == single[index]["labels"][0]
    # Nouns of each prompt are asked how many there are.
    asked = (batch["spoken"]["count"] >= 0).sum(dim=1)
    owners = [row["reading"].owners for row in rows]
    for row, own in enumerate(owners):
        counted = {own[place] for kind, place, _ in rows[row]["facts"] if kind == "count"}
        assert counted == {1, 2, 3} and asked[row] >= 3
