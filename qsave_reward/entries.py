"""Entries of a published list, each with its place in the file: JSON, Parquet, CSV or lines with bars.

`read_entries` turns them into values and names file and place of one that has another form.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from qsave_reward.errors import ConfigError
from qsave_reward.fields import show
from qsave_reward.tables import FilePath, decode, is_parquet, read_bytes, read_rows, unit

Entry = TypeVar("Entry")
Value = TypeVar("Value")


def read_entries(
    path: FilePath, entries: Iterable[tuple[str, Entry]], *, build: Callable[[Entry], Value]
) -> list[Value]:
    """Build a value from each entry of a file; at least one.

    Raises:
        ConfigError: when the file is empty or an entry is refused; the message names file and place.
    """
    values = []
    for place, entry in entries:
        try:
            values.append(build(entry))
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}, {place}: {error}") from error
    if not values:
        raise ConfigError(f"{os.fspath(path)}: expected at least one entry, got an empty file")
    return values


def objects(path: FilePath, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSON array, of JSON lines or of a Parquet table (of that, the given columns only).

    Raises:
        ConfigError: when the file cannot be read or holds something else.
    """
    if is_parquet(path) or not read_bytes(path).lstrip().startswith(b"["):
        for number, row in read_rows(path, columns):
            yield f"{unit(path)} {number}", row
        return
    try:
        array = json.loads(decode(read_bytes(path)))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{os.fspath(path)}: expected a JSON array or JSON lines ({error})") from error
    for number, row in enumerate(array, start=1):
        if not isinstance(row, dict):
            raise ConfigError(f"{os.fspath(path)}, item {number}: expected an object, got {show(row)}")
        yield f"item {number}", row


def bar_lines(path: FilePath, *, scored: bool = True) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """File, prompt and score, as text, of lines `file|prompt|score`, or `file|prompt` unless `scored`.

    A prompt may hold bars itself: the first one ends the file and the last one begins the score.

    Raises:
        ConfigError: when the file cannot be read or a line has another form.
    """
    form = "file|prompt|MOS" if scored else "file|prompt"
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            file, _, rest = decode(line).strip().partition("|")
            prompt, _, score = rest.rpartition("|") if scored else (rest, "", "")
            if not file.strip() or not prompt.strip():
                raise ConfigError(f"expected {form}, got {show(decode(line).strip())}")
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}, line {number}: {error}") from error
        yield f"line {number}", (file.strip(), prompt.strip(), score)


def csv_rows(path: FilePath, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a CSV file with a header, which must name the given columns.

    Raises:
        ConfigError: when the file cannot be read, lacks a column or has a row of another length.
    """
    try:
        content = decode(read_bytes(path))
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from error
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(
                f"{os.fspath(path)}, line 1: expected the columns {', '.join(columns)}; "
                f"got {show(list(reader.fieldnames or ()))}"
            )
        for row in reader:
            if None in row or None in row.values():
                expected = f"{len(reader.fieldnames or ())} values, as in the header"
                raise ConfigError(f"{os.fspath(path)}, line {reader.line_num}: expected {expected}")
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ConfigError(f"{os.fspath(path)}, line {reader.line_num}: expected CSV ({error})") from error
