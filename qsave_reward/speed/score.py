"""`qsave bench score`: scoring beside simpler ways to score, and beside the bare network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qsave_reward.model import RewardModel
from qsave_reward.speed.cost import count_operations, matrix_products, peak_mb, settler
from qsave_reward.speed.passes import padded, three_passes
from qsave_reward.speed.peer import peer_style, summary
from qsave_reward.speed.stages import Call, replay, stage_seconds, watched
from qsave_reward.speed.timing import (
    Clock,
    Measured,
    machine,
    measure_in_turn,
    middle,
    ratio,
)
from qsave_reward.speed.workload import Workload, rendered, visual_tokens
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import write_clip

RATIOS = {
    "vs_peer_style": ("peer_style", "score"),
    "vs_three_passes": ("three_passes", "score"),
    "vs_padded": ("padded", "score_mixed"),
    "vs_lower_bound": ("score", "lower_bound"),
}
"""Which time over which; all but the last say how often scoring is faster."""


@dataclass(frozen=True)
class ScoreBench:
    """Result of `bench_score`: medians over the rounds.

    Attributes:
        ratios: of `RATIOS`, each taken within a round.
        ranges: smallest and largest of each ratio.
        clips_per_s: clips scored a second, from frames in memory.
        tokens_per_s: tokens of text and vision, without padding, that this takes through the network.
        stages_ms: milliseconds a clip of each stage, see `stage_seconds`.
        peak_mb: most memory while scoring, see `cost.peak_mb`.
        flops_share: operations a second of scoring over those of a large matrix product, within a round.
        tokens_per_clip: visual tokens in `slow` and `fast` chunks, and `text`, means over the clips.
        flops: operations `per_clip`; `achieved` and `ceiling`, the two that `flops_share` compares.
        max_difference: largest difference of a mean score of `three_passes` and of `padded` from that of
            `score_batch`.
        peer: `failed` answers and `tokens_per_answer` of the peer style.
        rounds: seconds of each variant.
        clips: how many.
        shape: frames, height and width of a clip as sampled.
        batch_size: clips in one forward pass.
        model, revision, dtype, machine: what ran where.
    """

    ratios: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    clips_per_s: float
    tokens_per_s: float
    stages_ms: dict[str, float]
    peak_mb: float | None
    flops_share: float
    tokens_per_clip: dict[str, float]
    flops: dict[str, float]
    max_difference: dict[str, float]
    peer: dict[str, float]
    rounds: list[dict[str, float]]
    clips: int
    shape: tuple[int, ...]
    batch_size: int
    model: str
    revision: str
    dtype: str
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def bench_score(
    scorer: RewardModel,
    *,
    clips: int = 32,
    frames: int = 16,
    size: tuple[int, int] = (256, 256),
    rounds: int = 3,
    clock: Clock = time.perf_counter,
    progress: Callable[[int], None] = lambda done: None,
) -> ScoreBench:
    """Measure a model on rendered clips.

    Args:
        scorer: the model.
        clips: how many.
        frames, size: of each clip, before the model samples it; `size` is height and width in pixels.
        rounds: how often everything is measured.
        clock, progress: see `measure_in_turn`.
    """
    whole = rendered(clips, frames=frames, size=size)
    work = Workload([scorer.read(clip) for clip in whole.clips], whole.prompts)
    device, settle = scorer.model.device, settler(scorer.model.device)
    _means(scorer, work)
    peak = peak_mb(device, lambda: _means(scorer, work))
    with watched(scorer, clock=clock, settle=settle) as calls:
        _means(scorer, work)
    matrix, matrix_operations = matrix_products(device, scorer.model.dtype)
    variants = _variants(scorer, work, calls=calls) | {"matrix": matrix}
    found = measure_in_turn(variants, rounds, clock=clock, settle=settle, progress=progress)
    operations = count_operations(lambda: replay(scorer, calls))
    share = ratio(found.rounds, over="matrix", under="score").median * operations / matrix_operations
    tokens = _tokens(scorer, work, calls=calls)
    stages = _stages(scorer, work, whole=whole, rounds=rounds, clock=clock)
    seconds = middle(found.rounds)
    ratios = {name: ratio(found.rounds, over=over, under=under) for name, (over, under) in RATIOS.items()}
    return ScoreBench(
        ratios={name: value.median for name, value in ratios.items()},
        ranges={name: (value.low, value.high) for name, value in ratios.items()},
        clips_per_s=clips / seconds["score"],
        tokens_per_s=clips * sum(tokens.values()) / seconds["score"],
        stages_ms={name: 1e3 * value / clips for name, value in stages.items()},
        peak_mb=peak,
        flops_share=share,
        tokens_per_clip=tokens,
        flops={
            "per_clip": operations / clips,
            "achieved": operations / seconds["score"],
            "ceiling": matrix_operations / seconds["matrix"],
        },
        max_difference=_differences(found),
        peer=summary(found.first["peer_style"]),
        rounds=found.rounds,
        clips=clips,
        shape=work.clips[0].frames.shape[:3],
        batch_size=scorer.batch_size,
        model=scorer.provenance.model,
        revision=scorer.provenance.revision,
        dtype=str(scorer.model.dtype).removeprefix("torch."),
        machine=machine() | {"device": str(device), "threads": torch.get_num_threads()},
    )


def _variants(scorer: RewardModel, work: Workload, *, calls: Sequence[Call]) -> dict[str, Callable[[], Any]]:
    mixed = work.shortened()
    return {
        "score": lambda: _means(scorer, work),
        "peer_style": lambda: peer_style(scorer, work),
        "three_passes": lambda: three_passes(scorer, work),
        "lower_bound": lambda: replay(scorer, calls),
        "score_mixed": lambda: _means(scorer, mixed),
        "padded": lambda: padded(scorer, mixed),
    }


def _means(scorer: RewardModel, work: Workload) -> list[list[float]]:
    cards: Any = scorer.score_batch(work.clips, work.prompts)
    return [[card.scores[name].mean for name in DIMENSIONS] for card in cards]


def _tokens(scorer: RewardModel, work: Workload, *, calls: Sequence[Call]) -> dict[str, float]:
    """Tokens of a clip by their kind, means over `work`, which `calls` took through the network."""
    visual = visual_tokens(work.clips, scorer.frame_plan)
    total = sum(int(call.kwargs["attention_mask"].sum()) for call in calls)
    return visual | {"text": total / len(work.clips) - sum(visual.values())}


def _differences(found: Measured) -> dict[str, float]:
    """How far the baselines' scores are from those of `score_batch`."""

    def largest(name: str, reference: str) -> float:
        return float((torch.tensor(found.first[name]) - torch.tensor(found.first[reference])).abs().max())

    return {"three_passes": largest("three_passes", "score"), "padded": largest("padded", "score_mixed")}


def _stages(
    scorer: RewardModel, work: Workload, *, whole: Workload, rounds: int, clock: Clock
) -> dict[str, float]:
    """Median seconds of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{i}.mp4") for i in range(len(whole.clips))]
        for file, clip in zip(files, whole.clips, strict=True):
            write_clip(file, clip, fps=len(clip.times) / clip.duration)
        scorer.read(files[0])
        settle = settler(scorer.model.device)
        return middle(
            [stage_seconds(scorer, work, files=files, clock=clock, settle=settle) for _ in range(rounds)]
        )
