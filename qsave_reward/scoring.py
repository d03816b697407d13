"""From files to report cards: read, score in batches, keep the order, carry on past failures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from qsave_reward.errors import QSaveError
from qsave_reward.types import VideoScore
from qsave_reward.video import Clip, Sampling, read_clip

if TYPE_CHECKING:
    from qsave_reward.checkpoint_scorer import CheckpointScorer


class Job(NamedTuple):
    """One clip to score.

    Attributes:
        name: the file as the user wrote it.
        path: where it is, as `read_clip` takes it.
        prompt: the text it was generated from.
    """

    name: str
    path: str
    prompt: str


class Scored(NamedTuple):
    """One job done.

    Attributes:
        job: what was to be scored.
        result: the scores, or the error that came instead.
        clip: the clip as the model sampled it, `None` when it could not be read.
    """

    job: Job
    result: VideoScore | QSaveError
    clip: Clip | None


def score_jobs(
    model: CheckpointScorer,
    jobs: Sequence[Job],
    *,
    batch_size: int,
    explain: bool,
    reading: Mapping[str, Any],
) -> Iterator[Scored]:
    """Score jobs one batch after another.

    Args:
        model: reads the clips at its own frame plan.
        jobs: any number.
        batch_size: clips in memory at a time.
        explain: also have defects and reasons written.
        reading: further arguments of `read_clip`, such as `fps` and `decoder`.

    Yields:
        one `Scored` for each job, in order.
    """
    judge = model.explain_batch if explain else model.score_batch
    sampling = Sampling(max_frames=model.frame_plan.max_frames, fps=model.frame_plan.fps)
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        clips = [_read(job.path, sampling, reading) for job in batch]
        ready = [i for i, clip in enumerate(clips) if isinstance(clip, Clip)]
        judged = judge([clips[i] for i in ready], [batch[i].prompt for i in ready], on_error="return")
        results = dict(zip(ready, judged, strict=True))
        for i, (job, clip) in enumerate(zip(batch, clips, strict=True)):
            if isinstance(clip, QSaveError):
                yield Scored(job, clip, None)
            else:
                yield Scored(job, results[i], clip)


def _read(path: str, sampling: Sampling, reading: Mapping[str, Any]) -> Clip | QSaveError:
    try:
        return read_clip(path, sampling, **reading)
    except QSaveError as error:
        return error


def file_stamp(path: str) -> tuple[int | None, int | None]:
    """Bytes of a file and time of its last change in nanoseconds; twice `None` where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None, None
    return found.st_size, found.st_mtime_ns


def score_row(scored: Scored, provenance: Mapping[str, Any], *, reasoning: bool) -> dict[str, Any]:
    """The JSON form of one result.

    Args:
        scored: the result.
        provenance: of the model, for items that have no scores to carry it.
        reasoning: whether to add the key `reasoning`.

    Returns:
        `file`, `prompt`, `scores`, `overall`, `defects`, `warnings`, `error`, `provenance`; of a failed item
        `scores`, `overall` and `defects` are `None` and `error` is `{"code": ..., "message": ...}`.
    """
    row: dict[str, Any] = {"file": scored.job.name, "prompt": scored.job.prompt}
    if isinstance(scored.result, QSaveError):
        row |= {"scores": None, "overall": None, "defects": None, "warnings": []}
        row |= {"error": scored.result.to_dict(), "provenance": dict(provenance)}
        return row | {"reasoning": None} if reasoning else row
    card = scored.result.to_dict()
    row |= {name: card[name] for name in ("scores", "overall", "defects", "warnings")}
    row |= {"error": None, "provenance": card["provenance"]}
    return row | {"reasoning": card["reasoning"]} if reasoning else row
