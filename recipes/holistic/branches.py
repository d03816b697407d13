"""What each branch is for: how well a scorer tells defects of a family with and without a branch.

    qsave eval --model outputs/holistic/all --data world:test --limit 1000 --out outputs/all
    qsave eval --model outputs/holistic/no_motion ... --out outputs/no_motion
    python recipes/holistic/branches.py outputs/all --without motion=outputs/no_motion technical=...

A family holds the defects that one branch is meant to see. The numbers are areas under the curve of the score
between clips with a defect of the family and clips without any defect in its dimension; for scorers that lack
a branch, by how much that differs from the whole one's, with a 95 % bootstrap interval over clips.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ensemble import common_items
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from gaps import NONE, area_under_curve, kind_of

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.evaluate.saved import load_evaluation
from qsave_reward.evaluate.summary import columns
from qsave_reward.holistic.configuration import BRANCHES
from qsave_reward.metrics import bootstrap_ci
from qsave_reward.world import WorldPlan, parse_world_name, world_plan

FAMILIES = {
    "semantic": ("text_alignment", ("missing object", "wrong color", "wrong shape", "wrong count")),
    "motion": ("dynamic_quality", ("jitter", "freeze", "jump")),
    "technical": ("visual_quality", ("blur", "noise", "blockiness")),
}
"""For each branch the dimension and the defects that it is meant for."""

Floats = NDArray[np.float64]


def family(plan: WorldPlan, branch: str) -> bool | None:
    """Whether the only defect in the dimension of a branch is one of its family; `None`: it has others."""
    dimension, labels = FAMILIES[branch]
    kind = kind_of(plan, dimension)
    if kind == NONE:
        return False
    return True if kind in labels else None


def row(
    items: Sequence[tuple[Prediction, ...]], plans: Sequence[WorldPlan], branch: str
) -> list[tuple[float, ...]]:
    """For the whole scorer its area under the curve, for each other one the difference and its interval."""
    kinds = [family(plan, branch) for plan in plans]
    chosen = [item for item, kind in zip(items, kinds, strict=True) if kind is not None]
    bad = np.array([kind for kind in kinds if kind is not None])
    dimension = FAMILIES[branch][0]
    whole, *others = (columns(predictions, dimension).predicted for predictions in zip(*chosen, strict=True))

    def change(scores: Floats, whole: Floats, bad: NDArray[np.bool_]) -> float:
        return area_under_curve(scores[bad], scores[~bad]) - area_under_curve(whole[bad], whole[~bad])

    changes = [(change(one, whole, bad), *bootstrap_ci(change, one, whole, bad)) for one in others]
    return [(area_under_curve(whole[bad], whole[~bad]),), *changes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("whole", metavar="FOLDER", help="what `qsave eval --out` wrote")
    parser.add_argument("--without", nargs="+", required=True, metavar="BRANCH=FOLDER")
    options = parser.parse_args()
    names = [one.partition("=")[0] for one in options.without]
    try:
        if unknown := set(names) - set(BRANCHES):
            raise ConfigError(f"expected {', '.join(BRANCHES)}, got {', '.join(sorted(unknown))}")
        folders = [options.whole, *(one.partition("=")[2] for one in options.without)]
        evaluations = [load_evaluation([folder]) for folder in folders]
        split, seed = parse_world_name(evaluations[0].data)
        items = common_items([evaluation.predictions for evaluation in evaluations])
        plans = [world_plan(split, found[0].index, seed=seed) for found in items]
        rows = {branch: row(items, plans, branch) for branch in BRANCHES}
    except QSaveError as error:
        sys.exit(f"error: {error}")
    print("| defects | whole | " + " | ".join(f"without {name}" for name in names) + " |")
    print("|---" * (len(names) + 2) + "|")
    for branch, (whole, *others) in rows.items():
        cells = [f"{loss:+.3f} [{low:+.3f}, {high:+.3f}]" for loss, low, high in others]
        print(f"| {', '.join(FAMILIES[branch][1])} | {whole[0]:.3f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
