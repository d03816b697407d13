"""Qwen3-VL at full size with random weights: as fast as the real ones, and there without a download.

    python recipes/benchmark/random_weights.py --size 8b --out outputs/random-8b
    qsave bench score --model outputs/random-8b --size 480x832 --frames 81 --clips 16 --json

Sizes are those of the published `config.json` of Qwen3-VL-2B-Instruct and Qwen3-VL-8B-Instruct. The tokenizer
is that of `qsave-tiny`, which cuts words of other prompts into more pieces than Qwen's; scores mean nothing.
8b takes 18 GB of disk and as much memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen3VLConfig

from qsave_reward.checkpoint import BUNDLED, write_metadata
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.slowfast import FramePlan

TEXT = {"2b": (2048, 6144, 28, 16), "8b": (4096, 12288, 36, 32)}
"""Width, width inside, layers and heads of the language model; keys and values have 8 heads of 128."""
VISION = {"2b": (1024, 4096, 24, [5, 11, 17]), "8b": (1152, 4304, 27, [8, 16, 24])}
"""Width, width inside, layers of the vision tower, and those that feed early layers of the language model."""


def full_config(size: str, tokenizer: Any) -> Qwen3VLConfig:
    """The configuration of "2b" or "8b", with the special tokens of a tokenizer."""
    width, inside, layers, heads = TEXT[size]
    vision_width, vision_inside, depth, deepstack = VISION[size]
    tied, ids = size == "2b", tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "vocab_size": 151_936,
            "hidden_size": width,
            "intermediate_size": inside,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262_144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": tied,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": vision_inside,
            "depth": depth,
            "deepstack_visual_indexes": deepstack,
            "out_hidden_size": width,
            "num_heads": 16,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=tied,
    )


def write(config: Qwen3VLConfig, tokenizer: Any, out: Path) -> int:
    """A checkpoint with random bfloat16 weights; how many they are.

    Raises:
        ConfigError: when there is something in `out` already.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; name a new folder")
    model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_metadata(out, FramePlan(), trained_on="Nothing: the weights are random.", prompt_words=None)
    return sum(weight.numel() for weight in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=sorted(TEXT), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["tiny"])
    try:
        number = write(full_config(options.size, tokenizer), tokenizer, options.out)
    except QSaveError as error:
        sys.exit(f"error: {error}")
    print(f"{options.out}: {number / 1e9:.2f} billion weights")


if __name__ == "__main__":
    main()
