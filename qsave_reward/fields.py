"""Checked fields of one JSON object or table row; every complaint says what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qsave_reward.errors import ConfigError


def text(row: Mapping[str, Any], field: str, *, empty: bool = False) -> str:
    """The text in a field; blank text only with `empty`.

    Raises:
        ConfigError: when the field is missing or holds something else.
    """
    if field not in row:
        raise ConfigError(
            f"field {field!r} is missing; the line has {', '.join(map(repr, row)) or 'no fields'}"
        )
    value = row[field]
    if not isinstance(value, str) or not (empty or value.strip()):
        raise ConfigError(f"field {field!r}: expected text, got {show(value)}")
    # JSON can escape half of a character pair; a path may carry such bytes, a text may not.
    if field != "video" and any("\ud800" <= char <= "\udfff" for char in value):
        raise ConfigError(f"field {field!r}: expected text, got a broken character in {ascii(value)}")
    return value


def optional_text(row: Mapping[str, Any], field: str) -> str | None:
    """As `text`, or `None` where the field is missing or null."""
    return None if row.get(field) is None else text(row, field)


def number(value: Any, field: str) -> float:
    """A finite number; neither true and false nor digits in a text.

    Raises:
        ConfigError: for anything else.
    """
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass  # an integer beyond the floats
    raise ConfigError(f"field {field!r}: expected a number, got {show(value)}")


def score(row: Mapping[str, Any], field: str, *, low: float, high: float) -> float:
    """The number in a field, inside its scale.

    Raises:
        ConfigError: when it is missing, no number or off the scale.
    """
    value = number(row.get(field), field)
    if not low <= value <= high:
        raise ConfigError(f"field {field!r}: expected a score from {low:g} to {high:g}, got {value:g}")
    return value


def show(value: Any) -> str:
    """A value for a message: one short line without control characters."""
    try:
        shown = ascii(value)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return shown if len(shown) <= 80 else shown[:77] + "..."
