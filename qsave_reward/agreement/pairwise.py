"""The row of agreement on pairs of clips, with the tie margin fitted on prompts that are not reported."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qsave_reward.agreement.row import Row, Scores, interval, value, with_reason
from qsave_reward.metrics import fit_tie_margin, pair_credits, pairwise_accuracy, undefined

Pairs = NDArray[np.int64]

PARTNERS = 10
"""Random partners of an item, where all possible pairs would be too many."""


@dataclass(frozen=True, eq=False)
class PairPlan:
    """Which pairs of items are compared.

    Attributes:
        kind: `"same prompt"` or `"random"`.
        fitted: bool [items], whether the prompt of an item is in the half that serves to fit.
        fit: int64 [pairs, 2], for the tie margin.
        test: int64 [pairs, 2], for the accuracy; no prompt is in both parts.
        prompt: int64 [items], a number for each prompt.
    """

    kind: str
    fitted: NDArray[np.bool_]
    fit: Pairs
    test: Pairs
    prompt: NDArray[np.int64]


def plan_pairs(prompts: Sequence[str]) -> PairPlan:
    """Pairs of clips of one prompt where at least half of the items have such a partner; else random pairs.

    Random pairs are drawn with a fixed seed, `PARTNERS` an item, and so are the pairs of a prompt with many
    clips. (A few accidental repetitions of a prompt would be too few pairs, so they do not count as groups.)
    Half of the prompts, in the order of their hashes, serve to fit the margin; the others are reported.
    """
    fitted = fit_half(prompts)
    names = sorted(set(prompts))
    places = {name: place for place, name in enumerate(names)}
    number = np.array([places[prompt] for prompt in prompts], dtype=np.int64).reshape(-1)
    counts = Counter(prompts)
    shared = sum(counts[prompt] > 1 for prompt in prompts)
    grouped = 2 * shared >= len(prompts) > 0

    def among(items: NDArray[np.int64]) -> Pairs:
        if not grouped:
            return _pairs_among(items)
        groups = [items[number[items] == place] for place in np.unique(number[items])]
        return np.concatenate([np.zeros((0, 2), dtype=np.int64), *map(_pairs_among, groups)])

    kind = "same prompt" if grouped else "random"
    return PairPlan(kind, fitted, among(np.flatnonzero(fitted)), among(np.flatnonzero(~fitted)), number)


def fit_half(prompts: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each item is in the half of the prompts that serves to fit, by SHA-256 of the prompt."""
    ordered = sorted(
        set(prompts), key=lambda prompt: hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
    )
    half = set(ordered[: len(ordered) // 2])
    return np.array([prompt in half for prompt in prompts], dtype=np.bool_).reshape(-1)


def keep_items(plan: PairPlan, kept: NDArray[np.bool_]) -> PairPlan:
    """The plan for fewer items: their pairs among themselves, at their new positions."""
    places = np.cumsum(kept) - 1
    fit, test = (places[pairs[kept[pairs].all(axis=1)]] for pairs in (plan.fit, plan.test))
    return PairPlan(plan.kind, plan.fitted[kept], fit, test, plan.prompt[kept])


def pairwise_row(predicted: Scores, truth: Scores, *, plan: PairPlan) -> Row:
    """Accuracy on pairs of the plan.

    Returns:
        `without_ties`, where truly tied pairs are left out and 0.5 is chance; `ci95` of it (bootstrap over
        prompts); `with_ties`, at `tie_margin` score points; `kind`, `n_pairs`, `n_tied` (pairs truly tied),
        `n_fit_pairs`; `reason`.
    """
    metrics = pairwise_accuracies(plan)
    row: Row = {name: value(metric, predicted, truth) for name, metric in metrics.items()}
    row["ci95"] = value(_interval, predicted, truth, plan)
    row["tie_margin"] = value(partial(fit_tie_margin, pairs=plan.fit), predicted, truth)
    n_tied = int(np.isnan(pair_credits(predicted, truth, pairs=plan.test)).sum())
    counts = {"n_pairs": len(plan.test), "n_tied": n_tied, "n_fit_pairs": len(plan.fit)}
    return with_reason(row) | {"kind": plan.kind} | counts


def pairwise_accuracies(plan: PairPlan) -> dict[str, Callable[..., float]]:
    """The two accuracies on the pairs of a plan, each a function of predicted and true scores."""

    def with_ties(predicted: Scores, truth: Scores) -> float:
        margin = fit_tie_margin(predicted, truth, pairs=plan.fit)
        return pairwise_accuracy(predicted, truth, pairs=plan.test, tie_margin=margin)

    return {"without_ties": partial(pairwise_accuracy, pairs=plan.test), "with_ties": with_ties}


def _interval(predicted: Scores, truth: Scores, plan: PairPlan) -> list[float]:
    """Bootstrap over prompts: a pair counts as often as its prompt came up, or the product of its two."""
    credits = pair_credits(predicted, truth, pairs=plan.test)
    counted = ~np.isnan(credits)
    sides, credits = plan.prompt[plan.test[counted]], credits[counted]
    prompts = np.unique(sides)

    def accuracy(picked: NDArray[np.int64]) -> float:
        times = np.bincount(picked, minlength=len(plan.prompt))
        one, other = times[sides[:, 0]], times[sides[:, 1]]
        weights = np.where(sides[:, 0] == sides[:, 1], one, one * other)
        if not weights.any():
            raise undefined("a resample without pairs")
        return float(np.average(credits, weights=weights))

    return interval(accuracy, prompts, of="prompts with pairs")


def _pairs_among(items: NDArray[np.int64]) -> Pairs:
    """All pairs of few items, else `PARTNERS` random partners for each; int64 [pairs, 2]."""
    n = len(items)
    if n <= 2 * PARTNERS:
        first, second = np.triu_indices(n, 1)
        return np.stack([items[first], items[second]], axis=1).astype(np.int64)
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(n)[: n // 2 * 2].reshape(-1, 2) for _ in range(PARTNERS)]
    return items[np.unique(np.sort(np.concatenate(drawn), axis=1), axis=0)].astype(np.int64)
