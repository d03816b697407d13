"""Evaluations that are saved and compared: changes by hand, and what must not be compared."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel

from qsave_reward.reward import VideoReward

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

import compare
import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def saved(path, rows, **changes):
    """A file as `evaluate.py --save` writes it, with one metric [P, S]."""
    content = {"sampling": {"seed": 0}, "revisions": {"reward": "abc"}, "prompts": ["a", "b"]}
    content |= {"metrics": {"gold.overall": rows}} | changes
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def before(tmp_path):
    return saved(tmp_path / "before.json", [[1.0, 2.0], [3.0, None]])


def test_changes_are_paired_and_a_video_without_a_score_is_left_out(before, tmp_path, capsys):
    first = saved(tmp_path / "first.json", [[2.0, 2.0], [5.0, 9.0]])  # +1, 0, +2
    second = saved(tmp_path / "second.json", [[1.0, None], [3.5, None]])  # 0, +0.5
    compare.main(["--before", before, "--after", f"nft={first},{second}", f"grpo={first}", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["grpo"]["gold.overall"]["runs"] == [1.0]
    assert found["nft"]["gold.overall"]["runs"] == [1.0, 0.25]
    assert found["nft"]["gold.overall"]["change"] == 0.625
    low, high = found["nft"]["gold.overall"]["interval"]
    assert low == pytest.approx(1 / 3) and high == 1.25  # the means of the two prompts


def test_the_table_has_a_row_for_each_metric_and_a_column_for_each_setting(before, tmp_path, capsys):
    first, second = (saved(tmp_path / f"{i}.json", [[0.5 - i, 1.5 - i], [2.5 - i, 9.0]]) for i in (0, 1))
    compare.main(["--before", before, "--after", f"nft={first},{second}"])
    head, rule, row = capsys.readouterr().out.splitlines()
    assert head == "| metric | before | nft |" and rule == "|---|---|---|"
    assert row == "| gold.overall | 2.000 | -1.000 [-1.000, -1.000] (-0.500, -1.500) |"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": ["a", "c"]}, "differ in prompts"),
        ({"sampling": {"seed": 1}}, "differ in sampling"),
        ({"revisions": {"reward": "def"}}, "differ in revisions"),
        ({"metrics": {"gold.overall": [[1.0], [2.0]]}}, "differ in their metrics or"),
        ({"metrics": {"gold.shape": [[1.0, 1.0], [2.0, 1.0]]}}, "differ in their metrics or"),
    ],
)
def test_other_evaluations_are_not_compared(before, tmp_path, changes, words):
    other = saved(tmp_path / "other.json", [[1.0, 1.0], [1.0, 1.0]], **changes)
    with pytest.raises(SystemExit, match=f"before.json and .*other.json {words}"):
        compare.main(["--before", before, "--after", f"nft={other}"])


@pytest.mark.parametrize("content", [None, b"\xff", b"[]", b"{", b"{}"])
def test_what_no_evaluation_wrote_is_an_error(before, tmp_path, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"expected a file that evaluate.py --save wrote, got .*other.json"):
        compare.main(["--before", before, "--after", f"nft={path}"])


@pytest.mark.parametrize("words", ["nft", "nft=", "=x.json"])
def test_a_setting_has_a_name_and_files(before, words):
    with pytest.raises(SystemExit, match="expected --after NAME=FILE,FILE, got"):
        compare.main(["--before", before, "--after", words])


def test_a_run_counts_once(before):
    with pytest.raises(SystemExit, match="names a file twice"):
        compare.main(["--before", before, "--after", f"nft={before},{before}"])


def test_an_evaluation_is_saved_as_it_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rewards.open_reward", lambda *_, **__: VideoReward(FakeModel(), on_error="mask"))
    path = tmp_path / "new" / "before.json"
    evaluate.main(["--count", "2", "--videos", "2", "--steps", "1", "--save", str(path), "--json"])
    printed, written = json.loads(capsys.readouterr().out), compare.read(str(path))
    for name, values in compare.table(written).items():
        assert values.shape == (2, 2)
        assert np.mean(values) == pytest.approx(printed[name], abs=1e-5)
    assert written["revisions"] == printed["revisions"] and written["sampling"]["seed"] == 0
    zero = compare.changes(written, {"again": written})["gold.overall"]
    assert zero == {"change": 0.0, "interval": [0.0, 0.0], "runs": [0.0]}
