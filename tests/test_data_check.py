"""`qsave data check`: every problem of a data set, each in its place."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from cli_cases import command
from hypothesis import given, settings
from hypothesis import strategies as st
from list_files import lines, table, write

from qsave_reward.data import read_records
from qsave_reward.data_check import KINDS, check_data, scan_files
from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import write_clip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with three clips of different content."""
    for i, level in enumerate((40, 120, 200)):
        write_clip(tmp_path / f"{i}.mp4", np.full((4, 32, 32, 3), level, dtype=np.uint8), fps=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def qsave(monkeypatch, capsys):
    return command(monkeypatch, capsys)


def check(*paths: str) -> list[tuple[str, str, int | None]]:
    """Kind, file and line of each problem."""
    return [(p.kind, p.file, p.line) for p in check_data(scan_files(paths)).problems]


def row(video: str = "0.mp4", prompt: str = "x", **fields) -> dict:
    return {"video": video, "prompt": prompt, **fields}


def test_a_clean_set(folder, qsave) -> None:
    lines(folder / "train.jsonl", [row(mos={"visual_quality": 1}, id="a"), row("1.mp4", id="b")])
    table(folder / "test.parquet", [row("2.mp4", "y", overall=5.0)])
    code, out, err = qsave("data", "check", "train.jsonl", "test.parquet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "ok": True,
        "counts": dict.fromkeys(KINDS, 0),
        "files": [
            {"file": "train.jsonl", "lines": 2, "records": 2, "prompts": 1, "videos": 2},
            {"file": "test.parquet", "lines": 1, "records": 1, "prompts": 1, "videos": 1},
        ],
        "problems": [],
    }
    code, out, err = qsave("data", "check", "train.jsonl")
    assert (code, err) == (0, "")
    assert "no problem found" in out and "train.jsonl" in out


def test_every_wrong_line_is_named_and_none_hides_another(folder, qsave) -> None:
    content = [
        json.dumps(row()),
        "{",
        "",
        "[1]",
        json.dumps(row("1.mp4", " ", mos={"visual_quality": 5.01, "x": 3}, ratings={"text_alignment": [0]})),
        json.dumps(row("2.mp4", overall=0, id=7)),
        json.dumps({"video": "2.mp4"}),
    ]
    write(folder / "r.jsonl", "\n".join(content))
    code, out, err = qsave("data", "check", "r.jsonl", "--json")
    found = json.loads(out)
    assert (code, err) == (1, "")
    assert [(p["kind"], p["line"]) for p in found["problems"]] == [
        ("bad_line", 2),
        ("bad_line", 4),
        ("bad_line", 5),
        ("empty_prompt", 5),
        ("off_scale", 5),
        ("off_scale", 5),
        ("bad_line", 6),
        ("off_scale", 6),
        ("bad_line", 7),
        ("duplicate_video", 7),
    ]
    messages = [problem["message"] for problem in found["problems"]]
    assert messages[1] == "expected a JSON object, got [1]"
    assert messages[2].startswith("unknown dimension 'x'")
    assert messages[4] == "field 'mos.visual_quality': expected a score from 1 to 5, got 5.01"
    assert messages[5] == "field 'ratings.text_alignment[0]': expected a score from 1 to 5, got 0"
    assert messages[6] == "field 'id': expected text, got 7"
    assert messages[7] == "field 'overall': expected a score from 1 to 5, got 0"
    assert messages[8].startswith("field 'prompt' is missing")
    assert found["counts"] == {**dict.fromkeys(KINDS, 0), **Counter(p["kind"] for p in found["problems"])}
    assert found["files"] == [{"file": "r.jsonl", "lines": 6, "records": 1, "prompts": 1, "videos": 3}]
    assert {p["file"] for p in found["problems"]} == {"r.jsonl"}


def test_clips_that_are_missing_or_cannot_be_read(folder) -> None:
    (folder / "text.mp4").write_text("not a video")
    (folder / "cut.mp4").write_bytes((folder / "0.mp4").read_bytes()[:200])
    videos = [
        "none.mp4",
        "text.mp4",
        "cut.mp4",
        ".",
        "http://x/a.mp4",
        "a\0b",
        "\ud800",
        "sub/0.mp4",
        "0.mp4",
    ]
    lines(folder / "r.jsonl", [row(video) for video in videos])
    found = check_data(scan_files(["r.jsonl"])).problems
    assert [problem.line for problem in found] == list(range(1, 9))
    kinds = {problem.line: problem.kind for problem in found}
    assert kinds[1] == kinds[8] == "missing_video"
    assert {kinds[line] for line in range(2, 8)} == {"unreadable_video"}
    assert "no such file (not_found)" in found[0].message
    assert found[4].message.endswith("(url)")


def test_without_opening_only_missing_clips_are_seen(folder, qsave) -> None:
    (folder / "text.mp4").write_text("not a video")
    lines(folder / "r.jsonl", [row(video) for video in ("text.mp4", "none.mp4", "http://x/a", "a\0b")])
    code, out, _ = qsave("data", "check", "r.jsonl", "--skip-clips", "--json")
    assert code == 1
    problems = json.loads(out)["problems"]
    assert [(p["kind"], p["line"]) for p in problems] == [("missing_video", line) for line in (2, 3, 4)]


def test_paths_are_relative_to_the_file_that_lists_them(folder) -> None:
    (folder / "lists").mkdir()
    lines(folder / "lists" / "r.jsonl", [row("../0.mp4"), row(str(folder / "1.mp4"))])
    assert check("lists/r.jsonl") == []
    assert check(str(folder / "lists" / "r.jsonl")) == []


def test_duplicates_within_and_between_files(folder) -> None:
    shutil.copy("0.mp4", "copy.mp4")
    (folder / "link.mp4").symlink_to("1.mp4")
    lines(folder / "a.jsonl", [row("0.mp4", id="7"), row("1.mp4", id="8"), row("./0.mp4", id="9")])
    lines(folder / "b.jsonl", [row("link.mp4", "y", id="7"), row("copy.mp4", "y"), row("2.mp4", "y")])
    found = check_data(scan_files(["a.jsonl", "b.jsonl"])).problems
    assert [(p.kind, p.file, p.line) for p in found] == [
        ("duplicate_video", "a.jsonl", 3),
        ("duplicate_id", "b.jsonl", 1),
        ("duplicate_video", "b.jsonl", 1),
        ("duplicate_content", "b.jsonl", 2),
    ]
    assert found[1].message == "id '7' was used already in a.jsonl, line 1"
    assert found[3].message == "'copy.mp4' has the content of '0.mp4' in a.jsonl, line 1"


def test_clips_of_one_size_need_not_be_equal(folder) -> None:
    size = max(Path(f"{i}.mp4").stat().st_size for i in range(2))
    for i in range(2):
        with open(f"{i}.mp4", "ab") as file:  # players ignore what follows the last box
            file.write(b"\0" * (size - file.tell()))
    lines(folder / "r.jsonl", [row("0.mp4"), row("1.mp4")])
    assert check("r.jsonl") == []


def test_prompts_shared_between_files_are_told_once_a_file(folder) -> None:
    lines(folder / "train.jsonl", [row("0.mp4", "A cat."), row("1.mp4", "a cat")])
    lines(folder / "test.jsonl", [row("2.mp4", "a  CAT")])
    table(folder / "val.parquet", [row("3.mp4", "a dog"), row("4.mp4", "a cat"), row("5.mp4", "a cat")])
    found = check_data(scan_files(["train.jsonl", "test.jsonl", "val.parquet"]), open_videos=False).problems
    shared = [problem for problem in found if problem.kind == "shared_prompt"]
    assert [(p.file, p.line) for p in shared] == [("test.jsonl", 1), ("val.parquet", 2)]
    assert shared[1].message == "prompt 'a cat' is also in train.jsonl, line 1"


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_records(folder, content) -> None:
    (folder / "r.jsonl").write_bytes(content)
    assert check("r.jsonl") == [("no_records", "r.jsonl", None)]


def test_bytes_that_are_no_text_spoil_their_own_line_only(folder) -> None:
    (folder / "r.jsonl").write_bytes(b'\xef\xbb\xbf{"video": "0.mp4", "prompt": "x"}\r\n\xff\xfe\n')
    assert check("r.jsonl") == [("bad_line", "r.jsonl", 2)]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "Missing argument"),
        (["none.jsonl"], "cannot read 'none.jsonl'"),
        (["."], "cannot read '.'"),
        (["r.jsonl", "./r.jsonl"], "expected different files"),
        (["r.jsonl", "text.parquet"], "cannot read 'text.parquet'"),
        (["r.jsonl", "--magic"], "--magic"),
    ],
)
def test_wrong_use_is_exit_2_and_no_output(folder, qsave, args, complaint) -> None:
    lines(folder / "r.jsonl", [row()])
    write(folder / "text.parquet", "{}")
    code, out, err = qsave("data", "check", *args)
    assert (code, out) == (2, "") and complaint in err and "Traceback" not in err


