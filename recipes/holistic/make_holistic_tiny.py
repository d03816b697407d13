"""Build the untrained `holistic-tiny`: the real networks at a small size, with the tokenizer of `qsave-tiny`.

    python recipes/holistic/make_holistic_tiny.py --out outputs/holistic/base

The result is a folder that `train.py` takes, as it takes what `assemble.py` makes of public checkpoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from qsave_reward.checkpoint import BUNDLED
from qsave_reward.holistic.configuration import BRANCHES, HolisticConfig
from qsave_reward.holistic.network import HolisticModel


def tiny_config(vocabulary: int, branches: list[str]) -> HolisticConfig:
    """Sizes for clips of the world; 5.4 M weights with all branches; `qsave-tiny` has 6.6 M."""
    return HolisticConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "initializer_range": 0.06,
        },
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "image_size": 64,
            "patch_size": 8,
            "initializer_range": 0.06,
        },
        motion_config={"width": 8, "fast_width": 12, "depths": [1, 2, 2, 1]},
        technical_config={"embed_dim": 40, "depths": [2, 2, 2], "heads": [2, 4, 8], "window": [4, 4, 4]},
        branches=branches,
        motion_frames=16,
        motion_positions=16,
        motion_size=64,
        fragments=4,
        fragment_size=16,
        random_fragments=False,
        technical_tokens=4,
        level_temperature=1.0,
        show_prompt=True,
        per_dimension=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--branches", nargs="+", default=list(BRANCHES), choices=BRANCHES)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["tiny"])
    torch.manual_seed(options.seed)
    model = HolisticModel(tiny_config(len(tokenizer), options.branches))
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{options.out}: {sum(weight.numel() for weight in model.parameters()):,} weights")


if __name__ == "__main__":
    main()
