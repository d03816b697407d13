"""`qsave doctor` is for broken installations: it tells what is broken and does not break itself."""

from __future__ import annotations

import sys

import pytest
import torch

from qsave_reward import doctor


@pytest.fixture
def sound_model(monkeypatch):
    monkeypatch.setattr(doctor, "_try_model", lambda: "sound")


def checks(report):
    return {check["name"]: (check["ok"], check["detail"]) for check in report["checks"]}


def test_a_device_that_is_counted_and_cannot_be_used(monkeypatch, sound_model):
    def name(index):
        if index == 1:
            raise RuntimeError("CUDA driver version is insufficient")
        return "Some GPU"

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    found = doctor.examine()
    broken = "cuda:1 unusable: RuntimeError: CUDA driver version is insufficient"
    assert found["devices"] == ["cuda:0 Some GPU", broken, "cpu"] and found["threads"] >= 1


def test_a_driver_that_cannot_even_count(monkeypatch, sound_model):
    def count():
        raise AssertionError("no driver")

    monkeypatch.setattr(torch.cuda, "device_count", count)
    assert doctor.examine()["devices"] == ["cuda unusable: AssertionError: no driver", "cpu"]


def test_torch_that_does_not_load(monkeypatch, sound_model):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.examine()
    assert found["devices"] == [] and found["threads"] is None and found["packages"]["torch"]


@pytest.mark.parametrize(
    "error", [RuntimeError("other kernels"), AttributeError("no such name"), KeyError(1)]
)
def test_a_check_that_fails_in_any_way_leaves_the_others(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(doctor, "_try_model", fail)
    found = doctor.examine()
    assert found["ok"] is False
    assert checks(found)["decode"][0] and checks(found)["model"] == (
        False,
        f"{type(error).__name__}: {error}",
    )
