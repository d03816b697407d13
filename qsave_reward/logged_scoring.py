"""Scores of listed clips with a log on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qsave_reward.score_log import LoggedClip, LoggedScore, ScoreLog, open_log
from qsave_reward.scoring import Job, file_stamp, score_jobs

if TYPE_CHECKING:
    from qsave_reward.checkpoint_scorer import CheckpointScorer


def score_with_log(
    model: CheckpointScorer,
    jobs: Sequence[Job],
    *,
    log: str,
    batch_size: int,
    progress: Callable[[int], Any] = lambda done: None,
) -> list[LoggedScore]:
    """Score clips in direct mode; those that the log of an earlier run knows are not scored again.

    Args:
        model: makes the scores; a log of another model is refused.
        jobs: in an order that stays; `name` is what the log calls a clip.
        log: path of the score log, written as clips are scored.
        batch_size: clips read and scored at a time.
        progress: called with the number of clips done since the last call.

    Returns:
        means or the error of each job, in order.

    Raises:
        ConfigError: as `open_log`.
    """
    scores: list[LoggedScore] = []
    with open_log(log, model.provenance) as known:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            states = [
                LoggedClip(start + k, job.name, job.prompt, *file_stamp(job.path))
                for k, job in enumerate(batch)
            ]
            scores += score_unknown(model, list(zip(batch, states, strict=True)), known)
            progress(len(batch))
    return scores


def score_unknown(
    model: CheckpointScorer, batch: Sequence[tuple[Job, LoggedClip]], log: ScoreLog
) -> list[LoggedScore]:
    """Score those of a batch that a log does not know, and add them to it: means or the error of each."""
    new = [(job, state) for job, state in batch if log.find(state) is None]
    jobs = [job for job, _ in new]
    done = score_jobs(model, jobs, batch_size=len(batch), explain=False, reading={})
    log.append([state for _, state in new], [scored.result for scored in done])
    found = [log.find(state) for _, state in batch]
    assert all(score is not None for score in found), "all were known or just added"
    return [score for score in found if score is not None]
