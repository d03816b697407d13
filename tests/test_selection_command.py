"""`qsave rank` and `qsave filter` as a shell sees them, also when they are killed."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from cli_cases import fake_command, write_clips
from fake_model import FakeModel
from filter_cases import OUTPUTS, rows, written
from list_files import lines
from test_cli import in_shell

from qsave_reward import command_options
from qsave_reward.types import DIMENSIONS, VideoScore

GROUPS = [
    {"id": "g1", "prompt": "a red circle", "videos": ["0.mp4", "none.mp4", "2.mp4", "1.mp4"], "more": 1},
    {"prompt": "a blue square", "videos": ["1.mp4", "1.mp4"]},
    {"prompt": " ", "videos": ["2.mp4"]},
]


@pytest.fixture
def qsave(monkeypatch, capsys, tmp_path):
    """The command, in a folder with three clips, `groups.jsonl` and `in.jsonl`."""
    write_clips(tmp_path)
    lines(tmp_path / "groups.jsonl", GROUPS)
    lines(tmp_path / "in.jsonl", [{"video": f"{i % 3}.mp4", "prompt": f"p{i // 3}"} for i in range(6)])
    monkeypatch.chdir(tmp_path)
    return fake_command(monkeypatch, capsys)


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("batch_size", ["1", "3", "9"])
def test_rank_gives_one_object_a_group(qsave, batch_size) -> None:
    code, out, err = qsave("rank", "groups.jsonl", "--json", "--batch-size", batch_size)
    assert (code, err) == (1, "2 of 7 clips could not be scored\n")
    first, second, third = objects(out)
    assert list(first) == [
        *("id", "prompt", "videos", "order", "values", "winner", "margins", "tied", "failed"),
        *("scores", "warnings", "errors", "provenance"),
    ]
    assert (first["id"], first["prompt"], first["videos"]) == ("g1", "a red circle", GROUPS[0]["videos"])
    assert (first["order"], first["winner"], first["failed"]) == ([2, 3, 0], "2.mp4", [1])
    assert first["values"][1] is None and first["scores"][1] is None
    assert [error and error["code"] for error in first["errors"]] == [None, "not_found", None, None]
    for i in first["order"]:
        means = [first["scores"][i][name]["mean"] for name in DIMENSIONS]
        assert first["values"][i] == pytest.approx(sum(means) / 3)
    high, middle, low = (first["values"][i] for i in (2, 3, 0))
    assert first["margins"] == pytest.approx([high - middle, middle - low]) and first["tied"] == []
    assert first["provenance"]["revision"] == "0123"
    assert (second["id"], second["order"], second["margins"], second["tied"]) == (None, [0, 1], [0.0], [1])
    assert (third["winner"], third["order"], third["failed"]) == (None, [], [0])
    assert third["errors"][0]["code"] == "empty_prompt"


def test_rank_with_a_margin_and_weights(qsave, monkeypatch) -> None:
    class Opposed(FakeModel):
        """The brighter, the better it looks and the worse it moves."""

        def _card(self, video, prompt, mode):
            card = super()._card(video, prompt, mode)
            if not isinstance(card, VideoScore):
                return card
            other = super()._card(
                video.__class__(255 - video.frames, video.times, video.duration), prompt, mode
            )
            return VideoScore(
                {**card.scores, "dynamic_quality": other.scores["visual_quality"]}, self.provenance
            )

    monkeypatch.setattr(command_options, "load_model", lambda name, device: Opposed())
    lines(Path("groups.jsonl"), [{"prompt": "x", "videos": ["0.mp4", "1.mp4", "2.mp4"]}])
    code, out, _ = qsave("rank", "groups.jsonl", "--json")
    assert (code, objects(out)[0]["order"]) == (0, [2, 1, 0])
    _, out, _ = qsave("rank", "groups.jsonl", "--json", "--weight", "dynamic_quality=2")
    (row,) = objects(out)
    assert row["order"] == [0, 1, 2]
    assert row["values"] == [score["dynamic_quality"]["mean"] for score in row["scores"]]
    even = ["--weight", "dynamic_quality=1", "--weight", "visual_quality=1", "--tie-margin", "0.1"]
    _, out, _ = qsave("rank", "groups.jsonl", "--json", *even)
    assert (
        objects(out)[0]["values"] == pytest.approx([3.0] * 3, abs=0.05) and len(objects(out)[0]["tied"]) == 2
    )


def test_rank_for_people(qsave) -> None:
    lines(Path("groups.jsonl"), [*GROUPS[:2], {"prompt": "[bold]x[/bold] \x1b[31m", "videos": ["a\x1b.mp4"]}])
    code, out, _ = qsave("rank", "groups.jsonl")
    assert code == 1 and max(map(len, out.splitlines())) <= 80
    assert "g1: a red circle" in out and "[bold]x[/bold] \\x1b[31m" in out and "\x1b" not in out
    places = [line.split()[:2] for line in out.splitlines() if line.startswith(("1 ", "2 ", "3 "))]
    assert places == [["1", "2.mp4"], ["2", "1.mp4"], ["3", "0.mp4"], ["1", "1.mp4"], ["2", "1.mp4"]]
    assert "none.mp4  not scored" in out and out.count("tied") == 1


def test_filter_json_and_its_files(qsave, tmp_path) -> None:
    rule = ["--keep", "best-per-prompt", "--min", "overall=2", "--min", "visual_quality=2", "--pairs"]
    code, out, err = qsave("filter", "in.jsonl", "--out", "best", *rule, "--tie-margin", "0.5", "--json")
    assert (code, err) == (0, "")
    (told,) = objects(out)
    files = told.pop("files")
    assert told == json.loads(Path("best/summary.json").read_text())
    assert (told["n"], told["kept"], told["pairs"]) == (6, 2, 2)
    assert told["selection"] == {
        "keep": "best-per-prompt:1",
        "floors": {"visual_quality": 2.0, "overall": 2.0},
        "weights": dict.fromkeys(DIMENSIONS, 1.0),
        "tie_margin": 0.5,
    }
    assert list(files) == ["kept", "rejected", "pairs", "scores", "summary"]
    assert {Path(path) for path in files.values()} == set(Path("best").iterdir())
    assert [row["video"] for row in rows(Path(files["kept"]))] == ["../2.mp4", "../2.mp4"]
    code, out, _ = qsave("score", "--jsonl", files["kept"], "--scores-only", "--json")
    assert code == 0 and len(objects(out)) == 2
    code, out, _ = qsave("filter", files["rejected"], "--out", "second", "--keep", "top:1", "--json")
    assert code == 0 and rows(Path("second/kept.jsonl"))[0]["video"] == "../1.mp4"


def test_filter_for_people_and_exit_1_for_what_could_not_be_scored(qsave) -> None:
    lines(Path("in.jsonl"), [{"video": f"{i}.mp4", "prompt": "p"} for i in range(5)])
    code, out, err = qsave("filter", "in.jsonl", "--out", "best", "--keep", "top:1", "--pairs")
    assert (code, err) == (1, "2 of 5 clips could not be scored\n")
    assert "kept 1 of 5 clips, values from 4." in out and "1 pairs" in out
    assert "2  could not be scored" in out and "2 not_found" in out and "2  not in the top" in out
    assert "kept.jsonl, rejected.jsonl, pairs.jsonl" in out and max(map(len, out.splitlines())) <= 80
    _, out, _ = qsave(
        "filter", "in.jsonl", "--out", "best", "--min", "overall=5", "--weight", "visual_quality=1"
    )
    assert "kept 0 of 5 clips\n" in out and "3  below a floor" in out
    assert not Path("best/pairs.jsonl").exists()
    assert sum(n for _, n in qsave.model.batches) == 3  # by both runs


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["rank"], "Missing argument 'FILE'"),
        (["rank", "none.jsonl"], "cannot read 'none.jsonl'"),
        (["rank", "in.jsonl"], "field 'videos'"),
        (["rank", "groups.jsonl", "--weight", "beauty=1"], "'beauty'"),
        (["rank", "groups.jsonl", "--weight", "visual_quality"], "NAME=NUMBER"),
        (["rank", "groups.jsonl", "--weight", "visual_quality=x"], "NAME=NUMBER"),
        (["rank", "groups.jsonl", "--weight", "visual_quality=0"], "not all of them 0"),
        (["rank", "groups.jsonl", "--tie-margin", "-1"], "tie margin of at least 0"),
        (["rank", "groups.jsonl", "--tie-margin", "nan"], "tie margin of at least 0"),
        (["rank", "groups.jsonl", "--batch-size", "0"], "--batch-size"),
        (["filter", "in.jsonl", "--keep", "top:1"], "Missing option '--out'"),
        (["filter", "in.jsonl", "--out", "o"], "expected --keep, --min or both"),
        (["filter", "in.jsonl", "--out", "o", "--keep", "best"], "expected top:0.25, top:100"),
        (["filter", "in.jsonl", "--out", "o", "--keep", "top:1.5"], "a share above 0 and below 1"),
        (["filter", "in.jsonl", "--out", "o", "--min", "beauty=3"], "'beauty'"),
        (["filter", "in.jsonl", "--out", "o", "--min", "overall=6"], "a floor from 1 to 5"),
        (["filter", "in.jsonl", "--out", "o", "--min", "overall=2", "--min", "overall=3"], "given twice"),
        (["filter", "in.jsonl", "--out", "o", "--keep", "top:1", "--tie-margin", "1"], "for --pairs"),
        (["filter", "groups.jsonl", "--out", "o", "--keep", "top:1"], "line 1: field 'video' is missing"),
        (["filter", "none", "--out", "o", "--keep", "top:1"], "cannot read 'none'"),
        (["filter", "in.jsonl", "--out", "in.jsonl", "--keep", "top:1"], "cannot make the folder"),
        (["filter", "in.jsonl", "--out", "/dev/null/o", "--keep", "top:1"], "cannot make the folder"),
    ],
)
def test_wrong_use_is_exit_2_and_nothing_is_scored_or_written(qsave, tmp_path, args, complaint) -> None:
    before = set(tmp_path.iterdir())
    code, out, err = qsave(*args)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert complaint in " ".join(err.replace("│", " ").split())
    assert not qsave.model.batches and set(tmp_path.iterdir()) == before


SLOW = """
import time
class Counting(FakeModel):
    def score_batch(self, videos, prompts, **options):
        time.sleep(0.04)
        with open("scored.txt", "a") as file:
            file.write("".join(prompt + "\\n" for prompt in prompts))
        return super().score_batch(videos, prompts, **options)
