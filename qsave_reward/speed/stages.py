"""Where the time of scoring goes, seen from outside: hooks on the network, the clock around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from qsave_reward.model import RewardModel
from qsave_reward.slowfast import plan_chunks
from qsave_reward.speed.timing import Clock, timed
from qsave_reward.speed.workload import Workload


@dataclass
class Call:
    """One forward pass of the network: arguments, when it began and ended, seconds in the vision tower."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    started: float
    ended: float = 0.0
    vision_started: float = 0.0
    vision: float = 0.0


@contextmanager
def watched(scorer: RewardModel, *, clock: Clock, settle: Callable[[], None]) -> Iterator[list[Call]]:
    """Yields a list to which every forward pass of the scorer's network is added."""
    calls: list[Call] = []
    network = scorer.model.model

    def now() -> float:
        settle()
        return clock()

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        calls.append(Call(args, kwargs, now()))

    def end(module: Any, args: Any, output: Any) -> None:
        calls[-1].ended = now()

    def see(module: Any, args: Any) -> None:
        calls[-1].vision_started = now()

    def seen(module: Any, args: Any, output: Any) -> None:
        calls[-1].vision += now() - calls[-1].vision_started

    hooks = [
        network.register_forward_pre_hook(begin, with_kwargs=True),
        network.register_forward_hook(end),
        network.visual.register_forward_pre_hook(see),
        network.visual.register_forward_hook(seen),
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def replay(scorer: RewardModel, calls: Sequence[Call]) -> None:
    """The forward passes alone, on the tensors they were given before."""
    for call in calls:
        scorer.model.model(*call.args, **call.kwargs)


def stage_seconds(
    scorer: RewardModel,
    work: Workload,
    *,
    files: Sequence[str],
    clock: Clock,
    settle: Callable[[], None],
) -> dict[str, float]:
    """Seconds of each stage of scoring `work`, a batch at a time.

    Args:
        scorer: the model.
        work: the clips.
        files: the same clips as files.
        clock, settle: see `measure_in_turn`.

    Returns:
        `decode` (files to clips, one after another), `plan` (which chunks are slow, and sizes), `preprocess`
        (the rest before the network: resizing, text, tensors), `vision`, `prefill` (the rest of the network),
        `read_out` (what follows it).
    """
    found = dict.fromkeys(("decode", "plan", "preprocess", "vision", "prefill", "read_out"), 0.0)
    found["decode"] = timed(lambda: [scorer.read(file) for file in files], clock=clock, settle=settle)
    found["plan"] = timed(
        lambda: [plan_chunks(clip, scorer.frame_plan) for clip in work.clips], clock=clock, settle=settle
    )
    found["preprocess"] = -found["plan"]
    with watched(scorer, clock=clock, settle=settle) as calls:
        for part in work.batches(scorer.batch_size):
            calls.clear()
            settle()
            started = clock()
            scorer.score_batch(part.clips, part.prompts)
            settle()
            whole = clock() - started
            network = sum(call.ended - call.started for call in calls)
            vision = sum(call.vision for call in calls)
            read_out = started + whole - calls[-1].ended
            found["vision"] += vision
            found["prefill"] += network - vision
            found["read_out"] += read_out
            found["preprocess"] += whole - network - read_out
    return found
