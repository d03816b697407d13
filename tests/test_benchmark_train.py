"""`qsave bench train`: a recipe is run as it is, its steps are timed, and it is stopped before it saves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_cases import command

from qsave_reward.errors import ConfigError
from qsave_reward.speed import train
from qsave_reward.speed.train import bench_train, summary

ROOT = Path(__file__).parent.parent

RECIPE = """
import sys
import time

import torch
from beside import SECONDS
from transformers import Trainer, TrainingArguments


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 4 * 2 * int(options["--max_steps"])

    def __getitem__(self, index):
        time.sleep(SECONDS / 8)
        mask = torch.arange(10) < 7  # three are padding
        return {"input_ids": torch.zeros(10), "attention_mask": mask.long(), "labels": torch.zeros(1)}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids, attention_mask, labels):
        time.sleep(1.5 * SECONDS)
        return {"loss": (self.weight * 2).sum()}


options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("options", sys.argv[1:])
arguments = TrainingArguments(
    output_dir=options["--output_dir"],
    max_steps=int(options["--max_steps"]),
    save_strategy=options["--save_strategy"],
    report_to=options["--report_to"],
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    use_cpu=True,
)
Trainer(Model(), arguments, train_dataset=Slow()).train()
open(options["--trace"], "w").write("it saved")
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    """A recipe of two batches of four rows a step: 0.1 s to make them, 0.3 s to learn from them."""
    (tmp_path / "beside.py").write_text("SECONDS = 0.1")
    (tmp_path / "sft.py").write_text(RECIPE)
    (tmp_path / "run.yaml").write_text("data: x")
    monkeypatch.setattr(train, "RECIPE", tmp_path / "sft.py")
    return tmp_path


@pytest.fixture
def qsave(monkeypatch, capsys):
    return command(monkeypatch, capsys)


def test_a_recipe_is_timed_and_stopped(recipe, qsave) -> None:
    config, trace = str(recipe / "run.yaml"), str(recipe / "trace")
    code, out, err = qsave(
        *("bench", "train", "--config", config, "--steps", "2", "--warmup", "1", "--json"),
        *("--", "--trace", trace),
    )
    assert code == 0, err
    found = json.loads(out)
    assert len(found["seconds"]) == len(found["waiting"]) == 2 and found["warmup"] == 1
    assert 0.4 <= min(found["seconds"]) <= found["s_per_step"] <= max(found["seconds"]) < 8
    assert found["range"] == [min(found["seconds"]), max(found["seconds"])]
    whole = sum(found["seconds"])
    assert found["clips_per_s"] == pytest.approx(16 / whole)
    assert found["tokens_per_s"] == pytest.approx(16 * 7 / whole)
    assert found["data_share"] == pytest.approx(sum(found["waiting"]) / whole)
    assert min(found["waiting"]) >= 0.1 and 0.1 < found["data_share"] < 0.6
    assert found["peak_mb"] is None or found["peak_mb"] > 100
    assert found["config"] == config and found["overrides"] == ["--trace", trace]
    assert found["machine"]["device"] == "cpu" and found["machine"]["threads"] >= 1
    assert not (recipe / "trace").exists()  # it was ended before it could write


LINES = [
    {"asked": 0.0, "got": 4.0},
    {"asked": 10.0, "got": 11.0},
    {"asked": 12.0, "got": 12.5},
    {"asked": 16.0, "got": 17.5},
    {"ended": 20.0, "clips": 30, "tokens": 500, "peak_mb": 7.5, "device": "cuda:0", "threads": 3},
]


def test_figures_by_hand() -> None:
    found = summary(LINES, warmup=1, config="a.yaml", overrides=["--seed", "1"])
    assert found.seconds == (2.0, 4.0, 4.0) and found.waiting == (1.0, 0.5, 1.5)
    assert (found.s_per_step, found.range) == (4.0, (2.0, 4.0))
    assert (found.clips_per_s, found.tokens_per_s, found.data_share) == (3.0, 50.0, 0.3)
    assert (found.peak_mb, found.machine["device"], found.machine["threads"]) == (7.5, "cuda:0", 3)
    assert found.to_dict()["overrides"] == ("--seed", "1")


