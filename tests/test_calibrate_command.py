"""`qsave calibrate`: the numbers it measures, where it writes them, and what it refuses."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from cli_cases import fake_command
from conftest import WEIGHTS
from list_files import lines
from reward_cases import ColorModel

from qsave_reward import command_options
from qsave_reward.calibrate_command import measure
from qsave_reward.calibration import Calibration
from qsave_reward.errors import ConfigError
from qsave_reward.evaluate import load_data
from qsave_reward.reward import VideoReward
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import write_clip

COLORS = [(40, 90, 200), (200, 100, 60), (120, 220, 20), (90, 30, 130)]


def write_colors(folder: Path) -> list[dict]:
    """A clip of each color, and lines that name them without a rating."""
    for i, color in enumerate(COLORS):
        write_clip(folder / f"{i}.mp4", np.full((4, 32, 32, 3), color, np.uint8), fps=8)
    return [{"video": f"{i}.mp4", "prompt": f"p{i}"} for i in range(len(COLORS))]


@pytest.fixture
def qsave(monkeypatch, capsys, tmp_path):
    """The command with `ColorModel`, in a folder with `in.jsonl` and a checkpoint folder `mine`."""
    lines(tmp_path / "in.jsonl", write_colors(tmp_path))
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    run = fake_command(monkeypatch, capsys)
    run.model = ColorModel()
    monkeypatch.setattr(command_options, "load_model", lambda name, device: run.model)
    return run


def expected_numbers(names):
    """Mean and sample deviation of the raw scores, from the model itself."""
    cards = ColorModel().score_batch(names, ["p"] * len(names))
    columns = {name: [card.scores[name].mean for card in cards] for name in DIMENSIONS}
    return (
        {name: statistics.fmean(values) for name, values in columns.items()},
        {name: statistics.stdev(values) for name, values in columns.items()},
    )


@pytest.mark.parametrize("batch_size", ["1", "3", "16"])
def test_it_measures_the_scores_and_writes_beside_the_weights(qsave, batch_size) -> None:
    code, out, err = qsave(
        "calibrate", "--model", "mine", "--data", "in.jsonl", "--json", "--batch-size", batch_size
    )
    assert code == 0
    assert err == (
        f"wrote {Path('mine/calibration.json')}; "
        'VideoReward.from_pretrained("mine", normalise="checkpoint") uses it\n'
    )
    told = json.loads(out)
    mean, std = expected_numbers([f"{i}.mp4" for i in range(4)])
    assert told["mean"] == pytest.approx(mean, abs=1e-12) and told["std"] == pytest.approx(std, abs=1e-12)
    assert (told["n"], told["data"], told["revision"]) == (4, "in.jsonl", "0123")
    assert (told["n_failed"], told["failures"], told["file"]) == (0, {}, "mine/calibration.json")
    kept = Calibration.load("mine", revision="0123")
    assert (kept.mean, kept.std, kept.n) == (told["mean"], told["std"], 4)
    sizes = [min(int(batch_size), 4 - start) for start in range(0, 4, int(batch_size))]
    assert qsave.model.batches == [("direct", size) for size in sizes]


def test_the_bundled_model_needs_a_file_and_the_message_loads_it(qsave, tmp_path) -> None:
    code, out, err = qsave("calibrate", "--data", "in.jsonl", "--limit", "3", "--out", "here.json")
    assert code == 0 and err.startswith('wrote here.json; VideoReward.from_pretrained("tiny", normalise=')
    expression = err.partition("normalise=")[2].partition(") uses it")[0]
    kept = eval(expression, {"Calibration": Calibration})
    reward = VideoReward(qsave.model, normalise=kept)
    values = reward(["0.mp4", "1.mp4", "2.mp4"], ["p"] * 3).values
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(axis=0, ddof=1), 1, atol=1e-9)
    assert "in.jsonl, 3 clips" in out and f"{kept.mean['visual_quality']:.3f}" in out
    assert f"{kept.std['text_alignment']:.3f}" in out and max(map(len, out.splitlines())) <= 80
    (tmp_path / "folder").mkdir()
    assert qsave("calibrate", "--data", "in.jsonl", "--out", "folder")[0] == 0
    assert Calibration.load("folder").n == 4


def test_a_world_as_the_evaluation_takes_it(qsave) -> None:
    code, out, _ = qsave(
        "calibrate", "--data", "world:val:5", "--limit", "6", "--out", "w.json", "--json", "--batch-size", "4"
    )
    told = json.loads(out)
    clips = [clip for _, clip in load_data("world:val:5", limit=6).items]
    mean, std = expected_numbers(clips)
    assert (code, told["n"], told["data"]) == (0, 6, "world:val:5")
    assert told["mean"] == pytest.approx(mean, abs=1e-12) and told["std"] == pytest.approx(std, abs=1e-12)


def test_failed_clips_are_left_out_and_said(qsave, tmp_path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    listed = [{"video": name, "prompt": "p"} for name in ("0.mp4", "none.mp4", "1.mp4", "text.mp4", "2.mp4")]
    lines(tmp_path / "in.jsonl", listed)
    code, out, err = qsave("calibrate", "--model", "mine", "--data", "in.jsonl", "--json")
    told = json.loads(out)
    mean, _ = expected_numbers(["0.mp4", "1.mp4", "2.mp4"])
    assert (code, told["n"], told["n_failed"]) == (1, 3, 2)
    assert told["mean"] == pytest.approx(mean, abs=1e-12)
    assert told["failures"] == {"not_a_video": 1, "not_found": 1}
    assert err.splitlines()[1] == "left out: 2 of 5 clips (not_a_video 1, not_found 1)"


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--out", "x.json"], "Missing option '--data'"),
        (["--data", "in.jsonl"], "the weights of 'tiny' lie in a folder that belongs to a package"),
        (["--data", "in.jsonl", "--model", "org/model"], "nothing is written there; give --out FILE.json"),
        (["--data", "none.jsonl", "--out", "x.json"], "cannot read 'none.jsonl'"),
        (["--data", "world:moon", "--out", "x.json"], "moon"),
        (["--data", "in.jsonl", "--out", "no/such/x.json"], "expected a file name in an existing folder"),
        (["--data", "in.jsonl", "--out", "nowhere"], "expected a file name in an existing folder"),
        (["--data", "in.jsonl", "--out", "x.json", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_use_is_exit_2_before_anything_is_scored(qsave, tmp_path, args, complaint) -> None:
    before = set(tmp_path.rglob("*"))
    code, out, err = qsave("calibrate", *args)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert complaint in " ".join(err.replace("│", " ").split())
    assert not qsave.model.batches and set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("videos", "complaint"),
    [
        (["0.mp4"], "expected at least 2 clips with scores in 'in.jsonl', got 1"),
        (["0.mp4", "none.mp4"], "got 1; without scores: 1 of 2 clips (not_found 1)"),
        (["0.mp4", "0.mp4"], "std.visual_quality"),
    ],
)
def test_what_cannot_be_calibrated_leaves_the_old_file(qsave, tmp_path, videos, complaint) -> None:
    assert qsave("calibrate", "--model", "mine", "--data", "in.jsonl")[0] == 0
    before = (tmp_path / "mine/calibration.json").read_bytes()
    lines(tmp_path / "in.jsonl", [{"video": video, "prompt": "p"} for video in videos])
    code, out, err = qsave("calibrate", "--model", "mine", "--data", "in.jsonl")
    assert (code, out) == (2, "") and complaint in err and "wrote" not in err
    assert (tmp_path / "mine/calibration.json").read_bytes() == before


def test_progress_counts_every_clip(tmp_path) -> None:
    lines(tmp_path / "in.jsonl", write_colors(tmp_path))
    counts: list[int] = []
    measure(ColorModel(), load_data(str(tmp_path / "in.jsonl")), batch_size=3, progress=counts.append)
    assert counts == [3, 1]


def test_a_checkpoint_with_a_calibration_gives_z_scores(tiny, monkeypatch, capsys, tmp_path) -> None:
    checkpoint = tmp_path / "mine"
    checkpoint.mkdir()
    for file in WEIGHTS.iterdir():
        (checkpoint / file.name).symlink_to(file)
    with pytest.raises(ConfigError) as caught:
        VideoReward.from_pretrained(checkpoint, device="cpu", normalise="checkpoint")
    assert caught.value.code == "no_calibration"
    run = fake_command(monkeypatch, capsys)
    monkeypatch.setattr(command_options, "load_model", lambda name, device: tiny)
    args = ["--model", str(checkpoint), "--data", "world:test", "--limit", "5"]
    assert run("calibrate", *args, "--json")[0] == 0 and not (WEIGHTS / "calibration.json").exists()
    reward = VideoReward.from_pretrained(checkpoint, device="cpu", normalise="checkpoint")
    items = list(load_data("world:test", limit=5).items)
    values = reward([clip for _, clip in items], [record.prompt for record, _ in items]).values
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(values.std(axis=0, ddof=1), 1, atol=1e-3)
