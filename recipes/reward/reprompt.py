"""Other prompts for the same pixels: clips differ in a hundred ways, prompts of one clip in one or two.

What a model has to look at to tell a right prompt from a wrong one is clearest where the clip is the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qsave_reward.types import DIMENSIONS, Defect
from qsave_reward.world import WorldPlan
from qsave_reward.world.alterations import GROUP_WEIGHT, alter
from qsave_reward.world.defects import LABELS, MIN_SEVERITY
from qsave_reward.world.phrasing import phrase
from qsave_reward.world.raters import Opinion, latent_quality, rate
from qsave_reward.world.scene import (
    COLORS,
    MAX_OBJECTS,
    SHAPES,
    Group,
    Scene,
    allowed_motions,
    draw_places,
    pick,
    split_of,
)

RIGHT, WRONG_ONCE = 0.4, 0.45
"""Shares of prompts that the clip follows, and that are wrong in one thing; the others are in two."""
TRIES = 20

ALIGNMENT = DIMENSIONS[2]


def reprompt(plan: WorldPlan, rng: np.random.Generator) -> WorldPlan:
    """The plan of the same clip with another prompt, its defects of text alignment, and what raters say.

    What is shown is altered as `alter` alters what is asked for, and asked for. The prompt belongs to the
    split of the clip; ratings of the other dimensions stay. Where no prompt is found, as for a clip that
    shows nothing, the plan itself.
    """
    split = plan.name.removeprefix("world:").split("/")[0]
    shown = plan.shown
    if any(group.count > 1 for group in shown.groups):
        shown = replace(shown, relation=None)  # prompts state relations of single objects only
    for _ in range(TRIES if shown.groups else 0):
        meant, wrong = _ask(shown, rng)
        plural = any(group.count > 1 for group in meant.groups)
        if split_of(meant.groups) == split and not (meant.relation and plural):
            break
    else:
        return plan
    defects = (*(defect for defect in plan.defects if defect.dimension != ALIGNMENT), *wrong)
    latent = latent_quality(defects, plan.config.num_frames / plan.config.fps)
    said = rate(latent, plan.config.raters, rng)
    opinion = Opinion(
        plan.opinion.ratings | {ALIGNMENT: said.ratings[ALIGNMENT]},
        plan.opinion.mos | {ALIGNMENT: said.mos[ALIGNMENT]},
        said.overall,
    )
    return replace(
        plan, scene=meant, prompt=phrase(meant, rng), defects=defects, latent=latent, opinion=opinion
    )


def _ask(shown: Scene, rng: np.random.Generator) -> tuple[Scene, tuple[Defect, ...]]:
    """A scene to ask for, and what is wrong with the one shown."""
    chance = rng.random()
    severities = MIN_SEVERITY + (1 - MIN_SEVERITY) * rng.random(
        (chance >= RIGHT) + (chance >= RIGHT + WRONG_ONCE)
    )
    meant, wrong = alter(shown, severities.tolist(), rng)
    missing = LABELS[ALIGNMENT][0]
    if all(defect.label != missing for defect in wrong):
        return meant, wrong
    # An object is missing when one more is asked for, not one less.
    meant = _with_one_more(shown, rng)
    number = len(meant.groups)
    return meant, (Defect(ALIGNMENT, missing, GROUP_WEIGHT[number]),) if number > len(shown.groups) else ()


def _with_one_more(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with another object in it, or as it is where prompts name no more."""
    number = sum(group.count for group in scene.groups)
    plural = number > len(scene.groups)
    if scene.relation or number == MAX_OBJECTS or len(scene.groups) + plural == max(GROUP_WEIGHT):
        return scene
    shape, color = pick(rng, SHAPES), pick(rng, tuple(COLORS))
    if any((group.shape, group.color) == (shape, color) for group in scene.groups):
        return scene
    place = int(rng.integers(len(scene.groups) + 1))
    extra = Group(shape, color, pick(rng, allowed_motions(shape, None, scene.camera)))
    groups = (*scene.groups[:place], extra, *scene.groups[place:])
    if number > 1:
        groups = tuple(replace(group, size="") for group in groups)
    return replace(scene, groups=groups, places=draw_places(rng, groups, None))
