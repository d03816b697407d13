"""`qsave data split`: every clip in one part, no prompt in two, nothing of a line lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli_cases import command
from hypothesis import given, settings
from hypothesis import strategies as st
from list_files import lines, table

from qsave_reward.data import SHARES, read_records, split_by_prompt
from qsave_reward.data_split import split_file
from qsave_reward.errors import ConfigError

PROMPTS = [f"{number} red rings" for number in range(40)]
ROWS = [
    {"video": f"clips/{k}.mp4", "prompt": PROMPTS[k % 40], "mos": {"visual_quality": 1 + k / 20}, "seed": k}
    for k in range(60)
]


@pytest.fixture
def qsave(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return command(monkeypatch, capsys)


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_parts_hold_every_line_once_in_order_with_paths_that_still_lead_to_the_clips(tmp_path):
    (tmp_path / "data").mkdir()
    parts = split_file(lines(tmp_path / "data" / "all.jsonl", ROWS), tmp_path / "out" / "x", SHARES)
    assert [os.path.basename(part.file) for part in parts] == ["train.jsonl", "val.jsonl", "test.jsonl"]
    found = {part.file: rows_of(part.file) for part in parts}
    assert sorted(row["seed"] for rows in found.values() for row in rows) == list(range(60))
    for part in parts:
        rows = found[part.file]
        assert [row["seed"] for row in rows] == sorted(row["seed"] for row in rows)
        assert (part.clips, part.prompts) == (len(rows), len({row["prompt"] for row in rows}))
        for row in rows:
            where = os.path.normpath(os.path.join(os.path.dirname(part.file), row["video"]))
            assert where == str(tmp_path / "data" / "clips" / f"{row['seed']}.mp4")
            assert {**row, "video": f"clips/{row['seed']}.mp4"} == ROWS[row["seed"]]
    prompts = [{row["prompt"] for row in rows} for rows in found.values()]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 40


def test_parts_are_those_of_split_by_prompt(tmp_path):
    source = lines(tmp_path / "all.jsonl", ROWS)
    parts = split_file(source, tmp_path / "out", {"a": 0.5, "b": 0.5}, seed=3)
    expected = split_by_prompt(read_records(source), {"a": 0.5, "b": 0.5}, seed=3)
    for part, records in zip(parts, expected.values(), strict=True):
        assert [row["prompt"] for row in rows_of(part.file)] == [record.prompt for record in records]


def test_tables_and_absolute_paths(tmp_path):
    rows = [{**row, "video": f"/films/{k}.mp4"} for k, row in enumerate(ROWS)]
    (part,) = split_file(table(tmp_path / "all.parquet", rows), tmp_path, {"whole": 1.0})
    assert [record.video for record in read_records(part.file)] == [row["video"] for row in rows]


def test_names_of_rendered_clips_stay(tmp_path):
    rows = [{**row, "video": f"world:train/4/{k}"} for k, row in enumerate(ROWS)]
    (part,) = split_file(lines(tmp_path / "all.jsonl", rows), tmp_path / "out", {"whole": 1.0})
    assert [row["video"] for row in rows_of(part.file)] == [row["video"] for row in rows]


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip))
def test_spellings_of_one_prompt_stay_together(tmp_path_factory, prompt):
    folder = tmp_path_factory.mktemp("split")
    rows = [*ROWS, {"video": "a.mp4", "prompt": prompt}, {"video": "b.mp4", "prompt": f"  {prompt.upper()} "}]
    rows.append({"video": "c.mp4", "prompt": prompt.upper()})
    parts = split_file(lines(folder / "all.jsonl", rows), folder / "out", {"a": 0.5, "b": 0.5})
    with_them = [{row["video"][3:] for row in rows_of(part.file)} & {"b.mp4", "c.mp4"} for part in parts]
    assert sorted(map(len, with_them)) == [0, 2]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 0.5}, "sum to 1"),
        ({"train": 1.5, "val": -0.5}, "at least 0"),
        ({"train": 1.0, "none": 0.0}, "no clip falls into none"),
        ({"../train": 1.0}, "name of a part"),
        ({"": 1.0}, "name of a part"),
        ({"all": 1.0}, "is the file to be split"),
    ],
)
def test_what_cannot_be_done_changes_nothing(tmp_path, shares, message):
    source = lines(tmp_path / "all.jsonl", ROWS)
    old = lines(tmp_path / "train.jsonl", ROWS[:1]).read_bytes()
    with pytest.raises(ConfigError, match=message):
        split_file(source, tmp_path, shares)
    assert sorted(os.listdir(tmp_path)) == ["all.jsonl", "train.jsonl"]
    assert (tmp_path / "train.jsonl").read_bytes() == old and rows_of(source) == ROWS


def test_a_wrong_line_leaves_no_file(tmp_path):
    source = lines(tmp_path / "all.jsonl", [*ROWS, {"prompt": "no clip"}])
    with pytest.raises(ConfigError, match="line 61.*'video'"):
        split_file(source, tmp_path / "out", SHARES)
    assert not (tmp_path / "out").exists()


def test_command(qsave, tmp_path):
    lines(tmp_path / "all.jsonl", ROWS)
    code, out, err = qsave(
        "data",
        "split",
        "all.jsonl",
        "--out",
        "parts",
        "--share",
        "train=0.7",
        "--share",
        "test=0.3",
        "--json",
    )
    assert (code, err) == (0, "")
    train, test = json.loads(out)
    assert train["file"] == "parts/train.jsonl" and train["clips"] + test["clips"] == 60
    code, out, _ = qsave("data", "split", "all.jsonl", "--out", "parts")
    assert code == 0 and out.startswith("wrote parts/train.jsonl: ")


@pytest.mark.parametrize("share", ["train", "train=most", "train=1.0=2"])
def test_command_refuses_a_share_it_cannot_read(qsave, tmp_path, share):
    lines(tmp_path / "all.jsonl", ROWS)
    code, _, err = qsave("data", "split", "all.jsonl", "--out", "parts", "--share", share)
    assert code == 2 and "NAME=SHARE" in err and not (tmp_path / "parts").exists()


def test_command_refuses_a_name_twice(qsave, tmp_path):
    lines(tmp_path / "all.jsonl", ROWS)
    shares = ("--share", "a=0.5", "--share", "a=0.5")
    code, _, err = qsave("data", "split", "all.jsonl", "--out", "parts", *shares)
    assert code == 2 and "each name once" in err
