"""Clips of many shapes: what arrives when nobody sorts it."""

from __future__ import annotations

from collections.abc import Iterable

from qsave_reward.speed.workload import Workload
from qsave_reward.video import Clip
from qsave_reward.world import WorldConfig, world_item, world_plan

_SIZES = ((128, 128), (96, 160), (256, 256), (160, 96), (120, 200))
_FRAMES = (24, 8, 3, 16, 1, 12, 20)
_RATES = (8.0, 12.0)
_SENTENCES = (1, 3, 2)
_FEWEST = 8  # frames of a rendered clip; shorter ones are cut from it


def mixed(numbers: Iterable[int], *, seed: int = 0, period: int | None = None) -> Workload:
    """Rendered clips of the world's validation split, the same on every machine.

    Sizes (96 to 256 pixels), numbers of frames (1 to 24), frame rates and lengths of the prompts change from
    clip to clip, each in a cycle of its own.

    Args:
        numbers: which clips; a number stands for the same clip whatever else is asked for.
        seed: of the world: other scenes in the same shapes.
        period: after so many numbers the shapes begin anew, with other scenes; default: never.
    """
    clips, prompts = [], []
    for number in numbers:
        shape = number % period if period else number
        height, width = _SIZES[shape % len(_SIZES)]
        frames, fps = _FRAMES[shape % len(_FRAMES)], _RATES[shape % len(_RATES)]
        config = WorldConfig(height=height, width=width, num_frames=max(frames, _FEWEST), fps=fps)
        item = world_item("val", number, seed=seed, config=config)
        clips.append(Clip(item.frames[:frames], item.times[:frames], frames / fps))
        sentences = range(number, number + _SENTENCES[shape % len(_SENTENCES)])
        prompts.append(", ".join(world_plan("val", one, seed=seed).prompt for one in sentences))
    return Workload(clips, prompts)
