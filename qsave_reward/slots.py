"""Where scores are read and taught: the three slots of the score line, and the level words that fill them."""

from __future__ import annotations

from typing import Any

import torch

from qsave_reward.errors import ConfigError
from qsave_reward.prompt import PLACEHOLDER
from qsave_reward.types import DIMENSIONS, LEVELS


def slot_token_ids(tokenizer: Any) -> tuple[tuple[int, ...], int]:
    """Token ids of the five level words, and of the placeholder, as they appear in the score line.

    Raises:
        ConfigError: when the tokenizer splits one of them.
    """
    ids = []
    for word in (*LEVELS, PLACEHOLDER):
        pieces = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if len(pieces) != 1:
            raise ConfigError(f"this tokenizer splits {word!r} into {len(pieces)} tokens; scores need one")
        ids.append(pieces[0])
    return tuple(ids[:-1]), ids[-1]


def slot_positions(input_ids: torch.Tensor, slot_ids: torch.Tensor) -> torch.Tensor:
    """Positions of the slots, int64 [rows, 3]: the last level words or placeholders of each row.

    The score line closes every answer and each slot holds one such token, so the last three are the
    slots, whatever the question or the reasons say before.
    """
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    candidates = torch.where(torch.isin(input_ids, slot_ids), columns, -1)
    return candidates.topk(len(DIMENSIONS), dim=1).values.flip(1)
