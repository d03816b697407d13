"""What a scorer said about each item, kept so that every number can be had again without the scorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qsave_reward.data import record_from_dict
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.fields import number, show
from qsave_reward.types import DIMENSIONS, Defect, DimensionScore, Provenance, Record, VideoScore


@dataclass(frozen=True)
class Prediction:
    """What a scorer said about one item, beside what is known about it; a line of `predictions.jsonl`.

    Attributes:
        record: the item.
        card: its scores in the evaluated mode, or the error.
        index: position of the item in the whole data.
        defects: those named in the reasoned answer; `None` when none was asked for or none could be read.
        reasoning: the text of that answer.
        reasons_error: why the answer could not be had or read.
        duration: seconds of the clip, where spans were to be compared.
    """

    record: Record
    card: VideoScore | QSaveError
    index: int = 0
    defects: tuple[Defect, ...] | None = None
    reasoning: str | None = None
    reasons_error: QSaveError | None = None
    duration: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        card = self.card if isinstance(self.card, VideoScore) else None
        return {
            "index": self.index,
            "record": self.record.to_dict(),
            "scores": card and {name: asdict(score) for name, score in card.scores.items()},
            "warnings": list(card.warnings) if card else [],
            "defects": None if self.defects is None else list(map(asdict, self.defects)),
            "reasoning": self.reasoning,
            "duration": self.duration,
            "error": self.card.to_dict() if isinstance(self.card, QSaveError) else None,
            "reasons_error": self.reasons_error and self.reasons_error.to_dict(),
        }


def prediction_from_dict(row: Mapping[str, Any], provenance: Provenance | None) -> Prediction:
    """Build a `Prediction` from its JSON form.

    Args:
        row: from `Prediction.to_dict`.
        provenance: of the scores.

    Raises:
        ConfigError: when the row has another form.
    """
    try:
        error, reasons_error = (_error(row, field) for field in ("error", "reasons_error"))
        card: VideoScore | QSaveError | None = error
        if card is None and provenance is not None:
            scores, warnings = _typed(row, "scores", dict), _typed(row, "warnings", list)
            card = VideoScore(
                {name: _score(_typed(scores, name, dict)) for name in DIMENSIONS},
                provenance,
                warnings=tuple(_typed({"warnings": text}, "warnings", str) for text in warnings),
            )
        if card is None:
            raise ConfigError("expected an error, as no item was scored, got scores")
        known = _typed(row, "record", dict)
        return Prediction(
            record=record_from_dict(known),
            card=card,
            index=_typed(row, "index", int),
            # The named defects have the form of a record's, and are read as one.
            defects=record_from_dict({**known, "defects": row["defects"]}).defects,
            reasoning=_typed(row, "reasoning", str, type(None)),
            reasons_error=reasons_error,
            duration=None if row["duration"] is None else number(row["duration"], "duration"),
        )
    except KeyError as error:
        raise ConfigError(f"expected a line of saved predictions, got one without {error}") from error


def _typed(row: Mapping[str, Any], field: str, *kinds: type) -> Any:
    """The value of a field, which must have one of the types; true and false are no `int`."""
    if type(row[field]) not in kinds:
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"field {field!r}: expected {names}, got {show(row[field])}")
    return row[field]


def _score(saved: Mapping[str, Any]) -> DimensionScore:
    probs = tuple(number(value, "probs") for value in _typed(saved, "probs", list))
    # `from_probs` would round once more, and the same numbers are wanted.
    return DimensionScore(number(saved["mean"], "mean"), number(saved["std"], "std"), probs)


def _error(row: Mapping[str, Any], field: str) -> QSaveError | None:
    saved = _typed(row, field, dict, type(None))
    return (
        None if saved is None else QSaveError(_typed(saved, "message", str), code=_typed(saved, "code", str))
    )
