"""The submission of NTIRE 2025 XGC Track 2 (arXiv 2506.02875): one predicted score for each listed video.

The challenge gives out lists `file|prompt` (and `file|prompt|MOS` for training) and takes a JSON list of
`{"video": file, "predict_score": score}`. It ranks by (PLCC + SRCC) / 2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsave_reward.agreement.row import MIN_ITEMS
from qsave_reward.benchmarks import read_qeval_video
from qsave_reward.data import write_lines
from qsave_reward.errors import ConfigError
from qsave_reward.logged_scoring import score_with_log
from qsave_reward.metrics import main_score, plcc, srcc
from qsave_reward.scoring import Job
from qsave_reward.types import Record

if TYPE_CHECKING:
    from qsave_reward.checkpoint_scorer import CheckpointScorer

TEST_LIST = "test_data.txt"


@dataclass(frozen=True)
class Submission:
    """What was predicted.

    Attributes:
        records: the listed videos.
        scores: for each its overall score, 1 to 5, or `None` where it could not be scored.
        reasons: for each why not.
    """

    records: tuple[Record, ...]
    scores: tuple[float | None, ...]
    reasons: tuple[str | None, ...]

    def agreement(self) -> dict[str, float] | None:
        """`srcc`, `plcc` and the challenge's `score`, when the list has enough ratings that differ."""
        pairs = [
            (score, record.overall)
            for record, score in zip(self.records, self.scores, strict=True)
            if score is not None and record.overall is not None
        ]
        # Two videos always agree or disagree fully.
        if len(pairs) < MIN_ITEMS or min(len(set(side)) for side in zip(*pairs, strict=True)) < 2:
            return None
        scores, ratings = zip(*pairs, strict=True)
        return {
            "srcc": srcc(scores, ratings),
            "plcc": plcc(scores, ratings),
            "score": main_score(scores, ratings),
        }

    def write(self, path: str) -> None:
        """Write the JSON file; videos without a score are left out."""
        rows = [
            {"video": record.video, "predict_score": score}
            for record, score in zip(self.records, self.scores, strict=True)
            if score is not None
        ]
        write_lines(path, [json.dumps(rows, indent=1)])


def read_list(folder: str, name: str | None = None) -> list[Record]:
    """The listed videos, with `overall` where the list gives ratings.

    Args:
        folder: that of the data.
        name: of the list; default: `TEST_LIST`, or the only text file in `folder`.

    Raises:
        ConfigError: when there is no such list, several could be meant, or a line has another form (in a
            list of which most lines end in a number, a line without a rating too).
    """
    if name is None:
        found = sorted(path.name for path in Path(folder).glob("*.txt"))
        name = TEST_LIST if TEST_LIST in found else found[0] if len(found) == 1 else None
        if name is None:
            seen = ", ".join(found) or "none"
            raise ConfigError(
                f"expected {TEST_LIST} or one other text file in {folder!r}, got {seen}; use --list"
            )
    path = os.path.join(folder, name)
    try:
        return read_qeval_video(path)
    except ConfigError as rated:
        try:
            plain = read_qeval_video(path, scored=False)
        except ConfigError:
            raise rated from None
        # A rated list with a bad line is no unrated one: its MOS would be read as a part of the prompts.
        if 2 * sum(map(_ends_in_number, plain)) >= len(plain):
            raise ConfigError(
                f"{rated} (as most lines end in a bar and a number, the list is taken for a rated one: give "
                "every line its MOS, or none)"
            ) from rated
        return plain


def _ends_in_number(record: Record) -> bool:
    """Whether what was read as a prompt ends in a bar and a number, as it does where a line is rated."""
    _, bar, last = record.prompt.rpartition("|")
    try:
        float(last)
    except ValueError:
        return False
    return bool(bar)


def predict(
    model: CheckpointScorer,
    records: Sequence[Record],
    *,
    videos: str,
    log: str,
    batch_size: int,
    progress: Callable[[int], Any] = lambda done: None,
) -> Submission:
    """Score the listed videos; those that a log of an earlier run knows are not scored again.

    Args:
        videos: folder that the names in the list are relative to.
        log: file of the score log, written as videos are scored.
    """
    jobs = [Job(record.video, os.path.join(videos, record.video), record.prompt) for record in records]
    found = score_with_log(model, jobs, log=log, batch_size=batch_size, progress=progress)
    return Submission(
        tuple(records),
        tuple(None if one.means is None else sum(one.means) / len(one.means) for one in found),
        tuple(None if one.error is None else one.error["message"] for one in found),
    )
