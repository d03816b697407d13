"""Scores of damaged clips against those of the clips as they are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS, DimensionScore, Provenance, Record, VideoScore
from qsave_reward.video import read_clip
from qsave_reward.world import WorldConfig, world_item

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

from known_defects import (
    DEFECTS,
    DROPS,
    SEVERITIES,
    Drop,
    drops,
    measure,
    read_all,
    reduced,
    render_all,
    table,
    worse,
)

RECIPES = Path(__file__).parent.parent / "recipes" / "reward"
EXAMPLES = RECIPES.parent.parent / "qsave_reward" / "examples"


@pytest.fixture
def clips():
    items = [world_item("test", index) for index in range(3)]
    return [read_clip(item.frames, times=item.times.tolist()) for item in items]


class Motionmeter:
    """A Scorer that likes smooth motion: few equal neighbours; and detail for the picture."""

    def score_batch(self, videos, prompts, *, mode="direct", on_error="raise"):
        cards = []
        for clip in videos:
            frames = clip.frames.astype(float)
            alike = float(np.mean([np.array_equal(a, b) for a, b in zip(frames, frames[1:], strict=False)]))
            share = {"dynamic_quality": 1 - alike, "visual_quality": 0.5, "text_alignment": 0.5}
            rows = {d: DimensionScore.from_probs([1 - share[d], 0, 0, 0, share[d]]) for d in DIMENSIONS}
            cards.append(VideoScore(rows, Provenance("fake", "0", "0", {})))
        return cards


def test_shares_and_means_are_those_of_the_right_dimension():
    clean = np.array([[3.0, 5.0], [3.0, 4.0], [3.0, 3.0], [3.0, 2.0]])
    found = drops(
        clean,
        {("blur", 0.5): np.array([2.0, 3.0, 4.0, 1.0]), ("freeze", 1.0): np.array([4.0, 3.0, 2.0, 1.0])},
    )
    assert found == [Drop("blur", 0.5, 0.625, 0.5, 4), Drop("freeze", 1.0, 1.0, 1.0, 4)]


def test_frame_drops_hold_frames(clips):
    numbers = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    clip = read_clip(numbers, fps=8.0)
    shown = worse(clip, DROPS, 0.5).frames[:, 0, 0, 0].tolist()
    assert shown == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12, 15]


def test_a_freeze_is_longer_the_more_severe_it_is_and_a_jump_goes_there_and_back():
    # A square that moves one pixel a frame.
    frames = np.zeros((16, 64, 64, 3), np.uint8)
    for k in range(16):
        frames[k, 20:30, 10 + k : 20 + k] = 200
    clip = read_clip(frames, fps=8.0)

    def held(severity):
        shown = worse(clip, "freeze", severity).frames
        return sum(np.array_equal(a, b) for a, b in zip(shown, shown[1:], strict=False))

    assert 0 < held(0.25) < held(0.5) < held(1.0) < 15
    moved = [not np.array_equal(a, b) for a, b in zip(worse(clip, "jump", 1.0).frames, frames, strict=True)]
    assert any(moved) and not moved[0] and not moved[-1]


@pytest.mark.parametrize("label", DEFECTS)
def test_every_defect_shows(clips, label):
    for clip in clips:
        damaged = worse(clip, label, 1.0)
        assert damaged.times is clip.times and damaged.frames.shape == clip.frames.shape
    assert any(np.any(worse(clip, label, 0.25).frames != clip.frames) for clip in clips)


def test_a_scorer_that_sees_held_frames_only(clips):
    found = {(d.label, d.severity): d for d in measure(Motionmeter(), clips, ["a red circle"] * 3)}
    assert len(found) == len(DEFECTS) * len(SEVERITIES)
    assert found["freeze", 1.0].fell == 1.0 and found["freeze", 1.0].mean > 1
    assert found[DROPS, 1.0].fell == 1.0
    assert found["blur", 1.0].fell == 0.5 and found["blur", 1.0].mean == 0


def test_large_clips_are_reduced_and_keep_their_shape():
    clip = read_clip(np.zeros((2, 600, 1200, 3), np.uint8), fps=8.0)
    assert reduced(clip).frames.shape == (2, 256, 512, 3)
    small = read_clip(np.zeros((2, 100, 120, 3), np.uint8), fps=8.0)
    assert reduced(small) is small


def test_the_table_has_a_row_for_each_defect():
    found = [Drop(label, severity, 0.5, -0.25, 2) for label in DEFECTS for severity in SEVERITIES]
    lines = table(found)
    assert len(lines) == 2 + len(DEFECTS) and lines[2].count("0.50 (-0.25)") == len(SEVERITIES)


def test_the_command_counts_what_it_cannot_read(tmp_path):
    records = [{"video": str(EXAMPLES / "flicker.mp4"), "prompt": "a large red star loops around"}]
    records.append({"video": "none.mp4", "prompt": "a red circle"})
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, records)))
    command = [sys.executable, RECIPES / "known_defects.py", "--data", tmp_path / "clips.jsonl"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "out.json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "left out none.mp4" in done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["clips"] == 1 and len(result["drops"]) == len(DEFECTS) * len(SEVERITIES)
    assert done.stdout.splitlines()[0].startswith("| defect | severity 0.25")


class Films:
    """Reads clips that have as many frames as their name says."""

    def read(self, path):
        return read_clip(np.full((int(path.stem), 16, 16, 3), 90, np.uint8), fps=8.0)


def test_clips_too_short_for_a_defect_are_left_out_by_name(capsys):
    records = [Record(f"{n}.mp4", f"{n} frames") for n in (1, 2, 3, 4, 16)]
    clips, prompts = read_all(Films(), records, Path())
    assert prompts == ["4 frames", "16 frames"] and [len(clip.frames) for clip in clips] == [4, 16]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"left out {n}.mp4: expected at least 4 frames, got {n}" for n in (1, 2, 3)]
    with pytest.raises(ConfigError, match="none of the 3 clips"):
        read_all(Films(), records[:3], Path())


@pytest.mark.parametrize("label", DEFECTS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_four_frames_are_enough_for_every_defect(label, severity):
    clip = Films().read(Path("4.mp4"))
    assert worse(clip, label, severity).frames.shape == clip.frames.shape


def test_clips_of_the_world_begin_without_defects():
    clips, prompts = render_all("world:test", 3)
    plain = [world_item("test", i, config=WorldConfig(clean=True)) for i in range(3)]
    assert prompts == [item.record.prompt for item in plain]
    for clip, item in zip(clips, plain, strict=True):
        assert (clip.frames == item.frames).all() and item.record.defects == ()
        assert (clip.times == item.times).all() and clip.duration == 2.0
