"""The whole recipe in two steps a stage, killed in the middle and run again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qsave_reward.data import read_records

ROOT = Path(__file__).parent.parent
STAGES = ("1_sft", "2_grpo", "3_sft")


def start(out):
    return subprocess.Popen(
        ["recipes/reward/three_stages.sh", "configs/reward/smoke", out],
        cwd=ROOT,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_one_table(tmp_path):
    process = start(tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "2_grpo" / "checkpoint-1" / "trainer_state.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    first = (tmp_path / "1_sft" / "model.safetensors").stat().st_mtime_ns
    assert not (tmp_path / "3_sft").exists()

    process = start(tmp_path)
    table, log = process.communicate(timeout=500)
    assert process.returncode == 0, log
    assert (tmp_path / "1_sft" / "model.safetensors").stat().st_mtime_ns == first, (
        "a finished stage ran again"
    )
    for stage in STAGES:
        state = json.loads((tmp_path / stage / "checkpoint-2" / "trainer_state.json").read_text())
        assert state["global_step"] == 2
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in table.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == list(STAGES)
    kept = json.loads((tmp_path / "kept.count.json").read_text())
    assert kept["tried"] == 32 and kept["kept"] == len(read_records(tmp_path / "kept.jsonl")) > 0
    assert f"{kept['kept']} of 32" in table

    # Nothing is left to do: the same command prints the same table at once.
    process = start(tmp_path)
    again, _ = process.communicate(timeout=100)
    assert again == table


def test_wrong_use_says_how_to_use_it():
    done = subprocess.run([ROOT / "recipes" / "reward" / "three_stages.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "CONFIG_DIR OUT" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.s[hb]*")), ids=lambda path: path.name)
def test_shell_scripts_have_no_syntax_errors(path):
    subprocess.run(["bash", "-n", path], check=True)
