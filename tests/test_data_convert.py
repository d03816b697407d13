"""`qsave data convert`: public sets become records whose paths lead to the clips."""

from __future__ import annotations

import os

import pytest
from cli_cases import command
from list_files import lines, write
from test_benchmarks_fetv import fetv

from qsave_reward.data import read_records


@pytest.fixture
def qsave(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return command(monkeypatch, capsys)


def clip_of(record, folder) -> str:
    return os.path.normpath(os.path.join(folder, record.video))


def test_a_list_with_bars(qsave, tmp_path):
    write(tmp_path / "info.txt", "a.mp4|a red star|75\nb.mp4|a ring|50\n")
    (tmp_path / "out").mkdir()
    code, out, err = qsave(
        "data", "convert", "t2vqa-db", "info.txt", "--videos", "films/t2vqa", "--out", "out/records.jsonl"
    )
    assert (code, out, err) == (0, "wrote 2 records to out/records.jsonl\n", "")
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert [(record.prompt, record.overall) for record in records] == [("a red star", 4.0), ("a ring", 3.0)]
    assert clip_of(records[0], tmp_path / "out") == str(tmp_path / "films" / "t2vqa" / "a.mp4")


def test_ratings_with_prompts_of_their_own(qsave, tmp_path):
    sheets = {f"human{k}": {"cogvideo": {0: (k + 1, 2, 3)}} for k in range(3)}
    fetv(tmp_path, sheets)
    options = ("--prompts", "fetv_data.json", "--videos", "films", "--out", "records.jsonl")
    code, _, err = qsave("data", "convert", "fetv", "manual_eval_results", *options)
    assert (code, err) == (0, "")
    (record,) = read_records("records.jsonl")
    assert record.ratings["visual_quality"] == (1, 2, 3) and record.prompt == "a person jumps from building"
    assert clip_of(record, tmp_path) == str(tmp_path / "films" / "cogvideo" / "videos" / "0.mp4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetv", "info.txt"), "--prompts"),
        (("t2vqa-db", "info.txt", "--prompts", "info.txt"), "--prompts"),
        (("t2vqa-db", "nothing.txt"), "nothing.txt"),
        (("videofeedback", "info.txt"), "info.txt"),
        (("imdb", "info.txt"), "imdb"),
    ],
)
def test_what_cannot_be_read_writes_nothing(qsave, tmp_path, arguments, message):
    write(tmp_path / "info.txt", "a.mp4|a red star|75\n")
    code, _, err = qsave("data", "convert", *arguments, "--out", "records.jsonl")
    assert code == 2 and message in err and os.listdir(tmp_path) == ["info.txt"]


def test_every_set_has_its_reader(qsave, tmp_path):
    lines(tmp_path / "x.json", [{"other": 1}])
    for name in ("videofeedback", "videofeedback2", "t2vqa-db", "qeval-video"):
        code, _, err = qsave("data", "convert", name, "x.json", "--out", "records.jsonl")
        assert code == 2 and "x.json" in err
