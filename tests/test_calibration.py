"""Fitting, keeping and refusing calibrations."""

import json
import statistics
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_cases import CALIBRATION

from qsave_reward.calibration import Calibration
from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS

SCORES = [[1.5, 2.0, 5.0], [2.5, 4.0, 4.0], [4.0, 3.5, 1.0], [3.0, 3.0, 2.5]]


def test_fit_measures_mean_and_sample_deviation():
    fitted = Calibration.fit(SCORES, data="four clips", revision="abc", date="2026-02-03")
    for name, column in zip(DIMENSIONS, zip(*SCORES, strict=True), strict=True):
        assert fitted.mean[name] == pytest.approx(statistics.fmean(column), abs=1e-12)
        assert fitted.std[name] == pytest.approx(statistics.stdev(column), abs=1e-12)
    assert (fitted.n, fitted.data, fitted.revision, fitted.date) == (4, "four clips", "abc", "2026-02-03")


def test_apply_gives_z_scores_and_keeps_nan():
    values = CALIBRATION.apply(np.array([[3.0, 1.0, 5.0], [np.nan] * 3]))
    assert values[0].tolist() == [2.0, -2.0, 0.5]
    assert np.isnan(values[1]).all()


@given(st.lists(st.tuples(*[st.floats(1, 5)] * 3), min_size=3, max_size=20))
def test_the_reference_set_itself_gets_mean_0_and_deviation_1(rows):
    table = np.array(rows)
    if (table.std(axis=0, ddof=1) < 0.02).any():
        return
    values = Calibration.fit(table, data="any", revision="r").apply(table)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(axis=0, ddof=1), 1, atol=1e-9)


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        ([[1, 2, 3]], "n >= 2"),
        ([1, 2, 3], "n >= 2"),
        ([[1, 2], [3, 4]], "n >= 2"),
        ([[1, 2, 3], [np.nan] * 3], "leave failed clips out"),
        ([[1, 2, 3], [2, 3, 5.1]], "row 1"),
        ([[1, 2, 3], [2, 3, 0.9]], "1..5"),
        ([[1, 2, 3], [2, 2, 4]], "std.dynamic_quality"),
        ([[1, 2, 3], [2, 2.005, 4]], "std.dynamic_quality"),
    ],
)
def test_fit_refuses_what_cannot_be_calibrated(scores, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Calibration.fit(scores, data="any", revision="r")


def test_save_and_load(tmp_path):
    path = CALIBRATION.save(tmp_path)
    assert path == tmp_path / "calibration.json"
    assert Calibration.load(tmp_path, revision="0123") == CALIBRATION
    replace(CALIBRATION, n=7).save(tmp_path)
    assert Calibration.load(tmp_path, revision="0123").n == 7
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def test_a_file_of_another_name(tmp_path):
    path = CALIBRATION.save(tmp_path / "ours.json")
    assert path == tmp_path / "ours.json" and [file.name for file in tmp_path.iterdir()] == ["ours.json"]
    assert Calibration.load(path, revision="0123") == Calibration.load(str(path)) == CALIBRATION
    with pytest.raises(ConfigError) as caught:
        Calibration.load(tmp_path)
    assert caught.value.code == "no_calibration"


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    CALIBRATION.save(tmp_path)
    monkeypatch.setattr("os.replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ConfigError, match="disk full"):
        replace(CALIBRATION, n=7).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]
    assert Calibration.load(tmp_path, revision="0123") == CALIBRATION


def test_load_refuses_another_revision(tmp_path):
    CALIBRATION.save(tmp_path)
    with pytest.raises(ConfigError, match="'0123'.*'4567'") as caught:
        Calibration.load(tmp_path, revision="4567")
    assert caught.value.code == "calibration_revision"


def test_load_says_that_there_is_none(tmp_path):
    with pytest.raises(ConfigError, match="Calibration.fit") as caught:
        Calibration.load(tmp_path, revision="0123")
    assert caught.value.code == "no_calibration"


def changed(**fields):
    return json.dumps(asdict(CALIBRATION) | fields)


def without(name):
    return json.dumps({key: value for key, value in asdict(CALIBRATION).items() if key != name})


EQUAL = dict.fromkeys(DIMENSIONS, 2.0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot read"),
        ("[" * 100_000, "cannot read"),
        ("[1]", "exactly the keys"),
        (without("n"), "exactly the keys"),
        (changed(extra=1), "exactly the keys"),
        (changed(n=True), "'n'"),
        (changed(n=100.0), "'n'"),
        (changed(n=1), "'n'"),
        (changed(mean=[2, 2, 2]), "'mean'"),
        (changed(mean={"visual_quality": 2.0}), "'mean'"),
        (changed(mean=EQUAL | {"speed": 2.0}), "'mean'"),
        (changed(mean=EQUAL | {"text_alignment": 5.5}), "mean.text_alignment"),
        (changed(mean=EQUAL | {"text_alignment": float("nan")}), "mean.text_alignment"),
        (changed(mean=EQUAL | {"text_alignment": "2"}), "mean.text_alignment"),
        (changed(std=EQUAL | {"text_alignment": 0.0}), "std.text_alignment"),
        (changed(std=EQUAL | {"text_alignment": True}), "std.text_alignment"),
        (changed(std=EQUAL | {"text_alignment": -1.0}), "std.text_alignment"),
        (changed(date="31.01.2026"), "'date'"),
        (changed(date="20260131"), "'date'"),
        (changed(date=20260131), "'date'"),
        (changed(data=" "), "'data'"),
        (changed(revision=None), "'revision'"),
    ],
)
def test_load_is_strict(tmp_path, content, complaint):
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        Calibration.load(tmp_path, revision="0123")
    assert "calibration.json" in str(caught.value)


def test_save_needs_the_directory(tmp_path):
    with pytest.raises(ConfigError, match="cannot write"):
        CALIBRATION.save(tmp_path / "nowhere")
