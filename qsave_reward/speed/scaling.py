"""How the time of scoring grows with the number of clips and with the tokens of a clip."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.model import RewardModel
from qsave_reward.slowfast import FramePlan
from qsave_reward.speed.cost import settler
from qsave_reward.speed.timing import Clock, fit, measure_in_turn, spread
from qsave_reward.speed.workload import Workload, rendered, visual_tokens

_SHARES = (16, 8, 4, 2, 1)
_TIMES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Point:
    """Seconds at one size: median, smallest and largest over the rounds."""

    size: float
    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Points in the order of their sizes; `exponent` and `r2` as in `timing.Fit`."""

    points: tuple[Point, ...]
    exponent: float
    r2: float


@dataclass(frozen=True)
class Scaling:
    """Result of `bench_scaling`.

    Attributes:
        clips: seconds to score so many clips.
        tokens: seconds to score `of` clips that have so many visual tokens each.
        of: clips.
    """

    clips: Curve
    tokens: Curve
    of: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def bench_scaling(
    scorer: RewardModel,
    *,
    clips: int = 32,
    frames: int = 16,
    size: tuple[int, int] = (256, 256),
    rounds: int = 3,
    most: int = 512,
    clock: Clock = time.perf_counter,
    progress: Callable[[int], None] = lambda done: None,
) -> Scaling:
    """Measure a model on growing numbers of clips, and on clips of growing token budgets.

    Args:
        scorer: the model.
        clips: how many different ones; the token budgets are measured on all of them.
        frames: of each clip, before the model samples it.
        size: height and width of a clip in pixels.
        rounds: how often everything is measured.
        most: the largest number of clips; the others are a half, a quarter, ... a 16th of it.
        clock, progress: see `measure_in_turn`.

    Raises:
        ConfigError: clips too small to hold more tokens than one a chunk.
    """
    whole = rendered(clips, frames=frames, size=size)
    work = Workload([scorer.read(clip) for clip in whole.clips], whole.prompts)
    counts = sorted({max(1, most // share) for share in _SHARES})
    models = {}
    for plan in growing_plans(scorer.frame_plan, frames=len(work.clips[0].times), size=size):
        models[sum(visual_tokens(work.clips, plan).values())] = _replanned(scorer, plan)
    if len(models) < 2:
        raise ConfigError(
            f"expected clips that can hold several tokens a chunk, got {size[0]}x{size[1]} pixels; make them "
            "larger"
        )
    variants: dict[str, Callable[[], Any]] = {
        **{f"clips {count}": _scoring(scorer, work.repeated(count)) for count in counts},
        **{f"tokens {tokens}": _scoring(model, work) for tokens, model in models.items()},
    }
    settle = settler(scorer.model.device)
    found = measure_in_turn(variants, rounds, clock=clock, settle=settle, progress=progress)

    def times(name: str) -> list[float]:
        return [one[name] for one in found.rounds]

    return Scaling(
        clips=curve({float(count): times(f"clips {count}") for count in counts}),
        tokens=curve({tokens: times(f"tokens {tokens}") for tokens in models}),
        of=clips,
    )


def growing_plans(plan: FramePlan, *, frames: int, size: tuple[int, int]) -> list[FramePlan]:
    """`plan` with once, twice, three and four times the tokens in a slow chunk, and room for all chunks.

    A chunk is never enlarged beyond its clip, so the smallest is a quarter of what a clip of `size` pixels
    can hold, or what `plan` says if that is less.
    """
    height, width = (side // plan.token_side for side in size)
    most = max(1, min(plan.max_slow_tokens, height * width // max(_TIMES)))
    chunks = -(-frames // 2)
    return [
        replace(plan, max_slow_tokens=factor * most, token_budget=factor * most * chunks) for factor in _TIMES
    ]


def curve(seconds: Mapping[float, list[float]]) -> Curve:
    """Points and fit of the times measured at each size; at least two sizes."""
    points = tuple(
        Point(size, found.median, found.low, found.high)
        for size, found in ((size, spread(seconds[size])) for size in sorted(seconds))
    )
    fitted = fit([point.size for point in points], [point.seconds for point in points])
    return Curve(points, fitted.exponent, fitted.r2)


def _replanned(scorer: RewardModel, plan: FramePlan) -> RewardModel:
    """The same weights under another frame plan."""
    metadata = replace(scorer.metadata, frame_plan=plan)
    name = scorer.provenance.model
    return RewardModel(scorer.model, scorer.processor, metadata, name=name, batch_size=scorer.batch_size)


def _scoring(scorer: RewardModel, work: Workload) -> Callable[[], Any]:
    return lambda: scorer.score_batch(work.clips, work.prompts)
