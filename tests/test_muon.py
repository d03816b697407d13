"""The optimizer of the recipes."""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

import muon
import precision
from muon import Muon, MuonWithAdamW
from precision import precision_options, slow_bfloat16
from training import check_muon, parse_options
from transformers import TrainingArguments

from qsave_reward.errors import ConfigError


def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(7, 8), torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1)
    )
    model[1].bias.requires_grad_(False)
    return model, MuonWithAdamW(model, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))


def step(model, optimizer, seed):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randint(7, (5,))).square().sum().backward()
    optimizer.step()


def test_matrices_go_to_muon_and_all_else_to_adamw_and_frozen_weights_to_neither():
    model, optimizer = make()
    assert [p.shape for g in optimizer.parts["muon"].param_groups for p in g["params"]] == [(8, 8), (1, 8)]
    others = [p for g in optimizer.parts["adamw"].param_groups for p in g["params"]]
    assert {id(p) for p in others} == {
        id(p) for p in (*model[0].parameters(), *model[2].parameters(), model[3].bias)
    }
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, 1)
    step(model, optimizer, 2)
    still = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert still == ["1.bias"]


def test_kernels_are_matrices_unless_they_read_pixels():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv3d(3, 8, 2), torch.nn.Conv3d(8, 6, (3, 1, 1)), torch.nn.Conv2d(6, 4, 1)
    )
    optimizer = MuonWithAdamW(model, lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))
    ids = {id(p) for group in optimizer.parts["muon"].param_groups for p in group["params"]}
    assert ids == {id(model[1].weight), id(model[2].weight)}
    before = model[1].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    gradient = model[1].weight.grad.clone()
    optimizer.step()
    # Momentum 0.95, Nesterov: the first update is 1 - 0.95^2 of the gradient, made orthogonal.
    step = (before * (1 - 0.01 * 0.1) - model[1].weight.detach()).flatten(1)
    values = torch.linalg.svdvals(step / (0.01 * 0.2 * 24**0.5))
    assert step.shape == (6, 24) and values.min() > 0.6 and values.max() < 1.3
    assert torch.nn.functional.cosine_similarity(step.flatten(), gradient.flatten(), dim=0) > 0.8


def test_a_schedule_reaches_both():
    model, optimizer = make()
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = copy.deepcopy(model.state_dict())
    step(model, optimizer, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_saved_state_continues_to_the_bit(tmp_path):
    model, optimizer = make()
    step(model, optimizer, 1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    step(model, optimizer, 2)
    again, other = make()
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    step(again, other, 2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_model_of_matrices_only_needs_no_adamw():
    model = torch.nn.Linear(4, 3, bias=False)
    optimizer = MuonWithAdamW(model, lr=0.01, weight_decay=0.0, betas=(0.9, 0.98))
    before = model.weight.detach().clone()
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert list(optimizer.parts) == ["muon"] and not torch.equal(model.weight, before)


def test_muon_and_deepspeed_together_are_refused_and_each_alone_is_not():
    with pytest.raises(ConfigError, match="without DeepSpeed only"):
        check_muon(SimpleNamespace(deepspeed="zero2.json"), muon=True)
    check_muon(SimpleNamespace(deepspeed="zero2.json"), muon=False)
    check_muon(SimpleNamespace(deepspeed=None), muon=True)


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (16, 16)])
def test_updates_are_those_of_torch_and_in_single_precision_close_to_orthogonal(monkeypatch, shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)

    def stepped(kind, **options):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=0.01, weight_decay=0.1, **options)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        return weight.detach()

    torchs = stepped(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    monkeypatch.setattr(muon, "slow_bfloat16", lambda device: False)
    assert torch.equal(stepped(Muon), torchs)
    monkeypatch.setattr(muon, "slow_bfloat16", lambda device: True)
    single = stepped(Muon)
    assert torch.allclose(single, torchs, atol=2e-3) and not torch.equal(single, torchs)
    values = torch.linalg.svdvals(muon.near_orthogonal(gradients[0].double()))
    assert values.min() > 0.6 and values.max() < 1.3


def test_bfloat16_is_turned_off_where_it_would_be_imitated(monkeypatch, capsys):
    monkeypatch.setattr(precision, "slow_bfloat16", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert precision_options() == ["--bf16", "false"]
    assert "imitate bfloat16" in capsys.readouterr().err
    config = parse_options(["--bf16", "true", "--use_cpu", "true", "--output_dir", "x"], TrainingArguments)[0]
    assert config.bf16 is False and config.mixed_precision == "no"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert precision_options() == []
    assert slow_bfloat16("cuda") is slow_bfloat16("meta") is False
