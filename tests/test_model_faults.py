"""Damaged checkpoints are refused with a reason; a number out of order fails its own clip only."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import WEIGHTS
from safetensors.torch import load_file

from qsave_reward.errors import AnswerError, ConfigError
from qsave_reward.holistic.scorer import HolisticScorer
from qsave_reward.loading import load_scorer
from qsave_reward.model import RewardModel
from qsave_reward.types import VideoScore
from qsave_reward.video import read_clip

PROMPT = "a red circle moves left"


@pytest.fixture(scope="module")
def tiny():
    return RewardModel.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def clip():
    return read_clip(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8), fps=8.0)


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def pickled(path):
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()


DAMAGE = {
    "weights as a pickle": lambda folder: pickled(folder / "model.safetensors"),
    "weights cut off": lambda folder: cut(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "another architecture": lambda folder: (folder / "config.json").write_text('{"model_type": "nothing"}'),
    "metadata of other bytes": lambda folder: (folder / "qsave.json").write_bytes(b"\xff\xfe{"),
}


@pytest.mark.parametrize("name", ["tiny", "holistic-tiny"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path, name, damage):
    copy = shutil.copytree(WEIGHTS.parent / name, tmp_path / "copy")
    damage(copy)
    with pytest.raises(ConfigError) as caught:
        load_scorer(copy, device="cpu")
    assert caught.value.code in ("not_a_checkpoint", "prompt_version", "bad_config")
    assert str(copy) in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("layers", "message"), [(4, "has unknown .* weights"), (8, "lacks .* weights")], ids=["fewer", "more"]
)
def test_weights_of_another_depth_are_refused(tmp_path, layers, message):
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    config["text_config"].pop("layer_types", None)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        RewardModel.from_pretrained(copy)


def test_weights_of_another_width_are_refused(tmp_path):
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 64
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        RewardModel.from_pretrained(copy)


def test_words_of_prompts_are_a_list(tmp_path):
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    metadata = json.loads((copy / "qsave.json").read_text())
    for wrong in (5, "red", [1]):
        (copy / "qsave.json").write_text(json.dumps({**metadata, "prompt_words": wrong}))
        with pytest.raises(ConfigError, match="expected prompt_words to be a list of words"):
            RewardModel.from_pretrained(copy)


@pytest.mark.parametrize("size", [0, -1])
def test_batches_hold_a_clip_at_least(size):
    with pytest.raises(ConfigError, match="batch size of at least 1"):
        RewardModel.from_pretrained("tiny", batch_size=size)


def test_a_broken_character_in_a_prompt_fails_its_own_clip(tiny, clip):
    good, bad = tiny.score_batch([clip] * 2, [PROMPT, "a red \udcff circle"], on_error="return")
    assert isinstance(good, VideoScore)
    assert isinstance(bad, ConfigError) and bad.code == "broken_prompt"


@pytest.mark.parametrize("judge", ["score_batch", "explain_batch"])
def test_a_score_that_is_no_number_fails_its_own_clip(tiny, clip, monkeypatch, judge):
    read = tiny._read_slots

    def overflown(inputs):
        rows = read(inputs)
        rows[1] = [[float("nan")] * 5] * 3
        return rows

    monkeypatch.setattr(tiny, "_read_slots", overflown)
    first, second, third = getattr(tiny, judge)([clip] * 3, [PROMPT] * 3, on_error="return")
    assert isinstance(first, VideoScore) and isinstance(third, VideoScore)
    assert isinstance(second, AnswerError) and second.code == "not_finite"


def test_the_second_scorer_too(clip):
    scorer = HolisticScorer.from_pretrained("holistic-tiny", device="cpu")
    with torch.no_grad():
        scorer.model.language.get_output_embeddings().weight.fill_(float("nan"))
    for judge in (scorer.score_batch, scorer.explain_batch):
        (card,) = judge([clip], [PROMPT], on_error="return")
        assert isinstance(card, AnswerError) and card.code == "not_finite"


def test_an_answer_never_asks_for_an_image(clip):
    model = RewardModel.from_pretrained("tiny", device="cpu")
    image = model.processor.image_token_id
    head = model.model.get_output_embeddings()
    asked = []

    def prefer_images(module, inputs, logits):
        asked.append(logits.shape)
        logits[..., image] = 1e4
        return logits

    head.register_forward_hook(prefer_images)
    (card,) = model.explain_batch([clip], [PROMPT])
    assert asked and isinstance(card, VideoScore)
