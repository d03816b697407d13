"""Tokens say what is seen in a clip: dense labels for the language model.

How something moves, and what is wrong with that, is in no single chunk, so the vision tower cannot tell it,
and scores alone teach the language model very slowly to compare chunks: a model that named colors and shapes
well could not tell a clip with the wrong motion from one with the right one. Here the state of a token after
some layers is read with the model's own output head ("logit lens"), over a few words:

* each visual token says where the object in it is and where it was a chunk before, how it moves, and how bad
  the damage to it is (object_severity.py);
* some layers later, each verb of the prompt says what its subject does in the clip, whatever the verb
  means, and each noun which shape and color its objects have there, how many they are, and in which half of
  the picture; the second of two nouns also where the objects of the first are, seen from its own;
* a layer later, each of these words says the level that is left where it disagrees with the clip, and the
  comma after "a is above b" that of the relation, of which it says before what the prompt wants;
* the end of each chunk says which defects picture and motion have in it;
* the token after such an end says the second of two, and after the last one the level that the first leaves.

No weight is added. The score has only to see which words of the prompt disagree and which defects were named.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from object_severity import SEVERITY_KINDS, severity_labels
from token_targets import NOTHING, VISIBLE, token_targets

from qsave_reward.errors import ConfigError
from qsave_reward.prompt import BEFORE_PROMPT
from qsave_reward.supervision import SFTCollator
from qsave_reward.types import LEVELS, Defect
from qsave_reward.world import LABELS, WorldPlan
from qsave_reward.world.phrasing import VERBS, noun_phrase
from qsave_reward.world.raters import latent_quality
from qsave_reward.world.render import Track
from qsave_reward.world.scene import COLORS, COUNT_WORDS, MOTIONS, RELATIONS, SHAPES, Group
from qsave_reward.world.stream import plan_tracks

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

PLACES = {
    "column": string.ascii_lowercase[:10],
    "row": string.ascii_lowercase[10:20],
    "column_before": string.ascii_uppercase[:10],
    "row_before": string.ascii_uppercase[10:20],
}
"""Kinds of facts about where an object is, by the letters for tenths of the picture's width or height: other
ones for each kind, since a token says all of them."""

DEFECTS = {dimension: ("no", *LABELS[dimension]) for dimension in ("visual_quality", "dynamic_quality")}
WORDS = {
    **PLACES,
    "motion": [SAID.get(motion, motion) for motion in MOTIONS],
    **dict.fromkeys(SEVERITY_KINDS, LEVELS),
    "verb": [SAID.get(motion, motion) for motion in MOTIONS],
    "shape": SHAPES,
    "color": list(COLORS),
    "count": ["no", *COUNT_WORDS.values()],
    "across": ["left", "right"],
    "height": ["above", "below"],
    "relation": [relation.split()[0] for relation in RELATIONS],
    "stated": [relation.split()[0] for relation in RELATIONS],
    "word_level": LEVELS,
    "relation_level": LEVELS,
    "visual_quality_defect": DEFECTS["visual_quality"],
    "visual_quality_level": LEVELS,
    "visual_quality_second": DEFECTS["visual_quality"],
    "dynamic_quality_defect": DEFECTS["dynamic_quality"],
    "dynamic_quality_level": LEVELS,
    "dynamic_quality_second": DEFECTS["dynamic_quality"],
}
"""Kinds of facts, and the words that a token chooses from to say one. One token may say several kinds."""

LAYERS = dict.fromkeys(WORDS, 4) | {
    "column": 1,
    "row": 1,
    "column_before": 2,
    "row_before": 2,
    "motion": 2,
    "bent": 2,
    "moved": 3,
    "across": 3,
    "height": 3,
    "stated": 3,
    "word_level": 5,
    "relation_level": 5,
    "visual_quality_defect": 2,
    "visual_quality_level": 3,
    "visual_quality_second": 3,
    "dynamic_quality_defect": 3,
}
"""After how many layers each kind is read: defects of the picture early, since one chunk shows them; where
objects are before what else is said of them."""

OF_NOUNS = frozenset({"missing object", "wrong color", "wrong shape", "wrong count"})
"""Defects that a noun can tell; a verb can tell a wrong motion."""

CENTRAL = 0.12
"""An object this near to the middle of the picture, as a share of its width or height, is in no half."""
APART = 0.2
"""Two groups are in a relation when they are further apart by this, as such a share, along one axis than
along the other."""

_ALTERED = ("color", "shape", "count", "motion")
_FORMS = sorted((form for pairs in VERBS.values() for pair in pairs for form in pair), key=len, reverse=True)
_VERB = re.compile(rf"\b(?:{'|'.join(_FORMS)})\b")


def check_layers(layers: int) -> None:
    """A ConfigError when a language model of so many layers ends before the last fact is read."""
    if layers < max(LAYERS.values()):
        raise ConfigError(
            f"facts_weight needs a language model of at least {max(LAYERS.values())} layers, got {layers}: "
            "set it to 0 (--facts_weight 0)"
        )


def word_ids(tokenizer: Any) -> dict[str, list[int]]:
    """For each kind of fact the first tokens of its words, which stand after a space.

    Letters do not: most are no tokens of qsave-tiny with a space, and all would begin with the space alone.

    Raises:
        ConfigError: when two of a kind are the same.
    """
    ids = {
        kind: [tokenizer(word if kind in PLACES else f" {word}")["input_ids"][0] for word in words]
        for kind, words in WORDS.items()
    }
    if any(len(set(some)) < len(some) for some in ids.values()):
        raise ConfigError("spoken facts need a tokenizer in which the words for them begin differently")
    return ids


def visual_labels(plan: WorldPlan, frames: int, grids: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """What each visual token of a clip is to say of its object's motion, and of each of `PLACES` and
    `SEVERITY_KINDS`: int64 [tokens], index into `WORDS`, or `NOTHING`.

    Nothing is asked in clips of which frames were left out, nor of a motion in the first half of the clip,
    where it cannot be known yet.

    Args:
        plan: of the clip.
        frames: how many were sampled.
        grids: rows and columns of tokens of each chunk.
    """
    tokens = sum(rows * columns for rows, columns in grids)
    if not frames == plan.config.num_frames == 2 * len(grids):
        return {kind: torch.full((tokens,), NOTHING) for kind in ("motion", *PLACES, *SEVERITY_KINDS)}
    targets = token_targets(plan, grids)
    tenths = (10 * targets.center).floor().clamp(0, 9).nan_to_num(nan=NOTHING).long()
    places = dict(zip(PLACES, tenths.flatten(1).T, strict=True))
    targets.motion[: sum(rows * columns for rows, columns in grids[: len(grids) // 2])] = NOTHING
    return {"motion": targets.motion, **places, **severity_labels(plan, grids, targets.color != NOTHING)}


def shown_groups(plan: WorldPlan) -> list[Group | None]:
    """For each group of the prompt the one that the clip shows for it, or `None` where it is missing."""
    shown: list[Group | None] = list(plan.shown.groups)
    if len(shown) == len(plan.scene.groups):
        return shown

    def unlike(missing: int) -> int:
        rest = [*plan.scene.groups[:missing], *plan.scene.groups[missing + 1 :]]
        return sum(meant != there for meant, there in zip(rest, shown, strict=True))

    missing = min(range(len(plan.scene.groups)), key=unlike)
    return [*shown[:missing], None, *shown[missing:]]


def prompt_labels(plan: WorldPlan, prompt: str) -> list[tuple[str, int, int]]:
    """What words of a prompt are to say: kind, the word's last character, index into `WORDS[kind]`.

    Nothing is asked where a clip has another prompt than its own. A noun whose objects are missing says that
    there are none, and their verb nothing; neither does one verb for objects that move differently.
    """
    if prompt != plan.prompt:
        return []
    shown, tracks = shown_groups(plan), plan_tracks(plan)
    labels, end = [], 0
    places: list[NDArray[np.float64]] = []
    for meant, there in zip(plan.scene.groups, shown, strict=True):
        noun = f"{meant.color} {noun_phrase(meant).split()[-1]}"
        end = prompt.index(noun, end) + len(noun)
        labels.append(("count", end - 1, there.count if there else 0))
        labels.append(("word_level", end - 1, _level_left(plan, _wrong(meant, there) & OF_NOUNS)))
        if there:
            labels.append(("shape", end - 1, SHAPES.index(there.shape)))
            labels.append(("color", end - 1, WORDS["color"].index(there.color)))
            places.append(off_center(plan, [track for group, track in tracks if group == there]))
            for kind, offset in zip(("across", "height"), places[-1], strict=True):
                if abs(offset) > CENTRAL:
                    labels.append((kind, end - 1, int(offset > 0)))
        if len(places) == len(shown) == 2:
            apart = places[0] - places[1]
            axis = int(np.abs(apart).argmax())
            if np.ptp(np.abs(apart)) > APART:
                labels.append(("relation", end - 1, 2 * axis + int(apart[axis] > 0)))
            if plan.scene.relation:  # rare, so a kind of its own: among the words it would hardly count
                labels.append(("stated", end, RELATIONS.index(plan.scene.relation)))
                labels.append(("relation_level", end, _level_left(plan, {"wrong relation"})))
    verbs = [found.end() - 1 for found in _VERB.finditer(prompt)]
    pairs = list(zip(plan.scene.groups, shown, strict=True))
    if len(verbs) < len(pairs):
        pairs = [(meant, there) for meant, there in pairs if there]
        pairs = pairs[:1] if len({there.motion for _, there in pairs if there}) == 1 else []
    for end, (meant, there) in zip(verbs, pairs, strict=False):
        if there:
            labels.append(("verb", end, MOTIONS.index(there.motion)))
            labels.append(("word_level", end, _level_left(plan, _wrong(meant, there) & {"wrong motion"})))
    return labels


def _wrong(meant: Group, there: Group | None) -> frozenset[str]:
    """Names of the defects by which a group differs from what was meant."""
    if there is None:
        return frozenset({"missing object"})
    return frozenset(f"wrong {name}" for name in _ALTERED if getattr(there, name) != getattr(meant, name))


def _level_left(plan: WorldPlan, labels: Set[str]) -> int:
    """Index of the level that the defects of these names leave; none comes twice in a clip, nor does a
    group with one have another."""
    found = [defect for defect in plan.defects if defect.label in labels]
    return round(latent_quality(found, plan.config.num_frames / plan.config.fps)["text_alignment"]) - 1


def off_center(plan: WorldPlan, tracks: Sequence[Track]) -> NDArray[np.float64]:
    """Mean place (x, y) of objects while they can be seen, from the middle, in picture sides; zeros where
    they never can."""
    seen = np.concatenate([track.centers[track.alpha >= VISIBLE] for track in tracks])
    if not len(seen):
        return np.zeros(2)
    offset: NDArray[np.float64] = seen.mean(axis=0) / (plan.config.width, plan.config.height) - 0.5
    return offset


def defect_labels(plan: WorldPlan, times: Sequence[float], dimension: str) -> list[tuple[int, int, int]]:
    """What the end of each chunk and the token after it are to say of one dimension: the worst defect, the
    level that it leaves, and the second worst; indexes into `DEFECTS[dimension]`, `LEVELS`, and the former.

    The level is asked only in the last chunk that has the defect, when all of it was seen.

    Args:
        plan: of the clip.
        times: of the chunks, in seconds.
        dimension: a key of `DEFECTS`.
    """
    duration = plan.config.num_frames / plan.config.fps
    left = _qualities_left(plan, dimension)
    spans = {d: (d.start or 0.0, duration if d.end is None else d.end) for d in left}
    labels = []
    for k, time in enumerate(times):
        after = times[k + 1] if k + 1 < len(times) else duration + 1
        here = [d for d in sorted(left, key=left.__getitem__) if spans[d][0] <= time <= spans[d][1]]
        first, second = [*(DEFECTS[dimension].index(d.label) for d in here), 0, 0][:2]
        seen = here and after > spans[here[0]][1]
        labels.append((first, round(left[here[0]]) - 1 if seen else NOTHING, second))
    return labels


def worst_defects(plan: WorldPlan, dimension: str) -> tuple[int, int, int]:
    """The same for the whole clip: the worst defect, the level that it leaves (of a clip without one, the
    best), and the second worst."""
    left = _qualities_left(plan, dimension)
    ordered = sorted(left, key=left.__getitem__)
    first, second = [*(DEFECTS[dimension].index(defect.label) for defect in ordered), 0, 0][:2]
    return first, round(left[ordered[0]] if ordered else len(LEVELS)) - 1, second


def _qualities_left(plan: WorldPlan, dimension: str) -> dict[Defect, float]:
    """The true quality that each defect of a dimension alone leaves."""
    duration = plan.config.num_frames / plan.config.fps
    return {d: latent_quality([d], duration)[dimension] for d in plan.defects if d.dimension == dimension}


class SpokenCollator(SFTCollator):
    """As `SFTCollator`; the batch also holds `spoken_KIND` int64 [rows, length] for each kind of `WORDS`:
    which of its words each token is to say, or `NOTHING`.

    Rows hold `seen`, `prompted` and `defects` besides: what `visual_labels` gives, `prompt_labels` for each
    prompt, and `defect_labels` for each dimension.
    """

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super().__call__(rows)
        ids, tokenizer = batch["input_ids"], self.processor.tokenizer
        spoken = {kind: torch.full_like(ids, NOTHING) for kind in WORDS}
        chunk_end = tokenizer.convert_tokens_to_ids("<|vision_end|>")
        for i, row in enumerate(rows):  # a filler row, which comes last, says nothing
            for kind, labels in row["seen"].items():
                spoken[kind][i, ids[i] == self.processor.image_token_id] = torch.as_tensor(labels)
            ends = (ids[i] == chunk_end).nonzero().flatten()
            for dimension, labels in row["defects"].items():
                defects, levels, seconds = torch.as_tensor(labels).T
                spoken[f"{dimension}_defect"][i, ends] = defects
                spoken[f"{dimension}_level"][i, ends + 1] = levels
                spoken[f"{dimension}_second"][i, ends + 1] = seconds
            for k, (asked, words) in enumerate(zip(row["asked"], row["prompted"], strict=True), start=1):
                places = tokenizer(asked["question"], return_offsets_mapping=True)["offset_mapping"]
                start = int((batch["prompts"][i] == k).nonzero()[0])
                for kind, last, label in words:
                    character = len(BEFORE_PROMPT) + last
                    token = next(j for j, (low, high) in enumerate(places) if low <= character < high)
                    spoken[kind][i, start + token] = label
        return batch | {f"spoken_{kind}": labels for kind, labels in spoken.items()}


def spoken_loss(
    model: Any, states: torch.Tensor, labels: torch.Tensor, ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over the words of the labelled tokens, and the share that is right.

    Args:
        model: a language model, alone or in a Qwen3-VL, for its last norm and its output head.
        states: [rows, length, width], after some layer.
        labels: int64 [rows, length], `NOTHING` where nothing is asked.
        ids: of the words.
    """
    known = labels != NOTHING
    head = model.get_output_embeddings().weight[list(ids)]
    decoder: Any = next(part for part in model.modules() if hasattr(part, "layers") and hasattr(part, "norm"))
    said = decoder.norm(states[known]).float() @ head.float().T
    loss = F.cross_entropy(said, labels[known], reduction="sum") / known.sum().clamp(min=1)
    right = (said.argmax(dim=1) == labels[known]).float().sum() / known.sum().clamp(min=1)
    return loss, right
