"""`qsave bench drift`: every place in a batch is tried; a scorer that looks at its neighbours is found."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_cases import command
from fake_clock import Time
from fake_model import FakeModel, spread
from holistic_cases import small_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward import command_options
from qsave_reward.errors import ConfigError
from qsave_reward.holistic.scorer import HolisticScorer
from qsave_reward.metrics import srcc
from qsave_reward.model import RewardModel
from qsave_reward.slowfast import plan_chunks
from qsave_reward.speed import drift, precisions
from qsave_reward.speed.drift import bench_drift
from qsave_reward.speed.invariance import arrangements, batch_sizes, invariance, mean_scores
from qsave_reward.speed.mixture import mixed
from qsave_reward.speed.precisions import other_precisions, quantized, reloaded
from qsave_reward.speed.workload import Workload
from qsave_reward.types import DIMENSIONS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_clips_are_of_many_shapes_and_always_the_same(tiny) -> None:
    work = mixed(range(30))
    shapes = [clip.frames.shape[:3] for clip in work.clips]
    assert len({shape[0] for shape in shapes}) == 7 and len({shape[1:] for shape in shapes}) == 5
    assert {len(clip.times) / clip.duration for clip in work.clips} == {8, 12}
    lengths = [len(prompt) for prompt in work.prompts]
    assert max(lengths) > 2 * min(lengths)
    for clip in work.clips:
        assert clip.frames.dtype == np.uint8 and len(clip.frames) == len(clip.times)
    visual = {sum(c.height * c.width for c in plan_chunks(clip, tiny.frame_plan)) for clip in work.clips}
    assert len(visual) > 10
    # A number stands for one clip, whatever comes with it; another seed shows something else.
    again, other = mixed([17, 4]), mixed([17, 4], seed=1)
    for i, number in enumerate((17, 4)):
        assert np.array_equal(again.clips[i].frames, work.clips[number].frames)
        assert again.prompts[i] == work.prompts[number] != other.prompts[i]
        assert other.clips[i].frames.shape == again.clips[i].frames.shape
        assert not np.array_equal(other.clips[i].frames, again.clips[i].frames)


def test_shapes_recur_with_other_content() -> None:
    first, second = mixed(range(6), period=6), mixed(range(6, 12), period=6)
    for one, other in zip(first.clips, second.clips, strict=True):
        assert one.frames.shape == other.frames.shape and np.array_equal(one.times, other.times)
        assert not np.array_equal(one.frames, other.frames)


@given(count=st.integers(1, 30), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_clip_is_at_every_position(count, size, seed) -> None:
    tables = list(arrangements(count, size, random=np.random.default_rng(seed)))
    rows = -(-count // size)
    assert len(tables) == size and {table.shape for table in tables} == {(rows, size)}
    seen = {(clip, place) for table in tables for row in table.tolist() for place, clip in enumerate(row)}
    assert seen == {(clip, place) for clip in range(count) for place in range(size)}


def test_neighbours_change() -> None:
    tables = list(arrangements(12, 4, random=np.random.default_rng(0)))
    batches = [frozenset(row) for table in tables for row in table.tolist()]
    assert all(len(batch) == 4 for batch in batches) and len(set(batches)) > 8


def test_batch_sizes() -> None:
    assert [batch_sizes(n) for n in (2, 3, 4, 8, 9)] == [(2,), (2, 3), (2, 4), (2, 4, 8), (2, 4, 9)]


class Nosy(FakeModel):
    """A clip's text alignment is lifted by a little when the clip before it is longer."""

    def score_batch(self, videos, prompts, **options):
        cards = super().score_batch(videos, prompts, **options)
        for i in range(1, len(cards)):
            if len(videos[i - 1].times) > len(videos[i].times):
                mean = cards[i].scores["text_alignment"].mean + 0.002
                cards[i] = replace(cards[i], scores={**cards[i].scores, "text_alignment": spread(mean)})
        return cards


class Last(FakeModel):
    """Only clip number `victim`, last in a batch of four, is scored otherwise."""

    def __init__(self, victim) -> None:
        super().__init__()
        self.victim = victim

    def score_batch(self, videos, prompts, **options):
        cards = super().score_batch(videos, prompts, **options)
        if len(videos) == 4 and videos[3] is self.victim:
            cards[3] = replace(cards[3], scores={name: spread(3.5) for name in DIMENSIONS})
        return cards


