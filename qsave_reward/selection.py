"""Which clips of a large set to keep, and why not the others; which two of a prompt make a pair for DPO.

Floors come first: a clip below one of them is out. The keep rule then chooses among those that were scored
and passed. A clip that could not be scored is never kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

from qsave_reward.errors import ConfigError
from qsave_reward.ranking import check_tie_margin, full_weights, weighted_mean
from qsave_reward.types import DIMENSIONS

Rule = Literal["top_share", "top_count", "above", "best_per_prompt"]

FLOORS = (*DIMENSIONS, "overall")
"""What a floor may be set for; `"overall"` is the mean of the three scores, whatever the weights."""

REASONS = {
    "unreadable": "could not be scored",
    "below_floor": "below a floor",
    "not_above": "not above the value asked for",
    "not_in_top": "not in the top",
    "not_best_of_prompt": "not the best of the prompt",
}
"""Why a clip is not kept."""

FORMS = "top:0.25, top:100, above:3.2, best-per-prompt or best-per-prompt:2"


@dataclass(frozen=True)
class Keep:
    """How many to keep of the clips that passed the floors.

    Attributes:
        rule: `"top_share"`: the best share of them, rounded down, at least one clip; `"top_count"`: the best
            so many; `"above"`: those with a higher value; `"best_per_prompt"`: the best so many of each
            prompt. Where values at the cut are equal, the clip that comes first in the input is kept.
        amount: the share (above 0, below 1), the count (at least 1) or the value (1 to 5).
    """

    rule: Rule
    amount: float

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ConfigError(f"expected a rule of {', '.join(get_args(Rule))}; got {self.rule!r}")
        if self.rule == "top_share":
            fits = 0 < self.amount < 1
        elif self.rule == "above":
            fits = 1 <= self.amount <= 5
        else:
            fits = 1 <= self.amount < math.inf and self.amount == int(self.amount)
        if not fits:
            raise ConfigError(
                "expected a share above 0 and below 1, a count of at least 1 or a value from 1 to 5; "
                f"got {self.amount} for {self.rule}"
            )

    def __str__(self) -> str:
        """The form that `parse_keep` reads."""
        if self.rule in ("top_share", "above"):
            return f"{self.rule.removesuffix('_share')}:{float(self.amount)!r}"
        return f"{'top' if self.rule == 'top_count' else 'best-per-prompt'}:{int(self.amount)}"

    def limit(self, n: int) -> int:
        """The most clips to keep of n."""
        if self.rule == "top_share":
            # The share as it was written: 0.29 of 100 clips are 29, not the 28 of floating point.
            return max(1, math.floor(Fraction(repr(float(self.amount))) * n))
        return int(self.amount)


def parse_keep(text: str) -> Keep:
    """Read a keep rule: `top:SHARE`, `top:COUNT`, `above:VALUE` or `best-per-prompt[:COUNT]`.

    Digits alone after `top:` are a count.

    Raises:
        ConfigError: for another form.
    """
    if text == "best-per-prompt":
        return Keep("best_per_prompt", 1)
    name, _, number = text.partition(":")
    whole = number.isascii() and number.isdigit()
    rules: Mapping[str, Rule] = {
        "top": "top_count" if whole else "top_share",
        "above": "above",
        "best-per-prompt": "best_per_prompt",
    }
    try:
        rule, amount = rules[name], float(number)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"expected {FORMS}; got {text!r}") from error
    return Keep(rule, amount)


@dataclass(frozen=True)
class Selection:
    """What to keep.

    Attributes:
        keep: the keep rule; `None` keeps all that pass the floors.
        floors: the lowest accepted score, 1 to 5, of any of `FLOORS`.
        weights: for the value of a clip, as `ranking.full_weights`.
        tie_margin: clips of a prompt whose values are no further apart make no pair.
    """

    keep: Keep | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] | None = None
    tie_margin: float = 0.0

    def __post_init__(self) -> None:
        full_weights(self.weights)
        check_tie_margin(self.tie_margin)
        for name, floor in self.floors.items():
            if name not in FLOORS:
                raise ConfigError(f"expected floors of {', '.join(FLOORS)}; got one of {name!r}")
            if not 1 <= floor <= 5:
                raise ConfigError(f"expected a floor from 1 to 5, got {floor} for {name}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, the same for the same selection."""
        return {
            "keep": None if self.keep is None else str(self.keep),
            "floors": {name: float(self.floors[name]) for name in FLOORS if name in self.floors},
            "weights": dict(zip(DIMENSIONS, full_weights(self.weights), strict=True)),
            "tie_margin": float(self.tie_margin),
        }


