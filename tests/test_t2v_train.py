"""Reward fine-tuning from end to end: real pipeline, reward and server; stopping, resuming, failing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import FakeModel
from safetensors.torch import load_file
from served import served

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

import train
from best_of_n import main as best_of_n
from evaluate import main as evaluate
from evaluation import Evaluation
from options import parse_options
from rewards import Scoring
from run_log import read_log
from train_options import TrainOptions

from qsave_reward.errors import ConfigError, QSaveError, VideoError
from qsave_reward.reward import VideoReward
from qsave_reward.video import read_clip

RECIPE = Path(__file__).parent.parent / "recipes" / "text_to_video"
CONFIGS = Path(__file__).parent.parent / "configs" / "text_to_video"

SMALL = ["--height", "32", "--width", "32", "--num_frames", "9", "--steps", "2"]
RUN = [*SMALL, "--prompts_per_update", "2", "--group_size", "4", "--batch_size", "2", "--lora_rank", "4"]
RUN += ["--eval_count", "2", "--eval_videos", "1", "--evaluate_every", "2", "--save_every", "1"]
RUN += ["--learning_rate", "1e-2", "--extra", '{"max_sequence_length": 32}']
BLACK = np.zeros((8, 32, 32, 3), np.uint8)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


class Fake(FakeModel):
    """Fails every prompt with `bad` in it; `revision` is what it says it is."""

    def __init__(self, *, bad: str = "\0", revision: str = "0123") -> None:
        super().__init__()
        self.bad = bad
        self.provenance = type(self.provenance)("fake", revision, "1", self.provenance.frame_plan)

    def _card(self, video, prompt, mode):
        if self.bad in prompt:
            return VideoError("a clip that cannot be read")
        return super()._card(video, prompt, mode)


@pytest.fixture
def fake(monkeypatch):
    """Runs use this scorer in place of a model."""
    scorer = Fake()
    monkeypatch.setattr("rewards.open_reward", lambda name, **_: VideoReward(scorer, on_error="mask"))
    return scorer


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch):
    """The world's thousands of prompts take seconds to make, for each run."""
    monkeypatch.setattr("text_prompts.WORLD_PROMPTS", 16)


def start(output: Path, *more: str) -> list[dict]:
    options = parse_options(TrainOptions, ["--output_dir", str(output), *RUN, *more])
    train.Run(options).train()
    return read_log(output / "log.jsonl")


