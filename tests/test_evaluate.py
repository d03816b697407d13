"""Evaluation: numbers that follow from the data alone, failures that are counted and never numbers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_model import FakeModel

from qsave_reward.data import write_records
from qsave_reward.errors import ConfigError
from qsave_reward.evaluate import EvalData, evaluate, load_data, open_video
from qsave_reward.types import DIMENSIONS, Defect, Provenance, Record
from qsave_reward.video import Clip, write_clip

TIMES = np.arange(16) / 8
EXPOSURE = Defect("visual_quality", "exposure", 0.5, 0.0, 1.0)
FROZEN = Defect("dynamic_quality", "frozen", 0.5)


def clip(level: float) -> Clip:
    return Clip(np.full((16, 32, 32, 3), round(level), dtype=np.uint8), TIMES, 2.0)


def item(level: float, *, defects=(), prompt: str = "a red circle", **mos: float) -> tuple[Record, Clip]:
    everything = dict.fromkeys(DIMENSIONS, 1 + 4 * level / 255) | mos
    return Record("x.mp4", prompt, everything, defects=defects), clip(level)


def some_items(n: int = 12) -> list[tuple[Record, Clip]]:
    rng = np.random.default_rng(0)
    return [
        item(
            20 * i,
            defects=[(EXPOSURE,), (FROZEN,), ()][i % 3],
            dynamic_quality=float(rng.uniform(1, 5)),
            text_alignment=5.0,
        )
        for i in range(n)
    ]


def data(items, **ceiling: float) -> EvalData:
    return EvalData("mine", items, len(items), ceiling)


def test_numbers_follow_from_scores_and_truth() -> None:
    done = evaluate(FakeModel(), data(some_items(), visual_quality=0.9))
    row = done.results["visual_quality"]
    assert row["srcc"] == pytest.approx(1.0) and row["krcc"] == pytest.approx(1.0)
    assert row["rmse"] == pytest.approx(0.0, abs=1e-9)
    assert row["ci95"] == pytest.approx([1.0, 1.0])
    assert (row["ceiling"], row["n"], row["reason"]) == (0.9, 12, None)
    low, high = done.results["dynamic_quality"]["ci95"]
    assert low <= done.results["dynamic_quality"]["srcc"] <= high
    assert done.results["dynamic_quality"]["ceiling"] is None


def test_a_constant_truth_is_null_with_a_reason() -> None:
    row = evaluate(FakeModel(), data(some_items())).results["text_alignment"]
    assert (row["srcc"], row["plcc"], row["krcc"], row["ci95"]) == (None, None, None, None)
    assert "all 12 true scores equal 5" in row["reason"]
    assert row["rmse"] > 0


def test_attribution_in_direct_mode_comes_from_a_reasoned_pass() -> None:
    model = FakeModel()
    found = evaluate(model, data(some_items()), batch_size=5).results["attribution"]
    # Two names a clip, 24 in all; 8 clips of 12 have one true defect, always among the two.
    assert (found["precision"], found["recall"]) == (pytest.approx(8 / 24), 1.0)
    assert found["f1"] == pytest.approx(16 / 32)
    # exposure: 0.5..1.0 against 0..1, half; frozen: whole clip on both sides.
    assert found["span_iou"] == pytest.approx((4 * 0.5 + 4 * 1.0) / 8)
    assert (found["n"], found["n_failed"]) == (12, 0)
    assert found["per_dimension"]["text_alignment"]["f1"] is None
    assert model.batches == [("direct", 5), ("reasoned", 5)] * 2 + [("direct", 2), ("reasoned", 2)]


def test_attribution_limit_and_unknown_defects_save_the_reasoned_pass() -> None:
    model = FakeModel()
    found = evaluate(model, data(some_items()), batch_size=5, attribution_limit=7).results["attribution"]
    assert found["n"] == 7
    model = FakeModel()
    unknown = [(replace(record, defects=None), video) for record, video in some_items()]
    found = evaluate(model, data(unknown)).results["attribution"]
    assert (found["n"], found["f1"], found["span_iou"]) == (0, None, None)
    assert "known defects" in found["reason"]
    assert {mode for mode, _ in model.batches} == {"direct"}


def test_reasoned_mode_needs_one_pass() -> None:
    model = FakeModel()
    done = evaluate(model, data(some_items()), mode="reasoned", attribution_limit=0)
    assert done.results["attribution"]["n"] == 12
    assert {mode for mode, _ in model.batches} == {"reasoned"}


def failing_items() -> list:
    good = some_items()
    return [*good[:3], (good[3][0], "nowhere.mp4"), item(60, prompt="broken"), *good[4:]]


@pytest.mark.parametrize("mode", ["direct", "reasoned"])
def test_failures_are_counted_left_out_and_never_numbers(mode) -> None:
    done = evaluate(FakeModel(), data(failing_items()), mode=mode)
    broken_too = int(mode == "reasoned")
    assert (done.n, done.n_failed) == (13, 1 + broken_too)
    assert done.failures["not_found"] == 1
    assert done.results["visual_quality"]["n"] == 12 - broken_too
    assert done.results["visual_quality"]["srcc"] == pytest.approx(1.0)
    assert done.results["attribution"]["n"] == 11
    # In direct mode the file that could not be read was never asked to be explained.
    assert done.results["attribution"]["n_failed"] == (2 if mode == "reasoned" else 1)


@pytest.mark.parametrize("mode", ["direct", "reasoned"])
def test_numbers_do_not_depend_on_the_batch_size(mode) -> None:
    results = [
        evaluate(
            FakeModel(), data(failing_items()), mode=mode, batch_size=size, attribution_limit=8
        ).to_dict()
        for size in (1, 3, 100)
    ]
    assert results[0] == results[1] == results[2]


def test_everything_failed() -> None:
    done = evaluate(FakeModel(), data([(Record("a", "x", {"visual_quality": 2.0}), "nowhere.mp4")] * 2))
    assert (done.n, done.n_failed, done.provenance) == (2, 2, None)
    assert done.results["visual_quality"]["rmse"] is None
    text = json.dumps(done.to_dict(), allow_nan=False)
    assert "at least 3 items, got 0" in text


def test_of_a_handful_of_items_there_are_no_intervals_and_of_two_no_correlations() -> None:
    done = evaluate(FakeModel(), data(some_items(4)))
    row, attribution = done.results["visual_quality"], done.results["attribution"]
    assert (row["srcc"], row["ci95"]) == (pytest.approx(1.0), None)
    assert set(row["intervals"].values()) == {None}
    assert row["reason"] == "an interval needs at least 5 items, got 4"
    assert (attribution["f1"], attribution["ci95"]) == (pytest.approx(6 / 11), None)
    assert attribution["reason"] == "an interval needs at least 5 clips, got 4"
    done = evaluate(FakeModel(), data(some_items(2)))
    row = done.results["visual_quality"]
    assert [row[name] for name in ("srcc", "plcc", "krcc", "main_score", "ci95")] == [None] * 5
    assert row["reason"] == "a correlation needs at least 3 items, got 2"
    assert row["rmse"] == pytest.approx(0.0, abs=1e-9) and row["n"] == 2
    assert done.baselines["random"]["visual_quality"]["srcc"] is None
    assert evaluate(FakeModel(), data(some_items(5))).results["visual_quality"]["ci95"] is not None


def test_baselines() -> None:
    rows = evaluate(FakeModel(), data(some_items(), dynamic_quality=0.8)).baselines
    random = rows["random"]["dynamic_quality"]
    assert abs(random["srcc"]) < 0.1
    assert random["ci95"][0] < -0.4 and random["ci95"][1] > 0.4
    assert rows["random"]["text_alignment"]["srcc"] is None
    constant = rows["constant"]["visual_quality"]
    truth = [record.mos["visual_quality"] for record, _ in some_items()]
    assert constant["srcc"] is None and "predictions equal" in constant["reason"]
    assert constant["rmse"] == pytest.approx(np.std(truth))
    known = rows["ceiling"]["dynamic_quality"]
    assert (known["srcc"], known["plcc"]) == (0.8, None)
    unknown = rows["ceiling"]["visual_quality"]
    assert (unknown["srcc"], unknown["plcc"]) == (None, None) and "known" in unknown["reason"]
    assert rows["generator_mean"]["visual_quality"]["reason"] == "no item names its generator"


def test_scores_of_two_models_are_not_mixed() -> None:
    class Changing(FakeModel):
        def score_batch(self, videos, prompts, **options):
            self.provenance = Provenance("fake", f"{len(self.batches)}", "1")
            return super().score_batch(videos, prompts, **options)

    with pytest.raises(ConfigError, match="two different scorers"):
        evaluate(Changing(), data(some_items()), batch_size=4, attribution_limit=0)


def test_world_items_are_the_first_ones_with_their_ceiling() -> None:
    loaded = load_data("world:test", limit=6)
    items = list(loaded.items)
    again = list(load_data("world:test", limit=3).items)
    assert loaded.n == len(items) == 6
    assert [record for record, _ in items[:3]] == [record for record, _ in again]
    assert items[0][1].duration == pytest.approx(2.0)
    other = list(load_data("world:test:5", limit=1).items)
    assert other[0][0] != items[0][0]
    done = evaluate(FakeModel(), load_data("world:test", limit=6))
    views = {"generator_level", "within_generator", "pairwise", "calibration"}
    assert set(done.results) == {*DIMENSIONS, "overall", "attribution", *views}
    assert all(0 < ceiling <= 1 for ceiling in loaded.ceiling.values())


def grouped_items(n: int = 48) -> list[tuple[Record, Clip]]:
    """Four generators, two clips of each for every prompt; the truth is the brightness and some noise."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        level = float(np.clip(60 * (i % 4) + rng.uniform(0, 75), 0, 255))
        record, video = item(level, prompt=f"prompt {i // 8}")
        noisy = {name: float(np.clip(mos + rng.normal(0, 0.4), 1, 5)) for name, mos in record.mos.items()}
        overall = float(np.mean(list(noisy.values())))
        made.append((replace(record, mos=noisy, overall=overall, generator="abcd"[i % 4]), video))
    return made


