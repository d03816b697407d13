"""Rejection sampling, and the script and the table around it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_model import REASONING, FakeModel, spread

from qsave_reward.data import read_records, write_records
from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, Defect, Provenance, Record, VideoScore
from qsave_reward.video import Clip
from qsave_reward.world import export_world

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

import keep_reasons
from clips import open_clips
from keep_reasons import agrees, clips_to_try, kept_record, try_clips
from stage_table import row

RECIPES = Path(keep_reasons.__file__).parent
SEEN = (Defect("visual_quality", "exposure", 0.85, 0.5, 1.0), Defect("dynamic_quality", "frozen", 0.25))


def by_dimension(*values):
    return dict(zip(DIMENSIONS, values, strict=True))


CARD = VideoScore(
    by_dimension(spread(4.0), spread(3.0), spread(2.0)),
    Provenance("m", "0", "1"),
    defects=SEEN,
    reasoning=f"it glows\n{REASONING}",
)
RATED = Record(
    "clips/a.mp4", "a cat", mos=by_dimension(4.5, 3.0, 1.5), defects=(), rationale="a true one", id="7"
)


@pytest.mark.parametrize(
    "mos, margin, expected",
    [
        (by_dimension(4.5, 3.0, 1.5), 0.5, True),
        (by_dimension(4.5, 3.0, 1.5), 0.49, False),
        (by_dimension(4.0, 3.0, 2.75), 0.5, False),
        ({"visual_quality": 4.0, "dynamic_quality": 3.0}, 4.0, False),
        ({}, 4.0, False),
    ],
)
def test_agreement_needs_three_ratings_all_within_the_margin(mos, margin, expected):
    assert agrees(CARD, replace(RATED, mos=mos), margin) is expected


@pytest.mark.parametrize(
    "video, expected",
    [
        ("clips/a.mp4", "/data/clips/a.mp4"),
        ("../a.mp4", "/a.mp4"),
        ("/other/a.mp4", "/other/a.mp4"),
        ("world:train/4/17", "world:train/4/17"),
    ],
)
def test_a_kept_record_has_the_models_reasons_and_a_path_for_any_folder(video, expected):
    kept = kept_record(CARD, replace(RATED, video=video), Path("/data"))
    assert kept == replace(RATED, video=expected, defects=SEEN, rationale="it glows It looks dark.")


def test_a_relative_root_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept_record(CARD, RATED, Path("data")).video == os.path.abspath("data/clips/a.mp4")


def test_each_clip_of_a_file_is_tried_once(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [RATED, replace(RATED, id="8")])
    assert [clips_to_try(str(path), n) for n in (1, 2, 5)] == [1, 2, 2]
    assert clips_to_try("world:train:4", 5) == 5
    with pytest.raises(ConfigError, match="at least 1"):
        clips_to_try("world:train:4", 0)


def test_what_cannot_be_read_is_counted_and_the_rest_goes_on():
    grey = Clip(np.full((4, 64, 64, 3), 128, np.uint8), np.arange(4) / 4, duration=1.0)  # all scores: 3.008
    near, far = by_dimension(3.0, 3.0, 3.0), by_dimension(3.0, 3.0, 3.5)
    rows = [
        Record("0.mp4", "a cat", mos=near),
        None,
        Record("2.mp4", "broken", mos=near),
        Record("3.mp4", "a cat", mos=far),
        Record("4.mp4", "a cat", mos=near),
    ]

    def source(number):
        if rows[number] is None:
            raise VideoError("expected a video", code="corrupt")
        return grey, rows[number]

    model = FakeModel()
    kept, unreadable = try_clips(model, source, range(5), margin=0.25, root=Path("/data"))
    assert [(record.video, record.defects) for record in kept] == [
        ("/data/0.mp4", SEEN),
        ("/data/4.mp4", SEEN),
    ]
    assert unreadable == 2
    assert model.batches == [("reasoned", 4)]
    assert try_clips(model, source, [1], margin=0.25, root=Path("/data")) == ([], 1)


def test_a_run_goes_on_and_its_records_can_be_read_from_elsewhere(tmp_path, monkeypatch, capsys):
    data = export_world(tmp_path / "data", 2)
    world = [replace(record, id=str(i)) for i, record in enumerate(read_records(data))]
    missing = replace(world[0], video="clips/none.mp4", id="missing")
    write_records(data, [missing, *world])
    (tmp_path / "out").mkdir()
    out, count = tmp_path / "out" / "kept.jsonl", tmp_path / "out" / "kept.count.json"

    def run(n):
        options = [
            "--model",
            "tiny",
            "--data",
            data,
            "--n",
            n,
            "--out",
            out,
            "--margin",
            4,
            "--device",
            "cpu",
        ]
        monkeypatch.setattr(sys, "argv", ["keep_reasons.py", *map(str, options)])
        keep_reasons.main()
        return json.loads(count.read_text()), json.loads(capsys.readouterr().out)

    with pytest.raises(ConfigError, match=r"kept none of 1 answers \(1 clips or answers not readable\)"):
        run(1)
    state = json.loads(count.read_text())
    assert (state["tried"], state["unreadable"], state["kept"]) == (1, 1, 0) and not out.exists()
    state, shown = run(10)
    assert state["tried"] == 3 and state["kept"] + state["unreadable"] == 3 and state["unreadable"] >= 1
    assert shown == {**state, "kept_share": state["kept"] / 3}
    kept = read_records(out)
    assert len(kept) == state["kept"] >= 1 and {record.id for record in kept} <= {"0", "1"}
    assert {path.name for path in out.parent.iterdir()} == {out.name, count.name}
    source = open_clips(str(out), FramePlan(max_frames=4))
    for number, record in enumerate(kept):
        clip, read = source(number)
        assert len(clip.frames) == 4 and read == record
        assert read.mos == world[int(read.id)].mos
    assert run(10)[0] == state


def test_a_file_of_another_origin_is_not_overwritten(tmp_path):
    path = tmp_path / "records.jsonl"
    write_records(path, [RATED])
    before = path.read_bytes()
    command = [sys.executable, RECIPES / "keep_reasons.py", "--model", "tiny", "--n", "1"]
    done = subprocess.run([*command, "--data", path, "--out", path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path} exists") and "choose another --out" in done.stderr
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def result(srcc, f1, n_failed):
    scores = {name: {"srcc": value} for name, value in zip(DIMENSIONS, srcc, strict=True)}
    return {"results": {**scores, "attribution": {"f1": f1, "span_iou": f1}}, "n_failed": n_failed}


def test_a_row_takes_attribution_and_failures_from_reasoned_mode(tmp_path):
    for stage in ("1_sft", "3_sft"):
        for mode, made in (
            ("direct", result((0.9, 0.8004, None), None, 0)),
            ("reasoned", result((0.5, -0.25, 0.0), 0.375, 12)),
        ):
            (tmp_path / f"{stage}.{mode}.json").write_text(json.dumps(made))
    numbers = ["0.900", "0.800", "", "0.500", "-0.250", "0.000", "0.375", "0.375", "12"]
    assert row([tmp_path], "3_sft") == ["3_sft", *numbers, ""]
    (tmp_path / "kept.count.json").write_text(json.dumps({"tried": 32, "kept": 5}))
    assert row([tmp_path], "1_sft") == ["1_sft", *numbers, ""]
    assert row([tmp_path], "3_sft") == ["3_sft", *numbers, "5 of 32"]


def test_several_runs_share_a_table_of_means_and_deviations(tmp_path):
    folders = [tmp_path / str(seed) for seed in range(3)]
    for folder, failed in zip(folders, (0, 2, 1), strict=True):
        folder.mkdir()
        for mode in ("direct", "reasoned"):
            made = result((0.7 + 0.1 * failed, 0.8, None), 0.5, failed)
            (folder / f"3_sft.{mode}.json").write_text(json.dumps(made))
        (folder / "kept.count.json").write_text(json.dumps({"tried": 32, "kept": 5 + failed}))
    cells = row(folders, "3_sft")
    assert cells[1:4] == cells[4:7] == ["0.800 ± 0.100", "0.800 ± 0.000", ""]
    assert cells[7:] == ["0.500 ± 0.000", "0.500 ± 0.000", "0, 2, 1", "5 of 32, 7 of 32, 6 of 32"]


def test_a_run_that_is_not_done_has_no_table(tmp_path):
    made = json.dumps(result((0.9, 0.8, 0.7), 0.5, 0))
    for name in ("1_sft.direct", "1_sft.reasoned", "2_grpo.direct"):
        (tmp_path / f"{name}.json").write_text(made)
    done = subprocess.run(
        [sys.executable, RECIPES / "stage_table.py", tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stdout == ""
    assert re.match(r"error: expected the evaluations .*2_grpo.reasoned.json is not there", done.stderr)


def test_the_script_asks_for_reasons_in_reasoned_mode_only(tmp_path):
    for stage in ("1_sft", "2_grpo", "3_sft"):
        (tmp_path / "out" / stage).mkdir(parents=True)
        (tmp_path / "out" / stage / "qsave.json").touch()  # trained already
    command = tmp_path / "qsave"
    answer = json.dumps(result((0.9, 0.8, 0.7), 0.5, 0))
    command.write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/calls'\necho '{answer}'\n")
    command.chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [RECIPES / "three_stages.sh", RECIPES.parent.parent / "configs/reward/smoke", tmp_path / "out"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [next(mode for mode in ("direct", "reasoned") if f"--mode {mode} " in call) for call in calls] == [
        "direct",
        "reasoned",
    ] * 3
    assert all("--attribution-limit 0" in call for call in calls if "--mode direct " in call)
    assert done.stdout.splitlines()[-1] == (
        "| 3_sft | 0.900 | 0.800 | 0.700 | 0.900 | 0.800 | 0.700 | 0.500 | 0.500 | 0 |  |"
    )
