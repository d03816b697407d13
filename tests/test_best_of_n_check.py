"""The true quality of the best of N: candidates, picks, intervals, the table, the picture and the command."""

import json
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_model import FakeModel
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS, Defect
from qsave_reward.video import read_clip
from qsave_reward.world import render_plan, world_plan
from qsave_reward.world.raters import latent_quality

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "serving"))

import best_of_n_check
from best_of_n_check import QUALITIES, candidates, measure, outcomes, picked, table
from best_of_n_plot import HEIGHT, WIDTH, draw, page

NOISE = Defect("visual_quality", "noise", 0.8)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def told():
    """What the command writes, from random scores that follow the truth a little."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, (30, 5, 3))
    scores = 0.5 * truth + 0.5 * rng.uniform(1, 5, truth.shape)
    provenance = FakeModel().provenance
    found = outcomes(truth, scores)
    return best_of_n_check.result(provenance, ["p"] * 30, truth, scores, found=found)


def test_candidates_have_one_prompt_and_defects_of_their_own():
    plans = candidates(3, 8)
    item = world_plan("test", 3)
    assert {(p.prompt, p.scene, p.generator) for p in plans} == {(item.prompt, item.scene, item.generator)}
    assert len({p.name for p in plans}) == len({p.entropy for p in plans}) == 8
    assert len({p.defects for p in plans}) > 4
    assert candidates(3, 2) == plans[:2] and candidates(4, 2)[0].prompt != item.prompt
    for plan in plans:
        assert plan.latent == latent_quality(plan.defects, 2.0)
        assert any(d.dimension == "text_alignment" for d in plan.defects) == (plan.shown != plan.scene)
    # What is random in the pixels is drawn anew too: the same defect does not look the same twice.
    noisy = [replace(p, shown=item.scene, defects=(NOISE,)) for p in plans[:2]]
    assert np.any(render_plan(noisy[0]).frames != render_plan(noisy[1]).frames)


def test_candidates_are_as_good_as_the_items_of_the_world():
    items = [world_plan("test", index) for index in range(150)]
    plans = [plan for index in range(150) for plan in candidates(index, 4)]
    for name in DIMENSIONS:
        ours, theirs = (np.array([p.latent[name] for p in some]) for some in (plans, items))
        error = np.hypot(ours.std() / len(ours) ** 0.5, theirs.std() / len(theirs) ** 0.5)
        assert abs(ours.mean() - theirs.mean()) < 4 * error
        # The first candidate is not the item in disguise.
        assert abs(np.corrcoef(ours[::4], theirs)[0, 1]) < 0.5 < ours.std()


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50)), min_size=1, max_size=7))
def test_a_pick_is_the_mean_over_all_choices(rows):
    values, truth = np.array(rows, dtype=float).T
    found = picked(truth[None, :, None], values[None])
    for n in range(1, len(rows) + 1):
        # max takes the first of equal values.
        picks = [truth[max(some, key=lambda i: values[i])] for some in combinations(range(len(rows)), n)]
        assert found[0, n - 1, 0] == pytest.approx(np.mean(picks), rel=1e-12)


def test_a_scorer_that_knows_the_truth_reaches_all_of_the_gain():
    truth = np.random.default_rng(0).uniform(1, 5, (40, 3, 3))
    found = outcomes(truth, truth)["overall"]
    assert found.model == found.oracle and found.share == 1.0 and found.share_ci95 == (1.0, 1.0)
    overall = truth.mean(axis=2)
    assert found.model.mean[-1] == pytest.approx(overall.max(axis=1).mean())
    assert found.random.mean == pytest.approx([overall.mean()] * 3)
    assert found.model.mean[0] == pytest.approx(overall.mean()) and found.gain.mean[0] == pytest.approx(0)
    assert sorted(found.model.mean) == list(found.model.mean)
    # The wrong way round, the worst is picked; a scorer that knows nothing gains nothing.
    assert outcomes(truth, -truth)["overall"].model.mean[-1] == pytest.approx(overall.min(axis=1).mean())
    blind = outcomes(truth, np.random.default_rng(1).uniform(1, 5, truth.shape))["overall"]
    assert blind.gain.low[-1] < 0 < blind.gain.high[-1] and blind.share_ci95[0] < 0 < blind.share_ci95[1]


def test_numbers_by_hand():
    # Two prompts of two candidates; the dimensions of a candidate are equal but for the last one.
    truth = np.array([[[1.0, 1, 1], [3, 3, 3]], [[5, 5, 5], [1, 1, 4]]])
    scores = np.array([[[1.0, 1, 1], [2, 2, 2]], [[2, 2, 2], [3, 3, 3]]])
    found = outcomes(truth, scores)
    assert list(found) == list(QUALITIES)
    overall = found["overall"]
    assert overall.random.mean == pytest.approx([2.75, 2.75])
    assert overall.model.mean == pytest.approx([2.75, 2.5])
    assert overall.oracle.mean == pytest.approx([2.75, 4])
    assert overall.gain.mean == pytest.approx([0, -0.25]) and overall.share == pytest.approx(-0.25 / 1.25)
    # Resamples of two prompts: one twice, the other twice, or both.
    assert (overall.model.low[1], overall.model.high[1]) == pytest.approx((2, 3))
    text = found["text_alignment"]
    assert text.model.mean[1] == 3.5 and text.oracle.mean[1] == 4 and text.share == pytest.approx(0.25 / 0.75)


def test_candidates_that_are_all_alike_give_no_share():
    with pytest.raises(ConfigError, match="no prompt has candidates that differ") as caught:
        outcomes(np.full((3, 4, 3), 2.0), np.random.default_rng(0).uniform(1, 5, (3, 4, 3)))
    assert caught.value.code == "undefined"


def test_truth_and_scores_are_those_of_the_same_clip():
    texts, truth, scores = measure(FakeModel(), 2, 3)
    assert truth.shape == scores.shape == (2, 3, 3)
    for index in range(2):
        for k, plan in enumerate(candidates(index, 3)):
            item = render_plan(plan)
            clip = read_clip(item.frames, times=item.times.tolist())
            (card,) = FakeModel().score_batch([clip], [plan.prompt])
            assert texts[index] == plan.prompt and truth[index, k].tolist() == list(plan.latent.values())
            assert scores[index, k].tolist() == [score.mean for score in card.scores.values()]


def test_the_table_says_what_was_found(told):
    rng = np.random.default_rng(2)
    found = outcomes(rng.uniform(1, 5, (9, 4, 3)), rng.uniform(1, 5, (9, 4, 3)))
    lines = table(found)
    assert len(lines) == 2 + 4 + 1 + 2 + 4 and "-0.000" not in "".join(lines)
    overall = found["overall"]
    assert lines[5].startswith(f"| 4 | {overall.random.mean[3]:.3f} | {overall.model.mean[3]:.3f} [")
    assert f"{overall.gain.mean[3]:+.3f} [{overall.gain.low[3]:+.3f}, " in lines[5]
    assert lines[-1].startswith("| text alignment | ")
    assert f" | {found['text_alignment'].share:.2f} [" in lines[-1]


def test_the_picture_shows_every_curve_where_it_belongs(told):
    picture = ElementTree.fromstring(draw(told["outcomes"]))
    frames = [
        {key: float(frame.get(key)) for key in ("x", "y", "width", "height")}
        for frame in picture.iter(f"{SVG}rect")
        if frame.get("class") == "frame"
    ]
    assert len(frames) == 4
    for name in ("model", "oracle", "random"):
        legend, *curves = [group for group in picture.iter(f"{SVG}g") if group.get("class") == name]
        assert len(curves) == 4
        for frame, curve, quality in zip(frames, curves, QUALITIES, strict=True):
            line = curve.find(f"{SVG}polyline").get("points")
            points = np.array([point.split(",") for point in line.split()], float)
            means = np.array(told["outcomes"][quality][name]["mean"])
            assert len(points) == 5 and len(list(curve.iter(f"{SVG}title"))) == 5
            assert (np.diff(points[:, 0]) > 0).all()
            assert frame["x"] < points[0, 0] and points[-1, 0] < frame["x"] + frame["width"]
            assert (frame["y"] < points[:, 1]).all() and (points[:, 1] < frame["y"] + frame["height"]).all()
            assert np.array_equal(np.argsort(-points[:, 1], kind="stable"), np.argsort(means, kind="stable"))
    for text in picture.iter(f"{SVG}text"):
        if text.get("x"):
            assert 0 < float(text.get("x")) < WIDTH and 0 < float(text.get("y")) < HEIGHT


def test_labels_of_an_axis_are_where_they_say(told):
    picture = ElementTree.fromstring(draw(told["outcomes"]))
    heights = {
        float(text.text): float(text.get("y"))
        for text in picture.iter(f"{SVG}text")
        if text.get("class") == "small end" and float(text.get("y")) < 400
    }
    (low, high) = min(heights), max(heights)
    scale = (heights[low] - heights[high]) / (high - low)
    model = next(g for g in list(picture.iter(f"{SVG}g"))[3:] if g.get("class") == "model")
    means = told["outcomes"]["overall"]["model"]["mean"]
    for circle, mean in zip(model.iter(f"{SVG}circle"), means, strict=True):
        assert float(circle.get("cy")) + 4 == pytest.approx(heights[low] - scale * (mean - low), abs=0.2)


def test_a_hostile_name_stays_text(told):
    provenance = {**told["provenance"], "model": "<script>alert(1)</script>"}
    text = page({**told, "provenance": provenance})
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text and "30 prompts" in text
    assert text.count("<svg") == 1 and "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_command(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(best_of_n_check, "load_model", lambda name, device: tiny)
    command = ["x", "--prompts", "3", "--candidates", "3", "--out", str(tmp_path / "deep" / "out")]
    monkeypatch.setattr(sys, "argv", command)
    best_of_n_check.main()
    out = tmp_path / "deep" / "out"
    result = json.loads((out / "result.json").read_text())
    assert result["provenance"]["revision"] == tiny.provenance.revision
    assert (result["prompts"], result["candidates"], len(result["clips"])) == (3, 3, 3)
    truth = np.array([row["truth"] for row in result["clips"]])
    scores = np.array([row["scores"] for row in result["clips"]])
    best = scores.mean(axis=2).argmax(axis=1)
    found = result["outcomes"]["overall"]["model"]["mean"][-1]
    assert found == pytest.approx(truth.mean(axis=2)[range(3), best].mean())
    ElementTree.parse(out / "plot.svg")
    assert tiny.provenance.revision in (out / "index.html").read_text()
    assert f"revision {tiny.provenance.revision}: 3 prompts, 3 clips each" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--candidates", "1"])
    with pytest.raises(ConfigError, match="2 prompts and 2 candidates at least, got 3, 1"):
        best_of_n_check.main()
