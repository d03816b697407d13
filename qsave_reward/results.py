"""Report cards and errors as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsave_reward.errors import AnswerError, ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.fields import number, show
from qsave_reward.types import DIMENSIONS, Defect, DimensionScore, Provenance, VideoScore

_ERRORS: tuple[type[QSaveError], ...] = (VideoError, AnswerError, ConfigError, ServerError, QSaveError)


def result_to_dict(result: VideoScore | QSaveError, *, id: str | None = None) -> dict[str, Any]:
    """`id`, the fields of `VideoScore.to_dict`, and `error`; either the scores or the error is `None`."""
    if isinstance(result, QSaveError):
        kind = next(error.__name__ for error in _ERRORS if isinstance(result, error))
        return {"id": id, "scores": None, "overall": None, "error": {**result.to_dict(), "type": kind}}
    return {"id": id, **result.to_dict(), "error": None}


def result_from_dict(row: Mapping[str, Any]) -> VideoScore | QSaveError:
    """The inverse of `result_to_dict`.

    Raises:
        ServerError: (`code="bad_reply"`) when a server sent something else.
    """
    try:
        if (error := row["error"]) is not None:
            types = {kind.__name__: kind for kind in _ERRORS}
            return types.get(error["type"], QSaveError)(str(error["message"]), code=str(error["code"]))
        defects = row["defects"]
        return VideoScore(
            {name: DimensionScore(**_score(row["scores"][name])) for name in DIMENSIONS},
            Provenance(**row["provenance"]),
            defects=None if defects is None else tuple(Defect(**defect) for defect in defects),
            reasoning=row["reasoning"],
            warnings=tuple(row["warnings"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(f"expected a report card, got {show(row)}", code="bad_reply") from error


def _score(row: Mapping[str, Any]) -> dict[str, Any]:
    probs = tuple(number(value, "probs") for value in row["probs"])
    return {"mean": number(row["mean"], "mean"), "std": number(row["std"], "std"), "probs": probs}
