"""The `qsave` command as a shell sees it: output, messages, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel

from qsave_reward import cli, doctor
from qsave_reward.data import read_records
from qsave_reward.errors import ConfigError
from qsave_reward.video import write_clip

TESTS = Path(__file__).parent
KEYS = ["file", "prompt", "scores", "overall", "defects", "warnings", "error", "provenance"]


@pytest.fixture
def clips(tmp_path) -> list[str]:
    """Three clips, each brighter than the one before."""
    paths = []
    for i, level in enumerate((40, 120, 200)):
        write_clip(tmp_path / f"{i}.mp4", np.full((8, 32, 48, 3), level, dtype=np.uint8), fps=8)
        paths.append(str(tmp_path / f"{i}.mp4"))
    return paths


@pytest.fixture
def qsave(monkeypatch, capsys):
    """Runs `qsave` with a fake model; returns exit code, standard output, standard error."""
    model = FakeModel()
    monkeypatch.setattr(cli, "_load", lambda name, device: model)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qsave", *args])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    run.model = model
    return run


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_score_json_is_one_object_a_line_in_input_order(qsave, clips) -> None:
    code, out, err = qsave(
        "score", *reversed(clips), "--prompt", "a red circle", "--json", "--batch-size", "2"
    )
    assert (code, err) == (0, "")
    found = rows(out)
    assert [list(row) for row in found] == [KEYS] * 3
    assert [row["file"] for row in found] == clips[::-1]
    assert found[0]["overall"] > found[1]["overall"] > found[2]["overall"]
    first = found[0]
    assert list(first["scores"]) == ["visual_quality", "dynamic_quality", "text_alignment"]
    assert set(first["scores"]["visual_quality"]) == {"mean", "std", "probs"}
    assert sum(first["scores"]["visual_quality"]["probs"]) == pytest.approx(1)
    assert first["defects"][0] == {
        "dimension": "visual_quality",
        "label": "exposure",
        "severity": 0.85,
        "start": 0.5,
        "end": 1.0,
    }
    assert first["error"] is None and first["provenance"]["frame_plan"]["max_frames"] == 8


def test_addresses_are_refused_and_never_taken_for_files(qsave, tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text('{"video": "http://localhost:1/a.mp4", "prompt": "x"}')
    for source in (["http://localhost:1/a.mp4", "--prompt", "x"], ["--jsonl", str(tmp_path / "in.jsonl")]):
        code, out, _ = qsave("score", *source, "--json")
        assert (code, rows(out)[0]["error"]["code"]) == (1, "url")


def test_explain_adds_reasoning_and_scores_only_leaves_defects_out(qsave, clips) -> None:
    _, out, _ = qsave("score", clips[0], "--prompt", "x", "--json", "--explain")
    assert list(rows(out)[0]) == [*KEYS, "reasoning"]
    assert "It looks dark." in rows(out)[0]["reasoning"]
    _, out, _ = qsave("score", clips[0], "--prompt", "x", "--json", "--scores-only")
    assert rows(out)[0]["defects"] is None and rows(out)[0]["overall"] is not None


def test_one_bad_file_does_not_stop_the_rest(qsave, clips, tmp_path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    files = [clips[0], str(tmp_path / "none.mp4"), str(tmp_path / "text.mp4"), str(tmp_path), clips[1]]
    code, out, err = qsave("score", *files, "--prompt", "x", "--json", "--batch-size", "3")
    assert code == 1 and "3 of 5 clips could not be scored" in err
    found = rows(out)
    assert [row["file"] for row in found] == files
    assert [row["error"] and row["error"]["code"] for row in found] == [
        None,
        "not_found",
        "not_a_video",
        "not_a_file",
        None,
    ]
    for row in found[1:4]:
        assert (row["scores"], row["overall"], row["defects"], row["warnings"]) == (None, None, None, [])
        assert row["error"]["message"] and row["provenance"]["model"] == "fake"


def test_jsonl_paths_are_relative_and_a_bad_prompt_is_its_own_error(qsave, clips, tmp_path) -> None:
    lines = [{"video": "0.mp4", "prompt": "x", "more": 1}, {"video": clips[1], "prompt": " "}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = qsave("score", "--jsonl", str(tmp_path / "in.jsonl"), "--json", "--explain")
    assert code == 1
    assert [row["file"] for row in rows(out)] == ["0.mp4", clips[1]]
    assert [row["error"] and row["error"]["code"] for row in rows(out)] == [None, "empty_prompt"]
    assert rows(out)[1]["reasoning"] is None


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["score"], "either files or --jsonl"),
        (["score", "a.mp4", "--jsonl", "b.jsonl", "--prompt", "x"], "either files or --jsonl"),
        (["score", "a.mp4"], "the text the clips were generated from"),
        (["score", "a.mp4", "--prompt", ""], "the text the clips were generated from"),
        (["score", "a.mp4", "--prompt", " \t"], "the text the clips were generated from"),
        (["score", "--jsonl", "b.jsonl", "--prompt", "x"], "bring their own prompts"),
        (["score", "--jsonl", "none.jsonl"], "cannot read 'none.jsonl'"),
        (["score", "a.mp4", "--prompt", "x", "--explain", "--scores-only"], "--scores-only"),
        (["score", "a.mp4", "--prompt", "x", "--fps", "0"], "expected 0 < fps"),
        (["score", "a.mp4", "--prompt", "x", "--fps", "nan"], "expected 0 < fps"),
        (["score", "a.mp4", "--prompt", "x", "--batch-size", "0"], "--batch-size"),
        (["score", "a.mp4", "--prompt", "x", "--decoder", "magic"], "--decoder"),
        (["score", "a.mp4", "--prompt", "x", "--html", "/nowhere/r.html"], "cannot write '/nowhere/r.html'"),
        (["score", "a.mp4", "--prompt", "x", "--html", "/"], "cannot write '/'"),
        (["score", "a.mp4", "--prompt", "x", "--magic"], "--magic"),
        (["world", "--out", "w", "--n", "0"], "--n"),
        (["world", "--out", "w", "--n", "1", "--size", "big"], "HEIGHTxWIDTH"),
        (["world", "--out", "w", "--n", "1", "--size", "8x8"], "at least 32"),
        (["world", "--out", "w", "--n", "1", "--split", "all"], "all"),
        (["eval", "--data", "world:all"], "world:all"),
        (["eval", "--data", "none.jsonl"], "none.jsonl"),
        (["eval", "--data", "world:test", "--out", "/dev/null"], "cannot make the folder '/dev/null'"),
        (["eval", "--data", "world:test", "--limit", "0"], "--limit"),
        (["eval"], "--data"),
        (["eval", "--data", "world:test", "--predictions", "x"], "--predictions"),
        (["eval", "--data", "world:test", "--part", "3/2"], "part K/N"),
        (["eval", "--data", "world:test", "--part", "half"], "second of four"),
        (["eval", "--predictions", "none"], "evaluation.json"),
        (["magic"], "magic"),
    ],
)
def test_wrong_use_is_exit_2_with_a_message_and_no_output(
    qsave, tmp_path, monkeypatch, args, complaint
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = qsave(*args)
    words = " ".join("".join(c if unicodedata.category(c) != "So" else " " for c in err).split())
    assert (code, out) == (2, "")
    assert complaint in words
    assert "Traceback" not in err
    assert not qsave.model.batches and not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_a_typed_error(device) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
        cli._load("tiny", device)


def test_cards_for_people_fit_the_width_and_show_text_as_it_is(qsave, clips, tmp_path) -> None:
    prompt = (
        "[bold]a[/bold] \x1b[31m red circle moves left while a blue square grows and everything is very long"
    )
    code, out, err = qsave("score", clips[0], str(tmp_path / "none.mp4"), "--prompt", prompt, "--explain")
    assert code == 1
    assert max(map(len, out.splitlines())) <= 80
    assert "[bold]a[/bold] \\x1b[31m red circle" in out and "\x1b" not in out
    assert re.search(r"visual quality .* 1\.[56]\d ± 0\.4\d poor", out)
    for expected in ("exposure", "0.5-1.0 s", "whole clip", "It looks dark."):
        assert expected in out
    assert "not scored" in out and "not_found:" in out
    _, out, _ = qsave("score", clips[0], "--prompt", "x")
    assert "It looks dark." not in out


def test_html_beside_json(qsave, clips, tmp_path) -> None:
    code, out, err = qsave(
        "score", *clips, "none.mp4", "--prompt", "x", "--json", "--html", str(tmp_path / "r.html")
    )
    assert code == 1 and len(rows(out)) == 4
    page = (tmp_path / "r.html").read_text()
    assert page.count("<article") == 4 and page.count("data:video/mp4") == 3
    assert "wrote" in err


def test_fps_overrules_the_file(qsave, clips, tmp_path) -> None:
    seen = []
    qsave.model.score_batch = lambda videos, prompts, **options: (
        seen.extend(videos) or FakeModel.score_batch(qsave.model, videos, prompts, **options)
    )
    qsave("score", clips[0], "--prompt", "x", "--fps", "2", "--scores-only")
    assert seen[0].times[1] == pytest.approx(0.5)


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


def test_eval_json_and_table(qsave, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("qsave_reward.agreement.row.RESAMPLES", 20)
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


def test_eval_of_saved_parts_and_the_page(qsave, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("qsave_reward.agreement.row.RESAMPLES", 20)
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


def in_shell(*args: str, script: str = "", **options) -> subprocess.Popen:
    """`qsave` with the fake model in a process of its own."""
    code = "import sys; from fake_model import FakeModel; from qsave_reward import cli\n"
    code += f"cli._load = lambda name, device: FakeModel()\n{script}\ncli.main()"
    env = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    return subprocess.Popen([sys.executable, "-c", code, *args], text=True, env=env, **options)


def test_a_closed_pipe_is_quiet(clips) -> None:
    process = in_shell(
        "score", *clips * 20, "--prompt", "x", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert json.loads(process.stdout.readline())["error"] is None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(20) in (0, 1), err) == (True, "")


def test_ctrl_c_is_exit_130_without_a_traceback(clips) -> None:
    slow = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it\n"
        "FakeModel.explain_batch = lambda *a, **k: print('here', flush=True) or time.sleep(60)"
    )
    process = in_shell(
        "score",
        *clips,
        "--prompt",
        "x",
        "--json",
        script=slow,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")


def test_help_needs_nothing_heavy() -> None:
    code = "import sys; from qsave_reward import cli\ntry:\n cli.main()\nfinally:\n "
    code += "print(sorted({'torch', 'numpy', 'transformers', 'jinja2'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, cwd=TESTS.parent
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    for command in ("score", "world", "eval", "doctor"):
        assert command in done.stdout
