"""The text around the visual tokens, and where scores are read in it; `prompt.HOLISTIC_VERSION` names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.configuration import BRANCHES, HolisticConfig
from qsave_reward.types import DIMENSIONS, LEVELS

INTRODUCTIONS = {
    "semantic": "The key frames of this video are:\n",
    "motion": "The motion feature of the video is:\n",
    "technical": "And the technical quality feature of the video is:\n",
}
"""What comes before the tokens of a branch; a full stop follows them. The words are the public code's."""

QUESTION = "Please assess the quality of this video."
SHOWN_PROMPT = "The video was generated from the text: {prompt}. "
READ_OUTS = tuple(f"\n{name.replace('_', ' ').capitalize()}:" for name in DIMENSIONS)

SLOTS = {branch: -1 - i for i, branch in enumerate(BRANCHES)}
"""Stands for a visual token in `Reading.ids`."""


@dataclass(frozen=True)
class Reading:
    """A text as the language model gets it.

    Attributes:
        ids: token ids; a number of `SLOTS` where a visual token goes.
        read_at: positions in `ids` after which the level is asked for, one for each read-out.
    """

    ids: tuple[int, ...]
    read_at: tuple[int, ...]


def shown_prompt(prompt: str) -> str:
    """The sentence that says what the video was generated from."""
    return SHOWN_PROMPT.format(prompt=prompt.strip().rstrip("."))


def compose(tokenizer: Any, config: HolisticConfig, prompt: str) -> Reading:
    """The text for one clip. Each piece of text is tokenised by itself, as in the public code."""

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    stop = ""
    for branch in config.branches:
        ids += tokens(stop + INTRODUCTIONS[branch]) + [SLOTS[branch]] * token_count(config, branch)
        stop = ". "
    ids += tokens(stop + (shown_prompt(prompt) if config.show_prompt else "") + QUESTION)
    if not config.per_dimension:
        return Reading(tuple(ids), (len(ids) - 1,))
    read_at = []
    for question in READ_OUTS:
        ids += tokens(question)
        read_at.append(len(ids) - 1)
    return Reading(tuple(ids), tuple(read_at))


def token_count(config: HolisticConfig, branch: str) -> int:
    """Visual tokens of a branch."""
    counts: tuple[int, ...] = (config.clip_frames, config.motion_frames, config.technical_tokens)
    return dict(zip(BRANCHES, counts, strict=True))[branch]


def level_token_ids(tokenizer: Any) -> list[int]:
    """First tokens of the levels, in the order of `LEVELS`, as they follow a colon.

    Raises:
        ConfigError: when two levels begin with the same token.
    """
    start = len(tokenizer(":", add_special_tokens=False).input_ids)
    ids = [tokenizer(f": {level}", add_special_tokens=False).input_ids[start] for level in LEVELS]
    if len(set(ids)) < len(ids):
        words = tokenizer.convert_ids_to_tokens(ids)
        raise ConfigError(
            f"the levels must begin with different tokens, got {', '.join(words)}; use another tokenizer"
        )
    return ids


def pad(readings: Sequence[Reading], filler: int) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and attention masks of equal length, filled up on the right, which nothing before sees."""
    longest = max(len(reading.ids) for reading in readings)
    ids = [[*reading.ids, *[filler] * (longest - len(reading.ids))] for reading in readings]
    masks = [[1] * len(reading.ids) + [0] * (longest - len(reading.ids)) for reading in readings]
    return ids, masks