def test_the_table_for_people_is_short_and_shows_text_as_it_is(folder, qsave) -> None:
    name = "[bold]\x1b[31m猫.jsonl"
    lines(
        folder / name,
        [row("0.mp4", id="[red]\x1b")] + [row(f"none{i}.mp4", id="[red]\x1b") for i in range(30)],
    )
    code, out, err = qsave("data", "check", name, "--skip-clips")
    assert (code, err) == (1, "")
    assert "\x1b" not in out and "[bold]\\x1b[31m猫.jsonl" in out.replace("\n", "") and "[red]" in out
    assert "and 40 more; --json lists all" in out
    assert "30  clips that do not exist" in out and "30  ids used twice" in out
    assert len(out.splitlines()) < 75


def test_progress_counts_each_clip_once(folder) -> None:
    lines(folder / "r.jsonl", [row("0.mp4"), row("1.mp4"), row("0.mp4")])
    scan, done = scan_files(["r.jsonl"]), []
    check_data(scan, progress=done.append)
    assert len(scan.videos) == len(done) == 2


KEYS = st.sampled_from(DIMENSIONS) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
NAMES = ("video", "prompt", "mos", "ratings", "overall", "defects", "rationale", "generator", "id")
ROWS = st.dictionaries(st.sampled_from(NAMES), JSON) | st.builds(row, id=st.integers(0, 3).map(str))


@given(rows=st.lists(ROWS, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_the_first_line_that_reading_refuses_is_the_first_wrong_one(rows, tmp_path_factory) -> None:
    path = lines(tmp_path_factory.mktemp("check") / "r.jsonl", rows)
    refused = [
        problem.line
        for problem in check_data(scan_files([str(path)]), open_videos=False).problems
        if problem.kind in ("bad_line", "empty_prompt", "duplicate_id") or "field 'mos." in problem.message
    ]
    try:
        read_records(path)
    except ConfigError as error:
        assert int(str(error).split(", line ")[1].split(":")[0]) == min(refused)
    else:
        assert refused == []
