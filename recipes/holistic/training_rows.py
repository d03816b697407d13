"""Rated clips as rows of training: the views of the encoders, the text, and what is to be said."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from clips import Source, WorldMix, open_clips, read_rated
from holistic_options import HolisticArguments
from packing import pack_readings, packed_inputs
from reprompt import reprompt
from token_facts import fewer_agreed, spoken_labels, token_facts

from qsave_reward.data import split_by_prompt
from qsave_reward.errors import ConfigError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.scorer import model_inputs
from qsave_reward.holistic.text import compose
from qsave_reward.holistic.views import make_views
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, Record
from qsave_reward.world import WorldPlan
from qsave_reward.world.stream import plan_record


def target(record: Record, *, per_dimension: bool) -> list[float]:
    """What the read-outs of a clip should say; NaN where nobody rated."""
    rated = [record.mos.get(name, math.nan) for name in DIMENSIONS]
    if per_dimension:
        return rated
    return [record.overall if record.overall is not None else sum(rated) / len(rated)]


def check_ratings(data: str, *, per_dimension: bool) -> None:
    """A ConfigError when a file has no rating that a model with these read-outs could learn."""
    if not data or data.startswith("world:"):
        return
    found = [target(record, per_dimension=per_dimension) for record in read_rated(data)]
    if np.isnan(found).all():
        wanted = "ratings of dimensions" if per_dimension else "an overall rating"
        raise ConfigError(f"{data}: expected {wanted} (as per_dimension of the base says), got none")


def world_mix(arguments: HolisticArguments) -> WorldMix:
    """The clips of the world that a run takes."""
    return WorldMix(
        varied_share=arguments.varied_share, sought=arguments.sought, sought_share=arguments.sought_share
    )


def sources(arguments: HolisticArguments, plan: FramePlan) -> tuple[Source, Source, int]:
    """Clips to train on, clips that are held out, and how many those are."""
    options: dict[str, Any] = {"mix": world_mix(arguments), "mismatched_share": arguments.mismatched_share}
    if arguments.eval_data:
        held_out = None if arguments.eval_data.startswith("world:") else read_rated(arguments.eval_data)
        number = arguments.eval_clips if held_out is None else min(arguments.eval_clips, len(held_out))
        clips = open_clips(arguments.eval_data, plan, records=held_out)
        return open_clips(arguments.data, plan, **options), clips, number
    if arguments.data.startswith("world:"):
        raise ConfigError(f"{arguments.data} has no end to hold a share of out; give eval_data, as world:val")
    shares = {"train": 1 - arguments.eval_share, "held_out": arguments.eval_share}
    parts = split_by_prompt(read_rated(arguments.data), shares)
    if min(map(len, parts.values())) < 2:
        counts = ", ".join(f"{len(part)} in {name}" for name, part in parts.items())
        raise ConfigError(f"expected clips on both sides of eval_share {arguments.eval_share}, got {counts}")
    train = open_clips(arguments.data, plan, records=parts["train"], **options)
    held = open_clips(arguments.data, plan, records=parts["held_out"])
    return train, held, min(arguments.eval_clips, len(parts["held_out"]))


def make_dataset(
    source: Source,
    n: int,
    *,
    config: HolisticConfig,
    tokenizer: Any,
    seed: int | None,
    plan_of: Callable[[int], WorldPlan] | None = None,
    prompts: int = 1,
    facts: bool = False,
    agreed_share: float = 1.0,
) -> Dataset:
    """Rows made when they are asked for.

    Args:
        seed: fragments are cut at random places.
        plan_of: of the clip of a row; needed for what follows.
        prompts: that each clip is read with: its own and others (`reprompt`).
        facts: tokens are asked for what they are told of the clip.
        agreed_share: of the words that the clip bears out, which are asked for it (`fewer_agreed`).
    """

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = []
        for index in batch["index"]:
            clip, record = source(index)
            generator = None if seed is None else torch.Generator().manual_seed(seed * 1_000_003 + index)
            plans = [] if plan_of is None else [plan_of(index)]
            rng = np.random.default_rng([seed or 0, index])
            plans += [reprompt(plans[0], rng) for _ in range(prompts - 1)]
            records = [record, *map(plan_record, plans[1:])]
            texts = [compose(tokenizer, config, each.prompt) for each in records]
            row: dict[str, Any] = {
                "views": make_views(clip, config, generator=generator),
                "reading": pack_readings(texts),
                "labels": [target(each, per_dimension=config.per_dimension) for each in records],
            }
            if facts:
                row["facts"] = [
                    (kind, row["reading"].place(text, position), label)
                    for text, (plan, each) in enumerate(zip(plans, records, strict=True))
                    for kind, position, label in fewer_agreed(
                        token_facts(plan, each.prompt, texts[text], tokenizer), agreed_share, rng
                    )
                ]
            made.append(row)
        return {key: [row[key] for row in made] for key in made[0]}

    return Dataset.from_dict({"index": list(range(n))}).with_transform(rows)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Arguments of the model, `labels` float32 [B, prompts, R], and `spoken` where rows have facts."""
    views, readings = ([row[name] for row in rows] for name in ("views", "reading"))
    inputs = model_inputs(views, readings, device=torch.device("cpu")) | packed_inputs(readings)
    if "facts" in rows[0]:
        inputs["spoken"] = spoken_labels([row["facts"] for row in rows], inputs["input_ids"].shape[1])
    return inputs | {"labels": torch.tensor([row["labels"] for row in rows])}
