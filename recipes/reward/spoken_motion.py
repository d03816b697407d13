"""Tokens say how the objects of a clip move: dense labels for the language model.

How something moves is in no single chunk, so the vision tower cannot tell it, and scores alone teach the
language model very slowly to compare chunks: a model that named colors and shapes well could not tell a clip
with the wrong motion from one with the right one. Here the state of a token after some layers is read with
the model's own output head ("logit lens"), over one word for each motion. Each visual token says how the
object in it moves; some layers later, each verb of the prompt says what its subject does in the clip,
whatever the verb itself means. No weight is added, and the score has only to see which verbs disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from token_targets import NOTHING, token_targets

from qsave_reward.errors import ConfigError
from qsave_reward.supervision import SFTCollator
from qsave_reward.world import WorldPlan
from qsave_reward.world.phrasing import VERBS
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

_FORMS = sorted((form for pairs in VERBS.values() for pair in pairs for form in pair), key=len, reverse=True)
_VERB = re.compile(rf"\b(?:{'|'.join(_FORMS)})\b")
_BEFORE_PROMPT = "\nPrompt: "


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


def verb_labels(plan: WorldPlan, prompt: str) -> list[tuple[int, int]]:
    """What the verbs of a prompt are to say: pairs of a verb's last character and an index into `MOTIONS`.

    Nothing is asked where a clip has another prompt than its own or lacks an object, nor of one verb for
    objects that move differently.
    """
    shown = [MOTIONS.index(group.motion) for group in plan.shown.groups]
    if prompt != plan.prompt or len(shown) != len(plan.scene.groups):
        return []
    ends = [found.end() - 1 for found in _VERB.finditer(prompt)]
    if len(ends) < len(shown):
        shown = shown[:1] if len(set(shown)) == 1 else []
    return list(zip(ends, shown, strict=False))


class MotionCollator(SFTCollator):
    """As `SFTCollator`; the batch also holds `motions` int64 [rows, length], what each token is to say.

    Rows hold `motions` (`motion_labels`) and `verbs` (`verb_labels`) besides.
    """

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        motions = torch.full_like(batch["input_ids"], NOTHING)
        visual = batch["input_ids"] == self.processor.image_token_id
        visual[len(rows) :] = False  # a filler row's tokens show nothing
        motions[visual] = torch.cat([torch.as_tensor(row["motions"]) for row in rows])
        for line, branches, row in zip(motions, batch["branches"], rows, strict=False):
            # After the last chunk, up to the first answer; control tokens keep both ends apart from the rest.
            text = row["question"][row["question"].rindex(_BEFORE_PROMPT) :]
            tokens = self.processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
            start = len(line) - int((branches > 0).sum()) - len(tokens)
            for end, motion in row["verbs"]:
                place = len(_BEFORE_PROMPT) + end
                line[start + next(k for k, (low, high) in enumerate(tokens) if low <= place < high)] = motion
        batch["motions"] = motions
        return batch


def motion_loss(
    model: Any, states: torch.Tensor, labels: torch.Tensor, ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over the words of the labelled tokens, and the share that is right.

    Args:
        model: a Qwen3-VL model, bare or with LoRA, for its last norm and its output head.
        states: [tokens, width], after some layer.
        labels: int64 [tokens], `NOTHING` where nothing is asked.
        ids: of the words.
    """
    known = labels != NOTHING
    head = model.get_output_embeddings().weight[list(ids)]
    inner: Any = next(part for part in model.modules() if hasattr(part, "language_model"))
    said = inner.language_model.norm(states[known]).float() @ head.float().T
    loss = F.cross_entropy(said, labels[known], reduction="sum") / known.sum().clamp(min=1)
    right = (said.argmax(dim=1) == labels[known]).float().sum() / known.sum().clamp(min=1)
    return loss, right
