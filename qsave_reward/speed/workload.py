"""The clips that scoring is measured on: rendered ones, the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.video import Clip
from qsave_reward.world import WorldConfig, world_item

_FEWEST = 8  # frames of a rendered clip; shorter ones are cut from it
_QUARTERS = (4, 1, 3, 2)
"""Lengths of clips of mixed lengths in turn, in quarters of the longest."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Clips and the prompt of each."""

    clips: Sequence[Clip]
    prompts: Sequence[str]

    def batches(self, size: int) -> Iterator[Workload]:
        """Parts of `size` clips in the order given; the last may be smaller."""
        for start in range(0, len(self.clips), size):
            part = slice(start, start + size)
            yield Workload(self.clips[part], self.prompts[part])

    def repeated(self, count: int) -> Workload:
        """`count` clips: these, over and over."""
        index = [i % len(self.clips) for i in range(count)]
        return Workload([self.clips[i] for i in index], [self.prompts[i] for i in index])

    def shortened(self) -> Workload:
        """The same clips cut to mixed lengths: whole, a quarter, three quarters, half, and so on."""
        cuts = [_head(clip, -(-len(clip.times) * _QUARTERS[i % 4] // 4)) for i, clip in enumerate(self.clips)]
        return Workload(cuts, self.prompts)


def rendered(count: int, *, frames: int, size: tuple[int, int]) -> Workload:
    """The first clips of the world's validation split.

    Args:
        count: number of clips.
        frames: of each clip, at 8 a second.
        size: height and width in pixels, each at least 32.
    """
    height, width = size
    config = WorldConfig(height=height, width=width, num_frames=max(frames, _FEWEST))
    items = [world_item("val", index, config=config) for index in range(count)]
    clips = [Clip(item.frames[:frames], item.times[:frames], frames / config.fps) for item in items]
    return Workload(clips, [item.record.prompt for item in items])


def visual_tokens(clips: Sequence[Clip], plan: FramePlan) -> dict[str, float]:
    """Visual tokens of a clip, the mean over `clips`, in `slow` and in `fast` chunks."""
    counts = {"slow": 0, "fast": 0}
    for clip in clips:
        for chunk in plan_chunks(clip, plan):
            tokens = chunk.height * chunk.width // plan.token_side**2
            counts["slow" if chunk.slow else "fast"] += tokens
    return {name: count / len(clips) for name, count in counts.items()}


def _head(clip: Clip, frames: int) -> Clip:
    if frames == len(clip.times):
        return clip
    return Clip(clip.frames[:frames], clip.times[:frames], float(clip.times[frames]), clip.warnings)
