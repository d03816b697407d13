"""Rated clips on disk: one JSON object a line or one row of a table, read strictly, written atomically.

A line holds the fields of `Record`; only `video` and `prompt` are required. Fields of other names are
ignored, so that a data set may carry its own metadata. Relative paths are relative to the file that lists
them.

    {"video": "0.mp4", "prompt": "a red circle moves left", "mos": {"visual_quality": 4.2}, "defects": []}

A file whose name ends in `.parquet` is a table with the same fields as columns.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.fields import number, optional_text, show, text
from qsave_reward.tables import fresh_file, is_parquet, read_rows, unit, without_nulls, write_table
from qsave_reward.types import Defect, Record

SHARES: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Parts of a data set and their shares of its prompts, unless others are asked for."""

COLUMNS = tuple(field.name for field in fields(Record))
"""Fields of a record; the columns of a table of records."""


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Read a JSONL or Parquet file of records.

    Raises:
        ConfigError: when the file cannot be read, holds no record or holds one wrong line; the message names
            the line, the field, what was expected and what came. Ids, where given, must be unique.
    """
    return _records(read_rows(path, COLUMNS), os.fspath(path), unit(path))


def records_from_dataset(dataset: Iterable[Mapping[str, Any]]) -> list[Record]:
    """Records from one split of a Hugging Face `datasets.Dataset` that is in memory, or from any rows.

    The columns are the fields of `Record`; others are ignored. `video` holds paths: give a column of decoded
    clips its paths first. Rows are counted from 1.

    Raises:
        ConfigError: as `read_records`.

    Example:
        >>> records_from_dataset([{"video": "0.mp4", "prompt": "a red circle moves left"}])[0].video
        '0.mp4'
    """
    rows = []
    for position, row in enumerate(dataset, start=1):
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"expected a row: the fields of a record, got {show(row)}; pass one split of several"
            )
        rows.append((position, without_nulls(row)))
    if not rows:
        raise ConfigError("expected a data set with at least one row, got an empty one")
    return _records(rows, "data set", "row")


def _records(rows: Iterable[tuple[int, dict[str, Any]]], source: str, unit: str) -> list[Record]:
    records: list[Record] = []
    seen: dict[str, int] = {}
    for position, row in rows:
        try:
            record = record_from_dict(row)
            if record.id is not None and record.id in seen:
                raise ConfigError(f"field 'id': {record.id!r} was used already on {unit} {seen[record.id]}")
        except ConfigError as error:
            raise ConfigError(f"{source}, {unit} {position}: {error}") from error
        if record.id is not None:
            seen[record.id] = position
        records.append(record)
    return records


def read_requests(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read the `video` and `prompt` of each line of a file, and nothing else; paths stay as written.

    A prompt may be empty here: that is for the scorer to refuse, item by item.

    Raises:
        ConfigError: as `read_records`.
    """
    requests = []
    for position, row in read_rows(path, ("video", "prompt")):
        try:
            requests.append((text(row, "video"), text(row, "prompt", empty=True)))
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}, {unit(path)} {position}: {error}") from error
    return requests


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Write records as JSONL, or as Parquet when the name ends so. The file appears complete or not at all.

    Raises:
        ConfigError: when `path` cannot be written; for Parquet also without pyarrow.
    """
    if is_parquet(path):
        write_table(path, (record.to_dict() for record in records))
        return
    write_lines(path, (json.dumps(record.to_dict(), allow_nan=False) for record in records))


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write text lines (UTF-8, each closed by a newline) to a file beside `path`, then move it there.

    Raises:
        ConfigError: when `path` is not a regular file or its folder does not take files.
    """
    with fresh_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(line + "\n")


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
        video=text(row, "video"),
        prompt=text(row, "prompt"),
        mos={name: number(value, f"mos.{name}") for name, value in _object(row, "mos").items()},
        ratings={name: _numbers(value, f"ratings.{name}") for name, value in _object(row, "ratings").items()},
        overall=None if overall is None else number(overall, "overall"),
        defects=None if defects is None else _defects(defects),
        rationale=optional_text(row, "rationale"),
        generator=optional_text(row, "generator"),
        id=optional_text(row, "id"),
    )


def split_by_prompt(
    records: Iterable[Record], shares: Mapping[str, float] = SHARES, *, seed: int = 0
) -> dict[str, list[Record]]:
    """Divide records so that no prompt is in two parts.

    The part of a prompt follows from the prompt and the seed alone: it stays when records are added, removed
    or reordered. Shares are therefore met on average over the prompts, not exactly.

    Args:
        records: in any order; each part keeps it.
        shares: share of the prompts for each part, at least 0, summing to 1.
        seed: equal seeds give equal parts.

    Returns:
        The parts in the order of `shares`; a part may be empty.

    Raises:
        ConfigError: for wrong shares.
    """
    check_shares(shares)
    parts: dict[str, list[Record]] = {name: [] for name in shares}
    for record in records:
        parts[part_of(record.prompt, shares, seed=seed)].append(record)
    return parts


def check_shares(shares: Mapping[str, float]) -> None:
    """A ConfigError unless there is a share of at least 0 for each part and they sum to 1."""
    if not shares or not all(math.isfinite(share) and share >= 0 for share in shares.values()):
        raise ConfigError(f"expected a share of at least 0 for each part, got {dict(shares)}")
    if abs(math.fsum(shares.values()) - 1.0) > 1e-6:
        raise ConfigError(f"expected shares that sum to 1, got {dict(shares)}")


def part_of(prompt: str, shares: Mapping[str, float], *, seed: int) -> str:
    """The part that `split_by_prompt` puts all clips of a prompt into."""
    prompt = normalise_prompt(prompt)
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode("utf-8", "surrogatepass")).digest()
    point = int.from_bytes(digest[:6], "big") / 2**48  # in [0, 1); so many bits a float holds exactly
    wanted = [name for name, share in shares.items() if share > 0]
    for name in wanted[:-1]:
        point -= shares[name]
        if point < 0:
            return name
    return wanted[-1]


def normalise_prompt(prompt: str) -> str:
    """The form in which two prompts count as the same: Unicode form, case, spacing and closing stops aside.

    Example:
        >>> normalise_prompt("A  red Circle moves left.")
        'a red circle moves left'
    """
    words = " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
    return words.rstrip(" .!?") or words


def _object(row: dict[str, Any], field: str) -> dict[str, Any]:
    value = row.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"field {field!r}: expected an object, an entry a dimension, got {show(value)}")
    return value


def _numbers(value: Any, field: str) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"field {field!r}: expected a list of numbers, got {show(value)}")
    return tuple(number(item, f"{field}[{i}]") for i, item in enumerate(value))


def _defects(value: Any) -> tuple[Defect, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"field 'defects': expected a list or null, got {show(value)}")
    defects = []
    for i, item in enumerate(value):
        field = f"defects[{i}]"
        if not isinstance(item, dict):
            raise ConfigError(f"field {field!r}: expected an object, got {show(item)}")
        span = {end: item.get(end) for end in ("start", "end")}
        try:
            defect = Defect(
                dimension=text(item, "dimension"),
                label=text(item, "label"),
                severity=number(item.get("severity"), "severity"),
                start=None if span["start"] is None else number(span["start"], "start"),
                end=None if span["end"] is None else number(span["end"], "end"),
            )
        except ConfigError as error:
            raise ConfigError(f"field {field!r}: {error}") from error
        defects.append(defect)
    return tuple(defects)
