"""The holistic recipe under DeepSpeed ZeRO-2, as `ntire-track2.yaml` asks, on two processes of a CPU."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from deepspeed_runs import ROOT, run_on_two
from holistic_cases import small_base
from safetensors.torch import load_file

from qsave_reward.holistic.scorer import HolisticScorer
from qsave_reward.video import write_clip

pytest.importorskip("deepspeed")

CONFIG = ROOT / "configs" / "holistic" / "ntire-track2.yaml"


def challenge(folder):
    """Thirty short clips in the form of the challenge."""
    folder.mkdir()
    moving = np.random.default_rng(0).integers(0, 256, (30, 8, 64, 64, 3), dtype=np.uint8)
    for i, frames in enumerate(moving):
        write_clip(folder / f"{i}.mp4", frames // (1 + i % 4), fps=8)
    lines = [f"{i}.mp4|a red circle moves {i}|{1 + i % 4 + i / 100}" for i in range(30)]
    (folder / "train_data.txt").write_text("\n".join(lines) + "\n")
    return folder / "train_data.txt"


def run(base, data, out):
    options = ["--config", CONFIG, "--output_dir", out, "--model_name_or_path", base, "--data", data]
    options += ["--use_cpu", "true", "--bf16", "false", "--lora_dropout", "0", "--report_to", "none"]
    options += ["--eval_share", "0.2", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0"]
    options += ["--learning_rate", "1e-3", "--max_steps", "4", "--logging_steps", "1"]
    run_on_two("holistic/train.py", *options, "--eval_steps", "2", "--save_steps", "2")
    return load_file(out / "model.safetensors")


@pytest.mark.slow
def test_zero_2_trains_selects_and_goes_on(tmp_path):
    base, data, out = (
        small_base(tmp_path / "base", per_dimension=False),
        challenge(tmp_path / "data"),
        tmp_path / "out",
    )
    assert yaml.safe_load(CONFIG.read_text())["deepspeed"] == "configs/accelerate/zero2.json"
    weights = run(base, data, out)
    start = load_file(base / "model.safetensors")
    tied = {name: weights.pop(name) for name in weights.keys() - start.keys()}
    assert all(torch.equal(head, weights["language.model.embed_tokens.weight"]) for head in tied.values())
    assert weights.keys() == start.keys()
    still = {name for name in start if torch.equal(start[name], weights[name])}
    frozen = {name for name in start if name.startswith(("semantic.", "language.")) and "q_proj" not in name}
    frozen -= {name for name in start if "v_proj" in name and name.startswith("language.")}
    assert frozen <= still and not {name for name in still - frozen if name.endswith("weight")}
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert len(losses) == 4 and np.isfinite(losses).all()
    selected = [row["eval_srcc"] for row in state["log_history"] if "eval_srcc" in row]
    assert len(selected) == 2 and state["best_metric"] == max(selected)
    assert HolisticScorer.from_pretrained(out, device="cpu").metadata.trained_on.startswith("23,820 videos")

    # A run that began anew would end with the same weights, but write its first checkpoint again.
    first = (out / "checkpoint-2" / "trainer_state.json").stat().st_mtime_ns
    (out / "model.safetensors").unlink()
    shutil.rmtree(out / "checkpoint-4")
    again = run(base, data, out)
    assert (out / "checkpoint-2" / "trainer_state.json").stat().st_mtime_ns == first
    assert max((again[name].float() - weights[name].float()).abs().max() for name in weights) < 1e-5
