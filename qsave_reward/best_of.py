"""`best_of_n`: generate several videos for each prompt and keep the one with the highest reward.

best = best_of_n(pipe, ["a red circle moves left"], 4, reward, fps=16)
best[0].video, best[0].value, best[0].seed
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.reward import Rewards, VideoReward
from qsave_reward.video import Clip

_NO_FPS = "the generator gives frames without times; pass fps=, its frames per second"


@dataclass(frozen=True, eq=False)
class BestOf:
    """The best of n candidates for one prompt.

    Attributes:
        prompt: the text.
        index: position of the best candidate, from 0; of equals the first.
        video: the best candidate as it was generated; the others are not kept.
        value: its `combined` reward.
        rewards: of all n candidates, in order; NaN and a reason for those that failed.
        seeds: of all n candidates, in order.
        n_failed: candidates that were left out.
    """

    prompt: str
    index: int
    video: Any
    value: float
    rewards: Rewards
    seeds: tuple[int, ...]
    n_failed: int

    @property
    def seed(self) -> int:
        """Seed of the best candidate."""
        return self.seeds[self.index]


def candidate_seed(seed: int, prompt_index: int, candidate: int) -> int:
    """Seed of a candidate, 0 to 2^32 - 1; it depends on nothing but its position and `seed`."""
    return int(np.random.SeedSequence([seed, prompt_index, candidate]).generate_state(1)[0])


def best_of_n(
    generate: Callable[..., Any],
    prompts: Sequence[str],
    n: int,
    reward: VideoReward,
    *,
    seed: int = 0,
    fps: float | None = None,
) -> list[BestOf | QSaveError]:
    """Choose the best of n videos for each prompt.

    Candidates are generated and scored one at a time, so that two videos are in memory, not n.

    Args:
        generate: a diffusers pipeline, which is what has a parameter named `generator`: called as
            `generate(prompt=..., generator=...)` with a seeded CPU `torch.Generator`, it returns an object
            whose `frames` holds one clip (bind other options with `functools.partial`). Anything else is
            called as `generate(prompt, seed)` and returns a path, the bytes of a file, a `Clip`, or frames.
        prompts: any number.
        n: candidates for each prompt, at least 1.
        reward: gives the values; failed candidates are left out whatever its `on_error` says.
        seed: 0 or more; each candidate has its own `candidate_seed`.
        fps: frame rate of the generator, in frames per second; needed for frames.

    Returns:
        one entry for each prompt: its best candidate, or the `QSaveError` (`code="all_failed"`) when none of
        its candidates could be scored.

    Raises:
        ConfigError: for wrong arguments, or frames without `fps`. What `generate` raises passes through.
    """
    if isinstance(prompts, str):
        raise ConfigError("expected a list of prompts; wrap a single one in [ ]")
    if n < 1 or seed < 0:
        raise ConfigError(f"expected n >= 1 and seed >= 0, got {n} and {seed}")
    if _is_pipeline(generate):
        generate = _Pipeline(generate)
        if fps is None:
            raise ConfigError(_NO_FPS)
    masking = replace(reward, on_error="mask")
    return [
        _best(generate, prompt, masking, fps=fps, seeds=[candidate_seed(seed, at, i) for i in range(n)])
        for at, prompt in enumerate(prompts)
    ]


def _best(
    generate: Callable[[str, int], Any],
    prompt: str,
    reward: VideoReward,
    *,
    fps: float | None,
    seeds: list[int],
) -> BestOf | QSaveError:
    best: tuple[float, int, Any] | None = None
    scored: list[Rewards] = []
    for i, seed in enumerate(seeds):
        video = generate(prompt, seed)
        if fps is None and not isinstance(video, str | os.PathLike | bytes | bytearray | memoryview | Clip):
            raise ConfigError(_NO_FPS)
        scored.append(reward([video], [prompt], fps=fps))
        value = float(scored[-1].combined[0])
        if scored[-1].errors[0] is None and (best is None or value > best[0]):
            best = value, i, video
    rewards = Rewards(
        raw=np.concatenate([one.raw for one in scored]),
        values=np.concatenate([one.values for one in scored]),
        combined=np.concatenate([one.combined for one in scored]),
        errors=tuple(one.errors[0] for one in scored),
        cards=tuple(one.cards[0] for one in scored),
    )
    if best is None:
        return QSaveError(
            f"none of {len(seeds)} candidates for {prompt!r} could be scored; the first: {rewards.errors[0]}",
            code="all_failed",
        )
    n_failed = sum(error is not None for error in rewards.errors)
    return BestOf(prompt, best[1], best[2], best[0], rewards, tuple(seeds), n_failed)


def _is_pipeline(generate: Callable[..., Any]) -> bool:
    try:
        return "generator" in inspect.signature(generate).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"expected a diffusers pipeline or a function (prompt, seed), got {type(generate).__name__}"
        ) from error


@dataclass(frozen=True, eq=False)
class _Pipeline:
    """A diffusers pipeline as a function of prompt and seed."""

    pipeline: Callable[..., Any]

    def __call__(self, prompt: str, seed: int) -> Any:
        import torch

        made = self.pipeline(prompt=prompt, generator=torch.Generator("cpu").manual_seed(seed))
        if not hasattr(made, "frames") or len(made.frames) != 1:
            raise ConfigError(
                f"expected a pipeline output with one clip in .frames, got {type(made).__name__}; "
                "leave return_dict=True and num_videos_per_prompt=1"
            )
        return made.frames[0]
