"""The recipes under DeepSpeed, with the shipped settings but on two processes of a CPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qsave_reward.model import RewardModel

pytest.importorskip("deepspeed")

ROOT = Path(__file__).parent.parent
TINY = ROOT / "qsave_reward" / "weights" / "tiny"


def settings(folder, stage, batch):
    """The shipped JSON; DeepSpeed cannot fill in the batch size itself from a data set made on demand."""
    shipped = json.loads((ROOT / "configs" / "accelerate" / f"zero{stage}.json").read_text())
    path = folder / "deepspeed.json"
    path.write_text(json.dumps({**shipped, "train_micro_batch_size_per_gpu": batch}))
    return path


def run(script, stage, batch, out, *options):
    config = ROOT / "configs" / "reward" / "smoke" / f"{'1_sft' if script == 'sft' else '2_grpo'}.yaml"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [ROOT / "recipes" / "reward" / f"{script}.py", "--config", config, "--output_dir", out]
    command += ["--deepspeed", settings(out.parent, stage, batch), "--ddp_backend", "gloo"]
    command += ["--per_device_train_batch_size", str(batch), "--warmup_steps", "0", *options]
    done = subprocess.run(
        command,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr


def moved(out):
    before, after = load_file(TINY / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name].float(), after[name].float())}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_supervised_fine_tuning(tmp_path, stage):
    log = run("sft", stage, 2, tmp_path / "out", "--learning_rate", "1e-4")
    assert len(re.findall(r"'loss_expectation'", log)) == 2  # two steps, logged by one process
    assert moved(tmp_path / "out") == load_file(TINY / "model.safetensors").keys()
    assert RewardModel.from_pretrained(tmp_path / "out", device="cpu").metadata.revision


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_policy_optimization(tmp_path, stage):
    log = run("grpo", stage, 4, tmp_path / "out", "--learning_rate", "1e-4")
    assert len(re.findall(r"'kl'", log)) == 2
    assert moved(tmp_path / "out") == {
        name for name in load_file(TINY / "model.safetensors") if "visual" not in name
    }
    assert RewardModel.from_pretrained(tmp_path / "out", device="cpu").metadata.revision
