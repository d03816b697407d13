"""Where prompts come from: a text file, or the rendered world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from world_prompts import object_prompts

from qsave_reward.errors import ConfigError
from qsave_reward.world import parse_world_name

WORLD_PROMPTS = 4096
"""Prompts of a split of the world that training goes round."""


def read_prompts(source: str, number: int | None = None) -> list[str]:
    """Prompts of `world:SPLIT[:SEED]` or of a text file with one a line, the first `number` of them.

    Raises:
        ConfigError: for a file that cannot be read or has too few prompts.
    """
    if source.startswith("world:"):
        split, seed = parse_world_name(source)
        return object_prompts(split, number or WORLD_PROMPTS, seed=seed)
    try:
        lines = [line.strip() for line in Path(source).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read prompts, one a line, from {source}: {error}") from error
    prompts = list(dict.fromkeys(line for line in lines if line))
    if not prompts or len(prompts) < (number or 1):
        raise ConfigError(
            f"expected at least {number or 1} different prompts in {source}, found {len(prompts)}"
        )
    return prompts[:number]


def in_world(source: str) -> bool:
    """Whether the gold judge understands these prompts."""
    return source.startswith("world:")


def prompts_of_update(prompts: list[str], update: int, number: int, *, seed: int) -> list[str]:
    """`number` different prompts for an update, of at least as many.

    A turn is as many updates as the prompts suffice for, in an order of its own; in a turn no prompt comes
    twice, and what is left over sits it out.
    """
    turn, chunk = divmod(update, len(prompts) // number)
    order = np.random.default_rng((seed, turn)).permutation(len(prompts))
    return [prompts[i] for i in order[chunk * number : (chunk + 1) * number]]
