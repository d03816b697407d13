"""The vocabulary of the project: dimensions, levels, defects, scores, records, and the `Scorer` protocol.

Standard library only, so that a client, a reader of result files or a trainer can import it without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from qsave_reward.errors import ConfigError, QSaveError

DIMENSIONS = ("visual_quality", "dynamic_quality", "text_alignment")
"""The three judged dimensions, in the one order used everywhere."""

LEVELS = ("bad", "poor", "fair", "good", "excellent")
"""Words of the mean-opinion-score scale; level `LEVELS[k]` is worth `k + 1`."""

Mode = Literal["direct", "reasoned"]
OnError = Literal["raise", "return"]


def _check_dimension(dimension: str) -> None:
    if dimension not in DIMENSIONS:
        raise ConfigError(f"unknown dimension {dimension!r}; expected one of {', '.join(DIMENSIONS)}")


@dataclass(frozen=True)
class Defect:
    """One attributed fault of a clip.

    Attributes:
        dimension: one of `DIMENSIONS`.
        label: short lower-case name, for example `"blur"` or `"wrong colour"`.
        severity: 0 (barely there) to 1 (ruins the clip).
        start: seconds from the first frame; `None` together with `end` when the whole clip is affected.
        end: seconds from the first frame, not before `start`.
    """

    dimension: str
    label: str
    severity: float
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        _check_dimension(self.dimension)
        if not 0.0 <= self.severity <= 1.0:
            raise ConfigError(f"severity of {self.label!r} must lie in [0, 1], got {self.severity}")
        if (self.start is None) != (self.end is None):
            raise ConfigError(f"defect {self.label!r} needs both start and end, or neither")
        if self.start is not None and self.end is not None and not 0.0 <= self.start <= self.end:
            raise ConfigError(
                f"defect {self.label!r} has the span {self.start}..{self.end}; need 0 <= start <= end"
            )


@dataclass(frozen=True)
class DimensionScore:
    """Score of one dimension: the model's distribution over the five levels and its first two moments.

    Attributes:
        mean: expectation of the level, 1 to 5.
        std: standard deviation of the level, 0 to 2.
        probs: five probabilities in the order of `LEVELS`, summing to 1.
    """

    mean: float
    std: float
    probs: tuple[float, ...]

    @staticmethod
    def from_probs(probs: Sequence[float]) -> DimensionScore:
        """Build from five non-negative weights that sum to 1 (within 1e-3)."""
        if len(probs) != len(LEVELS) or not all(p >= 0 and math.isfinite(p) for p in probs):
            raise ConfigError(f"expected {len(LEVELS)} non-negative probabilities, got {list(probs)}")
        total = math.fsum(probs)
        if abs(total - 1.0) > 1e-3:
            raise ConfigError(f"level probabilities must sum to 1, got {total:.6f}")
        normed = tuple(p / total for p in probs)
        mean = math.fsum(p * (k + 1) for k, p in enumerate(normed))
        variance = math.fsum(p * (k + 1 - mean) ** 2 for k, p in enumerate(normed))
        return DimensionScore(mean=mean, std=math.sqrt(max(variance, 0.0)), probs=normed)


@dataclass(frozen=True)
class Provenance:
    """What produced a score; two scores are comparable only when these agree.

    Attributes:
        model: the name or path the scorer was loaded from.
        revision: content hash of the weights.
        prompt_version: version of the text shown to the model.
        frame_plan: the fields of the `FramePlan` in force.
    """

    model: str
    revision: str
    prompt_version: str
    frame_plan: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoScore:
    """Report card of one clip.

    Attributes:
        scores: a `DimensionScore` for each of `DIMENSIONS`.
        provenance: where the numbers come from.
        defects: attributed faults; `()` means that the model looked and found none, `None` that nobody asked.
        reasoning: the text the model wrote before its answer, or `None` when it was not asked to write.
        warnings: what limits the trust in this score, in plain words.
    """

    scores: Mapping[str, DimensionScore]
    provenance: Provenance
    defects: tuple[Defect, ...] | None = None
    reasoning: str | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.scores) != DIMENSIONS:
            raise ConfigError(f"scores must hold {DIMENSIONS} in this order, got {tuple(self.scores)}")

    @property
    def overall(self) -> float:
        """Mean of the three dimension scores, 1 to 5."""
        return math.fsum(score.mean for score in self.scores.values()) / len(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: the fields plus `overall`; tuples become lists."""
        card = asdict(self)
        card["overall"] = self.overall
        return card


@dataclass(frozen=True)
class Record:
    """One rated clip of a data set.

    Attributes:
        video: path of the clip (relative paths are relative to the file that lists them).
        prompt: the text the clip was generated from.
        mos: mean opinion score, 1 to 5, for each rated dimension (a subset of `DIMENSIONS`).
        ratings: the single raters' values behind `mos`, 1 to 5, when known.
        overall: overall mean opinion score, 1 to 5, when it was rated on its own.
        defects: attributed faults; `None` when the data set has none to offer.
        rationale: free text that says what is seen, or `None`.
        generator: name of the model that made the clip, or `None`.
        id: stable identifier, unique inside the data set.
    """

    video: str
    prompt: str
    mos: Mapping[str, float] = field(default_factory=dict)
    ratings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    overall: float | None = None
    defects: tuple[Defect, ...] | None = None
    rationale: str | None = None
    generator: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        for dimension, value in self.mos.items():
            _check_dimension(dimension)
            self._check_score(f"MOS of {dimension}", value)
        for dimension, values in self.ratings.items():
            _check_dimension(dimension)
            for value in values:
                self._check_score(f"rating of {dimension}", value)
        if self.overall is not None:
            self._check_score("overall MOS", self.overall)

    def _check_score(self, name: str, value: float) -> None:
        if not 1.0 <= value <= 5.0:
            raise ConfigError(f"{name} must lie in [1, 5], got {value} for {self.video!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; tuples become lists."""
        return asdict(self)


class Scorer(Protocol):
    """Anything that turns clips and prompts into report cards.

    `videos` takes whatever `qsave_reward.video.read_clip` takes (a path, bytes, frames, a `Clip`). The
    result has one entry for each input, in the input order. With `on_error="raise"` the first failure is
    raised; with `"return"` a failed item is a `QSaveError` in its own place. Modes: `"direct"` reads the
    scores off the fixed score line; `"reasoned"` lets the model write its reasons first and reads the
    scores along its own answer.
    """

    def score_batch(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        mode: Mode = "direct",
        on_error: OnError = "raise",
    ) -> list[VideoScore | QSaveError]: ...
