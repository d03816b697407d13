"""`recipes/benchmark/random_weights.py`: the published sizes, and a checkpoint that scores."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "benchmark"))
import random_weights

from qsave_reward.checkpoint import BUNDLED
from qsave_reward.model import RewardModel

TOKENIZER = AutoTokenizer.from_pretrained(BUNDLED["tiny"])


@pytest.mark.parametrize(("size", "weights"), [("2b", 2_127_532_032), ("8b", 8_767_123_696)])
def test_sizes_are_those_of_the_published_models(size, weights):
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(random_weights.full_config(size, TOKENIZER))
    assert sum(weight.numel() for weight in model.parameters()) == weights


def test_a_checkpoint_scores_and_is_not_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(random_weights.TEXT, "2b", (64, 96, 4, 8))
    monkeypatch.setitem(random_weights.VISION, "2b", (64, 96, 2, [0]))
    words = ["random_weights.py", "--size", "2b", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    random_weights.main()
    assert "billion weights" in capsys.readouterr().out
    model = RewardModel.from_pretrained(tmp_path / "out", device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (12, 480, 832, 3), dtype=np.uint8)
    card = model.score(frames, "a cat", fps=8)
    assert all(1 <= score.mean <= 5 for score in card.scores.values())
    with pytest.raises(SystemExit, match="is not empty; name a new folder"):
        random_weights.main()
