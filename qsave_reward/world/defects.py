"""Defects of the picture and of the motion: which ones a clip can show, how they are drawn, how they look.

Defects of objects (`Effects`) act while a scene is drawn, all others act on frames; `degrade` has a form of
every one for any clip. A defect changes frames inside its span only, and more the higher its severity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qsave_reward.types import Defect
from qsave_reward.world import pixels
from qsave_reward.world.render import Effects, no_effects
from qsave_reward.world.scene import FADING, MOVING, SHAPES, STEADY, TEXTURED, TRAVELING, Scene, pick
from qsave_reward.world.shapes import STEPS, shape_distance

Frames = NDArray[np.uint8]
Floats = NDArray[np.float64]

LABELS: dict[str, tuple[str, ...]] = {
    "visual_quality": (
        "blur",
        "noise",
        "blockiness",
        "exposure",
        "color cast",
        "banding",
        "shape distortion",
    ),
    "dynamic_quality": (
        "freeze",
        "jitter",
        "flicker",
        "jump",
        "ghosting",
        "morphing",
        "implausible speed",
    ),
    "text_alignment": (
        "missing object",
        "wrong color",
        "wrong shape",
        "wrong count",
        "wrong motion",
        "wrong relation",
    ),
}
"""The labels a defect of each dimension may have."""

MIN_SEVERITY = 0.15
"""Severity that is just noticeable at 128 x 128 pixels."""

OBJECT_LABELS = ("shape distortion", "jump", "morphing", "implausible speed")
"""Labels that change how the objects of a scene are drawn."""

_HIDES: dict[str, tuple[str, ...]] = {
    "freeze": ("jump", "ghosting", "morphing", "implausible speed"),
    "blockiness": ("blur",),
    "morphing": ("shape distortion",),
}
"""What cannot be seen well any more beside a severe defect of the given label."""


def showable(label: str, scene: Scene) -> bool:
    """Whether a defect of the picture or the motion would be seen in this scene."""
    motions = {group.motion for group in scene.groups}
    lasting = bool(motions - set(FADING))
    moving = bool(motions & set(MOVING)) or scene.camera is not None
    needs = {
        "blur": lasting or scene.background in TEXTURED,
        "blockiness": lasting or scene.background in TEXTURED,
        "shape distortion": lasting,
        "freeze": moving,
        "ghosting": bool(motions & set(TRAVELING)) or scene.camera is not None,
        "jitter": lasting or scene.background in TEXTURED,
        "jump": lasting,
        "morphing": lasting,
        "implausible speed": bool(motions & set(STEADY)),
    }
    return needs.get(label, True)


def draw_labels(rng: np.random.Generator, dimension: str, number: int, possible: Sequence[str]) -> list[str]:
    """Up to `number` different labels out of `possible` that do not hide each other."""
    chosen: list[str] = []
    for label in rng.permutation(list(possible)):
        hidden = any(a in _HIDES.get(b, ()) for a, b in ((label, c) for c in chosen))
        hides = any(c in _HIDES.get(label, ()) for c in chosen)
        if len(chosen) < number and not hidden and not hides:
            chosen.append(str(label))
    return sorted(chosen, key=LABELS[dimension].index)


def draw_span(
    rng: np.random.Generator, label: str, severity: float, times: Floats
) -> tuple[float, float] | tuple[None, None]:
    """Start and end in seconds, on frame times, or `(None, None)` for the whole clip.

    A freeze is more severe the longer it lasts, and ends before the clip does; a jump goes there and back.
    """
    count = len(times)
    if label == "freeze":
        length, first, last = round((0.1 + 0.55 * severity) * count), 0, count - 2
    elif label == "jump":
        length, first, last = round(rng.uniform(0.2, 0.35) * count), 1, count - 2
    elif rng.random() < 0.5:
        return None, None
    else:
        length, first, last = round(rng.uniform(0.35, 0.75) * count), 0, count - 1
    length = min(max(length, 2), last - first)
    begin = int(rng.integers(first, last - length + 1))
    return round(float(times[begin]), 3), round(float(times[begin + length]), 3)


def in_span(defect: Defect, times: Floats) -> NDArray[np.bool_]:
    """bool [T]: the frames a defect affects."""
    if defect.start is None or defect.end is None:
        return np.ones(len(times), dtype=bool)
    # Spans are rounded to milliseconds.
    return (times >= defect.start - 1e-3) & (times <= defect.end + 1e-3)


def share_of_clip(defect: Defect, duration: float) -> float:
    """Share of the clip inside the span, 0 to 1; 1 for freeze and jump, whose severity already says it."""
    if defect.start is None or defect.end is None or defect.label in ("freeze", "jump"):
        return 1.0
    return min((defect.end - defect.start) / duration, 1.0)


def object_effects(
    scene: Scene, defects: Sequence[Defect], times: Floats, duration: float, rng: np.random.Generator
) -> Effects:
    """What the defects in `OBJECT_LABELS` do to the objects of a scene; the same draws for any severity."""
    effects = no_effects(scene, times, duration)
    phases, sideways = rng.uniform(0, 2 * math.pi, 3), bool(rng.random() < 0.5)
    targets = tuple(
        pick(rng, [s for s in SHAPES if shape_distance(s, group.shape) > 0.4]) for group in scene.groups
    )
    for defect in defects:
        inside, severity = in_span(defect, times), defect.severity
        begin, end = (defect.start, defect.end) if defect.end is not None else (0.0, duration)
        assert begin is not None and end is not None
        x = np.clip((times - begin) / (end - begin), 0, 1)
        if defect.label == "shape distortion":
            angles = 2 * math.pi * np.arange(STEPS) / STEPS
            waves = [np.sin(k * angles + phase) for k, phase in zip((3, 5, 8), phases, strict=True)]
            ripple = waves[0] + 0.8 * waves[1] + 0.6 * waves[2]
            ripple /= np.abs(ripple).max()
            effects = replace(effects, ripple=ripple, wobble=np.where(inside, 0.09 + 0.5 * severity, 0.0))
        elif defect.label == "jump":
            effects = replace(
                effects, jump_sideways=sideways, jump=np.where(inside, 0.09 + 0.3 * severity, 0.0)
            )
        elif defect.label == "morphing":
            shape = np.sin(math.pi * x) ** 2 if defect.end is not None else x * x * (3 - 2 * x)
            effects = replace(
                effects, targets=targets, morph=np.where(inside, (0.36 + 0.64 * severity) * shape, 0.0)
            )
        elif defect.label == "implausible speed":
            uneven = (begin + pixels.uneven_progress(x, severity) * (end - begin)) / duration
            effects = replace(effects, time=np.where(inside, uneven, effects.time))
    return effects


def degrade(
    frames: Frames,
    times: Floats,
    defects: Sequence[Defect],
    rng: np.random.Generator,
    *,
    skip: Sequence[str] = (),
) -> Frames:
    """Apply defects of the picture and of the motion to any clip.

    Args:
        frames: uint8 [T, H, W, 3].
        times: float64 [T], seconds.
        defects: what to apply; those of `text_alignment` are ignored.
        rng: gives one number; what is random about a defect depends on that number and its label only.
        skip: labels to leave out.

    Returns:
        uint8 [T, H, W, 3]; frames outside all spans are unchanged.
    """
    seed = int(rng.integers(2**62))
    order = (*pixels.MOTION_DEFECTS, *pixels.FRAME_DEFECTS)
    todo = [d for d in defects if d.label in order and d.label not in skip]
    result = frames
    for defect in sorted(todo, key=lambda d: order.index(d.label)):
        own = np.random.Generator(np.random.PCG64([seed, *defect.label.encode()]))
        inside = in_span(defect, times)
        if not inside.any():
            continue
        if defect.label in pixels.FRAME_DEFECTS:
            changed = pixels.FRAME_DEFECTS[defect.label](result[inside], defect.severity, own)
        else:
            changed = pixels.MOTION_DEFECTS[defect.label](result, times, inside, defect.severity, own)
        result = changed if inside.all() else _put(result, inside, changed)
    return result


def _put(frames: Frames, inside: NDArray[np.bool_], changed: Frames) -> Frames:
    """`frames` with the frames of the mask replaced."""
    result = frames.copy()
    result[inside] = changed
    return result
