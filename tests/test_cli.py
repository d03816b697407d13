"""The `qsave` command as a shell sees it: `qsave score`, wrong use, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from cli_cases import fake_command, write_clips
from fake_model import FakeModel

from qsave_reward import command_options
from qsave_reward.errors import ConfigError

TESTS = Path(__file__).parent
KEYS = ["file", "prompt", "scores", "overall", "defects", "warnings", "error", "provenance"]


@pytest.fixture
def clips(tmp_path) -> list[str]:
    return write_clips(tmp_path)


@pytest.fixture
def qsave(monkeypatch, capsys):
    return fake_command(monkeypatch, capsys)


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
        (["bench", "score", "--size", "256"], "HEIGHTxWIDTH"),
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
        command_options.load_model("tiny", device)


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


def in_shell(*args: str, script: str = "", **options) -> subprocess.Popen:
    """`qsave` with the fake model in a process of its own."""
    code = "import sys; from fake_model import FakeModel; from qsave_reward import cli, command_options\n"
    code += f"command_options.load_model = lambda name, device: FakeModel()\n{script}\ncli.main()"
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