@pytest.mark.parametrize("lines", [[], LINES[:3]])
def test_a_run_that_ends_early(lines) -> None:
    with pytest.raises(ConfigError, match=f"ended after {len(lines)} steps") as caught:
        summary(lines, warmup=1, config="a.yaml", overrides=())
    assert caught.value.code == "recipe_failed"


def test_a_recipe_that_fails_is_quoted(recipe, monkeypatch, tmp_path) -> None:
    """Without transformers around it, so that it is quick."""
    said = "import sys; print(sys.argv[1:]); sys.exit('error: unknown option --magic')"
    (tmp_path / "failing.py").write_text(said)
    real = train.subprocess.Popen
    started = []

    def instead(line, **options):
        started.append(line)
        return real([sys.executable, str(tmp_path / "failing.py"), *line[3:]], **options)

    monkeypatch.setattr(train.subprocess, "Popen", instead)
    with pytest.raises(ConfigError, match="sft.py ended with code 1(?s:.*)unknown option --magic") as caught:
        bench_train(str(recipe / "run.yaml"), ["--magic", "1"], steps=3, warmup=2)
    assert caught.value.code == "recipe_failed"
    (line,) = started
    assert line[:3] == [sys.executable, "-m", "qsave_reward.speed.timed_training"]
    assert line[4:9] == ["2", "3", str(recipe / "sft.py"), "--config", str(recipe / "run.yaml")]
    options = dict(zip(line[7::2], line[8::2], strict=True))
    # The command's own come last: they win.
    assert list(options)[1] == "--magic" and options["--max_steps"] == "10"
    assert (options["--save_strategy"], options["--report_to"]) == ("no", "none")
    assert not Path(options["--output_dir"]).parent.exists()  # thrown away


def test_a_run_that_is_broken_off_leaves_no_process(recipe, monkeypatch, tmp_path) -> None:
    (tmp_path / "endless.py").write_text("import time; time.sleep(600)")
    real = train.subprocess.Popen
    started = []

    def instead(line, **options):
        started.append(real([sys.executable, str(tmp_path / "endless.py")], **options))
        return started[0]

    def interrupt(done):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.subprocess, "Popen", instead)
    with pytest.raises(KeyboardInterrupt):
        bench_train(str(recipe / "run.yaml"), progress=interrupt)
    assert started[0].returncode not in (None, 0)


def test_wrong_commands(recipe, qsave, monkeypatch) -> None:
    code, _, err = qsave("bench", "train", "--config", str(recipe / "none.yaml"))
    assert code == 2 and "does not exist" in err
    assert qsave("bench", "train")[0] == 2
    assert qsave("bench", "train", "--config", str(recipe / "run.yaml"), "--warmup", "0")[0] == 2
    (recipe / "sft.py").unlink()  # as in an installed wheel
    code, _, err = qsave("bench", "train", "--config", str(recipe / "run.yaml"))
    assert code == 2 and "clone the repository" in err and "recipes/reward" in err


def test_the_recipe_is_there() -> None:
    assert train.RECIPE == ROOT / "recipes" / "reward" / "sft.py" and train.RECIPE.is_file()


@pytest.mark.slow
def test_the_real_recipe(qsave, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    config = "configs/reward/smoke/1_sft.yaml"
    code, out, err = qsave("bench", "train", "--config", config, "--steps", "2", "--warmup", "1", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["clips_per_s"] == pytest.approx(2 * 4 / sum(found["seconds"]))
    assert found["tokens_per_s"] > 50 * found["clips_per_s"] and 0 < found["data_share"] < 1
    assert found["machine"]["device"] == "cpu"
