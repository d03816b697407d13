"""What every reply of the reward server must look like, whatever was asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qsave_reward.types import DIMENSIONS

REFUSALS = (400, 401, 404, 405, 408, 409, 411, 413, 415, 422, 429, 503, 504)
"""Statuses of a refusal that the server documents."""

UNREADABLE = b"Invalid HTTP request received."
"""What uvicorn answers, with 400, to what is not HTTP; no application sees that."""


@dataclass(frozen=True)
class Reply:
    """Status and body of an answer."""

    status: int
    body: bytes


def complaint(reply: Reply) -> str | None:
    """What is wrong with a reply to `/v1/score` or `/v1/rank`; `None` when nothing is."""
    if reply == Reply(400, UNREADABLE):
        return None
    if reply.status != 200 and reply.status not in REFUSALS:
        return f"status {reply.status}"
    try:
        answer = json.loads(reply.body, parse_constant=_no_constant)
    except ValueError as error:
        return f"no JSON: {error}"
    if not isinstance(answer, dict):
        return "no JSON object"
    try:
        return _wrong_answer(reply.status, answer)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"another form than that of a reply: {error!r}"


def _wrong_answer(status: int, answer: Mapping[str, Any]) -> str | None:
    rows = answer.get("results")
    if rows is None:
        return "200 without results" if status == 200 else _untyped(answer.get("error"))
    if not rows or any(row["scores"] is not None for row in rows) != (status == 200):
        return f"status {status} with {sum(row['scores'] is not None for row in rows)} scores"
    wrong = next((found for row in rows if (found := _wrong_row(row))), None)
    return wrong or (_wrong_ranking(answer["ranking"], rows) if "ranking" in answer else None)


def _untyped(error: Any) -> str | None:
    typed = isinstance(error, Mapping) and all(
        isinstance(error.get(field), str) and error[field] for field in ("code", "message")
    )
    return None if typed else "an error without code and message"


def _wrong_row(row: Mapping[str, Any]) -> str | None:
    scores, error = row["scores"], row["error"]
    if (scores is None) == (error is None):
        return "a result with both or neither of scores and error"
    if scores is None:
        return _untyped(error)
    if list(scores) != list(DIMENSIONS):
        return f"scores of {list(scores)}"
    for score in scores.values():
        total = math.fsum(score["probs"])
        if len(score["probs"]) != 5 or abs(total - 1) > 1e-3 or not 1 <= score["mean"] <= 5:
            return f"no score: {score}"
    return None


def _wrong_ranking(ranking: Mapping[str, Any], rows: list[Any]) -> str | None:
    scored = [number for number, row in enumerate(rows) if row["scores"] is not None]
    whole = sorted(ranking["order"]) == scored and len(ranking["failed"]) == len(rows) - len(scored)
    first = ranking["winner"] == (ranking["order"][0] if scored else None)
    return None if whole and first else f"a ranking that does not fit the results: {ranking}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
