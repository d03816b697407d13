"""Tokens say what they are told of a clip: dense labels for the language model and, through it, the encoders.

A score says once per clip that something is wrong. Words of the prompt say what of the prompt, the last token
of the motion branch which defects the motion has, and that of the technical branch which the picture has
(`spoken_facts.py`, whose kinds these are, in the same layers). No weight is added.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from spoken_facts import LAYERS, prompt_labels, spoken_loss, worst_defects
from token_targets import NOTHING

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.text import QUESTION, READ_OUTS, SLOTS, Reading, shown_prompt
from qsave_reward.world import WorldPlan

KINDS = ("verb", "shape", "color", "count", "across", "height", "relation", "stated", "word_level")
KINDS += ("relation_level",)
TOLD_BY = {"motion": "dynamic_quality", "technical": "visual_quality"}
"""The branches whose tokens say what is wrong in a dimension."""
KINDS += tuple(f"{name}_{what}" for name in TOLD_BY.values() for what in ("defect", "level", "second"))


def prompt_facts(
    plan: WorldPlan, prompt: str, reading: Reading, tokenizer: Any
) -> list[tuple[str, int, int]]:
    """What tokens of a text are to say: kind, position in `reading.ids`, index into `WORDS[kind]`.

    Args:
        plan: of the clip; words are asked nothing where it has another prompt.
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
        if places:  # a branch may be left out
            for what, label in zip(
                ("defect", "level", "second"), worst_defects(plan, dimension), strict=True
            ):
                found.append((f"{dimension}_{what}", places[-1], label))
    for kind, last, label in prompt_labels(plan, prompt):
        character = piece.index(prompt) + last
        token = next(k for k, (low, high) in enumerate(spans) if low <= character < high)
        found.append((kind, start + token, label))
    return found


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
