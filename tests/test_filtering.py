"""`filter_clips`: what it writes, and what it never overwrites."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from filter_cases import OUTPUTS, ROWS, rows, run, write_set, written
from hypothesis import given, settings
from hypothesis import strategies as st
from list_files import lines

from qsave_reward.data import read_records, read_requests
from qsave_reward.errors import ConfigError
from qsave_reward.selection import Selection, parse_keep


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A set of clips for tests that do not change it."""
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder: a set of clips."""
    monkeypatch.chdir(write_set(tmp_path))
    return tmp_path


def test_what_is_written(folder) -> None:
    out = folder / "out"
    floors = {"visual_quality": 2.0}
    summary, _ = run(Path("in.jsonl"), out, Selection(parse_keep("top:2"), floors), pairs=True)
    kept, rejected = rows(out / "kept.jsonl"), rows(out / "rejected.jsonl")
    assert kept == [{**ROWS[1], "video": "../clips/2.mp4"}, {**ROWS[4], "video": "../clips/2.mp4"}]
    assert [list(row) for row in rejected[:2]] == [list(ROWS[0]), [*ROWS[2], "reason"]]  # in their order
    reasons = [row.pop("reason") for row in rejected]
    assert [{**row, "video": f"../{row['video']}"} for row in ROWS if row not in (ROWS[1], ROWS[4])] == [
        {**rejected[0], "reason": "mine"},
        *rejected[1:],
    ]
    assert [reason["code"] for reason in reasons] == [
        "not_in_top",
        "unreadable",
        "below_floor",
        "unreadable",
        "below_floor",
    ]
    assert [reason["error"]["code"] for reason in reasons if "error" in reason] == [
        "not_found",
        "empty_prompt",
    ]
    scores = rows(out / "scores.jsonl")
    assert [row["position"] for row in scores] == list(range(7))
    assert scores[0]["size"] == (folder / "clips/1.mp4").stat().st_size
    assert scores[0]["mtime_ns"] == (folder / "clips/1.mp4").stat().st_mtime_ns
    assert (scores[2]["size"], scores[2]["scores"], scores[2]["error"]["code"]) == (None, None, "not_found")
    values = [row["overall"] for row in scores]
    assert rows(out / "pairs.jsonl") == [
        {
            "prompt": prompt,
            "chosen": "../clips/2.mp4",
            "rejected": "../clips/0.mp4",
            "margin": pytest.approx(values[1] - values[3]),
            "score_chosen": pytest.approx(values[1]),
            "score_rejected": pytest.approx(values[3]),
            "scores_chosen": {name: score["mean"] for name, score in scores[1]["scores"].items()},
            "scores_rejected": {name: score["mean"] for name, score in scores[3]["scores"].items()},
        }
        for prompt in ("a", "b")
    ]
    told = json.loads((out / "summary.json").read_text())
    assert told == summary.to_dict()
    assert (told["input"], told["n"], told["kept"], told["pairs"]) == ("../in.jsonl", 7, 2, 2)
    assert told["rejected"] == {
        "unreadable": 2,
        "below_floor": 2,
        "not_above": 0,
        "not_in_top": 1,
        "not_best_of_prompt": 0,
    }
    assert told["failures"] == {"empty_prompt": 1, "not_found": 1}
    assert told["lowest_kept"] == pytest.approx(values[1]) and told["best_not_kept"] == pytest.approx(
        values[0]
    )
    assert told["selection"]["floors"] == floors and told["provenance"]["revision"] == "0123"


def test_each_output_is_the_input_of_the_next_command(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder / "clips")
    run(Path("../in.jsonl"), Path("../deep/er/out"), Selection(parse_keep("top:0.5")), pairs=True)
    out = folder / "deep/er/out"
    for name in ("kept.jsonl", "rejected.jsonl", "scores.jsonl"):
        found = [os.path.realpath(out / video) for video, _ in read_requests(out / name)]
        assert {os.path.dirname(path) for path in found} == {str(folder / "clips")}
    assert all((out / record.video).is_file() for record in read_records(out / "kept.jsonl"))
    assert all(
        (out / row[side]).is_file() for row in rows(out / "pairs.jsonl") for side in ("chosen", "rejected")
    )
    # A second filter keeps what the first one kept, from another folder, also by way of a link.
    (folder / "link").symlink_to(out)
    summary, scored = run(folder / "link/kept.jsonl", folder / "again", Selection(parse_keep("above:1")))
    assert (summary.n, summary.kept, scored) == (2, 2, 2)
    assert [row["video"] for row in rows(folder / "again/kept.jsonl")] == ["../clips/2.mp4"] * 2


def test_a_path_that_leads_up_from_a_link_still_names_its_clip(folder) -> None:
    (folder / "far/inner").mkdir(parents=True)
    (folder / "clips/2.mp4").rename(folder / "far/2.mp4")
    (folder / "clips/link").symlink_to(folder / "far/inner")
    given = [
        "clips/link/../2.mp4",
        "clips/../clips/0.mp4",
        "a..b/../1.mp4",
        "a\0/../1.mp4",
        "\ud800/../1.mp4",
    ]
    lines(folder / "in.jsonl", [{"video": video, "prompt": "x"} for video in given])
    summary, _ = run(folder / "in.jsonl", folder / "out", Selection(parse_keep("above:1")))
    assert (summary.kept, sum(summary.failures.values())) == (2, 3)
    assert [row["video"] for row in rows(folder / "out/kept.jsonl")] == ["../far/2.mp4", "../clips/0.mp4"]
    assert [row["size"] for row in rows(folder / "out/scores.jsonl")][:2] == [
        (folder / "far/2.mp4").stat().st_size,
        (folder / "clips/0.mp4").stat().st_size,
    ]


def test_absolute_paths_and_addresses_stay(folder) -> None:
    given = [str(folder / "clips/0.mp4"), "http://localhost:1/a.mp4", "clips/a\0b.mp4", "clips/\udcff.mp4"]
    lines(folder / "in.jsonl", [{"video": video, "prompt": "x"} for video in given])
    run(folder / "in.jsonl", folder / "out")
    assert rows(folder / "out/kept.jsonl")[0]["video"] == given[0]
    assert [row["video"] for row in rows(folder / "out/rejected.jsonl")] == [
        given[1],
        "../clips/a\0b.mp4",
        "../clips/\udcff.mp4",
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_batches_change_nothing(clips, tmp_path_factory, batch_size) -> None:
    expected = clips / "reference"
    if not expected.exists():
        run(clips / "in.jsonl", expected, pairs=True)
    out = clips / f"out{batch_size}"
    run(clips / "in.jsonl", out, pairs=True, batch_size=batch_size)
    assert written(out) == written(expected) and len(written(out)) == 4
    ours, theirs = rows(out / "scores.jsonl"), rows(expected / "scores.jsonl")
    left = [row.pop("left") for row in ours]
    assert left == [min(batch_size - i % batch_size, 7 - i) - 1 for i in range(7)]
    assert ours == [{name: row[name] for name in row if name != "left"} for row in theirs]
    with pytest.raises(ConfigError, match="batch size of at least 1"):
        run(clips / "in.jsonl", out, batch_size=0)


keeps = st.none() | st.sampled_from(["top:1", "top:0.5", "top:3", "above:2", "best-per-prompt"]).map(
    parse_keep
)


@settings(max_examples=25, deadline=None)
@given(keep=keeps, floor=st.sampled_from([1.0, 2.0, 3.5, 5.0]), pairs=st.booleans())
def test_kept_and_rejected_are_the_input_in_order(clips, keep, floor, pairs) -> None:
    """All examples share a folder: another selection needs no new scores and leaves nothing of the last."""
    out = clips / "property"
    summary, scored = run(clips / "in.jsonl", out, Selection(keep, {"overall": floor}), pairs=pairs)
    kept, rejected = rows(out / "kept.jsonl"), rows(out / "rejected.jsonl")
    reasons = [row["reason"]["code"] for row in rejected]
    assert summary.kept == len(kept) and sum(summary.rejected.values()) == len(rejected)
    assert {code: reasons.count(code) for code in summary.rejected} == summary.rejected
    for row in rejected:
        del row["reason"]
    merged = []
    for row in ROWS:
        wanted = {**row, "video": f"../{row['video']}"}
        bare = {name: value for name, value in wanted.items() if name != "reason"}
        source = kept if kept and kept[0] == wanted else rejected
        merged.append(source.pop(0) in (wanted, bare))
    assert merged == [True] * 7 and not kept and not rejected
    assert (out / "pairs.jsonl").exists() == pairs == (summary.pairs is not None)
    assert scored in (0, 6) and run(clips / "in.jsonl", out)[1] == 0


@pytest.mark.parametrize("name", OUTPUTS)
def test_files_of_another_origin_are_not_overwritten(folder, name) -> None:
    (folder / "out").mkdir()
    (folder / "out" / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"has {name} but no scores.jsonl.*choose another --out"):
        run(folder / "in.jsonl", folder / "out")
    assert [path.read_text() for path in (folder / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["kept.jsonl", "rejected.jsonl", "scores.jsonl"])
def test_the_input_is_not_overwritten(folder, name) -> None:
    run(folder / "in.jsonl", folder / "out")
    before = (folder / "out" / name).read_bytes()
    (folder / "link").symlink_to(folder / "out")
    with pytest.raises(ConfigError, match="is the input and would be overwritten; choose another --out"):
        run(folder / "out" / name, folder / "link")
    assert (folder / "out" / name).read_bytes() == before
