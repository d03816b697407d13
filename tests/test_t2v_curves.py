"""Pictures of runs: what is in the logs is what is drawn, gaps included."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

import curves

from qsave_reward.errors import ConfigError


def run_of(folder, values):
    """A folder with evaluations at updates 0, 10 ...; the value of every metric, `None` for no score."""
    folder.mkdir()
    rows = [
        {"kind": "evaluation", "step": 10 * i, **dict.fromkeys(curves.SHOWN, value)} for i, value in values
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The lines and bands of the last figure."""
    found = {}

    def keep(figure, path):
        for axis in figure.axes:
            found[axis.get_title()] = (axis.get_lines(), axis.collections)

    monkeypatch.setattr(curves, "_save", keep)
    return found


def test_a_line_is_the_mean_change_of_runs_and_a_band_goes_from_lowest_to_highest(tmp_path, drawn):
    one = run_of(tmp_path / "one", [(0, 1.0), (1, 2.0), (2, 9.0)])
    two = run_of(tmp_path / "two", [(0, 3.0), (1, 5.0)])
    curves.main(["--out", "x.png", "--runs", f"nft={one},{two}", f"grpo={one}"])
    assert len(drawn) == 6
    (line, alone), (band, _) = drawn["gold: visual"]
    assert line.get_xdata().tolist() == [0, 10] and line.get_ydata().tolist() == [0.0, 1.5]
    assert alone.get_ydata().tolist() == [0.0, 1.0, 8.0]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.0, 2.0)


def test_an_evaluation_without_a_score_is_a_gap(tmp_path, drawn):
    curves.main(["--out", "x.png", "--runs", f"nft={run_of(tmp_path / 'one', [(0, 1.0), (1, None)])}"])
    (line,), _ = drawn["reward: visual quality"]
    assert line.get_ydata()[0] == 0.0 and np.isnan(line.get_ydata()[1])


def test_a_picture_is_written(tmp_path):
    run = run_of(tmp_path / "one", [(0, 1.0), (1, 2.0)])
    curves.draw_runs({"nft": [run]}, tmp_path / "new" / "a.svg")
    assert "<svg" in (tmp_path / "new" / "a.svg").read_text()


def test_what_cannot_be_drawn_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="log.jsonl and evaluations in it, got .*empty"):
        curves.main(["--out", "x.png", "--runs", f"nft={tmp_path / 'empty'}"])
    with pytest.raises(ConfigError, match="at most 4 names, got 5: a, b, c, d, e"):
        curves.draw_runs({name: [tmp_path] for name in "abcde"}, "x.png")
