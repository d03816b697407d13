"""Scorers beside each other and together, from what `qsave eval --out` kept of each.

    qsave eval --model tiny --data world:test --limit 1000 --out outputs/eval_tiny
    qsave eval --model outputs/holistic/tiny --data world:test --limit 1000 --out outputs/eval_holistic
    python recipes/holistic/ensemble.py outputs/eval_tiny outputs/eval_holistic

The ensemble is the mean of the scores after each scorer's were brought to mean 0 and spread 1 on these items.
An item that any of them could not score is left out and counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.evaluate.saved import load_evaluation
from qsave_reward.evaluate.summary import OVERALL, columns
from qsave_reward.metrics import bootstrap_ci, srcc
from qsave_reward.types import DIMENSIONS, VideoScore

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """How scorers agree with the raters on one dimension, or on the whole.

    Attributes:
        name: of the dimension, or "overall".
        alone: SRCC of each scorer.
        together: SRCC of the ensemble.
        gain: by how much that is above the best scorer alone, and the 95 % bootstrap interval of it.
        between: SRCC of the first scorer with the second: the less they agree, the more there is to gain.
        n: items.
    """

    name: str
    alone: tuple[float, ...]
    together: float
    gain: tuple[float, float, float]
    between: float
    n: int


def common_items(evaluations: Sequence[Sequence[Prediction]]) -> list[tuple[Prediction, ...]]:
    """The predictions of all scorers for each item that all could score.

    Raises:
        ConfigError: when the evaluations are not of the same items in the same order.
    """
    asked = [[(p.record.video, p.record.prompt, p.index) for p in one] for one in evaluations]
    if any(one != asked[0] for one in asked):
        raise ConfigError("expected evaluations of the same items in the same order, got different ones")
    together = zip(*evaluations, strict=True)
    return [items for items in together if all(isinstance(p.card, VideoScore) for p in items)]


def row(items: Sequence[tuple[Prediction, ...]], name: str) -> Row | None:
    """Agreement on one dimension, over the items that people rated in it; `None` when there are none."""
    found = [columns(predictions, name) for predictions in zip(*items, strict=True)]
    if not found or not len(found[0].truth):
        return None
    truth, scores = found[0].truth, np.stack([one.predicted for one in found], axis=1)
    alone = [srcc(column, truth) for column in scores.T]
    best = int(np.argmax(alone))

    def gain(scores: Floats, truth: Floats) -> float:
        return srcc(mixed(scores), truth) - srcc(scores[:, best], truth)

    return Row(
        name=name,
        alone=tuple(alone),
        together=srcc(mixed(scores), truth),
        gain=(gain(scores, truth), *bootstrap_ci(gain, scores, truth)),
        between=srcc(scores[:, 0], scores[:, 1]),
        n=len(truth),
    )


def mixed(scores: Floats) -> Floats:
    """Mean of standardised columns, [items, scorers] to [items]; one that never varies adds nothing."""
    spread = scores.std(axis=0)
    mean: Floats = ((scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).mean(axis=1)
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="what `qsave eval --out` wrote")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        if len(options.folders) < 2:
            raise ConfigError(f"expected at least two folders to compare, got {len(options.folders)}")
        evaluations = [load_evaluation([folder]).predictions for folder in options.folders]
        items = common_items(evaluations)
        rows = [found for name in (*DIMENSIONS, OVERALL) if (found := row(items, name)) is not None]
    except QSaveError as error:
        sys.exit(f"error: {error}")
    left_out = len(evaluations[0]) - len(items)
    if options.json:
        print(json.dumps({"rows": [asdict(one) for one in rows], "left_out": left_out}))
        return
    heads = ["", *options.folders, "together", "gain over the best", "agree with each other", "clips"]
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for one in rows:
        numbers = [f"{value:.3f}" for value in (*one.alone, one.together)]
        gain = f"{one.gain[0]:+.3f} [{one.gain[1]:+.3f}, {one.gain[2]:+.3f}]"
        cells = [one.name.replace("_", " "), *numbers, gain, f"{one.between:.3f}", str(one.n)]
        print("| " + " | ".join(cells) + " |")
    if left_out:
        print(f"\n{left_out} clips that one of them could not score are left out.")


if __name__ == "__main__":
    main()