def without_times(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


@pytest.mark.parametrize("algorithm", ["nft", "grpo"])
def test_a_run_stopped_half_way_ends_with_the_same_numbers_and_weights(tmp_path, fake, algorithm):
    whole = start(tmp_path / "whole", "--updates", "4", "--algorithm", algorithm)
    start(tmp_path / "parts", "--updates", "2", "--algorithm", algorithm)
    parts = start(tmp_path / "parts", "--updates", "4", "--algorithm", algorithm)
    assert [(row["kind"], row["step"]) for row in whole].count(("update", 4)) == 1
    assert without_times(parts) == without_times(whole)
    lora = "last/pytorch_lora_weights.safetensors"
    expected, found = load_file(tmp_path / "whole" / lora), load_file(tmp_path / "parts" / lora)
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    updates = [row for row in whole if row["kind"] == "update"]
    assert updates[0]["drift_reference"] == 0 < updates[-1]["drift_reference"]
    assert all(row["masked"] == 0 and row["grad_norm"] > 0 for row in updates)


def test_lines_of_steps_that_are_made_again_are_dropped(tmp_path, fake):
    whole = start(tmp_path, "--updates", "2")
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"kind": "update", "step": 3, "loss_policy": 7}\n{"kind": "upd')
    assert without_times(start(tmp_path, "--updates", "2")) == without_times(whole)


def test_the_first_grpo_update_has_ratio_one(tmp_path, fake):
    rows = start(tmp_path, "--updates", "1", "--algorithm", "grpo", "--guidance", "2.0")
    update = next(row for row in rows if row["kind"] == "update")
    assert update["ratio_error"] == 0 and update["clipped"] == 0
    twice = start(tmp_path / "twice", "--updates", "1", "--algorithm", "grpo", "--minibatches", "2")
    assert next(row for row in twice if row["kind"] == "update")["ratio_error"] > 0


def test_over_http_a_run_gives_the_numbers_of_one_in_process(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("rewards.load_scorer", lambda name, **_: tiny)
    here = start(tmp_path / "here", "--updates", "1")
    with served(tiny) as url:
        there = start(tmp_path / "there", "--updates", "1", "--reward", url)
    for own, other in zip(without_times(here[1:]), without_times(there[1:]), strict=True):
        assert own.keys() == other.keys()
        for name in own:
            if isinstance(own[name], float):
                assert other[name] == pytest.approx(own[name], abs=2e-4), name
    lora = "last/pytorch_lora_weights.safetensors"
    assert (tmp_path / "here" / lora).exists() and (tmp_path / "there" / lora).exists()


def test_a_few_videos_without_a_score_are_masked_and_counted_and_many_stop_the_run(tmp_path, fake):
    first = start(tmp_path / "clean", "--updates", "1")
    assert next(row for row in first if row["kind"] == "update")["masked"] == 0
    fake.bad = train.prompts_of_update(train.read_prompts("world:train"), 0, 2, seed=0)[0]
    rows = start(tmp_path / "some", "--updates", "1", "--max_masked", "0.5")
    assert next(row for row in rows if row["kind"] == "update")["masked"] == 4
    with pytest.raises(QSaveError, match=r"25% or more of the videos of update 1 .* be read") as caught:
        start(tmp_path / "many", "--updates", "1")
    assert caught.value.code == "too_many_masked"
    assert not (tmp_path / "many" / "checkpoints").exists()


def test_equal_rewards_teach_nothing(tmp_path, fake, monkeypatch):
    black = read_clip(BLACK, fps=8.0)
    monkeypatch.setattr(fake, "_card", lambda video, prompt, mode: FakeModel._card(fake, black, prompt, mode))
    rows = start(tmp_path, "--updates", "2", "--kl", "0")
    updates = [row for row in rows if row["kind"] == "update"]
    assert [row["spread.visual_quality"] for row in updates] == [0, 0]
    assert [row["tied_groups"] for row in updates] == [2, 2]
    assert updates[1]["drift_reference"] < 1e-9


def test_a_run_goes_on_with_the_same_reward_and_options_only(tmp_path, fake):
    start(tmp_path, "--updates", "1")
    with pytest.raises(ConfigError, match="lora_rank: 4 then, 8 now"):
        start(tmp_path, "--updates", "2", "--lora_rank", "8")
    fake.provenance = Fake(revision="4567").provenance
    with pytest.raises(ConfigError, match="0123.* but the reward is now .*4567"):
        start(tmp_path, "--updates", "2")


def test_a_held_out_reward_that_comes_later_must_stay_the_same_too(tmp_path, monkeypatch):
    revisions = {"tiny": "0123", "other": "4567"}
    opened = lambda name, **_: VideoReward(Fake(revision=revisions[name]), on_error="mask")  # noqa: E731
    monkeypatch.setattr("rewards.open_reward", opened)
    start(tmp_path, "--updates", "1")
    rows = start(tmp_path, "--updates", "2", "--held_out", "other")
    named = {row["kind"]: (row["step"], row["identity"]["revision"]) for row in rows if "identity" in row}
    assert named == {"reward": (0, "0123"), "held_out": (1, "4567")}
    assert rows[-1]["held_out.overall"] > 0
    revisions["other"] = "89ab"
    with pytest.raises(ConfigError, match="4567.* but the reward is now .*89ab"):
        start(tmp_path, "--updates", "3", "--held_out", "other")


def test_an_answer_of_another_model_ends_a_run(fake):
    scoring = Scoring(VideoReward(fake, on_error="mask"), fps=8)
    fake.provenance = Fake(revision="4567").provenance
    rollout = type("Rollout", (), {"frames": BLACK[None], "prompt": "a red circle"})
    with pytest.raises(QSaveError, match="answer came from 4567"):
        scoring.submit(rollout).result()
    scoring.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--reward", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["--pipeline", str(RECIPE)], "model_index.json"),
        (["--lora_targets", "to_q", "to_nothing"], "to_nothing match no linear layer"),
        (["--eval_prompts", "missing.txt"], "cannot read prompts"),
        (["--minibatches", "3"], r"must divide the number of prompts of a process \(2, "),
        (["--keep_best", "gold.beauty"], "one of reward.visual_quality, .*, gold.overall, got gold.beauty"),
        (["--keep_best", "held_out.overall"], "got held_out.overall"),
    ],
)
def test_a_run_that_cannot_work_says_why_before_it_begins(tmp_path, arguments, words):
    with pytest.raises(QSaveError, match=words):
        start(tmp_path, "--updates", "1", *arguments)
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("values", "best"),
    [([5.0, 2.0, 3.0, 1.0], [1, 2]), ([1.0, [np.nan, 5.0], 2.0, 3.0], [2, 3])],
    ids=["in order", "what lacks much is no measure"],
)
def test_the_best_of_the_trained_policies_is_kept(tmp_path, fake, monkeypatch, values, best):
    left, exported = iter(values), []

    def measured(_pipeline, prompts, *_, **__):
        names = train.metric_names(["reward"], gold=False)
        rows = np.full((2, 1), 0.0) + np.reshape(next(left), (-1, 1))
        frames = [np.zeros((1, 9, 32, 32, 3), np.uint8)] * 2
        return Evaluation(prompts, dict.fromkeys(names, rows), frames, {})

    monkeypatch.setattr(train, "evaluate", measured)
    monkeypatch.setattr(train.Run, "export", lambda run, name: exported.append((name, run.step)))
    start(tmp_path, "--updates", "3", "--evaluate_every", "1", "--keep_best", "reward.visual_quality")
    assert exported == [*(("best", step) for step in best), ("last", 3)]


