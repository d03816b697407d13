"""What clips take of the budget of a batch."""

from __future__ import annotations

import math

from qsave_reward.slowfast import FramePlan, chunk_grids
from qsave_reward.video import Clip

FREE_PROMPT = 512
"""Bytes of a prompt, each a token at most, that the budget does not count: few prompts are longer."""


def visual_tokens(clip: Clip, plan: FramePlan) -> int:
    """Most visual tokens the plan may give to a clip."""
    chunks = math.ceil(len(clip.times) / 2)
    height, width = clip.frames.shape[1:3]
    slow, _ = chunk_grids(height, width, chunks, 0, plan)
    return chunks * math.prod(slow)


class Load:
    """What a batch takes of the budget, clip by clip."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.clips = self.tokens = self.longest = 0

    def take(self, tokens: int, prompt: str) -> bool:
        """Whether a clip of `tokens` visual tokens still fits; then it counts. The first one always fits."""
        longest = max(self.longest, len(prompt.encode(errors="replace")) - FREE_PROMPT)
        if self.clips and self.tokens + tokens + (self.clips + 1) * longest > self.budget:
            return False
        self.clips, self.tokens, self.longest = self.clips + 1, self.tokens + tokens, longest
        return True

    @property
    def full(self) -> bool:
        return self.tokens + self.clips * self.longest >= self.budget
