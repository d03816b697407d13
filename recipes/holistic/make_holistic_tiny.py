"""Build the untrained `holistic-tiny`: the real networks at a small size.

    python recipes/holistic/make_holistic_tiny.py --out outputs/holistic/base

Where the full size starts from Vicuna, this one starts from the language model and the tokenizer of
`qsave-tiny`, which know the prompts of the rendered world. The encoders are drawn at random, to be taught by
`pretrain_encoders.py`. The result is a folder like that which `assemble.py` makes of public checkpoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from assemble import copy_weights
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, Qwen3ForCausalLM

from qsave_reward.checkpoint import BUNDLED
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.network import HolisticModel

LANGUAGE = "model.language_model."
"""Begins the names of the language model's weights in a Qwen3-VL."""


def tiny_language() -> Qwen3ForCausalLM:
    """The language model of `qsave-tiny`, which for text alone is a Qwen3."""
    fields = AutoConfig.from_pretrained(BUNDLED["tiny"]).text_config.to_dict()
    fields["rope_parameters"] = {
        name: fields["rope_parameters"][name] for name in ("rope_type", "rope_theta")
    }
    config = AutoConfig.for_model(**fields | {"model_type": "qwen3"})
    language = Qwen3ForCausalLM(config)
    weights = load_file(BUNDLED["tiny"] / "model.safetensors")
    own = {name.removeprefix(LANGUAGE): weight for name, weight in weights.items() if LANGUAGE in name}
    language.model.load_state_dict(own)
    return language


def tiny_config(language: PretrainedConfig) -> HolisticConfig:
    """Sizes for clips of the world."""
    return HolisticConfig(
        text_config=language,
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
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["tiny"])
    torch.manual_seed(options.seed)
    language = tiny_language()
    model = HolisticModel(tiny_config(language.config))
    copy_weights(model.language, language)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{options.out}: {sum(weight.numel() for weight in model.parameters()):,} weights")


if __name__ == "__main__":
    main()