def test_views_and_baselines_have_a_row_for_each_dimension_and_the_overall_score() -> None:
    done = evaluate(FakeModel(), data(grouped_items()))
    rated = [*DIMENSIONS, "overall"]
    for view in ("generator_level", "within_generator", "pairwise"):
        assert list(done.results[view]) == rated
    assert list(done.results["calibration"]) == list(DIMENSIONS)
    for row in (done.results, *done.baselines.values()):
        assert all(name in row for name in rated)
    assert done.results["overall"]["n"] == 48 and done.results["overall"]["srcc"] > 0.9
    assert done.results["generator_level"]["overall"]["srcc"] == pytest.approx(1.0)
    assert 0 < done.results["within_generator"]["visual_quality"]["srcc"] < 0.9
    assert done.results["pairwise"]["visual_quality"]["kind"] == "same prompt"
    assert 0.3 < done.baselines["generator_mean"]["visual_quality"]["srcc"] < 1
    assert done.results["calibration"]["visual_quality"]["within_2_std"] > 0.5
    json.dumps(done.to_dict(), allow_nan=False)


def test_no_overall_row_where_nothing_was_rated_overall() -> None:
    done = evaluate(FakeModel(), data(some_items()))
    assert "overall" not in done.results and "overall" not in done.results["pairwise"]