def test_evaluate_and_best_of_n_load_what_a_run_exports(tmp_path, fake, capsys):
    start(tmp_path / "run", "--updates", "2", "--keep_best", "reward.visual_quality")
    small = [*SMALL, "--count", "2"]
    evaluate([*small, "--json", "--lora", str(tmp_path / "run" / "last"), "--sheet", str(tmp_path / "a.png")])
    tuned = json.loads(capsys.readouterr().out)
    evaluate([*small, "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert {"reward.visual_quality", "gold.overall", "motion"} <= plain.keys()
    assert tuned["reward.visual_quality"] != plain["reward.visual_quality"]
    assert tuned["videos"] == 4 and tuned["failed"] == 0 and (tmp_path / "a.png").stat().st_size > 1000
    best_of_n([*small, "--n", "4", "--json", "--plot", str(tmp_path / "best.svg")])
    best = json.loads(capsys.readouterr().out)["reward.overall"]
    assert best["picked"][0] == pytest.approx(best["random"]) and best["picked"] == sorted(best["picked"])
    assert "<svg" in (tmp_path / "best.svg").read_text()


@pytest.mark.parametrize("script", [evaluate, best_of_n])
def test_an_evaluation_without_any_score_is_no_result(fake, script, capsys):
    fake.bad = ""
    with pytest.raises(SystemExit, match="reward could not score any video: a clip that cannot be read"):
        script([*SMALL, "--count", "1", "--videos", "2", "--json"])
    assert capsys.readouterr().out == ""


def test_an_evaluation_counts_what_has_no_score(fake, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na bad day\n")
    fake.bad = "bad"
    evaluate([*SMALL, "--prompts", str(tmp_path / "prompts.txt"), "--count", "2", "--videos", "1", "--json"])
    captured = capsys.readouterr()
    found = json.loads(captured.out, parse_constant=lambda name: pytest.fail(name))
    assert (found["videos"], found["failed"]) == (2, 1) and "gold.overall" not in found
    low, high = found["intervals"]["reward.overall"]
    assert low == high == found["reward.overall"]
    assert "1 videos without a score, first: a clip that cannot be read" in captured.err


def test_the_command_of_the_smoke_configuration(tmp_path):
    command = [sys.executable, RECIPE / "train.py", "--config", CONFIGS / "smoke.yaml", *RUN]
    done = subprocess.run(
        [*command, "--output_dir", tmp_path / "out"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    rows = read_log(tmp_path / "out" / "log.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "update"] == [1, 2, 3]
    assert {"reward.text_alignment", "drift_old", "masked"} <= rows[2].keys()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"ACCELERATE_USE_DEEPSPEED": "true"}], ids=["ddp", "zero2"])
def test_two_processes_give_the_numbers_of_one(tmp_path, settings):
    if settings:
        pytest.importorskip("deepspeed")
    zero = RECIPE.parent.parent / "configs" / "accelerate" / "zero2.json"
    more = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    more |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(zero)}
    for processes, own in ((1, {}), (2, settings)):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(processes), RECIPE / "train.py", *RUN, "--pipeline", "tiny"]
        command += ["--updates", "2", "--output_dir", tmp_path / str(processes)]
        done = subprocess.run(
            command, env=os.environ | more | own, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-4000:]
    one, two = (read_log(tmp_path / str(n) / "log.jsonl") for n in (1, 2))
    assert [(row["kind"], row["step"]) for row in one] == [(row["kind"], row["step"]) for row in two]
    whole, shared = (next(row for row in rows if row["kind"] == "evaluation") for rows in (one, two))
    assert shared["alarms"] == whole["alarms"] == [] and shared.keys() == whole.keys()
    for name, value in whole.items():  # the processes shared the prompts
        assert shared[name] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value)
    first, other = (next(row for row in rows if row["kind"] == "update") for rows in (one, two))
    for name in ("reward.overall", "spread.text_alignment", "loss_policy", "grad_norm"):
        assert other[name] == pytest.approx(first[name], rel=1e-3)
    # AdamW makes a full step of a gradient that is only rounding, so single weights may differ.
    lora = "last/pytorch_lora_weights.safetensors"
    learned = []
    for n in (1, 2):
        weights = load_file(tmp_path / str(n) / lora)
        learned.append(torch.cat([weights[name].flatten() for name in sorted(weights) if "lora_B" in name]))
    assert torch.nn.functional.cosine_similarity(*learned, dim=0) > 0.9
