"""Where the recipes get their rated clips."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qsave_reward.data import write_records
from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, Defect, Record
from qsave_reward.video import Sampling, read_clip, write_clip
from qsave_reward.world import WorldConfig, render_plan, world_item, world_plan
from qsave_reward.world.phrasing import RELATION_PHRASES

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

from clips import STATED_RELATION, WorldMix, mismatch, open_clips

PLAN = FramePlan(max_frames=4)
SAMPLING = Sampling(max_frames=4, fps=PLAN.fps)
BLUR = Defect("visual_quality", "blur", 0.5)
RECORD = Record(
    video="a.mp4",
    prompt="a red circle",
    mos=dict(zip(DIMENSIONS, (4.0, 3.0, 4.5), strict=True)),
    ratings={"text_alignment": (4.0, 5.0)},
    overall=4.2,
    defects=(BLUR, Defect("text_alignment", "wrong color", 0.5)),
    rationale="a red circle stands still",
)


def test_real_clips_become_backgrounds_of_some():
    films = str(Path(__file__).parent.parent / "qsave_reward" / "examples")
    plain = open_clips("world:train:5", PLAN)
    filmed = open_clips("world:train:5", PLAN, mix=WorldMix(films=films))
    differs = [not np.array_equal(plain(k)[0].frames, filmed(k)[0].frames) for k in range(12)]
    assert 1 <= sum(differs) <= 10
    for k in np.flatnonzero(differs).tolist():
        plan = world_plan("train", k, seed=5, config=WorldConfig(films=films))
        assert plan.scene.background == "filmed" and filmed(k)[1] == render_plan(plan).record


def test_no_clip_gets_a_film_when_the_share_is_nothing():
    films = str(Path(__file__).parent.parent / "qsave_reward" / "examples")
    plain = open_clips("world:train:5", PLAN)
    filmed = open_clips("world:train:5", PLAN, mix=WorldMix(films=films, films_share=0.0))
    assert all(np.array_equal(plain(k)[0].frames, filmed(k)[0].frames) for k in range(12))


def test_sought_defects_come_as_often_as_wanted_and_the_other_clips_stay():
    plain = open_clips("world:train:5", PLAN)
    seeking = open_clips(
        "world:train:5", PLAN, mix=WorldMix(sought=["wrong relation", "morphing"], sought_share=0.5)
    )
    records = [seeking(k)[1] for k in range(60)]
    found = [k for k in range(60) if records[k] != plain(k)[1]]
    assert 25 <= len(found) <= 35
    for k in found:
        assert ("wrong relation", "morphing")[k % 2] in [defect.label for defect in records[k].defects]
    assert len({record.video for record in records}) == 60


def test_prompts_that_state_a_relation_can_be_sought():
    seeking = open_clips("world:train:5", PLAN, mix=WorldMix(sought=[STATED_RELATION], sought_share=1.0))
    clips = [seeking(k)[1] for k in range(30)]
    phrases = [words for ways in RELATION_PHRASES.values() for words in ways]
    assert all(any(f" is {words} " in clip.prompt for words in phrases) for clip in clips)
    wrong = ["wrong relation" in [defect.label for defect in clip.defects] for clip in clips]
    assert 3 < sum(wrong) < 20  # what the clip shows is not chosen


def test_more_raters_of_the_same_clips_say_what_is_true():
    plain, judged = (open_clips("world:train:5", PLAN, mix=WorldMix(raters=n)) for n in (5, 400))
    errors = []
    for k in range(8):
        (clip, record), (same, better) = plain(k), judged(k)
        assert np.array_equal(clip.frames, same.frames)
        assert replace(better, mos=record.mos, ratings=record.ratings, overall=record.overall) == record
        assert {len(values) for values in better.ratings.values()} == {400}
        latent = world_plan("train", k, seed=5).latent
        inner = [name for name in latent if 2 <= latent[name] <= 4]  # answers outside 1 to 5 are cut off
        errors += [(abs(r.mos[name] - latent[name])) for name in inner for r in (record, better)]
    assert max(errors[1::2]) < 0.15 < max(errors[::2])


def test_an_unknown_sought_trait_is_an_error():
    with pytest.raises(ConfigError, match="'wrong mood'.*wrong motion"):
        WorldMix(sought=["wrong mood"])


def test_nobody_to_judge_is_an_error():
    with pytest.raises(ConfigError, match="at least one rater, got 0"):
        WorldMix(raters=0)


def test_a_mismatched_record_is_badly_aligned_and_keeps_what_else_is_known():
    changed = mismatch(RECORD, "a blue square")
    assert changed == Record(
        video="a.mp4",
        prompt="a blue square",
        mos=dict(zip(DIMENSIONS, (4.0, 3.0, 1.0), strict=True)),
        ratings={"text_alignment": (1.0, 1.0)},
        defects=(BLUR, Defect("text_alignment", "missing object", 1.0)),
        rationale="a red circle stands still",
    )


def test_a_mismatch_leaves_unknown_defects_unknown():
    changed = mismatch(Record("a.mp4", "a red circle", mos={"visual_quality": 4.0}), "a blue square")
    assert changed.defects is None
    assert changed.mos == {"visual_quality": 4.0, "text_alignment": 1.0}
    assert changed.ratings == {"text_alignment": (1.0,)}


@pytest.mark.parametrize("varied_share", [0.0, 1.0])
def test_clips_of_the_world_are_its_items(varied_share):
    clip, record = open_clips("world:test:5", PLAN, mix=WorldMix(varied_share=varied_share))(3)
    item = world_item("test", 3, seed=5, config=WorldConfig(varied=varied_share == 1))
    assert record == item.record and record.video == "world:test/5/3"
    assert np.array_equal(clip.frames, read_clip(item.frames, SAMPLING, times=item.times.tolist()).frames)


def test_a_mismatched_clip_of_the_world_has_the_prompt_of_the_next():
    clip, record = open_clips("world:test:5", PLAN, mismatched_share=1.0)(3)
    item = world_item("test", 3, seed=5)
    assert record == mismatch(item.record, world_plan("test", 4, seed=5).prompt) != item.record
    assert np.array_equal(clip.frames, read_clip(item.frames, SAMPLING, times=item.times.tolist()).frames)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="world:SPLIT"):
        open_clips("world:nowhere", PLAN)


def test_clips_of_a_file_lie_beside_it_or_in_the_world(tmp_path):
    item = world_item("train", 7)
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips" / "a.mp4", item.frames, fps=item.fps)
    records = [
        Record("clips/a.mp4", "a red circle"),
        Record("world:train/0/7", "a blue square"),
        Record("clips/none.mp4", "a ring"),
    ]
    write_records(tmp_path / "records.jsonl", records)
    source = open_clips(str(tmp_path / "records.jsonl"), PLAN, mix=WorldMix(varied_share=1.0))
    stored = read_clip(tmp_path / "clips" / "a.mp4", SAMPLING).frames
    shown = read_clip(item.frames, SAMPLING, times=item.times.tolist()).frames
    for number, expected in ((0, stored), (1, shown), (3, stored)):
        clip, record = source(number)
        assert record == records[number % 3]
        assert np.array_equal(clip.frames, expected)
    assert not np.array_equal(stored, shown)
    with pytest.raises(VideoError):
        source(2)


def test_a_mismatch_takes_the_next_prompt_that_differs(tmp_path):
    prompts = ["a red circle", "A red circle.", "a red circle", "a ring", "a ring"]
    records = [Record(f"world:train/0/{i}", prompt) for i, prompt in enumerate(prompts)]
    write_records(tmp_path / "records.jsonl", records)
    source = open_clips(str(tmp_path / "records.jsonl"), PLAN, mismatched_share=1.0)
    found = [source(number)[1] for number in range(6)]
    others = ["a ring"] * 3 + ["a red circle"] * 2 + ["a ring"]
    assert found == [mismatch(records[i % 5], other) for i, other in enumerate(others)]

    write_records(tmp_path / "one.jsonl", records[:3])
    source = open_clips(str(tmp_path / "one.jsonl"), PLAN, mismatched_share=1.0)
    assert [source(number)[1] for number in range(3)] == records[:3]
