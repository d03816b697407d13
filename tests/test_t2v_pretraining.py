"""The embedded generator: its prompts and tokens, its optimizer, and that its training can be stopped."""

import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

import pretrain_tiny
from kernel_muon import Muon, optimizers_for
from pipelines import load_pipeline
from tiny_pipeline import TEXT_LENGTH, TEXT_WIDTH, build_pipeline, build_tokenizer
from world_prompts import HEIGHT, NUM_FRAMES, WIDTH, object_frames, object_plans, object_prompts

from qsave_reward.world.scene import split_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FEW = [
    "--learning_rate",
    "0.1",
    "--vae_learning_rate",
    "0.1",
    "--vae_steps",
    "4",
    "--vae_batch",
    "1",
    "--clips",
    "8",
    "--steps",
    "4",
    "--batch",
    "4",
]


def test_every_prompt_has_a_token_for_each_word_and_fits():
    tokenizer = build_tokenizer()
    for split in ("train", "val", "test"):
        for prompt in object_prompts(split, 400):
            ids = tokenizer(prompt).input_ids
            assert tokenizer.unk_token_id not in ids and len(ids) <= TEXT_LENGTH, prompt
            assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer("a zebra").input_ids.count(tokenizer.unk_token_id) == 1


def test_prompts_are_of_one_object_of_the_split_before_a_plain_background():
    for split in ("train", "test"):
        plans = object_plans(split, 60)
        assert len({plan.prompt for plan in plans}) > 50
        for plan in plans:
            assert len(plan.scene.groups) == 1 and plan.scene.groups[0].count == 1
            assert plan.scene.camera is None and plan.scene.background in ("plain", "gradient")
            assert split_of(plan.scene.groups) == split and plan.defects == ()
    frames = object_frames(plans[0])
    assert frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3) and frames.std() > 1


def test_muon_steps_a_matrix_as_muon_does_and_a_kernel_as_its_matrix(monkeypatch):
    # In bfloat16, as torch's own Muon does everywhere.
    monkeypatch.setattr(sys.modules[Muon.__module__], "slow_bfloat16", lambda device: False)
    torch.manual_seed(0)
    values, gradient = torch.randn(32, 32), torch.randn(32, 32)
    shapes = {"matrix": (32, 32), "kernel": (32, 8, 1, 2, 2)}
    own = {name: torch.nn.Parameter(values.reshape(shape).clone()) for name, shape in shapes.items()}
    reference = torch.nn.Parameter(values.clone())
    stock = torch.optim.Muon([reference], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    muon = Muon(own.values(), lr=0.1)
    for _ in range(3):
        reference.grad = gradient.clone()
        for weight in own.values():
            weight.grad = gradient.reshape(weight.shape).clone()
        stock.step()
        muon.step()
    assert torch.equal(own["matrix"], reference)
    assert torch.equal(own["kernel"].reshape(32, 32), reference)
    muon.zero_grad()
    assert all(weight.grad is None for weight in own.values())


def test_every_weight_has_one_optimizer():
    pipeline = build_pipeline()
    table = pipeline.text_encoder.shared.weight
    parts = optimizers_for(pipeline.text_encoder, lr=1e-3, tables=[table])
    muon, adamw = (sum(p.numel() for group in part.param_groups for p in group["params"]) for part in parts)
    assert muon + adamw == sum(p.numel() for p in pipeline.text_encoder.parameters())
    assert any(p is table for p in parts[1].param_groups[0]["params"])


def test_training_moves_every_weight_and_goes_on_after_a_stop_as_if_nothing_had_happened(
    tmp_path, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain_tiny.main([*FEW, "--output_dir", str(whole)])
    schedule, calls = pretrain_tiny.schedule, []

    def stop(step, steps):
        calls.append(step)
        if len(calls) in (7, 17):  # in the VAE's fourth step, and in the transformer's third
            raise KeyboardInterrupt
        return schedule(step, steps)

    monkeypatch.setattr(pretrain_tiny, "schedule", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain_tiny.main([*FEW, "--output_dir", str(parts), "--save_every", "2"])
    pretrain_tiny.main([*FEW, "--output_dir", str(parts), "--save_every", "2"])
    for part in ("vae", "transformer", "text_encoder"):
        (file,) = (whole / "pipeline" / part).glob("*.safetensors")
        expected, found = load_file(file), load_file(parts / "pipeline" / part / file.name)
        start = getattr(build_pipeline(), part).half().state_dict()
        for name, values in expected.items():
            assert torch.equal(found[name], values), name
            assert not torch.equal(values, start[name]), name


@pytest.fixture
def elsewhere(monkeypatch):
    """Modules train on another device than tensors are made on, as with a GPU."""

    class Elsewhere(Accelerator):
        device = torch.device("meta")

    monkeypatch.setattr(pretrain_tiny, "Accelerator", Elsewhere)
    monkeypatch.setattr(pretrain_tiny, "save_file", lambda *_: None)  # there is nothing on it to save
    return Elsewhere.device


def test_clips_latents_and_noise_come_to_the_device_of_the_weights(tmp_path, elsewhere, monkeypatch):
    options = pretrain_tiny.Options(vae_steps=1, vae_batch=1, steps=1, batch=2)
    pipeline = build_pipeline().to(elsewhere)
    pretrain_tiny.train_vae(pipeline.vae, options, tmp_path)

    def embeds(texts, *, max_sequence_length, device):  # the text encoder asks for values
        return torch.zeros(len(texts), max_sequence_length, TEXT_WIDTH, device=device)

    monkeypatch.setattr(pipeline, "_get_t5_prompt_embeds", embeds)
    monkeypatch.setattr(pretrain_tiny, "optimizers_for", lambda module, **_: [])
    pretrain_tiny.train_transformer(pipeline, torch.zeros(2, 4, 2, 8, 8), options, tmp_path)
    assert pipeline.transformer.proj_out.weight.grad.device == elsewhere


def test_the_average_follows_the_weights_to_their_device(tmp_path, elsewhere):
    average = EMAModel(torch.nn.Linear(2, 2).parameters())
    module = torch.nn.Linear(2, 2, device=elsewhere)
    pretrain_tiny.run(
        "linear",
        lambda step: {"loss": module(torch.ones(1, 2, device=elsewhere)).sum()},
        modules=[module],
        optimizers=[torch.optim.SGD(module.parameters(), lr=0.1)],
        steps=1,
        options=pretrain_tiny.Options(),
        output=tmp_path,
        average=average,
    )
    assert {shadow.device for shadow in average.shadow_params} == {elsewhere}


def test_the_embedded_generator_loads_and_says_what_it_was_trained_with():
    pipeline = load_pipeline("tiny")
    vae = pipeline.vae.config
    assert (vae.scale_factor_spatial, vae.scale_factor_temporal) == (4, 2)
    assert len(vae.latents_mean) == vae.z_dim and vae.latents_std != [1.0] * vae.z_dim
    sizes = {p.dtype for p in pipeline.transformer.parameters()}
    assert sizes == {torch.float32}


def test_a_log_line_every_ten_steps(tmp_path):
    ten = ["--vae_learning_rate", "1e-3", "--vae_steps", "10", "--steps", "10"]
    pretrain_tiny.main([*FEW, *ten, "--output_dir", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("vae", 10), ("transformer", 10)]
    assert rows[0].keys() >= {"loss", "error", "edges", "kl"}
