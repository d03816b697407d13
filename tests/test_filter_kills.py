"""The check of killed runs: what it counts, what it compares, and that it notices a broken promise."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_cases import write_clips
from fake_model import Company, FakeModel
from filter_cases import rows, run, write_set, written
from list_files import lines

from qsave_reward import command_options
from qsave_reward.errors import ConfigError
from qsave_reward.filtering import OUTPUTS
from qsave_reward.model import RewardModel
from qsave_reward.score_log import open_log
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import read_clip

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "serving"))

import filter_kills
from counted_filter import LOG, Kill, counted, finish, kill_at, met, positions
from filter_kills import compare, table, write_list

RECIPES = Path(__file__).parent.parent / "recipes" / "serving"
WRITER = """
import sys, time
for i in range(int(sys.argv[2])):
    time.sleep(0.02)
    with open(sys.argv[1], "a") as log:
        log.write('{"position": %d, "left": 0}\\n' % i)
time.sleep(float(sys.argv[3]))
"""


def log_rows(number):
    """Lines of a score log, in batches of 4."""
    return [
        {"position": i, "left": 3 - i % 4, "scores": {name: {"mean": 2 + i / 10} for name in DIMENSIONS}}
        for i in range(number)
    ]


@pytest.fixture
def folders(tmp_path):
    """Two runs with the same outputs: 8 clips, of which 2 were kept."""
    for name in ("peaceful", "killed"):
        (tmp_path / name).mkdir()
        lines(tmp_path / name / "kept.jsonl", [{"id": "a", "video": "7"}, {"id": "b", "video": "6"}])
        for output in OUTPUTS[1:]:
            lines(tmp_path / name / output, [{"id": "c"}])
        lines(tmp_path / name / LOG, log_rows(8))
    return tmp_path / "peaceful", tmp_path / "killed"


def verdict(folders, handed=range(8), kills=()):
    return compare(*folders, handed=handed, kills=kills, number=8)


def test_equal_runs_are_equal_and_clips_in_flight_may_be_scored_again(folders):
    assert verdict(folders).kept and set(verdict(folders).same) == {*OUTPUTS, LOG}
    kills = [Kill(0, (0, 1, 2, 3), 0), Kill(4, (4, 5), 9)]
    found = verdict(folders, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 4, 5, 6, 7], kills)
    assert found.kept and found.scored_twice == (0, 1, 2, 3, 4, 5) and found.largest_difference == 0


def test_every_broken_promise_is_noticed(folders):
    for handed, kills, needlessly in (
        ([0, *range(8)], [], (0,)),
        ([0, 0, *range(8)], [Kill(0, (0,), 0)], (0,)),
        ([3, *range(8)], [Kill(0, (2,), 0)], (3,)),
    ):
        found = verdict(folders, handed, kills)
        assert not found.kept and found.needlessly == needlessly and found.same_choice
    for name in (*OUTPUTS, LOG):
        before = (folders[1] / name).read_bytes()
        (folders[1] / name).write_bytes(before.replace(b"}\n", b"} \n", 1))
        found = verdict(folders)
        assert not found.kept and [other for other in found.same if not found.same[other]] == [name]
        (folders[1] / name).write_bytes(before)
    for wrong, missing in ((log_rows(7), (7,)), ([*log_rows(8), log_rows(8)[2]], (2,))):
        lines(folders[1] / LOG, wrong)
        assert not verdict(folders).kept and verdict(folders).logged_wrongly == missing


def test_how_far_apart_scores_are_and_which_clips_were_kept(folders):
    changed = log_rows(8)
    changed[5]["scores"]["text_alignment"]["mean"] += 0.25
    lines(folders[1] / LOG, changed)
    found = verdict(folders)
    assert found.largest_difference == pytest.approx(0.25) and found.same_choice and not found.kept
    lines(folders[1] / "kept.jsonl", [{"id": "a", "video": "7"}, {"id": "c", "video": "6"}])
    assert not verdict(folders).same_choice


def test_the_table_shouts_what_is_wrong(folders):
    lines(folders[1] / "kept.jsonl", [{"id": "c"}])
    found = verdict(folders, [0, *range(8)])
    text = "\n".join(
        table({"kills": [{"logged": 4, "in_flight": [4, 5], "torn": 17}], "kept": 1, **vars(found)})
    )
    assert "| 1 | 4 | 2 | 17 |" in text and "| kept.jsonl | DIFFERENT |" in text
    assert text.count("same bytes") == 4 and "| clips kept | OTHERS, 1 |" in text
    assert "| scored twice | 1 |\n| more often than in flight at a kill | 1 |" in text


def test_the_list_shares_prompts_among_four(tmp_path):
    (tmp_path / "world").mkdir()
    made = [{"id": f"i{k}", "video": f"clips/{k}.mp4", "prompt": f"p{k}", "mos": {}} for k in range(9)]
    lines(tmp_path / "world" / "records.jsonl", made)
    write_list(tmp_path / "world", tmp_path / "clips.jsonl", 6)
    found = rows(tmp_path / "clips.jsonl")
    assert [row["prompt"] for row in found] == ["p0"] * 4 + ["p4"] * 2
    assert found[5] == {"id": "i5", "video": "world/clips/5.mp4", "prompt": "p4"}


def test_what_a_kill_met(tmp_path):
    order = {f"d{i}": i for i in range(12)}
    (tmp_path / "record").write_text("".join(f"d{i}\n" for i in [*range(6), *range(4, 12)]))
    log = "".join(json.dumps(row) + "\n" for row in log_rows(8))
    (tmp_path / LOG).write_text(log)
    assert met(tmp_path / LOG, tmp_path / "record", order, 6) == Kill(8, (8, 9, 10, 11), 0)
    # Two whole lines of a batch that is not complete, and a part of a third.
    torn = "".join(json.dumps({**row, "position": 8 + row["position"]}) + "\n" for row in log_rows(2))
    (tmp_path / LOG).write_text(log + torn + '{"position": 1')
    found = met(tmp_path / LOG, tmp_path / "record", order, 6)
    assert found == Kill(8, (8, 9, 10, 11), len(torn) + 14)
    (tmp_path / LOG).write_text("")
    assert met(tmp_path / LOG, tmp_path / "record", order, 12) == Kill(0, (10, 11), 0)


def test_clips_that_cannot_be_told_apart_are_an_error(tmp_path):
    (tmp_path / "record").write_text("x\ny\n")
    assert positions(tmp_path / "record") == {"x": 0, "y": 1}
    (tmp_path / "record").write_text("x\ny\nx\n")
    with pytest.raises(ConfigError, match="got 1 that are as another"):
        positions(tmp_path / "record")


def test_a_run_is_killed_at_its_work(tmp_path):
    for clips in (5, 0):  # the second run adds to the log of the first before it is killed
        before = len(rows(tmp_path / LOG)) if clips == 0 else 0
        process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / LOG, "500", "60"])
        kill_at(process, tmp_path / LOG, clips=clips, share=0.5)
        assert process.returncode == -9 and max(clips, before) + 1 < len(rows(tmp_path / LOG)) < 500


@pytest.mark.parametrize("number", [0, 3])
def test_a_run_that_ends_before_its_kill_is_an_error(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / LOG, str(number), "0"])
    with pytest.raises(ConfigError, match="before it had scored 4 clips"):
        kill_at(process, tmp_path / LOG, clips=4, share=0.5)
    with pytest.raises(ConfigError, match="ended with code 3"):
        finish(subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]))


def test_clips_are_noted_down_as_the_model_gets_them(tiny, tmp_path, monkeypatch):
    names = write_clips(tmp_path)
    lines(tmp_path / "in.jsonl", [{"video": name, "prompt": "a red circle"} for name in names])
    monkeypatch.setattr(command_options, "load_model", lambda name, device: tiny)
    monkeypatch.setattr(RewardModel, "score_batch", RewardModel.score_batch)  # restored after the test
    monkeypatch.setattr(sys, "argv", [])
    words = ["filter", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out"), "--keep", "top:1"]
    with pytest.raises(SystemExit) as ended:
        counted(str(tmp_path / "record"), words)
    assert not ended.value.code and len(rows(tmp_path / "out" / LOG)) == 3
    digests = [hashlib.sha256(read_clip(name).frames.tobytes()).hexdigest() for name in names]
    assert list(positions(tmp_path / "record")) == digests


def test_wherever_the_log_was_cut_it_ends_as_if_it_was_not(tmp_path):
    source = write_set(tmp_path) / "in.jsonl"
    run(source, tmp_path / "whole", model=Company(), pairs=True)
    whole = (tmp_path / "whole" / LOG).read_bytes()
    ends = [0, *(i for i, byte in enumerate(whole, start=1) if byte == ord("\n"))]
    batch = ends[4]
    assert [row["left"] for row in rows(tmp_path / "whole" / LOG)] == [3, 2, 1, 0, 2, 1, 0]
    cuts = [cut for end in ends for cut in (end - 7, end, end + 9) if 0 <= cut <= len(whole)]
    for cut in cuts:
        (tmp_path / "out").mkdir(exist_ok=True)
        for output in OUTPUTS:
            (tmp_path / "out" / output).unlink(missing_ok=True)
        (tmp_path / "out" / LOG).write_bytes(whole[:cut])
        _, scored = run(source, tmp_path / "out", model=Company(), pairs=True)
        # One clip of the first batch does not exist and so does not reach the model.
        assert scored == 3 * (cut < batch) + 3 * (cut < len(whole))
        assert (tmp_path / "out" / LOG).read_bytes() == whole
        assert written(tmp_path / "out") == written(tmp_path / "whole")


@pytest.mark.parametrize("left", [None, "x", [], {}])
def test_a_line_without_its_place_in_a_batch_is_refused(tmp_path, left):
    source = write_set(tmp_path) / "in.jsonl"
    run(source, tmp_path / "out")
    found = rows(tmp_path / "out" / LOG)
    found[2]["left"] = left
    lines(tmp_path / "out" / LOG, found)
    with (
        pytest.raises(ConfigError, match="line 3: expected a line of a score log"),
        open_log(str(tmp_path / "out" / LOG), FakeModel().provenance),
    ):
        pass


def test_too_few_clips_for_the_kills(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x", "--clips", "59", "--kills", "3", "--out", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="20 clips for each, got 3 and 59 clips"):
        filter_kills.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_check_with_the_bundled_model(tmp_path):
    out = tmp_path / "out"
    for stale in ("peaceful", "killed"):  # an earlier check was here
        (out / stale).mkdir(parents=True)
        lines(out / stale / LOG, log_rows(4))
        (out / f"{stale}.txt").write_text("digest\n")
    command = [sys.executable, RECIPES / "filter_kills.py", "--clips", "40", "--kills", "2", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert all(result["same"].values()) and result["largest_difference"] == 0 and result["pairs"] > 0
    assert [len(kill["in_flight"]) <= 4 for kill in result["kills"]] == [True, True]
    assert not result["needlessly"] and done.stdout.count("same bytes") == 5
