"""`qsave ntire`: the lists of the challenge, its submission, and going on after a kill."""

import json

import numpy as np
import pytest
from cli_cases import fake_command, write_clips
from scipy import stats

from qsave_reward.errors import ConfigError
from qsave_reward.ntire import Submission, read_list
from qsave_reward.types import Record


@pytest.fixture
def qsave(monkeypatch, capsys, tmp_path):
    write_clips(tmp_path)
    return fake_command(monkeypatch, capsys)


def listed(folder, *, rated=True, name="test_data.txt", more=""):
    rows = [
        f"{i}.mp4|clip | no {i}" + (f"|{rating}" if rated else "") for i, rating in enumerate((4.5, 1.5, 2.5))
    ]
    (folder / name).write_text("\n".join(rows) + "\n" + more)


def test_a_submission_has_a_score_for_each_video(qsave, tmp_path):
    listed(tmp_path, rated=False)
    out = tmp_path / "prediction.json"
    code, text, _ = qsave("ntire", "--data", str(tmp_path), "--out", str(out), "--json")
    rows = json.loads(out.read_text())
    assert code == 0 and [set(row) for row in rows] == [{"video", "predict_score"}] * 3
    assert [row["video"] for row in rows] == ["0.mp4", "1.mp4", "2.mp4"]
    expected = [
        qsave.model.score_batch([tmp_path / f"{i}.mp4"], [f"clip | no {i}"])[0].overall for i in range(3)
    ]
    assert [row["predict_score"] for row in rows] == pytest.approx(expected)
    assert json.loads(text) == {"file": str(out), "n": 3, "failed": [], "agreement": None}


def test_ratings_in_the_list_are_compared_with(qsave, tmp_path):
    listed(tmp_path)
    out = tmp_path / "p.json"
    code, text, _ = qsave("ntire", "--data", str(tmp_path), "--out", str(out), "--json")
    scores = [row["predict_score"] for row in json.loads(out.read_text())]
    ratings = [4.5, 1.5, 2.5]
    rank, line = stats.spearmanr(scores, ratings)[0], stats.pearsonr(scores, ratings)[0]
    found = json.loads(text)["agreement"]
    assert found == pytest.approx({"srcc": rank, "plcc": line, "score": (rank + line) / 2})
    code, text, _ = qsave("ntire", "--data", str(tmp_path), "--out", str(out))
    assert code == 0 and "wrote 3 scores to" in text and f"score {(rank + line) / 2:.4f}" in text


def test_a_video_that_fails_is_left_out_and_named(qsave, tmp_path):
    listed(tmp_path, more="gone.mp4|a|3\n1.mp4|b|2\n")
    out = tmp_path / "p.json"
    code, text, err = qsave("ntire", "--data", str(tmp_path), "--out", str(out), "--json")
    assert code == 1 and "1 of 5 videos have no score" in err and "gone.mp4: " in err
    assert [row["video"] for row in json.loads(out.read_text())] == ["0.mp4", "1.mp4", "2.mp4", "1.mp4"]
    assert [one["video"] for one in json.loads(text)["failed"]] == ["gone.mp4"]


def test_what_was_scored_is_not_scored_again(qsave, tmp_path, monkeypatch):
    listed(tmp_path)
    out = tmp_path / "p.json"
    args = ("ntire", "--data", str(tmp_path), "--out", str(out), "--batch-size", "1")
    own, seen = qsave.model.score_batch, []

    def broken(videos, prompts, **options):
        seen.extend(prompts)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return own(videos, prompts, **options)

    monkeypatch.setattr(qsave.model, "score_batch", broken)
    assert qsave(*args)[0] == 130 and not out.exists()
    code, _, _ = qsave(*args)
    assert code == 0 and seen == ["clip | no 0", "clip | no 1", "clip | no 1", "clip | no 2"]
    assert len(json.loads(out.read_text())) == 3


def test_which_list_is_meant(tmp_path):
    with pytest.raises(ConfigError, match="one other text file in .*, got none; use --list"):
        read_list(str(tmp_path))
    listed(tmp_path, name="val_data.txt")
    assert len(read_list(str(tmp_path))) == 3
    listed(tmp_path, name="train_data.txt", more="x.mp4|y|1\n")
    with pytest.raises(ConfigError, match=r"got train_data\.txt, val_data\.txt"):
        read_list(str(tmp_path))
    assert len(read_list(str(tmp_path), "train_data.txt")) == 4
    listed(tmp_path, rated=False)
    found = read_list(str(tmp_path))
    assert [record.overall for record in found] == [None] * 3 and found[2].prompt == "clip | no 2"
    (tmp_path / "test_data.txt").write_text("no bar here\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_list(str(tmp_path))


def test_nothing_to_compare_is_no_agreement():
    record = Record("a.mp4", "a", overall=3.0)
    alike = Submission((record, record), (1.0, 2.0), (None, None))
    assert alike.agreement() is None and Submission((), (), ()).agreement() is None
    more = (record, Record("b.mp4", "b", overall=4.0), Record("c.mp4", "c", overall=5.0))
    rated = Submission(more, (2.0, 3.0, 4.0), (None,) * 3)
    assert rated.agreement() == pytest.approx({"srcc": 1.0, "plcc": 1.0, "score": 1.0})
    # Two always agree or disagree fully.
    missing = Submission(more, (2.0, 3.0, None), (None, None, "gone"))
    assert missing.agreement() is None and not np.isnan(rated.agreement()["score"])


@pytest.mark.parametrize("bad", ["3.mp4|a dog", "3.mp4|a dog|", "3.mp4|a dog|good", "3.mp4|a dog|7"])
def test_a_bad_line_does_not_make_a_rated_list_unrated(tmp_path, bad):
    listed(tmp_path, more=bad + "\n")
    with pytest.raises(ConfigError, match=r"test_data\.txt, line 4: .* every line its MOS, or none"):
        read_list(str(tmp_path))


def test_unrated_prompts_may_hold_bars_and_numbers(tmp_path):
    listed(tmp_path, rated=False, more="3.mp4|2024\n4.mp4|a clock|12\n5.mp4|99\n6.mp4|7\n")
    found = read_list(str(tmp_path))
    assert [one.prompt for one in found[3:]] == ["2024", "a clock|12", "99", "7"]
