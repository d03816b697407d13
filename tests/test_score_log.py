"""What `filter_clips` scores again after a stop or a change, and what it refuses to go on from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fake_model import FakeModel
from filter_cases import HANDED_OVER, OUTPUTS, ROWS, rows, run, write_set, written
from list_files import lines

from qsave_reward.clip_list import read_clip_list
from qsave_reward.errors import ConfigError
from qsave_reward.filtering import filter_clips
from qsave_reward.score_log import open_log
from qsave_reward.selection import Selection, parse_keep
from qsave_reward.types import Provenance


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder: a set of clips."""
    monkeypatch.chdir(write_set(tmp_path))
    return tmp_path


def test_a_torn_batch_is_dropped_and_only_its_clips_scored_again(folder) -> None:
    run(folder / "in.jsonl", folder / "whole", pairs=True)
    run(folder / "in.jsonl", folder / "out", pairs=True)
    log = folder / "out/scores.jsonl"
    whole = log.read_bytes()
    for cut in (1, 2, 300):
        for name in OUTPUTS:
            (folder / "out" / name).unlink(missing_ok=True)
        log.write_bytes(whole[:-cut])
        assert run(folder / "in.jsonl", folder / "out", pairs=True)[1] == 3
        assert log.read_bytes() == whole and written(folder / "out") == written(folder / "whole")


def test_a_changed_clip_prompt_or_place_is_scored_again_and_nothing_else(folder) -> None:
    out, source = folder / "out", folder / "in.jsonl"
    assert run(source, out)[1] == HANDED_OVER
    assert run(source, out)[1] == 0
    shutil.copy2(folder / "clips/2.mp4", folder / "clips/0.mp4")
    summary, scored = run(source, out, Selection(parse_keep("above:4")))
    assert (summary.kept, scored) == (4, 2)
    os.utime(folder / "clips/1.mp4", ns=(0, 7))
    assert run(source, out)[1] == 2
    shutil.copy2(folder / "clips/2.mp4", folder / "clips/none.mp4")
    summary, scored = run(source, out)
    assert (summary.failures, scored) == ({"empty_prompt": 1}, 1)
    lines(source, [*ROWS, {"video": "clips/1.mp4", "prompt": "new"}])
    assert run(source, out)[1] == 1
    lines(source, [{**ROWS[0], "prompt": "other"}, *ROWS[1:]])
    assert run(source, out)[1] == 1
    lines(source, ROWS)
    assert run(source, out)[1] == 0  # these clips were scored already


def test_a_list_that_changes_meanwhile_is_noticed_and_nothing_replaced(folder) -> None:
    source, out = folder / "in.jsonl", folder / "out"
    run(source, out)
    before = written(out)
    for changed in (ROWS[:-1], [*ROWS, ROWS[0]], ROWS[::-1]):
        clips = read_clip_list(source)
        lines(source, changed)
        for _ in range(2):  # also when its scores are all known
            with pytest.raises(ConfigError, match="changed while it was in use"):
                filter_clips(FakeModel(), clips, out=out, selection=Selection(parse_keep("top:1")))
        assert written(out) == before and not list(out.glob(".*"))
        lines(source, ROWS)

    def change(_: int) -> None:
        lines(source, [*ROWS, ROWS[0]])

    with pytest.raises(ConfigError, match="changed while it was in use"):
        run(source, out, batch_size=7, progress=change)
    assert written(out) == before and not list(out.glob(".*"))


def test_scores_of_another_model_are_refused_and_left_alone(folder) -> None:
    source, out = folder / "in.jsonl", folder / "out"
    run(source, out)
    before = (out / "scores.jsonl").read_bytes()
    for field, value in (("revision", "9999"), ("prompt_version", "2"), ("frame_plan", {"mode": "uniform"})):
        model = FakeModel()
        model.provenance = Provenance(**{**vars(model.provenance), field: value})
        with pytest.raises(ConfigError, match=f"line 1: .*with {field} .*; choose another --out"):
            run(source, out, model=model)
        assert not model.batches and (out / "scores.jsonl").read_bytes() == before
    model = FakeModel()
    model.provenance = Provenance(**{**vars(model.provenance), "model": "elsewhere/fake"})
    assert run(source, out, model=model)[1] == 0


@pytest.mark.parametrize("line", ["{}", "[]", "3", "not json", '{"video": "a", "scores": {}}', "[" * 9999])
def test_a_file_that_is_no_score_log_is_refused_and_left_alone(folder, line) -> None:
    (folder / "out").mkdir()
    (folder / "out/scores.jsonl").write_text(f"{line}\nrest")
    with pytest.raises(ConfigError, match="line 1: expected a line of a score log.*; choose another --out"):
        run(folder / "in.jsonl", folder / "out")
    assert (folder / "out/scores.jsonl").read_text() == f"{line}\nrest"


@pytest.mark.parametrize("tail", [b'{"a": 1}', b"x"])
def test_the_only_line_of_another_file_is_not_cut_off(tmp_path, tail) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_bytes(tail)
    with (
        pytest.raises(ConfigError, match="expected a line of a score log"),
        open_log(str(path), FakeModel().provenance),
    ):
        pass
    assert path.read_bytes() == tail
    for torn in (b'{"posi', b'{"position": 0, "vid'):
        path.write_bytes(torn)
        with open_log(str(path), FakeModel().provenance):
            assert path.read_bytes() == b""


def test_one_process_at_a_time(folder) -> None:
    model = FakeModel()
    (folder / "out").mkdir()
    with (
        open_log(str(folder / "out/scores.jsonl"), model.provenance),
        pytest.raises(ConfigError, match="another process is writing .*scores.jsonl'; wait until it is done"),
    ):
        run(folder / "in.jsonl", folder / "out")
    assert (folder / "out/scores.jsonl").read_bytes() == b""
    assert run(folder / "in.jsonl", folder / "out")[1] == HANDED_OVER  # the lock is gone


def test_a_model_that_breaks_down_loses_no_score(folder) -> None:
    class Fragile(FakeModel):
        def score_batch(self, videos, prompts, **options):
            if len(self.batches) == 2:
                raise RuntimeError("out of memory")
            return super().score_batch(videos, prompts, **options)

    broken = Fragile()
    with pytest.raises(RuntimeError, match="out of memory"):
        run(folder / "in.jsonl", folder / "out", model=broken, batch_size=2)
    assert sum(n for _, n in broken.batches) == 3 and not written(folder / "out")
    assert len(rows(folder / "out/scores.jsonl")) == 4
    assert run(folder / "in.jsonl", folder / "out")[1] == 3
