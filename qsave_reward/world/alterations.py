"""Defects of text alignment: a clip that shows something else than its prompt says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from qsave_reward.types import Defect
from qsave_reward.world.defects import LABELS, MIN_SEVERITY
from qsave_reward.world.scene import (
    COLORS,
    MAX_OBJECTS,
    RELATIONS,
    SHAPES,
    Group,
    Scene,
    allowed_motions,
    color_distance,
    draw_places,
    stands_out,
)
from qsave_reward.world.shapes import shape_distance

GROUP_WEIGHT = {1: 1.0, 2: 0.8, 3: 0.65}
"""How much one group counts among this many."""
_OPPOSITE = ({"left", "right"}, {"up", "down"}, {"grow", "shrink"}, {"appear", "disappear"})
_SIMILAR = (
    {"left", "swing"},
    {"right", "swing"},
    {"up", "bounce"},
    {"down", "bounce"},
    {"orbit", "swing"},
    {"orbit", "bounce"},
    {"swing", "bounce"},
)
_MIRRORED = ({"left of", "right of"}, {"above", "below"})

Candidate = tuple[float, Scene, int]
"""Severity, altered scene, and the index of the altered group (-1 for none in particular)."""


def alter(
    scene: Scene, wanted: Sequence[float], rng: np.random.Generator
) -> tuple[Scene, tuple[Defect, ...]]:
    """Alter a scene once for each wanted severity, as near to it as the scene allows.

    Args:
        scene: what the prompt says.
        wanted: severities in [0, 1]; one label is drawn for each.
        rng: source of all choices.

    Returns:
        The scene to show and its defects with the severities reached; fewer where nothing is left to alter.
    """
    shown, defects, touched = scene, [], set[int]()
    order = [str(label) for label in rng.permutation(LABELS["text_alignment"])]
    if scene.relation and rng.random() < 0.4:
        # Few prompts state a relation; those that do shall have it wrong often enough to be learned.
        order.sort(key=lambda label: label != "wrong relation")
    # A removed group would shift the indexes of those touched before.
    order.sort(key=lambda label: label == "missing object" and len(wanted) > 1)
    for severity in wanted:
        while order:
            label = order.pop(0)
            options = [
                c for c in _CANDIDATES[label](shown, rng) if c[0] >= MIN_SEVERITY and c[2] not in touched
            ]
            if options:
                break
        else:
            break
        reached, shown, index = min(options, key=lambda c: abs(c[0] - severity) + 0.1 * rng.random())
        if index >= 0:
            touched.add(index)
        defects.append(Defect("text_alignment", label, round(min(reached, 1.0), 3)))
    return shown, tuple(sorted(defects, key=lambda d: LABELS["text_alignment"].index(d.label)))


def motion_distance(first: str, second: str) -> float:
    """How wrong one motion is in place of another, 0 to 1."""
    pair = {first, second}
    if len(pair) == 1:
        return 0.0
    if pair in _OPPOSITE:
        return 1.0
    if pair in _SIMILAR:
        return 0.5
    return 0.7 if "still" in pair else 0.85


def _with_group(scene: Scene, index: int, group: Group) -> Scene | None:
    """The scene with one group exchanged, or `None` when two groups would look alike."""
    others = [g for k, g in enumerate(scene.groups) if k != index]
    if any((g.shape, g.color) == (group.shape, group.color) for g in others):
        return None
    groups = (*scene.groups[:index], group, *scene.groups[index + 1 :])
    return replace(scene, groups=groups)


def _exchanged(scene: Scene, index: int, group: Group, severity: float) -> Iterator[Candidate]:
    altered = _with_group(scene, index, group)
    if altered is not None:
        yield severity * GROUP_WEIGHT[len(scene.groups)], altered, index


def _missing(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    number = len(scene.groups)
    for k in range(number):
        groups = (*scene.groups[:k], *scene.groups[k + 1 :])
        places = (*scene.places[:k], *scene.places[k + 1 :])
        yield GROUP_WEIGHT[number], replace(scene, groups=groups, places=places, relation=None), k


def _wrong_color(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    for k, group in enumerate(scene.groups):
        for color in COLORS:
            if color != group.color and stands_out(color, scene.background_color):
                distance = min(color_distance(COLORS[color], COLORS[group.color]) / 550, 1.0)
                yield from _exchanged(scene, k, replace(group, color=color), 0.1 + 0.9 * distance)


def _wrong_shape(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    for k, group in enumerate(scene.groups):
        for shape in SHAPES:
            distance = shape_distance(shape, group.shape)
            if distance > 0.2 and group.motion in allowed_motions(shape, scene.relation, scene.camera):
                yield from _exchanged(
                    scene, k, replace(group, shape=shape), 0.1 + 0.9 * min(distance / 0.7, 1.0)
                )


def _wrong_motion(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    for k, group in enumerate(scene.groups):
        for motion in allowed_motions(group.shape, scene.relation, scene.camera):
            if motion != group.motion:
                severity = motion_distance(motion, group.motion)
                yield from _exchanged(scene, k, replace(group, motion=motion), severity)


def _wrong_count(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    total = sum(group.count for group in scene.groups)
    for k, group in enumerate(scene.groups):
        for count in range(1, MAX_OBJECTS + 1):
            if count == group.count or total - group.count + count > MAX_OBJECTS:
                continue
            severity = (0.45, 0.75, 1.0)[abs(count - group.count) - 1]
            for value, altered, index in _exchanged(scene, k, replace(group, count=count), severity):
                places = draw_places(rng, altered.groups, scene.relation)
                yield value, replace(altered, places=places), index


def _wrong_relation(scene: Scene, rng: np.random.Generator) -> Iterator[Candidate]:
    if scene.relation is None or len(scene.groups) != 2:
        return
    for relation in RELATIONS:
        fits = all(g.motion in allowed_motions(g.shape, relation, scene.camera) for g in scene.groups)
        if relation != scene.relation and fits:
            severity = 0.8 if {relation, scene.relation} in _MIRRORED else 0.5
            places = draw_places(rng, scene.groups, relation)
            yield severity, replace(scene, relation=relation, places=places), -1


_CANDIDATES = {
    "missing object": _missing,
    "wrong color": _wrong_color,
    "wrong shape": _wrong_shape,
    "wrong count": _wrong_count,
    "wrong motion": _wrong_motion,
    "wrong relation": _wrong_relation,
}
