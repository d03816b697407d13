"""The bundled model as users call it, and every way to call it wrongly."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import WEIGHTS
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3VLForConditionalGeneration

from qsave_reward.errors import ConfigError, QSaveError, VideoError
from qsave_reward.model import RewardModel
from qsave_reward.processor import QSaveProcessor, resize_chunks
from qsave_reward.prompt import direct_answer, parse_report, score_line
from qsave_reward.slots import slot_positions, slot_token_ids
from qsave_reward.slowfast import plan_chunks
from qsave_reward.types import DIMENSIONS, DimensionScore, VideoScore
from qsave_reward.video import Clip
from qsave_reward.world import WorldConfig, world_item

PROMPT = "a red circle moves left"


def item(index, *, keep=None, **config):
    made = world_item("test", index, config=WorldConfig(**config))
    frames, times = made.frames[:keep], made.times[:keep]
    return Clip(frames, times, duration=len(times) / made.fps), made.record.prompt


@pytest.fixture(scope="module")
def items():
    return [item(i) for i in range(5)] + [item(5, height=96, width=160, num_frames=9, fps=12.0)]


def test_scores_are_what_the_stock_model_says(tiny, items):
    """The read-out, recomputed from the full logits of the unmodified transformers class."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    processor = QSaveProcessor.for_model(WEIGHTS)
    clip, prompt = items[0]
    chunks = plan_chunks(clip, tiny.frame_plan)
    text = processor.question([chunk.time for chunk in chunks], prompt) + direct_answer()
    inputs = processor(images=resize_chunks(chunks), text=[text], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    unknown = processor.tokenizer(" unknown")["input_ids"]
    slots = [i for i, token in enumerate(inputs["input_ids"][0].tolist()) if [token] == unknown]
    words = [
        processor.tokenizer(f" {w}")["input_ids"][0] for w in ("bad", "poor", "fair", "good", "excellent")
    ]
    card = tiny.score(clip, prompt)
    assert len(slots) == 3
    for slot, dimension in zip(slots, DIMENSIONS, strict=True):
        probs = torch.softmax(logits[slot - 1, words].double(), 0).numpy()
        assert card.scores[dimension].probs == pytest.approx(probs, abs=1e-5)
        assert card.scores[dimension].mean == pytest.approx(float(probs @ np.arange(1, 6)), abs=1e-4)


def test_a_clip_scores_the_same_alone_and_in_any_company(tiny, items):
    alone = [tiny.score(*one) for one in items]
    rng = np.random.default_rng(0)
    for _ in range(3):
        order = rng.permutation(len(items)).tolist()
        together = tiny.score_batch([items[i][0] for i in order], [items[i][1] for i in order])
        for i, card in zip(order, together, strict=True):
            for dimension in DIMENSIONS:
                assert card.scores[dimension].mean == pytest.approx(alone[i].scores[dimension].mean, abs=1e-4)


def test_reasons_never_change_the_direct_score(tiny, items):
    videos, prompts = zip(*items, strict=True)
    direct, explained = tiny.score_batch(videos, prompts), tiny.explain_batch(videos, prompts)
    for plain, card in zip(direct, explained, strict=True):
        assert plain.scores == card.scores and plain.defects is None and plain.reasoning is None
        assert card.defects is not None, card.warnings
        assert card.reasoning


def test_reasoned_scores_are_read_along_the_written_answer(tiny, items):
    videos, prompts = zip(*items, strict=True)
    for card in tiny.score_batch(videos, prompts, mode="reasoned"):
        assert isinstance(card, VideoScore)
        levels = parse_report(
            f"<think>\n{card.reasoning}\n</think>\n" + score_line(dict.fromkeys(DIMENSIONS, 3))
        )
        assert levels.defects == card.defects
        assert all(1 <= card.scores[d].mean <= 5 for d in DIMENSIONS)


def test_one_and_three_frames(tiny):
    for n in (1, 2, 3):
        clip, prompt = item(n, keep=n)
        assert 1 <= tiny.score(clip, prompt).overall <= 5


def test_frames_of_a_generator(tiny):
    frames = item(0)[0].frames
    expected = tiny.score(frames, PROMPT, fps=8.0).overall
    as_float = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    assert tiny.score(as_float, PROMPT, fps=8.0).overall == pytest.approx(expected, abs=1e-6)


def test_card_is_json(tiny):
    card = tiny.score(*item(0)).to_dict()
    again = json.loads(json.dumps(card))
    assert again["provenance"]["prompt_version"] == "1"
    assert again["provenance"]["frame_plan"]["token_budget"] == tiny.frame_plan.token_budget
    assert again["overall"] == pytest.approx(np.mean([again["scores"][d]["mean"] for d in DIMENSIONS]))


def test_a_prompt_outside_the_grammar_gets_a_warning(tiny):
    clip, prompt = item(0)
    assert not tiny.score(clip, prompt).warnings
    (warning,) = tiny.score(clip, "a Photorealistic giraffe").warnings
    assert "giraffe" in warning and "photorealistic" in warning


def test_one_failure_stays_in_its_place(tiny, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    clip, prompt = item(0)
    videos, prompts = [clip, broken, clip, clip], [prompt, prompt, " ", prompt]
    cards = tiny.score_batch(videos, prompts, on_error="return")
    assert [type(card).__name__ for card in cards] == [
        "VideoScore",
        "VideoError",
        "ConfigError",
        "VideoScore",
    ]
    assert cards[0].scores == tiny.score(clip, prompt).scores
    assert tiny.explain_batch(videos[1:3], prompts[1:3], on_error="return")[1].code == "empty_prompt"
    with pytest.raises(VideoError):
        tiny.score_batch(videos, prompts)


@pytest.mark.parametrize("mode", ["Direct", "", None])
def test_unknown_mode(tiny, mode):
    with pytest.raises(ConfigError, match="mode must be"):
        tiny.score_batch([], [], mode=mode)


def test_lists_of_different_length(tiny):
    with pytest.raises(ConfigError, match="as many prompts as videos, got 2 and 1"):
        tiny.score_batch([item(0)[0]], ["a", "b"])


def test_nothing_to_score(tiny):
    assert tiny.score_batch([], []) == []


class FirstCalls(TorchDispatchMode):
    """Remembers how many numbers each function was first called with."""

    def __init__(self):
        super().__init__()
        self.numbers = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor):
            self.numbers.setdefault((function.overloadpacket.__name__, args[0].dtype), args[0].numel())
        return function(*args, **(kwargs or {}))


def test_functions_are_called_small_before_they_are_called_large(items):
    """Their first call chooses their kernel, and must not do so on several threads (pytorch issue 188792)."""
    with FirstCalls() as first:
        model = RewardModel.from_pretrained("tiny", device="cpu")
        model.score(*items[0])
    for name in ("cos", "sin", "exp"):
        assert first.numbers[name, torch.float32] == 1


@pytest.mark.parametrize("name", ["no-such-model", "someone/no-such-model", "/no/such/dir", "", "a/b/c/d"])
def test_unknown_model(name):
    with pytest.raises(ConfigError) as caught:
        RewardModel.from_pretrained(name)
    assert caught.value.code == "unknown_model" and "'tiny'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"prompt_version": "0"}, "prompt_version"),
        ({"extra": 1}, "not_a_checkpoint"),
        ({"frame_plan": {"eyes": 2}}, "bad_config"),
    ],
)
def test_checkpoints_of_another_kind(tmp_path, change, code):
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    metadata = json.loads((copy / "qsave.json").read_text())
    (copy / "qsave.json").write_text(json.dumps({**metadata, **change}))
    with pytest.raises(ConfigError) as caught:
        RewardModel.from_pretrained(copy)
    assert caught.value.code == code


