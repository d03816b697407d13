"""Rated clips on disk: one JSON object a line, read strictly, written atomically.

A line holds the fields of `Record`; only `video` and `prompt` are required. Fields of other names are
ignored, so that a data set may carry its own metadata. Relative paths are relative to the file that lists
them.

    {"video": "0.mp4", "prompt": "a red circle moves left", "mos": {"visual_quality": 4.2}, "defects": []}
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.types import Defect, Record


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read a JSONL file of records.

    Raises:
        ConfigError: when the file cannot be read, holds no record or holds one wrong line; the message names
            the line, the field, what was expected and what came. Ids, where given, must be unique.
    """
    records: list[Record] = []
    seen: dict[str, int] = {}
    for number, row in _rows(path):
        try:
            record = record_from_dict(row)
            if record.id is not None and record.id in seen:
                raise ConfigError(f"field 'id': {record.id!r} was used already on line {seen[record.id]}")
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}, line {number}: {error}") from error
        if record.id is not None:
            seen[record.id] = number
        records.append(record)
    return records


def read_requests(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read the `video` and `prompt` of each line of a JSONL file, and nothing else; paths stay as written.

    A prompt may be empty here: that is for the scorer to refuse, item by item.

    Raises:
        ConfigError: as `read_records`.
    """
    requests = []
    for number, row in _rows(path):
        try:
            requests.append((_text(row, "video"), _text(row, "prompt", empty=True)))
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}, line {number}: {error}") from error
    return requests


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Write records as JSONL. The file appears complete or not at all.

    Raises:
        ConfigError: when `path` cannot be written.
    """
    write_lines(path, (json.dumps(record.to_dict(), allow_nan=False) for record in records))


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write text lines (UTF-8, each closed by a newline) to a file beside `path`, then move it there.

    Raises:
        ConfigError: when `path` is not a regular file or its folder does not take files.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ConfigError(f"expected a file to write to, got {os.fspath(path)!r}, which is something else")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        ConfigError: when that is not possible.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {os.fspath(path)!r}: {error.strerror}") from error


def record_from_dict(row: dict[str, Any]) -> Record:
    """Build a `Record` from its JSON form; the inverse of `Record.to_dict`.

    Raises:
        ConfigError: naming the field, what was expected and what came.
    """
    overall = row.get("overall")
    defects = row.get("defects")
    return Record(
        video=_text(row, "video"),
        prompt=_text(row, "prompt"),
        mos={name: _number(value, f"mos.{name}") for name, value in _object(row, "mos").items()},
        ratings={name: _numbers(value, f"ratings.{name}") for name, value in _object(row, "ratings").items()},
        overall=None if overall is None else _number(overall, "overall"),
        defects=None if defects is None else _defects(defects),
        rationale=_optional_text(row, "rationale"),
        generator=_optional_text(row, "generator"),
        id=_optional_text(row, "id"),
    )


def _rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number (from 1) and the object of each line that is not blank; at least one."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{os.fspath(path)}: expected UTF-8 text, got other bytes at {error.start}"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read {os.fspath(path)!r}: {reason}") from error
    empty = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{os.fspath(path)}, line {number}: expected one JSON object, got {_show(line)} ({error})"
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(f"{os.fspath(path)}, line {number}: expected a JSON object, got {_show(row)}")
        empty = False
        yield number, row
    if empty:
        raise ConfigError(f"{os.fspath(path)}: expected one JSON object a line, got an empty file")


def _text(row: dict[str, Any], field: str, *, empty: bool = False) -> str:
    if field not in row:
        raise ConfigError(
            f"field {field!r} is missing; the line has {', '.join(map(repr, row)) or 'no fields'}"
        )
    value = row[field]
    if not isinstance(value, str) or not (empty or value.strip()):
        raise ConfigError(f"field {field!r}: expected text, got {_show(value)}")
    # JSON can escape half of a character pair; a path may carry such bytes, a text may not.
    if field != "video" and any("\ud800" <= char <= "\udfff" for char in value):
        raise ConfigError(f"field {field!r}: expected text, got a broken character in {ascii(value)}")
    return value


def _optional_text(row: dict[str, Any], field: str) -> str | None:
    return None if row.get(field) is None else _text(row, field)


def _object(row: dict[str, Any], field: str) -> dict[str, Any]:
    value = row.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"field {field!r}: expected an object, an entry a dimension, got {_show(value)}")
    return value


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"field {field!r}: expected a number, got {_show(value)}")
    return float(value)


def _numbers(value: Any, field: str) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"field {field!r}: expected a list of numbers, got {_show(value)}")
    return tuple(_number(item, f"{field}[{i}]") for i, item in enumerate(value))


def _defects(value: Any) -> tuple[Defect, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"field 'defects': expected a list or null, got {_show(value)}")
    defects = []
    for i, item in enumerate(value):
        field = f"defects[{i}]"
        if not isinstance(item, dict):
            raise ConfigError(f"field {field!r}: expected an object, got {_show(item)}")
        span = {end: item.get(end) for end in ("start", "end")}
        try:
            defect = Defect(
                dimension=_text(item, "dimension"),
                label=_text(item, "label"),
                severity=_number(item.get("severity"), "severity"),
                start=None if span["start"] is None else _number(span["start"], "start"),
                end=None if span["end"] is None else _number(span["end"], "end"),
            )
        except ConfigError as error:
            raise ConfigError(f"field {field!r}: {error}") from error
        defects.append(defect)
    return tuple(defects)


def _show(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
