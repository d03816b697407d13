"""Scores of listed clips with a log on disk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qsave_reward.score_log import LoggedClip, LoggedScore, open_log
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
            new = [k for k, state in enumerate(states) if known.find(state) is None]
            done = score_jobs(
                model, [batch[k] for k in new], batch_size=batch_size, explain=False, reading={}
            )
            known.append([states[k] for k in new], [scored.result for scored in done])
            for state in states:
                found = known.find(state)
                assert found is not None
                scores.append(found)
            progress(len(batch))
    return scores