def test_a_base_model_is_not_a_reward_model(tmp_path):
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    (copy / "qsave.json").unlink()
    with pytest.raises(ConfigError, match="has to be trained first"):
        RewardModel.from_pretrained(copy)
    (copy / "qsave.json").write_text("{")
    with pytest.raises(ConfigError, match="no JSON that can be read"):
        RewardModel.from_pretrained(copy)


def test_a_checkpoint_with_a_weight_missing_is_not_filled_up_at_random(tmp_path):
    copy = shutil.copytree(WEIGHTS, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.language_model.layers.1.mlp.up_proj.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, such as .*layers\.1\.mlp\.up_proj"):
        RewardModel.from_pretrained(copy)


def test_no_model_at_a_path_is_said_before_training_starts(tmp_path):
    with pytest.raises(ConfigError, match="expected a directory with a vision-language model"):
        QSaveProcessor.for_model(tmp_path / "nothing")


def test_slots_are_the_last_three_whatever_stands_before():
    ids = torch.tensor([[5, 1, 9, 2, 3, 9, 4], [1, 1, 9, 1, 9, 1, 0]])
    assert slot_positions(ids, torch.tensor([1, 2, 3, 4])).tolist() == [[3, 4, 6], [1, 3, 5]]


def test_a_tokenizer_that_splits_a_level_word_is_refused():
    class Splitting:
        def __call__(self, text, **_):
            return {"input_ids": [1, 2] if "excellent" in text else [1]}

    with pytest.raises(ConfigError, match="splits 'excellent' into 2"):
        slot_token_ids(Splitting())


def test_distributions_are_checked():
    score = DimensionScore.from_probs([0.1, 0.1, 0.2, 0.3, 0.3])
    assert (score.mean, score.std) == (pytest.approx(3.6), pytest.approx(1.2806248))
    for wrong in ([0.5, 0.5], [0.5, 0.5, 0.5, -0.5, 0.0], [float("nan")] * 5, [0.1] * 5):
        with pytest.raises(QSaveError):
            DimensionScore.from_probs(wrong)
