"""Small holistic checkpoints with random weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))

from make_holistic_tiny import tiny_config

from qsave_reward.checkpoint import BUNDLED, write_metadata
from qsave_reward.holistic.configuration import BRANCHES, HolisticConfig
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.slowfast import FramePlan


def small_config(branches=BRANCHES, **changes: Any) -> HolisticConfig:
    """`holistic-tiny` with less of everything."""
    language = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(BUNDLED["tiny"])),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
        initializer_range=0.06,
    )
    own = tiny_config(language).to_dict() | {"branches": list(branches)}
    own["vision_config"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    own["vision_config"] |= {"num_attention_heads": 2, "image_size": 32}
    own["motion_config"] = {"width": 4, "fast_width": 2, "depths": [1, 1, 1, 1]}
    own["technical_config"] |= {"embed_dim": 8, "depths": [1, 1], "heads": [1, 2], "window": [2, 2, 2]}
    own |= {"clip_frames": 4, "motion_frames": 8, "motion_size": 32, "fragments": 2}
    return HolisticConfig(**own | changes)


def small_base(folder: Path, **changes: Any) -> Path:
    """A folder that `train.py` takes."""
    torch.manual_seed(0)
    HolisticModel(small_config(**changes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED["tiny"]).save_pretrained(folder)
    return folder


def small_checkpoint(folder: Path, **changes: Any) -> Path:
    """A folder that `HolisticScorer.from_pretrained` takes."""
    plan = FramePlan(max_frames=8, mode="uniform", slow_every=4)
    words = frozenset(["a", "red", "blue", "circle", "square", "moves", "left", "right"])
    write_metadata(small_base(folder, **changes), plan, trained_on="Nothing.", prompt_words=words)
    return folder
