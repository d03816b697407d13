"""The recipes under DeepSpeed, with the shipped settings but on two processes of a CPU."""

import re

import pytest
import torch
from deepspeed_runs import ROOT, run_on_two
from safetensors.torch import load_file

from qsave_reward.model import RewardModel

pytest.importorskip("deepspeed")

TINY = ROOT / "qsave_reward" / "weights" / "tiny"


def run(script, stage, batch, out, *options):
    config = ROOT / "configs" / "reward" / "smoke" / f"{'1_sft' if script == 'sft' else '2_grpo'}.yaml"
    options += ("--config", config, "--output_dir", out, "--model_name_or_path", TINY)
    options += ("--deepspeed", ROOT / "configs" / "accelerate" / f"zero{stage}.json")
    return run_on_two(f"reward/{script}.py", *options, "--per_device_train_batch_size", batch)


def moved(out):
    """Names of the weights that a run changed, as the library loads them."""
    before, after = (
        RewardModel.from_pretrained(path, device="cpu").model.state_dict() for path in (TINY, out)
    )
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_supervised_fine_tuning(tmp_path, stage):
    log = run("sft", stage, 2, tmp_path / "out", "--learning_rate", "1e-4")
    assert len(re.findall(r"'loss_expectation'", log)) == 2  # two steps, logged by one process
    assert (tmp_path / "out" / "checkpoint-2" / "zero_to_fp32.py").exists()
    assert load_file(TINY / "model.safetensors").keys() <= moved(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_policy_optimization(tmp_path, stage):
    log = run("grpo", stage, 4, tmp_path / "out", "--learning_rate", "1e-4")
    assert len(re.findall(r"'kl'", log)) == 2
    changed = moved(tmp_path / "out")
    assert not [name for name in changed if "visual" in name]
    assert {name for name in load_file(TINY / "model.safetensors") if "visual" not in name} <= changed
