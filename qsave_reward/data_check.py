"""What is wrong with a data set: every problem in its files, not only the first.

scan = scan_files(["train.jsonl", "test.jsonl"])     # each file is a split
check = check_data(scan)
check.ok, check.counts["shared_prompt"], check.problems[0].message
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qsave_reward.data_scan import KINDS, Entry, FileCount, Problem, Scan, scan_files
from qsave_reward.errors import VideoError
from qsave_reward.fields import show
from qsave_reward.tables import unit
from qsave_reward.video import Sampling, read_clip

__all__ = ["KINDS", "DataCheck", "FileCount", "Problem", "Scan", "check_data", "scan_files"]


@dataclass(frozen=True)
class DataCheck:
    """Result of `check_data`: counts of each file, and the problems by file and line."""

    files: tuple[FileCount, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def counts(self) -> dict[str, int]:
        """Number of problems of each of `KINDS`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, "counts": self.counts, **asdict(self)}


def check_data(
    scan: Scan, *, open_videos: bool = True, progress: Callable[[int], None] = lambda done: None
) -> DataCheck:
    """Look at the clips and for what occurs twice.

    Args:
        scan: from `scan_files`.
        open_videos: read a few frames of every clip; otherwise only see whether it exists.
        progress: called with the number of clips just looked at, of `scan.videos`.
    """
    problems = list(scan.problems)
    faults = {}
    for video in scan.videos:
        faults[video] = _video_fault(video, open_videos)
        progress(1)
    for entry in scan.entries:
        if fault := faults[entry.video]:
            problems.append(Problem(fault[0], entry.file, entry.line, fault[1]))
    problems += _duplicates(scan.entries)
    problems += _shared_prompts(scan.entries)
    order = {count.file: i for i, count in enumerate(scan.files)}
    kinds = list(KINDS)
    problems.sort(key=lambda problem: (order[problem.file], problem.line or 0, kinds.index(problem.kind)))
    return DataCheck(scan.files, tuple(problems))


def _video_fault(video: str, open_video: bool) -> tuple[str, str] | None:
    """Kind and message of what is wrong with a clip."""
    try:
        if open_video:
            read_clip(video, Sampling(max_frames=2))
        elif "://" in video or not os.path.exists(video):
            return "missing_video", f"expected a file, got {video!r}"
    except (VideoError, ValueError) as error:
        # ValueError: a name that no file can have.
        code = error.code if isinstance(error, VideoError) else "not_found"
        return "missing_video" if code == "not_found" else "unreadable_video", f"{error} ({code})"
    return None


def _duplicates(entries: Sequence[Entry]) -> Iterator[Problem]:
    """Ids, clips and contents that an earlier entry had."""
    ids: dict[str, Entry] = {}
    videos: dict[str, Entry] = {}
    for entry in entries:
        if entry.id is not None and (first := ids.setdefault(entry.id, entry)) is not entry:
            message = f"id {entry.id!r} was used already in {_place(first)}"
            yield Problem("duplicate_id", entry.file, entry.line, message)
        if (first := videos.setdefault(_identity(entry.video), entry)) is not entry:
            message = f"{entry.video!r} was listed already in {_place(first)}"
            yield Problem("duplicate_video", entry.file, entry.line, message)
    contents: dict[str, Entry] = {}
    for entry, digest in _digests(list(videos.values())):
        if (first := contents.setdefault(digest, entry)) is not entry:
            message = f"{entry.video!r} has the content of {first.video!r} in {_place(first)}"
            yield Problem("duplicate_content", entry.file, entry.line, message)


def _digests(entries: Sequence[Entry]) -> Iterator[tuple[Entry, str]]:
    """The content hash of each clip that has the size of another; only those can be equal."""
    sizes = [_size(entry.video) for entry in entries]
    frequent = Counter(sizes)
    for entry, size in zip(entries, sizes, strict=True):
        if size is not None and frequent[size] > 1:
            try:
                yield entry, _digest(entry.video)
            except OSError:
                continue  # reported as unreadable


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _size(video: str) -> int | None:
    """Bytes of a regular file; `None` for anything else."""
    try:
        found = os.stat(video)
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _identity(video: str) -> str:
    try:
        return os.path.realpath(video)
    except (OSError, ValueError):
        return video


def _shared_prompts(entries: Sequence[Entry]) -> Iterator[Problem]:
    """One problem for each prompt in each file after the first that has it."""
    first: dict[str, Entry] = {}
    told: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.prompt is None:
            continue
        other = first.setdefault(entry.prompt, entry)
        if other.file != entry.file and (entry.prompt, entry.file) not in told:
            told.add((entry.prompt, entry.file))
            message = f"prompt {show(entry.prompt)} is also in {_place(other)}"
            yield Problem("shared_prompt", entry.file, entry.line, message)


def _place(entry: Entry) -> str:
    return f"{entry.file}, {unit(entry.file)} {entry.line}"
