"""Which of one prompt's clips is best: a weighted mean of the three scores, best first, failures apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.types import DIMENSIONS, VideoScore


@dataclass(frozen=True)
class Ranking:
    """The candidates of one prompt, best first. Candidates are named by their position, from 0.

    Attributes:
        order: the candidates that were scored; equal values in the order they came in.
        values: the weighted mean of the scores, 1 to 5, of each candidate; `None` of a failed one.
        winner: the first of `order`, `None` when all candidates failed.
        margins: by how much each of `order` but the last is ahead of the next, at least 0.
        tied: candidates beside the winner whose value is within the tie margin of its value, in order.
        failed: candidates without a score; they are ranked nowhere.
    """

    order: tuple[int, ...]
    values: tuple[float | None, ...]
    winner: int | None
    margins: tuple[float, ...]
    tied: tuple[int, ...]
    failed: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: the fields, with lists for tuples."""
        return {key: list(item) if isinstance(item, tuple) else item for key, item in asdict(self).items()}


def rank_cards(
    cards: Sequence[VideoScore | QSaveError],
    *,
    weights: Mapping[str, float] | None = None,
    tie_margin: float = 0.0,
) -> Ranking:
    """Rank the candidates of one prompt.

    Args:
        cards: what `Scorer.score_batch` returns with `on_error="return"`.
        weights: as `full_weights`.
        tie_margin: values no further than this below the winner's are tied with it; at least 0.

    Raises:
        ConfigError: for wrong weights, a wrong margin, or a card whose scores are not finite numbers.

    Example:
        >>> rank_cards([worse, QSaveError("unreadable"), better]).order
        (2, 0)
    """
    shares, margin = full_weights(weights), check_tie_margin(tie_margin)
    values = tuple(None if isinstance(card, QSaveError) else _value(card, shares) for card in cards)
    scored = {i: value for i, value in enumerate(values) if value is not None}
    order = sorted(scored, key=lambda i: -scored[i])
    winner = order[0] if order else None
    return Ranking(
        order=tuple(order),
        values=values,
        winner=winner,
        margins=tuple(scored[i] - scored[j] for i, j in zip(order, order[1:], strict=False)),
        tied=tuple(i for i in order[1:] if scored[order[0]] - scored[i] <= margin),
        failed=tuple(i for i, value in enumerate(values) if value is None),
    )


def full_weights(weights: Mapping[str, float] | None) -> tuple[float, ...]:
    """The weight of each of `DIMENSIONS`.

    Args:
        weights: numbers of at least 0, not all of them 0; a dimension that is not named counts nothing.
            `None`: all count the same, which makes the weighted mean `VideoScore.overall`.

    Raises:
        ConfigError: for other names or numbers.
    """
    if weights is None:
        return (1.0,) * len(DIMENSIONS)
    if unknown := [name for name in weights if name not in DIMENSIONS]:
        raise ConfigError(f"expected weights of {', '.join(DIMENSIONS)}; got one of {unknown[0]!r}")
    # The sum of weight times score must stay finite as well.
    if not all(weight >= 0 for weight in weights.values()) or not 0 < 5 * sum(weights.values()) < math.inf:
        raise ConfigError(f"expected weights of at least 0, not all of them 0, got {dict(weights)}")
    return tuple(float(weights.get(name, 0.0)) for name in DIMENSIONS)


def check_tie_margin(margin: float) -> float:
    """The margin itself.

    Raises:
        ConfigError: when it is not a number of at least 0.
    """
    if not 0 <= margin < math.inf:
        raise ConfigError(f"expected a tie margin of at least 0, got {margin}")
    return margin


def weighted_mean(means: Sequence[float], weights: Sequence[float]) -> float:
    """Mean of the scores of `DIMENSIONS`, with what `full_weights` gave."""
    total = math.fsum(weight * mean for weight, mean in zip(weights, means, strict=True))
    return total / math.fsum(weights)


def _value(card: VideoScore, weights: Sequence[float]) -> float:
    value = weighted_mean([score.mean for score in card.scores.values()], weights)
    if not math.isfinite(value):
        raise ConfigError(
            f"expected scores that are finite numbers, got {value} from {card.provenance.model}"
        )
    return value
