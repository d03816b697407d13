"""Prompts of one object, and clean clips of them: what the embedded generator learns from and is asked for.

A prompt comes from the rendered world (`qsave_reward.world`), whose splits never share a meaning: no object
of a test prompt was seen in training with the same colour, size and motion.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qsave_reward.world import WorldConfig, WorldPlan, render_plan, world_plan
from qsave_reward.world.phrasing import phrase

HEIGHT, WIDTH, NUM_FRAMES, FPS = 64, 64, 17, 8.0
"""Shape of the embedded generator's clips: pixels, frames, frames per second."""

PLAIN = ("plain", "gradient")
"""Backgrounds it has learned; the other ones of the world have patterns too fine for its few latents."""

_CONFIG = WorldConfig(height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES, fps=FPS, clean=True)


def object_plan(split: str, index: int, *, seed: int = 0) -> WorldPlan | None:
    """Item `index` of the world as one object before a plain background, without defects.

    Returns:
        `None` for an item with several objects or a camera move; 1 of 3 remains.

    Raises:
        ConfigError: for an unknown split.
    """
    plan = world_plan(split, index, seed=seed, config=_CONFIG)
    scene = plan.scene
    if scene.camera or sum(group.count for group in scene.groups) != 1:
        return None
    scene = replace(scene, background=PLAIN[index % len(PLAIN)])
    rng = np.random.default_rng((seed, index))
    return replace(plan, scene=scene, shown=scene, prompt=phrase(scene, rng))


def object_plans(split: str, number: int, *, seed: int = 0) -> list[WorldPlan]:
    """The first `number` plans of a split."""
    plans: list[WorldPlan] = []
    index = 0
    while len(plans) < number:
        plan = object_plan(split, index, seed=seed)
        index += 1
        if plan is not None:
            plans.append(plan)
    return plans


def object_prompts(split: str, number: int, *, seed: int = 0) -> list[str]:
    """The first `number` different prompts of a split."""
    prompts: dict[str, None] = {}
    index = 0
    while len(prompts) < number:
        plan = object_plan(split, index, seed=seed)
        index += 1
        if plan is not None:
            prompts[plan.prompt] = None
    return list(prompts)


def object_frames(plan: WorldPlan) -> NDArray[np.uint8]:
    """A plan drawn: uint8 [T, H, W, 3]."""
    return render_plan(plan).frames
