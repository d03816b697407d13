"""The GRPO recipe, run as a user runs it on the bundled model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from qsave_reward.errors import ConfigError
from qsave_reward.model import MAX_ANSWER_TOKENS, RewardModel

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

import grpo
from grpo import check_truth, reward_weights

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "configs" / "reward" / "smoke" / "2_grpo.yaml"
TINY = ROOT / "qsave_reward" / "weights" / "tiny"


def arguments(out, *options):
    given = ("--config", SMOKE, "--model_name_or_path", TINY, "--output_dir", out, *options)
    return [str(one) for one in given]


def run(out, *options, expect=0):
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / "reward" / "grpo.py", *arguments(out, *options)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def numbers(log, name):
    return [float(value) for value in re.findall(rf"'{re.escape(name)}': '([-0-9.e+]+)'", log)]


def test_answers_are_graded_and_the_language_model_learns_from_them(tmp_path):
    log = run(tmp_path, "--learning_rate", "1e-4", "--warmup_steps", "0")
    for name in ("accuracy", "ranking", "attribution", "agreement", "format"):
        means = numbers(log, f"rewards/{name}/mean")
        assert len(means) == 2 and all(0 <= mean <= 1 for mean in means)
    for name in ("kl", "frac_reward_zero_std", "completions/mean_length", "reward"):
        assert len(numbers(log, name)) == 2
    before, after = load_file(TINY / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    trained = {name for name in before if "visual" not in name}
    assert moved == trained
    assert RewardModel.from_pretrained(tmp_path, device="cpu").metadata.revision


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_probabilities_that_are_trained_are_those_of_the_plain_model(tmp_path, monkeypatch):
    """Each answer alone, unpadded, against TRL's batch of padded prompts with chunks of several sizes."""
    seen = []

    class Watched(grpo.GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            made = super()._generate_and_score_completions(inputs)
            seen.append((inputs, made))
            return made

    monkeypatch.setattr(grpo, "GRPOTrainer", Watched)
    options = ("--max_steps", "1", "--per_device_train_batch_size", "8")
    monkeypatch.setattr(sys, "argv", ["grpo.py", *arguments(tmp_path, *options)])
    grpo.main()
    ((rows, made),) = seen
    assert len({row["clip"] for row in rows}) == 2
    plain = RewardModel.from_pretrained(TINY, device="cpu")
    for row, ids, mask, expected in zip(
        rows, made["completion_ids"], made["completion_mask"].bool(), made["ref_per_token_logps"], strict=True
    ):
        question = plain.processor.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True
        )
        inputs = plain.processor(images=row["images"], text=question, return_tensors="pt")
        answer = ids[mask][None]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(
            inputs["mm_token_type_ids"], (0, answer.shape[1])
        )
        with torch.no_grad():
            logits = plain.model(**inputs).logits[0, -answer.shape[1] - 1 : -1]
        found = logits.float().log_softmax(-1).gather(1, answer.T)[:, 0]
        torch.testing.assert_close(found, expected[mask], atol=2e-3, rtol=1e-3)


def test_graders_count_as_they_should_unless_the_run_says_otherwise():
    assert reward_weights(None) == [1.0, 1.0, 1.0, 0.5, 0.25]
    assert reward_weights([0.0, 1.0, 2.0, 3.0, 4.0]) == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(ConfigError, match="accuracy, ranking, attribution, agreement, format"):
        reward_weights([1.0] * 4)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "reward").glob("*/2_grpo.yaml")), ids=str)
def test_no_run_trains_on_longer_answers_than_the_model_may_write(path):
    assert yaml.safe_load(path.read_text())["max_completion_length"] <= MAX_ANSWER_TOKENS


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_missing_weight_stops_the_run_before_it_starts(tmp_path, monkeypatch):
    started = arguments(tmp_path / "out", "--reward_weights", "1", "1")
    monkeypatch.setattr(sys, "argv", ["grpo.py", *started])
    with pytest.raises(ConfigError, match="accuracy, ranking, attribution, agreement, format"):
        grpo.main()
    assert not (tmp_path / "out").exists()


def test_data_that_tell_nothing_to_grade_by_stop_the_run_before_it_starts(tmp_path):
    record = {"video": "a.mp4", "prompt": "a red circle", "overall": 3.5, "ratings": {"visual_quality": [3]}}
    (tmp_path / "all.jsonl").write_text(json.dumps(record))
    log = run(tmp_path / "out", "--data", tmp_path / "all.jsonl", expect=1)
    assert re.search("error: .*all.jsonl: expected `mos` .* or `defects`, got neither", log)
    assert "Traceback" not in log and not (tmp_path / "out").exists()
    # One clip with something to grade by is enough; that it has no defect is something, too.
    for known in ({"mos": {"text_alignment": 2}}, {"defects": []}):
        rows = record, record | known
        (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
        check_truth(str(tmp_path / "all.jsonl"))
    check_truth("world:train")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("option", ["--num_generation", "--reward_weight"])
def test_a_misspelt_option_stops_the_run(tmp_path, monkeypatch, option):
    monkeypatch.setattr(sys, "argv", ["grpo.py", *arguments(tmp_path / "out", option, "4")])
    with pytest.raises(ValueError, match=option):
        grpo.main()
    assert not (tmp_path / "out").exists()
