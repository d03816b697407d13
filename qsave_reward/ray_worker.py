"""The body of a Ray worker: it takes the jobs of a shard and gives its lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from qsave_reward.errors import ConfigError, QSaveError, ServerError
from qsave_reward.scoring import Job, Scored, score_jobs, score_row
from qsave_reward.types import VideoScore

BROKEN = 4
"""Clips in a row, each alone with the model, whose failure is the model's."""

READERS = 8
"""Most batches of one worker that are read or scored at a time."""


@dataclass(frozen=True)
class How:
    """How clips are scored.

    Attributes:
        explain: whether defects are named.
        reasoning: whether the written reasons are kept; needs `explain`.
        batch_size: clips read and scored together, at least 1.
        fps: frame rate that overrules what the files say, in frames per second, or `None`.
        decoder: as for `read_clip`.
    """

    explain: bool = True
    reasoning: bool = False
    batch_size: int = 4
    fps: float | None = None
    decoder: str = "pyav"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.reasoning and not self.explain):
            raise ConfigError(
                "expected a batch size of at least 1, and reasons only with defects; got "
                f"batch_size={self.batch_size}, explain={self.explain}, reasoning={self.reasoning}"
            )


class ShardScorer:
    """Body of a Ray worker: takes a shard's jobs, gives its lines."""

    def __init__(self, load: Callable[[int], Any], threads: int, how: How) -> None:
        self._scorer = load(threads)
        self._how = how
        self._provenance = asdict(self._scorer.provenance)
        # While one batch is in the model, others are read.
        self._threads = ThreadPoolExecutor(min(READERS, max(2, threads)))
        self._faults = 0  # in a row

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Args:
            row: `shard`, `folder` that relative paths count from, and `jobs` as JSON.

        Returns:
            `shard`, `lines` joined by newlines, and `failed`: why there are none, when the model cannot be
            loaded or fails for `BROKEN` clips in a row, or for all of a batch.
        """
        jobs = [Job(*fields) for fields in json.loads(row["jobs"])]
        try:
            return {"shard": row["shard"], "lines": "\n".join(self._lines(row["folder"], jobs)), "failed": ""}
        except ServerError as error:
            return {"shard": row["shard"], "lines": "", "failed": str(error)}

    def _lines(self, folder: str, jobs: Sequence[Job]) -> list[str]:
        size = self._how.batch_size
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        tries = list(self._threads.map(lambda batch: self._try(folder, batch), batches))
        lines = []
        for batch, found in zip(batches, tries, strict=True):
            # Alone with the model: whatever fails now is to blame itself.
            if isinstance(found, Exception):
                found = self._one_by_one(folder, batch)
            else:
                self._faults = 0
            for job, result in zip(batch, found, strict=True):
                row = score_row(Scored(job, result, None), self._provenance, reasoning=self._how.reasoning)
                lines.append(json.dumps(row))
        return lines

    def _one_by_one(self, folder: str, batch: Sequence[Job]) -> list[VideoScore | QSaveError]:
        results: list[VideoScore | QSaveError] = []
        before = self._faults
        for job in batch:
            found = self._try(folder, [job])
            self._faults = self._faults + 1 if isinstance(found, Exception) else 0
            if isinstance(found, Exception):
                reason = str(found).strip().partition("\n")[0] or type(found).__name__
                found = [ServerError(f"scoring this clip failed: {reason}", code="scoring_failed")]
            results += found
        # It takes more than one to blame the model.
        if self._faults >= BROKEN or 1 < len(batch) == self._faults - before:
            raise ServerError(
                f"none of {self._faults} clips up to {batch[-1].name} can be scored: {results[-1]}"
            )
        return results

    def _try(self, folder: str, batch: Sequence[Job]) -> list[VideoScore | QSaveError] | Exception:
        """Results of some jobs, or what went wrong with them as a whole."""
        located = [job._replace(path=_absolute(folder, job.path)) for job in batch]
        try:
            scored = score_jobs(
                self._scorer,
                located,
                batch_size=len(located),
                explain=self._how.explain,
                reading={"fps": self._how.fps, "decoder": self._how.decoder},
            )
            return [one.result for one in scored]
        except Exception as error:  # a fault of a library or a process that died: not to be guessed at
            if isinstance(error, ServerError) and error.code == "no_worker":
                raise
            return error


def _absolute(folder: str, path: str) -> str:
    return path if "://" in path else os.path.join(folder, path)
