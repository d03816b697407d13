"""Each visual token says how the object in it moves: dense labels for the language model.

How something moves is in no single chunk, so the vision tower cannot tell it, and scores alone teach the
language model very slowly to compare chunks: a model that named colors and shapes well could not tell a clip
with the wrong motion from one with the right one. Here the state of a visual token after some layers is read
with the model's own output head ("logit lens"), over one word for each motion. No weight is added, and what
the token says is what a prompt's word is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from token_targets import NOTHING, token_targets

from qsave_reward.errors import ConfigError
from qsave_reward.supervision import SFTCollator
from qsave_reward.world import WorldPlan
from qsave_reward.world.scene import MOTIONS

SAID = {
    "grow": "grows",
    "shrink": "shrinks",
    "rotate": "rotates",
    "bounce": "bounces",
    "orbit": "loops",
    "swing": "swings",
    "appear": "appears",
    "disappear": "disappears",
}
"""The word for a motion, where it is not its name."""


def motion_ids(tokenizer: Any) -> list[int]:
    """For each of `MOTIONS` the first token of its word.

    Raises:
        ConfigError: when two of them are the same.
    """
    ids = [tokenizer(f" {SAID.get(motion, motion)}")["input_ids"][0] for motion in MOTIONS]
    if len(set(ids)) < len(ids):
        raise ConfigError("motion_weight needs a tokenizer in which the motions' words begin differently")
    return ids


def motion_labels(plan: WorldPlan, frames: int, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
    """What each visual token of a clip is to say: int64 [tokens], index into `MOTIONS`, or `NOTHING`.

    Nothing is asked in the first half of the clip, where a motion cannot be known yet, nor in clips of which
    frames were left out.

    Args:
        plan: of the clip.
        frames: how many were sampled.
        grids: rows and columns of tokens of each chunk.
    """
    if not frames == plan.config.num_frames == 2 * len(grids):
        return torch.full((sum(rows * columns for rows, columns in grids),), NOTHING)
    labels = token_targets(plan, grids).motion
    labels[: sum(rows * columns for rows, columns in grids[: len(grids) // 2])] = NOTHING
    return labels


class MotionCollator(SFTCollator):
    """As `SFTCollator`; the batch also holds `motions` int64 [visual tokens], those of all rows in order."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        labels = torch.cat([torch.as_tensor(row["motions"]) for row in rows])
        visual = int((batch["input_ids"] == self.processor.image_token_id).sum())
        # A filler row comes last; its tokens show nothing.
        batch["motions"] = F.pad(labels, (0, visual - len(labels)), value=NOTHING)
        return batch


def motion_loss(
    model: Any, states: torch.Tensor, labels: torch.Tensor, ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over the words of the labelled tokens, and the share that is right.

    Args:
        model: a Qwen3-VL model, bare or with LoRA, for its last norm and its output head.
        states: [visual tokens, width], after some layer.
        labels: int64 [visual tokens], `NOTHING` where nothing is asked.
        ids: of the words.
    """
    known = labels != NOTHING
    head = model.get_output_embeddings().weight[list(ids)]
    inner: Any = next(part for part in model.modules() if hasattr(part, "language_model"))
    said = inner.language_model.norm(states[known]).float() @ head.float().T
    loss = F.cross_entropy(said, labels[known], reduction="sum") / known.sum().clamp(min=1)
    right = (said.argmax(dim=1) == labels[known]).float().sum() / known.sum().clamp(min=1)
    return loss, right