def test_a_scorer_that_looks_at_its_neighbours_is_found() -> None:
    work = mixed(range(6))
    done = []
    found = invariance(Nosy(), work, sizes=(2, 3), progress=done.append)
    assert found.max_difference == pytest.approx(0.002) and not found.holds and done == [1] * 5
    worst = found.worst
    assert worst.dimension == "text_alignment" and worst.together - worst.alone == pytest.approx(0.002)
    lengths = [len(work.clips[i].times) for i in worst.batch]
    assert worst.batch[worst.position] == worst.clip
    assert lengths[worst.position - 1] > lengths[worst.position]
    # One clip, at one position, in batches of one size.
    found = invariance(Last(work.clips[5]), work, sizes=(2, 4))
    assert (found.worst.clip, found.worst.position, found.worst.together) == (5, 3, 3.5)
    assert len(found.worst.batch) == 4 and not found.holds
    assert found.comparisons == 2 * 6 + 4 * 8  # the last batch of four is filled up
    quiet = invariance(FakeModel(), work, sizes=(2, 4))
    assert quiet.max_difference == 0 and quiet.holds and quiet.comparisons == found.comparisons


@pytest.mark.parametrize(("by", "holds"), [(0.00099, True), (0.00101, False)])
def test_the_limit(by, holds) -> None:
    class Second(FakeModel):
        def score_batch(self, videos, prompts, **options):
            cards = super().score_batch(videos, prompts, **options)
            moved = {"visual_quality": spread(3.0 + by * (len(cards) > 1))}
            return [replace(card, scores={**card.scores, **moved}) for card in cards]

    found = invariance(Second(), mixed(range(2)), sizes=(2,))
    assert found.max_difference == pytest.approx(by) and found.holds is holds
    assert (found.worst.dimension, found.tolerance) == ("visual_quality", 1e-3)


def test_scores_of_the_model_do_not_depend_on_the_batch(tiny_by_twos) -> None:
    work = mixed(range(4))
    assert np.ptp(mean_scores(tiny_by_twos, work), axis=0).min() > 0.1  # a mixed-up clip would be seen
    tiny_by_twos.batch_size = 3
    found = invariance(tiny_by_twos, work, sizes=(3,))
    assert found.holds and found.max_difference < 1e-4 and found.comparisons == 3 * 6


def test_other_number_types_leave_the_model_alone(tiny_by_twos) -> None:
    work = mixed(range(3))
    before = mean_scores(tiny_by_twos, work)
    small = quantized(tiny_by_twos)
    assert small.batch_size == 2 and isinstance(small, RewardModel)
    half = reloaded(tiny_by_twos, torch.bfloat16)
    assert (
        half.model.dtype == torch.bfloat16
        and half.batch_size == 2
        and half.provenance == tiny_by_twos.provenance
    )
    linear = [name for name, part in small.model.named_modules() if type(part) is torch.nn.Linear]
    assert linear == ["lm_head"]
    assert small.model.model.language_model.layers[0].mlp.up_proj.weight().dtype == torch.qint8
    moved = np.abs(mean_scores(small, work) - before)
    assert 1e-4 < moved.max() < 0.5
    assert np.array_equal(mean_scores(tiny_by_twos, work), before)


def test_a_precision_that_does_not_work_is_skipped_with_its_reason(tiny_by_twos, monkeypatch) -> None:
    sample = mixed(range(1))

    def broken(scorer):
        copy = RewardModel(scorer.model, scorer.processor, scorer.metadata, name="tiny", batch_size=2)
        monkeypatch.setattr(copy, "score_batch", lambda *_: (_ for _ in ()).throw(AttributeError("no dtype")))
        return copy

    monkeypatch.setattr(precisions, "reloaded", lambda scorer, dtype: scorer)
    monkeypatch.setattr(precisions, "quantized", broken)
    found, skipped = other_precisions(tiny_by_twos, sample)
    assert list(found) == ["bfloat16"]
    assert skipped == {"float16": "measured on CUDA only", "int8": "cannot score: no dtype"}
    monkeypatch.setattr(
        precisions, "quantized", lambda _: (_ for _ in ()).throw(RuntimeError("NoQEngine\nlong text"))
    )
    found, skipped = other_precisions(tiny_by_twos, sample)
    assert list(found) == ["bfloat16"] and skipped["int8"] == "torch cannot quantize it: NoQEngine"


def test_figures_of_a_precision(monkeypatch, tiny_by_twos) -> None:
    """Float32 takes 4 and 6 s, the other number type 2 and 2 s, for 2 clips."""
    exact = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 3.0]])
    other = np.array([[1.5, 2.0, 3.0], [2.0, 2.75, 3.0]])
    slow = SimpleNamespace(
        model=tiny_by_twos.model, batch_size=2, read=tiny_by_twos.read, provenance=tiny_by_twos.provenance
    )
    clock = Time()
    run = {True: clock.work(0, 4, 6), False: clock.work(0, 2, 2)}

    def scores(scorer, work):
        run[scorer is slow]()
        return exact if scorer is slow else other

    monkeypatch.setattr(drift, "invariance", lambda *_, **__: None)
    monkeypatch.setattr(drift, "other_precisions", lambda *_: ({"half": object()}, {"int8": "because"}))
    monkeypatch.setattr(drift, "mean_scores", scores)
    found = bench_drift(slow, clips=2, rounds=2, clock=clock)
    half = found.precisions["half"]
    assert half.max_difference == 0.5 and half.mean_difference == pytest.approx(0.75 / 6)
    same = srcc([1.0, 2.0], [3.0, 4.0])
    assert half.srcc == {"visual_quality": same, "dynamic_quality": same, "text_alignment": None}
    assert (half.ratio_vs_float32, half.range) == (2.5, (2.0, 3.0))
    assert half.clips_per_s == 1.0 and found.clips_per_s == 2 / 5 and found.skipped == {"int8": "because"}


