"""Fixtures shared by the tests: the bundled model, and untrained models of the same shape."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve where cores are shared

import torch

WEIGHTS = Path(__file__).parent.parent / "qsave_reward" / "weights" / "tiny"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch) -> None:
    """Intervals are most of the work of an evaluation; where they are looked at, this is overridden."""
    monkeypatch.setattr("qsave_reward.agreement.row.RESAMPLES", 50)


@pytest.fixture(scope="session")
def tiny():
    """The bundled model, as a user loads it."""
    from qsave_reward.model import RewardModel

    return RewardModel.from_pretrained("tiny", device="cpu")


@pytest.fixture
def tiny_by_twos(tiny):
    """The bundled model, two clips a batch."""
    from qsave_reward.model import RewardModel

    return RewardModel(tiny.model, tiny.processor, tiny.metadata, name="tiny", batch_size=2)


@pytest.fixture(scope="module")
def one_thread():
    """Threads gain nothing at these sizes, and wait for one another on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def processor():
    from qsave_reward.processor import QSaveProcessor

    return QSaveProcessor.for_model(WEIGHTS)


@pytest.fixture
def stock_model():
    """An untrained stock Qwen3-VL of the bundled model's shape, in double precision and without shortcuts."""
    from transformers import AutoConfig, Qwen3VLForConditionalGeneration

    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(AutoConfig.from_pretrained(WEIGHTS)).double().eval()
