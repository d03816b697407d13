"""Dense labels of the holistic scorer: words of the prompt say what they are told of the clip."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from holistic_cases import small_base, small_config
from transformers import AutoTokenizer, LlamaConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

import token_facts
from spoken_facts import LAYERS, WORDS, prompt_labels, word_ids
from token_facts import KINDS, Listener, spoken_labels
from token_targets import NOTHING

from qsave_reward.checkpoint import BUNDLED
from qsave_reward.errors import ConfigError
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.text import SLOTS, compose
from qsave_reward.types import LEVELS
from qsave_reward.world import world_plan
from qsave_reward.world.phrasing import noun_phrase
from qsave_reward.world.raters import latent_quality
from qsave_reward.world.scene import COUNT_WORDS

# By its path: another recipe has a train.py too.
SPEC = importlib.util.spec_from_file_location("facts_train", Path(token_facts.__file__).with_name("train.py"))
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["facts_train"] = recipe
SPEC.loader.exec_module(recipe)

TOKENIZER = AutoTokenizer.from_pretrained(BUNDLED["tiny"])
DEEP = LlamaConfig(
    vocab_size=len(TOKENIZER),
    hidden_size=48,
    intermediate_size=64,
    num_hidden_layers=6,  # the state after the last one would be normed
    num_attention_heads=4,
    tie_word_embeddings=True,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


def test_facts_stand_at_the_end_of_the_words_that_they_are_about():
    config, asked = small_config(), set()
    for index in range(60):
        plan = world_plan("train", index)
        prompt = f"  {plan.prompt}. "  # shown without either
        reading = compose(TOKENIZER, config, prompt)
        of_branches = token_facts.token_facts(plan, prompt, reading, TOKENIZER)[:6]
        reading = compose(TOKENIZER, config, plan.prompt)
        facts = token_facts.token_facts(plan, plan.prompt, reading, TOKENIZER)
        assert facts[:6] == of_branches and len(of_branches) == 6
        asked |= {kind for kind, _, _ in of_branches}
        facts = facts[6:]
        labels = prompt_labels(plan, plan.prompt)
        assert [(kind, label) for kind, _, label in facts] == [(kind, label) for kind, _, label in labels]
        text_from = max(i for i, token in enumerate(reading.ids) if token < 0) + 1
        for (kind, position, _), (_, last, _) in zip(facts, labels, strict=True):
            read = TOKENIZER.decode(reading.ids[text_from : position + 1])
            assert read.endswith(plan.prompt[: last + 1])
            asked.add(kind)
    assert asked == set(KINDS)


def test_nouns_of_a_strange_prompt_say_what_has_their_color():
    config, met = small_config(), Counter()
    plans = [world_plan("train", index) for index in range(120)]
    for plan, other in zip(plans, plans[1:], strict=False):
        if plan.prompt == other.prompt:
            continue
        reading = compose(TOKENIZER, config, other.prompt)
        facts = token_facts.token_facts(plan, other.prompt, reading, TOKENIZER)[6:]
        by_place = {}
        for kind, place, label in facts:
            by_place.setdefault(place, {})[kind] = WORDS[kind][label]
        for place, said in by_place.items():
            text = TOKENIZER.decode(reading.ids[max(0, place - 12) : place + 1])
            group = next(
                g for g in other.scene.groups if text.endswith(f"{g.color} {noun_phrase(g).split()[-1]}")
            )
            there = [g for g in plan.shown.groups if g.color == group.color]
            if said["count"] == "no":
                assert not there and said == {"count": "no", "word_level": "bad"}
                assert group.shape not in {g.shape for g in plan.shown.groups}
                met["no"] += 1
                continue
            (there,) = there
            assert (said["shape"], said["color"]) == (there.shape, there.color)
            assert said["count"] == COUNT_WORDS[there.count]
            met["other shape"] += there.shape != group.shape
    assert met["no"] > 20 and met["other shape"] > 10


def test_few_words_that_agree_are_asked_and_all_that_do_not():
    config, met = small_config(), Counter()
    rng = np.random.default_rng(0)
    for index in range(200):
        plan = world_plan("train", index)
        facts = token_facts.token_facts(plan, plan.prompt, compose(TOKENIZER, config, plan.prompt), TOKENIZER)
        assert token_facts.fewer_agreed(facts, 1.0, rng) == facts
        kept = token_facts.fewer_agreed(facts, 0.25, rng)
        gone = [fact for fact in facts if fact not in kept]
        assert kept == [fact for fact in facts if fact not in gone]
        levels = {place: LEVELS[level] for kind, place, level in facts if kind == "word_level"}
        for kind, place, _ in facts:
            if kind in ("verb", "shape", "color", "count"):
                met[levels[place] == "excellent", any(fact[:2] == (kind, place) for fact in gone)] += 1
        assert {kind for kind, _, _ in gone} <= {"verb", "shape", "color", "count"}
    assert not met[False, True] and met[False, False] > 50
    assert 0.2 < met[True, False] / (met[True, False] + met[True, True]) < 0.3


def test_the_last_token_of_a_branch_says_what_is_wrong():
    config, met = small_config(), set()
    for index in range(200):
        plan = world_plan("train", index)
        reading = compose(TOKENIZER, config, "Something else.")
        facts = token_facts.token_facts(plan, "Something else.", reading, TOKENIZER)
        for branch, dimension in (("motion", "dynamic_quality"), ("technical", "visual_quality")):
            last = len(reading.ids) - 1 - reading.ids[::-1].index(SLOTS[branch])
            said = {kind: (place, label) for kind, place, label in facts if kind.startswith(dimension)}
            assert {place for place, _ in said.values()} == {last}
            labels = {d.label: d for d in plan.defects if d.dimension == dimension}
            first, second = (WORDS[kind][said[kind][1]] for kind in said if not kind.endswith("level"))
            level = said[f"{dimension}_level"][1] + 1
            met.add(len(labels))
            assert {first, second} - {"no"} <= set(labels) and (first == "no") == (not labels)
            assert (second == "no") == (len(labels) < 2)
            if len(labels) == 1:
                quality = latent_quality([labels[first]], plan.config.num_frames / plan.config.fps)[dimension]
                assert abs(level - quality) <= 0.5
            assert labels or level == 5
    assert {0, 1, 2} <= met


def test_each_label_has_its_place():
    spoken = spoken_labels([[("verb", 2, 5), ("color", 0, 1)], []], 4)
    assert set(spoken) == set(KINDS)
    assert spoken["verb"].tolist() == [[NOTHING, NOTHING, 5, NOTHING], [NOTHING] * 4]
    assert spoken["color"][0, 0] == 1 and (spoken["shape"] == NOTHING).all()


def test_states_are_those_after_as_many_layers():
    torch.manual_seed(0)
    model = HolisticModel(small_config(text_config=DEEP)).eval()
    listener = Listener(model.language, word_ids(TOKENIZER))
    ids = torch.randint(0, 700, (2, 7))
    with torch.no_grad():
        states = model.language(ids, output_hidden_states=True).hidden_states
    for kind in KINDS:
        assert torch.equal(listener.states[LAYERS[kind]], states[LAYERS[kind]])
    # One token is asked for a color: cross-entropy over the words for colors, by hand.
    spoken = spoken_labels([[("color", 3, 2)], []], 7)
    wrong, right = listener.losses(spoken)["color"]
    own = model.language.model.norm(states[LAYERS["color"]][0, 3])
    said = (own @ model.language.lm_head.weight[word_ids(TOKENIZER)["color"]].T).log_softmax(-1)
    assert wrong.item() == pytest.approx(-said[2].item(), rel=1e-5)
    assert right.item() == float(said.argmax() == 2)
    assert listener.losses(spoken)["verb"][0] == 0


def start(monkeypatch, base, output, *more):
    words = ["train.py", "--model_name_or_path", base, "--output_dir", output, "--max_steps", 2]
    words += ["--data", "world:train", "--eval_data", "world:val", "--trained_on", "Nothing."]
    words += ["--per_device_train_batch_size", 4, "--report_to", "none", "--use_cpu", "true"]
    words += ["--lora_rank", 0, "--learning_rate", 1e-3, "--logging_steps", 1, "--disable_tqdm", "true"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), *more])
    recipe.main()


@pytest.mark.parametrize("prompts", ["1", "3"])
def test_a_run_asks_adds_it_to_the_loss_and_logs_it(monkeypatch, tmp_path, prompts):
    base = small_base(tmp_path / "base", text_config=DEEP)
    more = ("--facts_weight", "1", "--prompts_per_clip", prompts)
    start(monkeypatch, base, tmp_path / "out", *more, "--save_steps", "2")
    rows = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    logged = [row for row in rows if "color_right" in row]
    assert len(logged) == 2
    for row in logged:
        assert {f"{kind}_right" for kind in KINDS} <= row.keys()
        assert 0 <= row["color_right"] <= 1 and row["loss"] > row["loss_scores"] + 5


@pytest.mark.parametrize(
    ("base", "more", "words"),
    [
        ({}, (), "at least 5 layers, got 2"),
        ({"show_prompt": False}, (), "show_prompt False"),
        ({"per_dimension": False}, (), "per_dimension False"),
        ({}, ("--sought", "green sky"), "sought: unknown"),
    ],
)
def test_what_cannot_be_asked_is_said(monkeypatch, tmp_path, base, more, words):
    base = small_base(tmp_path / "base", **base)
    with pytest.raises(ConfigError, match=words):
        start(monkeypatch, base, tmp_path / "out", "--facts_weight", "1", *more)
    assert not (tmp_path / "out" / "model.safetensors").exists()