FakeModel = Counting
"""
COMMAND = ("filter", "many.jsonl", "--out", "out", "--keep", "top:0.3", "--min", "overall=2", "--pairs")


def finished(log: Path) -> set[str]:
    """Prompts whose line in the log is complete; each clip of the test has its own prompt."""
    whole = log.read_bytes().rpartition(b"\n")[0] if log.exists() else b""
    return {json.loads(line)["prompt"] for line in whole.splitlines()}


def test_killed_three_times_it_ends_as_if_never_killed_and_scores_no_clip_twice(qsave, tmp_path) -> None:
    names = ["0.mp4", "1.mp4", "none.mp4", "2.mp4"]
    listed = [{"video": names[i % 4], "prompt": f"prompt {i}", "seed": i} for i in range(120)]
    lines(tmp_path / "many.jsonl", listed)
    log = tmp_path / "out/scores.jsonl"
    lost: Counter[str] = Counter()  # how often each clip was in flight at a kill
    for _ in range(3):
        before = len(finished(log))
        process = in_shell(*COMMAND, script=SLOW)
        deadline = time.monotonic() + 30
        while len(finished(log)) <= before + random.randrange(6):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        code, out, err = qsave(*COMMAND)
        assert (code, out) == (2, "") and "another process is writing" in err and not qsave.model.batches
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done, scored = finished(log), Counter((tmp_path / "scored.txt").read_text().split("\n")[:-1])
        assert before < len(done) < len(listed) and not written(tmp_path / "out")
        for prompt in scored:
            if prompt in done:
                assert scored[prompt] == 1 + lost[prompt]
            else:
                lost[prompt] = scored[prompt]
    assert sum(lost.values()) <= 3 * 4
    readable = {row["prompt"] for row in listed if row["video"] != "none.mp4"}
    code, _, err = qsave(*COMMAND)
    assert (code, err) == (1, "30 of 120 clips could not be scored\n")
    assert sum(n for _, n in qsave.model.batches) == len(readable - done)
    assert len(rows(log)) == len({row["position"] for row in rows(log)}) == 120
    calm = ["calm" if word == "out" else word for word in COMMAND]
    assert qsave(*calm)[0] == 1
    assert written(tmp_path / "out") == written(tmp_path / "calm")
    assert set(written(tmp_path / "out")) == set(OUTPUTS)
