"""A long list of jobs in pieces on disk: the lines of a shard appear all at once or not at all.

The name of a shard's file holds a digest of what its lines depend on: its jobs, size and time of the files
they name, and how they are scored. So a shard counts as long as none of that has changed. To have its clips
scored again, delete its file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qsave_reward.data import make_folder, write_lines
from qsave_reward.errors import ConfigError, ServerError
from qsave_reward.scoring import Job, file_stamp
from qsave_reward.tables import FilePath

LARGEST = 256
"""Clips of a shard, about. A shard under way is lost when its worker dies."""

MANY = 1024
"""A list shorter than `LARGEST * MANY` gets smaller shards, about this many: every worker is to have some."""


class Shard(NamedTuple):
    """Some jobs that follow one another.

    Attributes:
        path: where their lines are, or will be.
        jobs: at least one.
    """

    path: Path
    jobs: Sequence[Job]

    @property
    def done(self) -> bool:
        """Whether the lines are there."""
        return self.path.exists()


def plan_shards(
    jobs: Sequence[Job], folder: FilePath, *, batch_size: int, made_with: Mapping[str, Any]
) -> list[Shard]:
    """Cut a list into shards whose files lie in `folder`, which is made if it is missing.

    Args:
        jobs: any number.
        folder: for the files of shards, and for nothing else.
        batch_size: clips scored together; no batch is in two shards.
        made_with: whatever the lines depend on besides, as JSON.

    Raises:
        ConfigError: `folder` cannot be made.
    """
    make_folder(folder)
    shards = []
    for number, part in enumerate(cut_jobs(jobs, batch_size=batch_size)):
        name = f"{number:06d}-{_digest(part, made_with)}.jsonl"
        shards.append(Shard(Path(os.path.realpath(folder), name), part))
    return shards


def cut_jobs(jobs: Sequence[Job], *, batch_size: int) -> list[Sequence[Job]]:
    """The jobs of each shard: whole batches, but for the last one."""
    wanted = min(LARGEST, max(1, -(-len(jobs) // MANY)))
    size = -(-wanted // batch_size) * batch_size
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def write_shard(shard: Shard, lines: Sequence[str]) -> None:
    """Write the lines of a shard, one for each job.

    Raises:
        ConfigError: another number of lines, or the file cannot be written.
    """
    if len(lines) != len(shard.jobs):
        raise ConfigError(f"expected {len(shard.jobs)} lines for {shard.path.name}, got {len(lines)}")
    write_lines(shard.path, lines)


def refuse_blind(jobs: Sequence[Job], lines: Sequence[str]) -> None:
    """Refuse lines of another machine that did not find a file which is here: they would stand for good.

    Raises:
        ServerError: (`code="ray"`) there is such a line.
    """
    for job, line in zip(jobs, lines, strict=True):
        error = json.loads(line)["error"]
        if error and error["code"] in ("not_found", "not_a_file") and os.path.isfile(job.path):
            message = f"a node does not see {job.path}, which is here; all nodes need the same folders"
            raise ServerError(message, code="ray")


def read_shards(shards: Sequence[Shard]) -> Iterator[str]:
    """The lines of all jobs, in order.

    Raises:
        ConfigError: a file cannot be read, or does not have one line for each job.
    """
    for shard in shards:
        try:
            lines = shard.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {str(shard.path)!r}: {error}; delete it and run again") from error
        if len(lines) != len(shard.jobs):
            found = f"expected {len(shard.jobs)} lines in {str(shard.path)!r}, got {len(lines)}"
            raise ConfigError(f"{found}; delete it and run again")
        yield from lines


def _digest(jobs: Sequence[Job], made_with: Mapping[str, Any]) -> str:
    known = [dict(made_with), [[*job, *file_stamp(job.path)] for job in jobs]]
    return hashlib.blake2b(json.dumps(known, sort_keys=True).encode(), digest_size=8).hexdigest()
