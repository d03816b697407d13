"""What a scorer said about each item, kept so that every number can be had again without the scorer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qsave_reward.data import record_from_dict
from qsave_reward.errors import ConfigError, QSaveError
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
        error, reasons_error = (_error(row[key]) for key in ("error", "reasons_error"))
        defects = None if row["defects"] is None else tuple(Defect(**defect) for defect in row["defects"])
        card: VideoScore | QSaveError | None = error
        if card is None and provenance is not None:
            scores = {
                name: DimensionScore(**{**row["scores"][name], "probs": tuple(row["scores"][name]["probs"])})
                for name in DIMENSIONS
            }
            card = VideoScore(scores, provenance, warnings=tuple(row["warnings"]))
        if card is None:
            raise ConfigError("expected an error, as no item was scored, got scores")
        return Prediction(
            record=record_from_dict(dict(row["record"])),
            card=card,
            index=row["index"],
            defects=defects,
            reasoning=row["reasoning"],
            reasons_error=reasons_error,
            duration=row["duration"],
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"expected a line of saved predictions, got a wrong or missing {error}") from error


def _error(saved: Mapping[str, str] | None) -> QSaveError | None:
    return None if saved is None else QSaveError(saved["message"], code=saved["code"])
