"""Lists of rated clips for the tests, in the forms in which data sets are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def write(path: Path, content: str) -> Path:
    """Text as UTF-8."""
    path.write_text(content, encoding="utf-8")
    return path


def lines(path: Path, rows: list[dict]) -> Path:
    """One JSON object a line."""
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def array(path: Path, rows: list[dict]) -> Path:
    """One JSON array."""
    return write(path, json.dumps(rows, indent=4))


def table(path: Path, rows: list[dict]) -> Path:
    """A Parquet table."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path
