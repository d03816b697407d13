"""The commands beside `qsave score`: world, eval, doctor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_cases import fake_command, write_clips
from fake_model import FakeModel

from qsave_reward import doctor
from qsave_reward.data import read_records
from qsave_reward.errors import ConfigError


@pytest.fixture
def clips(tmp_path) -> list[str]:
    return write_clips(tmp_path)


@pytest.fixture
def qsave(monkeypatch, capsys):
    return fake_command(monkeypatch, capsys)


def test_world_writes_records_and_clips(qsave, tmp_path) -> None:
    out_dir = tmp_path / "w"
    code, out, err = qsave(
        "world", "--out", str(out_dir), "--n", "2", "--size", "32x48", "--frames", "8", "--json"
    )
    assert code == 0
    records = read_records(json.loads(out)["records"])
    assert len(records) == 2 and all((out_dir / record.video).is_file() for record in records)
    assert json.loads(out)["height"] == 32
    code, out, err = qsave("world", "--out", str(out_dir), "--n", "2", "--size", "32x48", "--frames", "8")
    assert (code, out) == (0, "") and "wrote 2 clips" in err


def test_eval_json_and_table(qsave, tmp_path) -> None:
    code, out, err = qsave(
        "eval", "--data", "world:test", "--limit", "5", "--json", "--out", str(tmp_path / "e")
    )
    assert code == 0
    found = json.loads(out)
    assert found["results"]["visual_quality"]["n"] == 5
    for key in ("srcc", "plcc", "krcc", "rmse", "ci95", "ceiling"):
        assert key in found["results"]["text_alignment"]
    assert {"precision", "recall", "f1", "span_iou", "n"} <= set(found["results"]["attribution"])
    assert {"baselines", "n_failed", "provenance", "versions"} <= set(found)
    assert len((tmp_path / "e" / "predictions.jsonl").read_text().splitlines()) == 5
    code, out, err = qsave("eval", "--data", "world:test", "--limit", "5", "--mode", "reasoned")
    assert code == 0 and "reasoned scores, 5 clips" in out and max(map(len, out.splitlines())) <= 80


def test_eval_with_failed_items_is_exit_1_and_says_which(qsave, clips, tmp_path) -> None:
    lines = [{"video": name, "prompt": "x", "mos": {"visual_quality": 3}} for name in ("0.mp4", "none.mp4")]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = qsave("eval", "--data", str(tmp_path / "r.jsonl"))
    assert code == 1 and "1 of 2 clips failed: not_found 1" in out


def test_eval_of_saved_parts_and_the_page(qsave, tmp_path) -> None:
    common = ["eval", "--data", "world:test", "--limit", "5"]
    code, whole, _ = qsave(*common, "--json")
    for part in "12":
        assert qsave(*common, "--part", f"{part}/2", "--out", str(tmp_path / part))[0] == 0
    saved = ["--predictions", str(tmp_path / "2"), "--predictions", str(tmp_path / "1")]
    page = tmp_path / "e.html"
    code, out, err = qsave("eval", *saved, "--json", "--html", str(page))
    assert code == 0 and json.loads(out) == json.loads(whole) and "wrote" in err
    assert "The largest errors" in page.read_text()
    found = json.loads(out)["results"]
    for view in ("generator_level", "within_generator", "pairwise"):
        assert {"visual_quality", "dynamic_quality", "text_alignment", "overall"} == set(found[view])


def test_eval_in_more_parts_than_clips(qsave, tmp_path) -> None:
    common = ["eval", "--data", "world:test", "--limit", "1"]
    _, whole, _ = qsave(*common, "--json")
    for part in "12":
        code, out, err = qsave(*common, "--part", f"{part}/2", "--out", str(tmp_path / part))
        assert code == 0 and "Traceback" not in err
    code, out, err = qsave("eval", "--predictions", str(tmp_path / "1"))
    assert (code, out) == (2, "") and "missing are 2/2" in err
    code, out, _ = qsave(
        "eval", "--predictions", str(tmp_path / "1"), "--predictions", str(tmp_path / "2"), "--json"
    )
    assert code == 0 and json.loads(out) == json.loads(whole)


@pytest.mark.parametrize(
    "option",
    [
        ("--model", "tiny"),
        ("--mode", "direct"),
        ("--limit", "5"),
        ("--part", "1/1"),
        ("--attribution-limit", "3"),
        ("--device", "cpu"),
        ("--batch-size", "16"),
    ],
    ids=lambda option: option[0],
)
def test_options_of_scoring_are_refused_with_saved_predictions(qsave, option) -> None:
    code, out, err = qsave("eval", "--predictions", "none", *option)
    assert (code, out) == (2, "")
    assert f"leave out {option[0]} " in " ".join(err.replace("│", " ").split()) + " "
    code, out, err = qsave("eval", "--predictions", "none", "--json", "--out", "o", "--html", "h.html")
    assert (code, out) == (2, "") and "none/evaluation.json" in err


@pytest.fixture
def examples(monkeypatch, clips, tmp_path) -> Path:
    """Stands in for the bundled example clips."""
    lines = [json.dumps({"video": Path(name).name, "prompt": "x"}) for name in clips]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(doctor, "EXAMPLES", tmp_path / "examples.jsonl")
    return tmp_path


def test_stored_scores_catch_a_model_that_changed(examples) -> None:
    path = examples / "expected.json"
    doctor.store_expected_scores(FakeModel(), path)
    assert doctor.compare_scores(FakeModel(), path) == 0.0
    stored = json.loads(path.read_text())
    stored["scores"]["1.mp4"]["text_alignment"] += 0.25
    path.write_text(json.dumps(stored))
    assert doctor.compare_scores(FakeModel(), path) == pytest.approx(0.25)
    other = FakeModel()
    other.provenance = replace(other.provenance, revision="9999")
    with pytest.raises(ConfigError, match="weights 0123, got 9999"):
        doctor.compare_scores(other, path)
    (examples / "examples.jsonl").write_text(json.dumps({"video": "0.mp4", "prompt": "x"}))
    with pytest.raises(ConfigError, match="the examples are"):
        doctor.compare_scores(FakeModel(), path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no stored scores"):
        doctor.compare_scores(FakeModel(), path)


@pytest.mark.parametrize("difference", [0.0, 0.5])
def test_doctor(qsave, examples, monkeypatch, difference) -> None:
    monkeypatch.setattr(doctor, "_load_tiny", FakeModel)
    monkeypatch.setattr(doctor, "compare_scores", lambda model: difference)
    code, out, _ = qsave("doctor", "--json")
    found = json.loads(out)
    ok = difference == 0.0
    assert code == int(not ok) and found["ok"] is ok
    assert found["python"].startswith("3.") and "cpu" in found["devices"] and found["threads"] >= 1
    assert found["packages"]["numpy"] == np.__version__ and "deepspeed" in found["optional"]
    assert [(check["name"], check["ok"]) for check in found["checks"]] == [("decode", True), ("model", ok)]
    code, out, _ = qsave("doctor")
    assert code == int(not ok) and ("FAILED" in out) is not ok and "48x32" in out


def test_doctor_reports_a_broken_installation_instead_of_falling_over(qsave, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(doctor, "EXAMPLES", tmp_path / "none.jsonl")
    monkeypatch.setattr(doctor, "_load_tiny", FakeModel)
    code, out, _ = qsave("doctor", "--json")
    assert code == 1
    details = [check["detail"] for check in json.loads(out)["checks"]]
    assert "none.jsonl" in details[0] and details[1]