class Candidate(NamedTuple):
    """What is known of one clip.

    Attributes:
        prompt: the number of its prompt; equal prompts have equal numbers.
        means: the scores of `DIMENSIONS`, 1 to 5, or `None` when it could not be scored.
        error: `{"code": ..., "message": ...}` in that case.
    """

    prompt: int
    means: tuple[float, ...] | None
    error: Mapping[str, str] | None = None


class Pair(NamedTuple):
    """Two clips of one prompt, by position, and by how much the chosen one is better."""

    chosen: int
    rejected: int
    margin: float


def values(candidates: Sequence[Candidate], selection: Selection) -> list[float | None]:
    """The weighted mean of each clip's scores, 1 to 5; `None` where there are none."""
    weights = full_weights(selection.weights)
    return [None if clip.means is None else weighted_mean(clip.means, weights) for clip in candidates]


def reject(candidates: Sequence[Candidate], selection: Selection) -> list[dict[str, Any] | None]:
    """Why each clip is not kept: `None` for a kept one, else a `code` of `REASONS` and its particulars."""
    reasons = [_below(clip, selection.floors) for clip in candidates]
    keep = selection.keep
    if keep is None:
        return reasons
    known = values(candidates, selection)
    passed = {i: value for i, value in enumerate(known) if value is not None and reasons[i] is None}
    if keep.rule == "above":
        for i, value in passed.items():
            if value <= keep.amount:
                reasons[i] = {"code": "not_above", "value": value, "above": keep.amount}
        return reasons
    code = "not_best_of_prompt" if keep.rule == "best_per_prompt" else "not_in_top"
    groups: dict[int, list[int]] = {}
    for i in passed:
        groups.setdefault(candidates[i].prompt if keep.rule == "best_per_prompt" else 0, []).append(i)
    for group in groups.values():
        limit = keep.limit(len(group))
        ranked = sorted(group, key=lambda i: -passed[i])
        for rank, i in enumerate(ranked[limit:], start=limit + 1):
            reasons[i] = {"code": code, "value": passed[i], "rank": rank, "limit": limit}
    return reasons


def pair_up(candidates: Sequence[Candidate], selection: Selection) -> list[Pair]:
    """For each prompt, in the order of the input: its best clip that passes the floors, and its worst.

    The keep rule has no part in this: a pair needs a worse clip. A prompt gives no pair when the two are one
    clip or no further apart than the tie margin. Of equal clips the first one counts.
    """
    known = {i: value for i, value in enumerate(values(candidates, selection)) if value is not None}
    best: dict[int, int] = {}
    worst: dict[int, int] = {}
    for i, value in known.items():
        clip = candidates[i]
        if value < known[worst.setdefault(clip.prompt, i)]:
            worst[clip.prompt] = i
        if _below(clip, selection.floors) is None and value > known[best.setdefault(clip.prompt, i)]:
            best[clip.prompt] = i
    ahead = {prompt: known[i] - known[worst[prompt]] for prompt, i in best.items()}
    return [
        Pair(best[prompt], worst[prompt], ahead[prompt])
        for prompt in worst
        if prompt in best and ahead[prompt] > selection.tie_margin
    ]


def _below(clip: Candidate, floors: Mapping[str, float]) -> dict[str, Any] | None:
    if clip.means is None:
        return {"code": "unreadable", "error": clip.error}
    found = dict(zip(DIMENSIONS, clip.means, strict=True))
    found["overall"] = weighted_mean(clip.means, full_weights(None))
    for name in FLOORS:
        if name in floors and found[name] < floors[name]:
            reason = {"dimension": name, "value": found[name], "floor": floors[name]}
            return {"code": "below_floor", **reason}
    return None
