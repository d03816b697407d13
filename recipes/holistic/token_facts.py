"""Tokens say what they are told of a clip: dense labels for the language model and, through it, the encoders.

A score says once per clip that something is wrong. Words of the prompt say what of the prompt, the last token
of the motion branch which defects the motion has, and that of the technical branch which the picture has
(`spoken_facts.py`, whose kinds these are, in the same layers). No weight is added.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from spoken_facts import CENTRAL, LAYERS, WORDS, off_center, prompt_labels, spoken_loss, worst_defects
from token_targets import NOTHING

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.text import QUESTION, READ_OUTS, SLOTS, Reading, shown_prompt
from qsave_reward.types import LEVELS
from qsave_reward.world import WorldPlan
from qsave_reward.world.phrasing import plural
from qsave_reward.world.scene import COLORS, SHAPES
from qsave_reward.world.stream import plan_tracks

TOLD_BY = {"motion": "dynamic_quality", "technical": "visual_quality"}
"""The branches whose tokens say what is wrong in a dimension."""
OF_DEFECTS = ("defect", "level", "second")
"""What they say: the fields of `worst_defects`."""
KINDS = (
    *("verb", "shape", "color", "count", "across", "height", "relation", "stated"),
    *("word_level", "relation_level"),
    *(f"{dimension}_{what}" for dimension in TOLD_BY.values() for what in OF_DEFECTS),
)
"""Of `spoken_facts.WORDS`."""

REPEATABLE = ("verb", "shape", "color", "count")
"""What words of a prompt say by themselves, right or wrong."""

SHAPE_OF = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
NOUN = re.compile(rf"\b(?P<color>{'|'.join(COLORS)}) (?P<noun>{'|'.join(SHAPE_OF)})\b")


def token_facts(plan: WorldPlan, prompt: str, reading: Reading, tokenizer: Any) -> list[tuple[str, int, int]]:
    """What tokens of a text are to say: kind, position in `reading.ids`, index into `WORDS[kind]`.

    Args:
        plan: of the clip.
        prompt: which the text shows.
        reading: as `compose` gives it.
    """
    piece = ". " + shown_prompt(prompt) + QUESTION
    spans = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    after = sum(len(tokenizer(text, add_special_tokens=False).input_ids) for text in READ_OUTS)
    start = len(reading.ids) - after - len(spans)
    found = []
    for branch, dimension in TOLD_BY.items():
        places = [place for place, token in enumerate(reading.ids) if token == SLOTS[branch]]
        for place in places[-1:]:  # none where the branch is left out
            labels = zip(OF_DEFECTS, worst_defects(plan, dimension), strict=True)
            found += [(f"{dimension}_{what}", place, label) for what, label in labels]
    of_words = prompt_labels(plan, prompt) if prompt == plan.prompt else strange_labels(plan, prompt)
    for kind, last, label in of_words:
        character = piece.index(prompt.strip().rstrip(".")) + last
        token = next(k for k, (low, high) in enumerate(spans) if low <= character < high)
        found.append((kind, start + token, label))
    return found


def fewer_agreed(
    facts: Sequence[tuple[str, int, int]], share: float, rng: np.random.Generator
) -> list[tuple[str, int, int]]:
    """Facts without what most words say that the clip bears out.

    Nine of ten words of a prompt are right, and a model that repeats them all is right nine times of ten: it
    learned to, and not to look. What is asked of words that agree in full is kept for a share of them, but
    places, which prompts do not say, and levels, whose rates scores need.

    Args:
        facts: as `token_facts` gives them.
        share: which words that agree keep, 0 to 1.
    """
    agreed = [place for kind, place, level in facts if kind == "word_level" and level == len(LEVELS) - 1]
    quiet = {place for place in agreed if rng.random() >= share}
    return [fact for fact in facts if fact[0] not in REPEATABLE or fact[1] not in quiet]


def strange_labels(plan: WorldPlan, prompt: str) -> list[tuple[str, int, int]]:
    """What nouns of another clip's prompt are to say, in the form of `prompt_labels`.

    Objects of the noun's color say their shape, number and place; where there are none and none of its
    shape, the noun says so. Of words of a clip's own prompt nearly all are right: repeating would nearly do.
    """
    labels = []
    for found in NOUN.finditer(prompt.strip().rstrip(".")):
        color, shape, end = found["color"], SHAPE_OF[found["noun"]], found.end() - 1
        groups = [group for group in plan.shown.groups if group.color == color]
        if not groups and all(group.shape != shape for group in plan.shown.groups):
            labels += [("count", end, 0), ("word_level", end, 0)]
        if len(groups) == 1:
            (group,) = groups
            labels.append(("shape", end, SHAPES.index(group.shape)))
            labels.append(("color", end, WORDS["color"].index(color)))
            labels.append(("count", end, group.count))
            offset = off_center(plan, [track for owner, track in plan_tracks(plan) if owner == group])
            for kind, at in zip(("across", "height"), offset, strict=True):
                if abs(at) > CENTRAL:
                    labels.append((kind, end, int(at > 0)))
    return labels


def spoken_labels(rows: Sequence[Sequence[tuple[str, int, int]]], length: int) -> dict[str, torch.Tensor]:
    """For each of `KINDS` which of its words each token is to say: int64 [rows, length], else `NOTHING`."""
    spoken = {kind: torch.full((len(rows), length), NOTHING) for kind in KINDS}
    for i, facts in enumerate(rows):
        for kind, position, label in facts:
            spoken[kind][i, position] = label
    return spoken


class Listener:
    """Keeps the states of a language model's layers in its last forward, and says how wrong its words are."""

    def __init__(self, language: Any, word_ids: dict[str, list[int]]) -> None:
        self.language, self.word_ids = language, word_ids
        self.states: dict[int, torch.Tensor] = {}
        layers = language.base_model.layers
        if len(layers) < (needed := max(LAYERS[kind] for kind in KINDS)):
            raise ConfigError(
                f"facts_weight needs a language model of at least {needed} layers, got {len(layers)}: set it "
                "to 0 (--facts_weight 0)"
            )
        for number in {LAYERS[kind] for kind in KINDS}:
            layers[number - 1].register_forward_hook(self._keep(number))

    def _keep(self, number: int) -> Any:
        def hook(layer: Any, arguments: Any, output: Any) -> None:
            self.states[number] = output[0] if isinstance(output, tuple) else output

        return hook

    def losses(self, spoken: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """For each kind the loss and the share that is right, as `spoken_loss` gives them."""
        return {
            kind: spoken_loss(self.language, self.states[LAYERS[kind]], spoken[kind], self.word_ids[kind])
            for kind in KINDS
        }
