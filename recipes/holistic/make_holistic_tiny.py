"""Build the untrained `holistic-tiny`: the real networks at a small size.

    python recipes/holistic/make_holistic_tiny.py --out outputs/holistic/base

Where the full size starts from Vicuna and BLIP, this one starts from the language model and the tokenizer
of `qsave-tiny`, which know the prompts of the rendered world, and from its vision tower, as far as a BLIP can
hold it. The other encoders are drawn at random; `pretrain_encoders.py` teaches all three. The result is a
folder like that which `assemble.py` makes of public checkpoints.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from assemble import copy_weights
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer, BlipVisionModel, PretrainedConfig, Qwen3ForCausalLM

from qsave_reward.checkpoint import BUNDLED
from qsave_reward.errors import ConfigError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.slowfast_network import SlowFastEncoder
from qsave_reward.holistic.views import MEAN, STD

LANGUAGE = "model.language_model."
TOWER = "model.visual."
"""What the names of the weights of a Qwen3-VL's parts begin with."""

GATHERING = 1
"""Layers of the semantic branch above those of the tower: the class token reads there what patches found."""


def weights_of(part: str) -> dict[str, torch.Tensor]:
    """Float32 weights of one part of `qsave-tiny` by their names in it."""
    weights = load_file(BUNDLED["tiny"] / "model.safetensors")
    return {
        name.removeprefix(part): weight.float() for name, weight in weights.items() if name.startswith(part)
    }


def tiny_language() -> Qwen3ForCausalLM:
    """The language model of `qsave-tiny`, which for text alone is a Qwen3."""
    fields = AutoConfig.from_pretrained(BUNDLED["tiny"]).text_config.to_dict()
    fields["rope_parameters"] = {
        name: fields["rope_parameters"][name] for name in ("rope_type", "rope_theta")
    }
    config = AutoConfig.for_model(**fields | {"model_type": "qwen3"})
    language = Qwen3ForCausalLM(config)
    language.model.load_state_dict(weights_of(LANGUAGE))
    return language


@torch.no_grad()
def copy_tower(semantic: BlipVisionModel) -> None:
    """The vision tower of `qsave-tiny` in a BLIP of its sizes and `GATHERING` layers more.

    A patch that does not move looks to both alike, and so do its surroundings but for one thing: a BLIP does
    not turn queries and keys by their places (see `show_places`). The layers above begin as passages.
    """
    tower, side = weights_of(TOWER), semantic.config.image_size // semantic.config.patch_size
    own = {}
    for name, weight in tower.items():
        if name.startswith("blocks."):
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            own[name] = weight
    # Pixels come as (x - MEAN) / STD, to the tower as (x - 0.5) / 0.5.
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    filters = tower["patch_embed.proj.weight"].sum(dim=2) / 0.5
    own["embeddings.patch_embedding.weight"] = filters * std
    bias = tower["patch_embed.proj.bias"] + (filters * (mean - 0.5)).sum(dim=(1, 2, 3))
    own["embeddings.patch_embedding.bias"] = bias
    table = tower["pos_embed.weight"]
    places = table.T.unflatten(1, (round(len(table) ** 0.5), -1))[None]
    places = functional.interpolate(places, (side, side), mode="bilinear", align_corners=True)[0]
    own["embeddings.position_embedding"] = torch.cat([torch.zeros(1, len(places)), places.flatten(1).T])[None]
    found = semantic.load_state_dict(own, strict=False)
    above = tuple(f"encoder.layers.{semantic.config.num_hidden_layers - k}." for k in range(1, GATHERING + 1))
    new = ("embeddings.class_embedding", "post_layernorm.", *above)
    if wrong := [*found.unexpected_keys, *(name for name in found.missing_keys if not name.startswith(new))]:
        raise ConfigError(f"the tower of qsave-tiny has other layers than this BLIP, see {wrong[0]}")
    for layer in semantic.encoder.layers[-GATHERING:]:
        for last in (layer.self_attn.projection, layer.mlp.fc2):
            last.weight.zero_()
            last.bias.zero_()


RENAMED = {
    "blocks.": "encoder.layers.",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.linear_fc": "mlp.fc",
}


@torch.no_grad()
def show_places(semantic: BlipVisionModel, *, size: float = 2.0, slowest: float = 0.1) -> None:
    """Add sines and cosines of its row and column to what a patch begins with.

    The tower knows places from turned queries and keys; of its learned positions nothing is left after one
    layer. Without others a BLIP with its weights cannot say where anything is, nor the class token which of
    two objects is the red one.

    Args:
        semantic: changed in place.
        size: of a wave; pixels give a standard deviation of 2.4.
        slowest: radians from one patch to the next; the fastest wave turns by one.
    """
    places = semantic.embeddings.position_embedding  # [1, 1 + patches, width]
    _, patches, width = places[:, 1:].shape
    side = round(patches**0.5)
    rates = torch.logspace(0, math.log10(slowest), width // 4)
    angles = torch.arange(side)[:, None] * rates
    waves = size * torch.cat([angles.sin(), angles.cos()], dim=1)
    waves -= waves.mean(dim=0)
    rows, columns = (waves.unsqueeze(axis).expand(side, side, -1).flatten(0, 1) for axis in (1, 0))
    places[0, 1:] += torch.cat([rows, columns], dim=1)


@torch.no_grad()
def watch_changes(motion: SlowFastEncoder, generator: torch.Generator | None = None) -> None:
    """Every second filter of the fast pathway's stem becomes the difference of two neighbouring frames
    through a soft window of some color: one drawn at random sees change only mixed with all that stays."""
    filters = motion.get_submodule("blocks.0.multipathway_blocks.1.conv").weight
    _, _, length, side, _ = filters.shape
    place = torch.arange(side) - (side - 1) / 2
    for k in range(1, len(filters), 2):
        width = 0.7 + 1.4 * k / len(filters)  # pixels
        window = torch.exp(-(place**2) / (2 * width**2))
        color = torch.randn(3, generator=generator)
        time = torch.zeros(length)
        time[length // 2], time[length // 2 - 1] = 1.0, -1.0
        change = torch.einsum("c,t,y,x->ctyx", color, time, window, window)
        filters[k] = change * filters[k].norm() / change.norm()


def tiny_config(language: PretrainedConfig) -> HolisticConfig:
    """Sizes for clips of the world; those of the semantic branch are the tower's of `qsave-tiny`."""
    tower = AutoConfig.from_pretrained(BUNDLED["tiny"]).vision_config
    return HolisticConfig(
        text_config=language,
        vision_config={
            "hidden_size": tower.hidden_size,
            "intermediate_size": tower.intermediate_size,
            "num_hidden_layers": tower.depth + GATHERING,
            "num_attention_heads": tower.num_heads,
            "hidden_act": tower.hidden_act,
            "layer_norm_eps": 1e-6,
            "image_size": 8 * tower.patch_size,
            "patch_size": tower.patch_size,
            "initializer_range": tower.initializer_range,
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
    copy_tower(model.semantic)
    show_places(model.semantic)
    watch_changes(model.motion)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{options.out}: {sum(weight.numel() for weight in model.parameters()):,} weights")


if __name__ == "__main__":
    main()
