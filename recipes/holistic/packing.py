"""Several prompts of one clip in one text: what stands before the prompt is computed once for all of them.

Each prompt sees the visual tokens and itself, at the positions that it has when it stands alone, so that its
scores are those of its own text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qsave_reward.holistic.text import Reading

SHARED = 0


@dataclass(frozen=True)
class Packed(Reading):
    """A `Reading` of several texts that are the same up to their last visual token.

    Attributes:
        positions: of each id, in its own text.
        owners: of each id: `SHARED`, or which text it belongs to, from 1.
    """

    positions: tuple[int, ...]
    owners: tuple[int, ...]

    def place(self, text: int, position: int) -> int:
        """Where in `ids` the token at a position of a text is; texts count from 0."""
        shared = self.owners.count(SHARED)
        return position if position < shared else position - shared + self.owners.index(text + 1)


def pack_readings(readings: Sequence[Reading]) -> Packed:
    """Texts about the same clip as one; `read_at` holds the places of the first, then those of the next."""
    shared = 1 + max((place for place, token in enumerate(readings[0].ids) if token < 0), default=-1)
    ids, positions, owners = list(readings[0].ids[:shared]), list(range(shared)), [SHARED] * shared
    read_at = []
    for text, reading in enumerate(readings, start=1):
        read_at += [len(ids) - shared + place for place in reading.read_at]
        ids += reading.ids[shared:]
        positions += range(shared, len(reading.ids))
        owners += [text] * (len(reading.ids) - shared)
    return Packed(tuple(ids), tuple(read_at), tuple(positions), tuple(owners))


def packed_inputs(readings: Sequence[Packed]) -> dict[str, torch.Tensor]:
    """`position_ids` int64 [B, N] and `attention_mask` bool [B, 1, N, N], filled up on the right."""
    length = max(len(reading.ids) for reading in readings)
    positions = torch.zeros(len(readings), length, dtype=torch.int64)
    owners = torch.full((len(readings), length), -1)
    for row, reading in enumerate(readings):
        positions[row, : len(reading.ids)] = torch.tensor(reading.positions)
        owners[row, : len(reading.ids)] = torch.tensor(reading.owners)
    seen = (owners[:, None] == SHARED) | (owners[:, None] == owners[..., None])  # [B, reader, read]
    return {
        "position_ids": positions,
        "attention_mask": (seen & torch.ones(length, length).tril().bool())[:, None],
    }