def test_failed_items_are_listed() -> None:
    (failed,) = evaluate(FakeModel(), data(failing_items())).failed_items
    assert (failed["index"], failed["video"], failed["code"]) == (3, "x.mp4", "not_found")


def test_a_video_can_be_opened_again(tmp_path) -> None:
    record, clip = next(iter(load_data("world:test:3", limit=1).items))
    assert (open_video("world:test:3", record).frames == clip.frames).all()
    assert open_video("rated/r.jsonl", Record("c/0.mp4", "x")) == "rated/c/0.mp4"
    with pytest.raises(ConfigError, match="expected a video such as"):
        open_video("world:test", record)


def test_file_data_is_relative_to_the_file(tmp_path) -> None:
    (tmp_path / "clips").mkdir()
    records = []
    for i in range(3):
        frames = np.full((8, 32, 32, 3), 60 * i, dtype=np.uint8)
        write_clip(tmp_path / "clips" / f"{i}.mp4", frames, fps=8)
        mos = {"visual_quality": 1.0 + i}
        records.append(Record(f"clips/{i}.mp4", "a red circle", mos, defects=(FROZEN,)))
    write_records(tmp_path / "r.jsonl", records)
    done = evaluate(FakeModel(), load_data(str(tmp_path / "r.jsonl")))
    assert done.results["visual_quality"]["srcc"] == pytest.approx(1.0)
    assert (done.results["dynamic_quality"]["n"], done.results["dynamic_quality"]["srcc"]) == (0, None)
    assert done.results["attribution"]["span_iou"] == pytest.approx(1.0)
    assert load_data(str(tmp_path / "r.jsonl"), limit=2).n == 2


@pytest.mark.parametrize("name", ["world:nowhere", "world:test:x", "none.jsonl"])
def test_unknown_data(name) -> None:
    with pytest.raises(ConfigError):
        load_data(name)


def test_items_must_be_as_many_as_the_data_says() -> None:
    for n in (3, 5):
        with pytest.raises(ConfigError, match=f"expected {n} items of 'mine', got 4"):
            evaluate(FakeModel(), EvalData("mine", some_items(4), n))


def test_wrong_numbers() -> None:
    with pytest.raises(ConfigError, match="limit"):
        load_data("world:test", limit=0)
    with pytest.raises(ConfigError, match="batch size"):
        evaluate(FakeModel(), data(some_items()), batch_size=0)
