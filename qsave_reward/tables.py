"""Rows of a file: one JSON object a line (JSONL), or one row of a Parquet table when the name ends so.

Rows are counted from 1. Parquet needs pyarrow, which comes with the `train` extra.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.fields import show
from qsave_reward.types import DIMENSIONS

BATCH = 1024
"""Rows of a Parquet table held as Python objects at a time."""

FilePath = str | os.PathLike[str]


def is_parquet(path: FilePath) -> bool:
    """Whether the name of a file says that it is a Parquet table."""
    return os.fspath(path).lower().endswith(".parquet")


def unit(path: FilePath) -> str:
    """What the entries of a file are called in messages: `"line"` or `"row"`."""
    return "row" if is_parquet(path) else "line"


def read_rows(path: FilePath, columns: Sequence[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of each entry; at least one.

    Args:
        path: a JSONL file (blank lines are skipped) or a Parquet table.
        columns: the columns wanted of a table, where it has them; all by default. Lines come whole.

    Raises:
        ConfigError: when the file cannot be read, is empty, or holds one wrong line; the message names both.
    """
    empty = True
    for number, row in scan_rows(path, columns):
        if isinstance(row, ConfigError):
            raise ConfigError(f"{os.fspath(path)}, {unit(path)} {number}: {row}") from row
        empty = False
        yield number, row
    if empty:
        raise ConfigError(f"{os.fspath(path)}: expected one JSON object a {unit(path)}, got an empty file")


def scan_rows(
    path: FilePath, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any] | ConfigError]]:
    """As `read_rows`, with an error in the place of each wrong line; nothing for an empty file.

    Raises:
        ConfigError: when the file as a whole cannot be read.
    """
    if is_parquet(path):
        yield from enumerate(_table_rows(path, columns), start=1)
        return
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, _parse(line)
        except ConfigError as error:
            yield number, error


def read_bytes(path: FilePath) -> bytes:
    """The content of a text file without the byte order mark.

    Raises:
        ConfigError: when the file cannot be read.
    """
    try:
        return Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read {os.fspath(path)!r}: {reason}") from error


def decode(line: bytes) -> str:
    """Bytes as UTF-8 text.

    Raises:
        ConfigError: when they are something else.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"expected UTF-8 text, got other bytes at {error.start}") from error


def _parse(line: bytes) -> dict[str, Any]:
    text = decode(line)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"expected one JSON object, got {show(text)} ({error})") from error
    if not isinstance(row, dict):
        raise ConfigError(f"expected a JSON object, got {show(row)}")
    return row


def _table_rows(path: FilePath, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(os.fspath(path)) as table:
            names = table.schema_arrow.names
            wanted = [name for name in names if columns is None or name in columns]
            for batch in table.iter_batches(batch_size=BATCH, columns=wanted):
                yield from map(without_nulls, batch.to_pylist())
    except (OSError, ValueError, arrow.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"cannot read {os.fspath(path)!r}: {reason}") from error


def without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """A table row in the form of a line: in `mos` and `ratings`, whose columns a table gives to every row,
    a dimension without a value is left out."""
    plain = dict(row)
    for field in ("mos", "ratings"):
        if isinstance(plain.get(field), dict):
            plain[field] = {name: value for name, value in plain[field].items() if value is not None}
    return plain


def write_table(path: FilePath, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, in the form of `Record.to_dict`, as a Parquet table. It appears complete or not at all.

    Raises:
        ConfigError: when `path` cannot be written, pyarrow is missing or a text is not Unicode.
    """
    arrow, parquet = _pyarrow()
    schema = _record_schema(arrow)
    remaining = iter(rows)
    with fresh_file(path) as temporary:
        try:
            with parquet.ParquetWriter(temporary, schema) as writer:
                while batch := [dict(row) for row in islice(remaining, BATCH)]:
                    writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
        except (UnicodeEncodeError, arrow.ArrowException) as error:
            raise ConfigError(f"cannot write {os.fspath(path)!r}: {error}") from error


@contextmanager
def fresh_file(path: FilePath) -> Iterator[Path]:
    """A temporary name beside `path`; what was written there is moved to `path` when all went well.

    Raises:
        ConfigError: when `path` is not a regular file or its folder does not take files.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ConfigError(f"expected a file to write to, got {os.fspath(path)!r}, which is something else")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise ConfigError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _record_schema(arrow: Any) -> Any:
    """Columns of a table of records; a dimension that was not rated is null."""
    text, number = arrow.string(), arrow.float64()
    defect = {"dimension": text, "label": text, "severity": number, "start": number, "end": number}
    return arrow.schema(
        {
            "video": text,
            "prompt": text,
            "mos": arrow.struct([(name, number) for name in DIMENSIONS]),
            "ratings": arrow.struct([(name, arrow.list_(number)) for name in DIMENSIONS]),
            "overall": number,
            "defects": arrow.list_(arrow.struct(list(defect.items()))),
            "rationale": text,
            "generator": text,
            "id": text,
        }
    )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet files need pyarrow, which is not installed: pip install 'qsave_reward[train]', "
            "or use a JSONL file"
        ) from error
    return pyarrow, pyarrow.parquet
