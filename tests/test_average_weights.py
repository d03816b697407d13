"""The mean of checkpoints, weight by weight, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WEIGHTS
from safetensors.torch import load_file, save_file

from qsave_reward.errors import ConfigError
from qsave_reward.model import RewardModel

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
import average_weights as script
from average_weights import average_weights

PT = {"format": "pt"}


def shifted(folder, by, dtype=torch.float32):
    """The bundled model with a number added to every weight."""
    shutil.copytree(WEIGHTS, folder)
    bundled = load_file(WEIGHTS / "model.safetensors")
    weights = {name: (weight.float() + by).to(dtype) for name, weight in bundled.items()}
    save_file(weights, folder / "model.safetensors", PT)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
    return folder


def test_every_weight_is_the_mean_of_three_and_nothing_else_changes(tmp_path):
    folders = [shifted(tmp_path / str(k), by) for k, by in enumerate((0.0, 0.5, 2.5))]
    (folders[0] / "qsave.json").unlink()  # as in the folders that the trainer writes
    before = [(folder / "model.safetensors").read_bytes() for folder in folders]
    revision = average_weights(folders, tmp_path / "mean")
    mean, bundled = (load_file(f / "model.safetensors") for f in (tmp_path / "mean", WEIGHTS))
    assert mean.keys() == bundled.keys()
    for name, weight in mean.items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, bundled[name].float() + 1.0)
    model = RewardModel.from_pretrained(str(tmp_path / "mean"), device="cpu")
    told = json.loads((WEIGHTS / "qsave.json").read_text())
    assert model.metadata.revision == revision != told["revision"]
    assert model.frame_plan.token_budget == told["frame_plan"]["token_budget"]
    assert model.metadata.trained_on == told["trained_on"]
    assert sorted(model.metadata.prompt_words) == told["prompt_words"]
    assert before == [(folder / "model.safetensors").read_bytes() for folder in folders]


def test_the_sum_is_not_rounded_on_the_way(tmp_path):
    # Float16 ends at 65,504, below the sum of these; between 16,384 and 32,768 its numbers are 16 apart.
    folders = [shifted(tmp_path / str(k), 0.0, torch.float16) for k in range(3)]
    for folder, value in zip(folders, (30000.0, 30016.0, 30032.0), strict=True):
        weights = load_file(folder / "model.safetensors")
        save_file({k: torch.full_like(w, value) for k, w in weights.items()}, folder / "model.safetensors")
    average_weights(folders, tmp_path / "mean")
    for weight in load_file(tmp_path / "mean" / "model.safetensors").values():
        assert weight.dtype == torch.float16 and (weight == 30016).all()


def test_one_checkpoint_an_old_folder_and_other_models_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least two checkpoints, got 1"):
        average_weights([WEIGHTS], tmp_path / "mean")
    (tmp_path / "old").mkdir()
    with pytest.raises(ConfigError, match="old exists"):
        average_weights([WEIGHTS, WEIGHTS], tmp_path / "old")
    with pytest.raises(ConfigError, match="expected the weights of a model"):
        average_weights([tmp_path / "old", WEIGHTS], tmp_path / "mean")
    cut = shutil.copytree(WEIGHTS, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((WEIGHTS / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cut: expected the weights of a model"):
        average_weights([cut, WEIGHTS], tmp_path / "mean")
    with pytest.raises(ConfigError, match=r"has no qsave\.json"):
        average_weights([WEIGHTS, tmp_path / "old"], tmp_path / "mean")
    wider = shutil.copytree(WEIGHTS, tmp_path / "wider")
    config = json.loads((wider / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 5
    (wider / "config.json").write_text(json.dumps(config))
    weights = load_file(WEIGHTS / "model.safetensors")
    save_file({k: w for k, w in weights.items() if ".layers.5." not in k}, wider / "model.safetensors", PT)
    with pytest.raises(ConfigError, match=r"layers\.5\.\S+ has the shape None, expected \(\d"):
        average_weights([wider, WEIGHTS], tmp_path / "mean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "old", "wider"]


@pytest.mark.parametrize("last", [False, True])
def test_a_checkpoint_without_one_of_its_weights_is_refused_and_not_filled_up_at_random(tmp_path, last):
    holed = shutil.copytree(WEIGHTS, tmp_path / "holed")
    weights = load_file(WEIGHTS / "model.safetensors")
    lost = next(name for name in weights if name.endswith("o_proj.weight"))
    save_file({k: w for k, w in weights.items() if k != lost}, holed / "model.safetensors", PT)
    with pytest.raises(ConfigError, match=rf"holed lacks 1 weights, such as {lost}"):
        average_weights([WEIGHTS, holed] if last else [holed, WEIGHTS], tmp_path / "mean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holed"]


def test_the_command_says_the_revision_or_what_is_wrong(tmp_path):
    command = [sys.executable, script.__file__, "--out", str(tmp_path / "mean"), str(WEIGHTS)]
    wrong = subprocess.run(command, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr.strip() == "error: a mean needs at least two checkpoints, got 1"
    right = subprocess.run([*command, str(WEIGHTS)], capture_output=True, text=True)
    told = json.loads((tmp_path / "mean" / "qsave.json").read_text())["revision"]
    assert right.stdout.splitlines()[-1] == f"{tmp_path / 'mean'}: revision {told}"
    same, bundled = (load_file(f / "model.safetensors") for f in (tmp_path / "mean", WEIGHTS))
    assert all(torch.equal(same[name], weight) for name, weight in bundled.items())