def test_another_number_type_is_measured_from_float32(tiny_by_twos, monkeypatch) -> None:
    seen = []

    class Stop(Exception):
        pass

    def stop(scorer, work, **options):
        seen.append((scorer.model.dtype, scorer.batch_size, options["sizes"]))
        raise Stop

    half = SimpleNamespace(model=SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cpu")))
    half.batch_size = 2
    monkeypatch.setattr(
        drift, "reloaded", lambda scorer, dtype: tiny_by_twos if dtype == torch.float32 else None
    )
    monkeypatch.setattr(drift, "invariance", stop)
    with pytest.raises(Stop):
        bench_drift(half, clips=2)
    assert seen == [(torch.float32, 2, (2,))]
    for clips, size in ((2, 3), (4, 1)):
        half.batch_size = size
        with pytest.raises(ConfigError, match="at least 2 clips"):
            bench_drift(half, clips=clips)


def test_a_holistic_scorer(tmp_path) -> None:
    scorer = HolisticScorer.from_pretrained(small_checkpoint(tmp_path), device="cpu", batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bench_drift(scorer, clips=3, rounds=1)
    assert found.invariance.holds and set(found.precisions) == {"bfloat16", "int8"}


@pytest.fixture
def qsave(monkeypatch, capsys, tiny):
    copy = RewardModel(tiny.model, tiny.processor, tiny.metadata, name="tiny", batch_size=8)
    monkeypatch.setattr(command_options, "load_model", lambda name, device: copy)
    monkeypatch.setenv("COLUMNS", "200")
    return command(monkeypatch, capsys)


SMALL = ("--clips", "3", "--batch-size", "2", "--rounds", "1")


def test_the_command(qsave) -> None:
    code, out, err = qsave("bench", "drift", *SMALL, "--json")
    assert code == 0, err
    found = json.loads(out)
    batches = found["invariance"]
    assert batches["holds"] is True and 0 <= batches["max_difference"] < 1e-3
    assert (batches["comparisons"], batches["sizes"], batches["tolerance"]) == (8, [2], 1e-3)
    assert set(batches["worst"]) == {"clip", "dimension", "batch", "position", "alone", "together"}
    assert set(found["precisions"]) == {"bfloat16", "int8"} and set(found["skipped"]) == {"float16"}
    (seconds,) = found["rounds"]
    assert set(seconds) == {"float32", "bfloat16", "int8"}
    for name, one in found["precisions"].items():
        assert 1e-5 < one["mean_difference"] < one["max_difference"] < 1
        assert set(one["srcc"]) == set(DIMENSIONS)
        assert one["ratio_vs_float32"] == pytest.approx(seconds["float32"] / seconds[name])
        assert one["clips_per_s"] == pytest.approx(3 / seconds[name])
    assert found["clips_per_s"] == pytest.approx(3 / seconds["float32"])
    assert (found["clips"], found["batch_size"], found["seed"], found["model"]) == (3, 2, 0, "tiny")
    assert found["machine"]["device"] == "cpu" and found["revision"]


def test_a_broken_promise_is_exit_code_1(qsave, monkeypatch) -> None:
    work = mixed(range(6))
    broken = invariance(Last(work.clips[5]), work, sizes=(4,))
    monkeypatch.setattr(drift, "invariance", lambda *_, **__: broken)
    monkeypatch.setattr(drift, "other_precisions", lambda *_: ({}, {"int8": "no kernels"}))
    monkeypatch.setattr(drift, "mixed", lambda numbers, seed: Workload(work.clips[:2], work.prompts[:2]))
    code, out, err = qsave("bench", "drift", "--clips", "2", "--batch-size", "2", "--rounds", "1")
    assert code == 1 and "depends on the clips" in err
    assert "of clip 5" in out and "3.500000 in" in out and "skipped, no kernels" in out


def test_wrong_commands(qsave) -> None:
    code, _, err = qsave("bench", "drift", "--clips", "4", "--batch-size", "5")
    assert code == 2 and "do not fill a batch" in err
    assert qsave("bench", "drift", "--batch-size", "1")[0] == 2
    assert qsave("bench", "drift", "--seed", "-1")[0] == 2
