"""Put public checkpoints together to a model that `train.py` takes.

    python recipes/holistic/assemble.py --out base --language lmsys/vicuna-7b-v1.5 \\
        --blip Salesforce/blip-itm-large-coco --slowfast SLOWFAST_8x8_R50.pyth \\
        --swin swin_tiny_patch244_window877_kinetics400_1k.pth

A checkpoint that does not fit is an error; nothing stays at random but the projections.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BlipForImageTextRetrieval

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.slowfast_network import SlowFastEncoder, load_slowfast
from qsave_reward.holistic.text import level_token_ids
from qsave_reward.holistic.video_swin import VideoSwin, load_video_swin

DTYPES = ("float32", "bfloat16", "float16")


def load_whole(kind: Any, name: str, part: str, **options: Any) -> Any:
    """A model of transformers, none of whose weights with names in `part` are drawn at random."""
    model, found = kind.from_pretrained(name, output_loading_info=True, **options)
    if missing := sorted(key for key in found["missing_keys"] if key.startswith(part)):
        raise ConfigError(f"{name} lacks {len(missing)} weights of {kind.__name__}, such as {missing[0]}")
    return model


def assemble(options: argparse.Namespace) -> HolisticModel:
    """Encoders and language model from their own checkpoints."""
    dtype = getattr(torch, options.dtype)
    language = load_whole(AutoModelForCausalLM, options.language, "", dtype=dtype)
    blip = load_whole(BlipForImageTextRetrieval, options.blip, "vision_model", dtype=dtype)
    config = HolisticConfig(
        text_config=language.config.to_dict(),
        vision_config=blip.vision_model.config.to_dict(),
        show_prompt=options.show_prompt,
        per_dimension=options.per_dimension,
        random_fragments=options.random_fragments,
        level_temperature=options.level_temperature,
    )
    slowfast, swin = SlowFastEncoder(), VideoSwin()
    load_slowfast(slowfast, options.slowfast)
    load_video_swin(swin, options.swin)
    model: Any = HolisticModel(config).to(dtype)
    copy_weights(model.language, language)
    copy_weights(model.semantic, blip.vision_model)
    copy_weights(model.motion, slowfast, partly=True)
    copy_weights(model.technical, swin)
    result: HolisticModel = model
    return result


def copy_weights(target: torch.nn.Module, source: torch.nn.Module, *, partly: bool = False) -> None:
    """All weights of `target` from `source`, which may hold more if `partly`."""
    found = target.load_state_dict(source.state_dict(), strict=False)
    if found.missing_keys or (found.unexpected_keys and not partly):
        raise ConfigError(
            f"{type(target).__name__}: {len(found.missing_keys)} weights are missing and "
            f"{len(found.unexpected_keys)} are unknown, such as "
            f"{[*found.missing_keys, *found.unexpected_keys][0]}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--language", required=True, help="any causal language model: folder or hub name")
    parser.add_argument("--blip", required=True, help="BLIP with a ViT: folder or hub name")
    parser.add_argument("--slowfast", required=True, help="SLOWFAST_8x8_R50.pyth of pytorchvideo")
    parser.add_argument("--swin", required=True, help="swin_tiny_patch244_window877_kinetics400_1k.pth")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--level_temperature", type=float, default=100.0)
    for name in ("show_prompt", "per_dimension", "random_fragments"):
        parser.add_argument(f"--{name}", action="store_true", help=f"see HolisticConfig.{name}")
    options = parser.parse_args()
    try:
        tokenizer = AutoTokenizer.from_pretrained(options.language)
        level_token_ids(tokenizer)
        model = assemble(options)
    except QSaveError as error:
        sys.exit(f"error: {error}")
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{options.out}: {sum(weight.numel() for weight in model.parameters()):,} weights")


if __name__ == "__main__":
    main()
