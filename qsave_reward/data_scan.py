"""What the lines of a data set say, as far as they can be understood, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsave_reward.data import COLUMNS, normalise_prompt, record_from_dict
from qsave_reward.errors import ConfigError
from qsave_reward.fields import show
from qsave_reward.tables import scan_rows, unit

KINDS = {
    "no_records": "files without a record",
    "bad_line": "lines that are no record",
    "empty_prompt": "empty prompts",
    "off_scale": "scores off the scale of 1 to 5",
    "missing_video": "clips that do not exist",
    "unreadable_video": "clips that cannot be read",
    "duplicate_id": "ids used twice",
    "duplicate_video": "clips listed twice",
    "duplicate_content": "clips equal to another, byte for byte",
    "shared_prompt": "prompts shared between splits",
}
"""The kinds of problems and what they are."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        kind: a key of `KINDS`.
        file: the file as it was named.
        line: line, or row of a table, from 1; `None` when the file as a whole is meant.
        message: what was expected and what came.
    """

    kind: str
    file: str
    line: int | None
    message: str


@dataclass(frozen=True)
class FileCount:
    """What a file holds: lines that are not blank, records without a problem of their own, prompts, clips."""

    file: str
    lines: int
    records: int
    prompts: int
    videos: int


@dataclass(frozen=True)
class Entry:
    """What a line says, as far as it could be understood.

    Attributes:
        file: as named.
        line: from 1.
        video: path of the clip from here.
        prompt: in the form of `normalise_prompt`; `None` when there is none.
        id: identifier, or `None`.
    """

    file: str
    line: int
    video: str
    prompt: str | None
    id: str | None


@dataclass(frozen=True)
class Scan:
    """The files as read: their counts, entries that name a clip, and the problems seen so far."""

    files: tuple[FileCount, ...]
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]

    @property
    def videos(self) -> tuple[str, ...]:
        """Paths of the clips, each once."""
        return tuple(dict.fromkeys(entry.video for entry in self.entries))


def scan_files(paths: Sequence[str]) -> Scan:
    """Read JSONL or Parquet files of records; each file is a split of one data set.

    Raises:
        ConfigError: when a file cannot be read or is named twice.
    """
    places = [os.path.realpath(path) for path in paths]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise ConfigError(f"expected different files, got {paths[i]!r} twice")
    files, entries, problems = [], [], []
    for path in paths:
        lines, listed, wrong = _scan_file(path)
        prompts = {entry.prompt for entry in listed} - {None}
        videos = {entry.video for entry in listed}
        good = lines - len({problem.line for problem in wrong if problem.line is not None})
        files.append(FileCount(path, lines, good, len(prompts), len(videos)))
        entries += listed
        problems += wrong
    return Scan(tuple(files), tuple(entries), tuple(problems))


def _scan_file(path: str) -> tuple[int, list[Entry], list[Problem]]:
    """Number of lines that are not blank, what they say, and what is wrong with them."""
    lines, entries, problems = 0, [], []
    for line, row in scan_rows(path, COLUMNS):
        lines += 1
        if isinstance(row, ConfigError):
            problems.append(Problem("bad_line", path, line, str(row)))
            continue
        problems += [Problem(kind, path, line, message) for kind, message in _wrong_fields(row)]
        if isinstance(row.get("video"), str) and row["video"].strip():
            entries.append(_entry(path, line, row))
    if not lines:
        message = f"expected one record a {unit(path)}, got an empty file"
        problems.append(Problem("no_records", path, None, message))
    return lines, entries, problems


def _entry(path: str, line: int, row: Mapping[str, Any]) -> Entry:
    prompt, name = row.get("prompt"), row.get("id")
    return Entry(
        file=path,
        line=line,
        video=os.path.join(os.path.dirname(path), row["video"]),
        prompt=normalise_prompt(prompt) if isinstance(prompt, str) and prompt.strip() else None,
        id=name if isinstance(name, str) else None,
    )


def _wrong_fields(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and message of each problem with the fields of a line."""
    repaired = dict(row)
    prompt = row.get("prompt")
    if isinstance(prompt, str) and not prompt.strip():
        yield "empty_prompt", f"field 'prompt': expected text, got {show(prompt)}"
        repaired["prompt"] = "present"
    for field in ("mos", "ratings"):
        values = row.get(field)
        if isinstance(values, dict):
            for name, value in values.items():
                yield from _off_scale(f"{field}.{name}", value)
            repaired[field] = {name: _on_scale(value) for name, value in values.items()}
    yield from _off_scale("overall", row.get("overall"))
    repaired["overall"] = _on_scale(row.get("overall"))
    # What is known to be wrong has been put right, so that the reader names what else is.
    try:
        record_from_dict(repaired)
    except ConfigError as error:
        yield "bad_line", str(error)


def _off_scale(field: str, value: Any) -> Iterator[tuple[str, str]]:
    numbered = [(f"{field}[{i}]", item) for i, item in enumerate(value)] if isinstance(value, list) else []
    for name, item in numbered or [(field, value)]:
        if _is_off(item):
            yield "off_scale", f"field {name!r}: expected a score from 1 to 5, got {show(item)}"


def _on_scale(value: Any) -> Any:
    """The value with numbers off the scale replaced; what is no number stays as it is."""
    if isinstance(value, list):
        return [3.0 if _is_off(item) else item for item in value]
    return 3.0 if _is_off(value) else value


def _is_off(value: Any) -> bool:
    # NaN is no score at all, and left to the reader of records.
    return isinstance(value, int | float) and not isinstance(value, bool) and (value < 1 or value > 5)
