"""Build the untrained `qsave-tiny`: the real Qwen3-VL classes at a small size, with a tokenizer of its own.

    python recipes/reward/make_tiny.py --out outputs/tiny/base

The result is a directory like a downloaded base model; `sft.py` trains it as it would train Qwen3-VL-8B.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from qsave_reward.processor import normalize, patchify
from qsave_reward.prompt import PLACEHOLDER, build_messages, direct_answer, reasoned_answer
from qsave_reward.types import DIMENSIONS, LEVELS
from qsave_reward.world import describe, world_item, world_plan

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
THINK = ["<think>", "</think>"]

# How Qwen2 and Qwen3 cut text before byte-pair merging; digits one by one.
PRETOKENIZE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

MERGE_SIZE = 2
"""Patches of a token in each direction."""
LOCALITY = 3.0
"""How much less a patch's neighbour counts than the patch itself, in units of the attention logits."""

# The chat form of Qwen3-VL for plain messages with texts and images.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def corpus(n: int) -> Iterator[str]:
    """Questions and answers of the world's training split, the only text this model will ever write."""
    for index in range(n):
        plan = world_plan("train", index)
        levels = {dimension: 1 + index % len(LEVELS) for dimension in DIMENSIONS}
        question = build_messages([index % 90 / 10], plan.prompt)[0]["content"]
        yield "".join(part.get("text", "") for part in question)
        yield reasoned_answer(plan.defects, describe(plan.shown), levels)
        yield direct_answer()


def make_tokenizer(vocab_size: int, n: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the special tokens and the chat form of Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(THINK),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(n), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in THINK])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
) -> Qwen3VLForConditionalGeneration:
    """Qwen3-VL at a small size, randomly initialised."""
    ids = tokenizer.convert_tokens_to_ids
    head_dim = args.hidden // args.heads
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": args.hidden,
            "intermediate_size": 3 * args.hidden,
            "num_hidden_layers": args.layers,
            "num_attention_heads": args.heads,
            "num_key_value_heads": args.heads,
            "head_dim": head_dim,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                # Thirds of the rotary half for time, height and width.
                "mrope_section": [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": args.vision_layers,
            "hidden_size": args.vision_hidden,
            "intermediate_size": 4 * args.vision_hidden,
            "num_heads": args.vision_hidden // 32,
            "patch_size": args.patch_size,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 2,
            "out_hidden_size": args.hidden,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [args.vision_layers // 2],
            "initializer_range": 0.06,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration(config)


def sample_patches(patch_size: int, n: int) -> torch.Tensor:
    """Patches of `n` training clips at 128 and 64 pixels, float64 [patches, 3 * 2 * patch * patch]."""
    rows = []
    for index in range(n):
        pair = torch.from_numpy(world_item("train", index, seed=2).frames[index % 15 :][:2])
        small = pair.view(2, 64, 2, 64, 2, 3).float().mean(dim=(2, 4)).round().to(torch.uint8)
        rows += [patchify(pair, patch_size, MERGE_SIZE), patchify(small, patch_size, MERGE_SIZE)]
    return normalize(torch.cat(rows)).double()


def set_patch_filters(visual: Any, patches: torch.Tensor) -> None:
    """Initialise the patch embedding with random filters of whitened patches, each of output variance 1.

    Random filters of raw pixels see little but brightness, hundreds of times stronger than the grain, edges
    and differences of frames that tell most defects, and training takes very long to find those. A quarter of
    the filters take the 64 strongest directions, the others
    a window of half a patch's side, half of them on the sum and half on the difference of the two frames.
    """
    weight = visual.patch_embed.proj.weight
    filters, channels, _, side, _ = weight.shape
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    whitening = (vectors * (values + 1e-3).rsqrt()) @ vectors.T
    drawn = torch.zeros(weight.shape, dtype=torch.double)
    coarse = filters // 4
    for k in range(coarse, filters):
        top, left = torch.randint(0, side // 2 + 1, (2,)).tolist()
        window = torch.randn(channels, side // 2, side // 2, dtype=torch.double)
        rows, columns = slice(top, top + side // 2), slice(left, left + side // 2)
        drawn[k, :, 0, rows, columns] = window
        drawn[k, :, 1, rows, columns] = window if k % 2 else -window
    drawn = drawn.flatten(1)
    drawn[:coarse] = torch.randn(coarse, 64, dtype=torch.double) @ vectors[:, -64:].T
    chosen = drawn @ whitening
    chosen /= (patches @ chosen.T).std(dim=0)[:, None]
    with torch.no_grad():
        weight.copy_(chosen.view(weight.shape))
        visual.patch_embed.proj.bias.zero_()


def look_around(visual: Any) -> None:
    """Initialise four heads of every block so that each looks at the patches in one diagonal direction.

    Together they see what a 3x3 convolution sees, which is a better start for learning shapes from few clips
    than attention that looks everywhere alike (ConViT, arXiv 2103.10697, does so with position embeddings).
    Here the biases of query and key do it: under the rotary embedding, a key (c, 0) and a query (c, 0) turned
    by the angles of an offset have a product that depends on the two places alone and is largest at that
    offset. The other heads keep no bias.
    """
    attentions = [block.attn for block in visual.blocks]
    for depth, attention in enumerate(attentions):
        reach = 0.7 if 2 * depth < len(attentions) else 1.4
        dim = attention.head_dim
        frequencies = 10_000.0 ** -(torch.arange(0, dim // 2, 2) / (dim // 2))
        strength = (LOCALITY * dim**0.5 / (1 - frequencies.cos()).sum()) ** 0.5
        query, key = torch.zeros(2, attention.num_heads, dim)
        key[:4, : dim // 2] = strength
        corners = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
        for head, (down, right) in zip(range(attention.num_heads), corners, strict=False):
            angles = reach * torch.cat([down * frequencies, right * frequencies])
            query[head] = strength * torch.cat([angles.cos(), angles.sin()])
        with torch.no_grad():
            attention.qkv.bias[: 2 * attention.dim].copy_(torch.cat([query.flatten(), key.flatten()]))


def scale_by_width(model: torch.nn.Module) -> None:
    """Draw the weights of all linear layers so that outputs are about as large as inputs, at any width."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)


def silence_deepstack(visual: Any) -> None:
    """Let what later layers of the language model get start as nothing: stage 0 does not teach it."""
    for merger in visual.deepstack_merger_list:
        torch.nn.init.zeros_(merger.linear_fc2.weight)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--vision-hidden", type=int, default=192)
    parser.add_argument("--vision-layers", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument(
        "--corpus", type=int, default=20_000, help="world prompts that the tokenizer is trained on"
    )
    parser.add_argument(
        "--patch-clips", type=int, default=600, help="clips that the patch filters are made from"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(args.vocab_size, args.corpus)
    for word in (*LEVELS, PLACEHOLDER):
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, f"{word!r} must be one token; enlarge the corpus"
    model = make_model(tokenizer, args)
    scale_by_width(model)
    look_around(model.model.visual)
    silence_deepstack(model.model.visual)
    set_patch_filters(model.model.visual, sample_patches(args.patch_size, args.patch_clips))
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{args.out}: {parameters / 1e6:.2f} M parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
