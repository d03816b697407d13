"""Lists of clips to choose from: files, folders, groups."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from filter_cases import rows, run, write_set
from list_files import lines, table

from qsave_reward.clip_list import read_clip_list, read_groups
from qsave_reward.errors import ConfigError
from qsave_reward.selection import Selection, parse_keep


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder: a set of clips."""
    monkeypatch.chdir(write_set(tmp_path))
    return tmp_path


def test_a_folder_of_clips_with_prompts_beside_them(folder) -> None:
    for i in (0, 2):
        (folder / f"clips/{i}.txt").write_text(f"prompt {i}\n")
    with pytest.raises(ConfigError, match=r"expected the prompt of '1\.mp4' in '.*1\.txt'"):
        read_clip_list(folder / "clips")
    (folder / "clips/1.mp4").unlink()
    (folder / "clips/README.txt").write_text("not a prompt")
    (folder / "clips/._0.mp4").write_text("not a clip")
    summary, _ = run(Path("clips"), folder / "clips/out", Selection(parse_keep("top:1")))
    assert (summary.n, summary.input) == (2, "..")
    assert rows(folder / "clips/out/kept.jsonl") == [{"video": "../2.mp4", "prompt": "prompt 2"}]
    (folder / "clips/0.txt").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"0\.txt': expected UTF-8"):
        read_clip_list(folder / "clips")
    with pytest.raises(ConfigError, match=r"expected clips \(\.avi, .*got none"):
        read_clip_list(folder)


def test_a_table_is_a_list_and_what_lines_cannot_carry_is_refused(folder) -> None:
    path = table(folder / "in.parquet", [{"video": "clips/2.mp4", "prompt": "x", "seed": 3}])
    run(path, folder / "out")
    assert rows(folder / "out/kept.jsonl") == [{"video": "../clips/2.mp4", "prompt": "x", "seed": 3}]
    path = table(path, [{"video": "clips/2.mp4", "prompt": "x", "day": datetime.date(2025, 1, 1)}])
    with pytest.raises(ConfigError, match="row 1: Object of type date"):
        read_clip_list(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty file"),
        ('{"video": "0.mp4"}', "line 1: field 'prompt' is missing"),
        ('{"video": "0.mp4", "prompt": "x"}\n{"video": 3, "prompt": "x"}', "line 2: field 'video'"),
        ("[]", "line 1: expected a JSON object"),
    ],
)
def test_a_wrong_list_is_refused_before_anything_is_scored(tmp_path, text, complaint) -> None:
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        read_clip_list(tmp_path / "in.jsonl")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"videos": ["a"]}, "'prompt' is missing"),
        ({"prompt": "x"}, "line 1: field 'videos': expected a list of paths, at least one, got None"),
        ({"prompt": "x", "videos": []}, "at least one"),
        ({"prompt": "x", "videos": "a.mp4"}, "at least one"),
        ({"prompt": "x", "videos": ["a.mp4", 3]}, "expected text, got 3"),
        ({"prompt": "x", "videos": ["a.mp4"], "id": 3}, "field 'id'"),
    ],
)
def test_a_wrong_group_is_refused(tmp_path, row, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_groups(lines(tmp_path / "g.jsonl", [row]))
