"""The scores of a long run on disk, a line as each clip is scored, so that none is scored twice after a kill.

A line holds the fields of `LoggedClip`, then `scores`, `overall`, `warnings`, `error` and `provenance` as
`qsave score --json` prints them, then `left`: how many lines of its batch follow. It counts for a clip as
long as all the fields of `LoggedClip` are the clip's. To have a clip scored again, delete its line.

A kill or a full disk can leave a part of a batch at the end. It is dropped: the company a clip is scored in
changes its score by a rounding error, and the batch is to be scored as it would have been.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from io import RawIOBase
from typing import Any, NamedTuple

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.fields import number, show
from qsave_reward.types import DIMENSIONS, Provenance, VideoScore


class LoggedClip(NamedTuple):
    """What a line of the log belongs to.

    Attributes:
        position: in the list of clips, from 0.
        video: path as the log gives it.
        prompt: the text it was generated from.
        size: bytes of the file, `None` where there is none.
        mtime_ns: time of its last change in nanoseconds, or `None`.
    """

    position: int
    video: str
    prompt: str
    size: int | None
    mtime_ns: int | None


class LoggedScore(NamedTuple):
    """What the log says about a clip.

    Attributes:
        means: the scores of `DIMENSIONS`, 1 to 5, or `None` when it could not be scored.
        error: `{"code": ..., "message": ...}` in that case.
    """

    means: tuple[float, ...] | None
    error: dict[str, str] | None


class ScoreLog:
    """An open score log, which no other process can open meanwhile. Get it from `open_log`."""

    def __init__(self, file: RawIOBase, path: str, provenance: Provenance) -> None:
        self._file, self._path = file, path
        self._provenance = json.loads(json.dumps(asdict(provenance)))
        # By a digest of the clip: a set may have millions of them.
        self._known: dict[bytes, LoggedScore] = {}
        self._file.truncate(self._read())

    def find(self, clip: LoggedClip) -> LoggedScore | None:
        """The score of a clip, `None` when it has none."""
        return self._known.get(_digest(clip))

    def append(self, clips: Sequence[LoggedClip], results: Sequence[VideoScore | QSaveError]) -> None:
        """Add the results of clips that were scored together, in one piece.

        Raises:
            ConfigError: when that is not possible, for example on a full disk.
        """
        rows = [self._row(clip, result) for clip, result in zip(clips, results, strict=True)]
        for left, row in enumerate(reversed(rows)):
            row["left"] = left
        rest = memoryview(b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise ConfigError(f"cannot write {self._path!r}: {error.strerror}") from error
        for clip, row in zip(clips, rows, strict=True):
            self._known[_digest(clip)] = _score(row)

    def _row(self, clip: LoggedClip, result: VideoScore | QSaveError) -> dict[str, Any]:
        row: dict[str, Any] = clip._asdict()
        if isinstance(result, QSaveError):
            row |= {"scores": None, "overall": None, "warnings": [], "error": result.to_dict()}
        else:
            card = result.to_dict()
            row |= {name: card[name] for name in ("scores", "overall", "warnings")} | {"error": None}
        return row | {"provenance": self._provenance}

    def _read(self) -> int:
        """Take in the lines; returns where the last whole batch ends."""
        end = size = 0
        batch: dict[bytes, LoggedScore] = {}
        with open(self._path, "rb") as file:
            for place, line in enumerate(file, start=1):
                try:
                    if not line.endswith(b"\n"):
                        _check_torn(line)
                        break
                    clip, score, left = self._parse(line)
                except ConfigError as error:
                    raise ConfigError(f"{self._path}, line {place}: {error}; choose another --out") from error
                batch[_digest(clip)] = score
                size += len(line)
                if left == 0:
                    self._known |= batch
                    batch, end = {}, size
        return end

    def _parse(self, line: bytes) -> tuple[LoggedClip, LoggedScore, int]:
        try:
            row = json.loads(line)
            clip = LoggedClip(*(row[name] for name in LoggedClip._fields))
            score, provenance, left = _score(row), Provenance(**row["provenance"]), int(row["left"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"expected a line of a score log, got {show(line.strip())}") from error
        # The name of the model is left out: the same weights may lie elsewhere.
        for name in ("revision", "prompt_version", "frame_plan"):
            theirs, ours = getattr(provenance, name), self._provenance[name]
            if theirs != ours:
                raise ConfigError(
                    f"expected scores of the model in use, with {name} {show(ours)}; got {show(theirs)}"
                )
        return clip, score, left


@contextmanager
def open_log(path: str, provenance: Provenance) -> Iterator[ScoreLog]:
    """Open or begin a score log, and keep other processes out of it until it is closed.

    Args:
        path: the file.
        provenance: of the model that scores now.

    Raises:
        ConfigError: when another process has it open, when it holds something else or scores of another model
            (weights, prompt version or frame plan), or when it cannot be written.
    """
    try:
        file = open(path, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"cannot write {path!r}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes with the process, however that ends
        except BlockingIOError as error:
            raise ConfigError(
                f"another process is writing {path!r}; wait until it is done, or choose another --out"
            ) from error
        except OSError as error:
            raise ConfigError(f"cannot lock {path!r}: {error.strerror}; choose another --out") from error
        yield ScoreLog(file, path, provenance)


def _digest(clip: LoggedClip) -> bytes:
    return hashlib.blake2b(json.dumps(clip).encode(), digest_size=16).digest()


def _check_torn(line: bytes) -> None:
    """Refuse a last line that is no beginning of one of a log: cutting it off would lose what is not ours."""
    begin = b'{"position": '
    if not (line.startswith(begin) or begin.startswith(line)):
        raise ConfigError(f"expected a line of a score log, got {show(line)}")


def _score(row: Mapping[str, Any]) -> LoggedScore:
    if row["error"] is not None:
        return LoggedScore(None, {key: row["error"][key] for key in ("code", "message")})
    means = (number(row["scores"][name]["mean"], f"scores.{name}.mean") for name in DIMENSIONS)
    return LoggedScore(tuple(means), None)
