"""Runs of `qsave filter` that note each clip just before the model scores it, to the end or to a kill.

    python recipes/serving/counted_filter.py RECORD filter clips.jsonl --out best --keep top:0.25

is `qsave filter clips.jsonl ...`, and RECORD gets a line with a digest of each clip.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError

LOG = "scores.jsonl"
"""The score log in the folder of a run."""


@dataclass(frozen=True)
class Kill:
    """What a kill met.

    Attributes:
        logged: clips in the score log, but for a batch at its end that is not complete.
        in_flight: the other clips that had been handed to the model, by position.
        torn: bytes of the batch at the end.
    """

    logged: int
    in_flight: tuple[int, ...]
    torn: int


def counted(record: str, arguments: Sequence[str]) -> None:
    """`qsave` with these arguments; `record` gets a digest of each clip just before the model scores it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from qsave_reward.cli import main as qsave
    from qsave_reward.model import RewardModel

    score = RewardModel.score_batch

    def score_batch(model: RewardModel, videos: Sequence[Any], prompts: Sequence[str], **options: Any) -> Any:
        digests = [hashlib.sha256(clip.frames.tobytes()).hexdigest() for clip in videos]
        with open(record, "a", encoding="utf-8") as file:
            file.write("".join(f"{digest}\n" for digest in digests))
        return score(model, videos, prompts, **options)

    RewardModel.score_batch = score_batch  # type: ignore[method-assign]
    sys.argv = ["qsave", *arguments]
    qsave()


def start(record: Path, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """Start `counted` in a process of its own."""
    words = [sys.executable, __file__, str(record), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end, which must be a good one."""
    if (code := process.wait()) != 0:
        raise ConfigError(f"qsave filter ended with code {code}; its message is above")


def kill_at(process: subprocess.Popen[bytes], log: Path, *, clips: int, share: float) -> None:
    """Kill a run in the middle of its work, at the second batch or later.

    Args:
        process: the run.
        log: its score log.
        clips: that the log must have.
        share: of the time a batch takes, 0 to 1; so long the kill waits after a batch was logged.

    Raises:
        ConfigError: when the run ends before.
    """
    first = _lines(log)
    _await_lines(process, log, max(clips, first + 1))
    began, done = time.monotonic(), _lines(log)
    _await_lines(process, log, done + 1)
    time.sleep(share * (time.monotonic() - began))
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise ConfigError("qsave filter ended before it could be killed; take more clips")


def _lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _await_lines(process: subprocess.Popen[bytes], log: Path, number: int) -> None:
    while _lines(log) < number:
        if process.poll() is not None:
            raise ConfigError(f"qsave filter ended before it had scored {number} clips; its message is above")
        time.sleep(0.05)


def met(log: Path, record: Path, order: dict[str, int], before: int) -> Kill:
    """What a kill met.

    Args:
        log: the score log.
        record: of the run, and of those before it.
        order: position of each clip by its digest.
        before: lines of the record when the run began.
    """
    lines = log.read_bytes().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    ends = [i for i, row in enumerate(rows, start=1) if row["left"] == 0]
    whole = ends[-1] if ends else 0
    logged = {row["position"] for row in rows[:whole]}
    handed = {order[digest] for digest in record.read_text().split()[before:]}
    return Kill(len(logged), tuple(sorted(handed - logged)), sum(map(len, lines[whole:])))


def positions(record: Path) -> dict[str, int]:
    """Position of each clip by its digest, from the record of a run without a kill.

    Raises:
        ConfigError: when two clips are equal.
    """
    digests = record.read_text().split()
    order = {digest: i for i, digest in enumerate(digests)}
    if len(order) != len(digests):
        raise ConfigError(f"expected different clips, got {len(digests) - len(order)} that are as another")
    return order


if __name__ == "__main__":
    counted(sys.argv[1], sys.argv[2:])
