"""How fast scorers are beside each other: clips a second on the same rendered clips, measured in turn.

    python recipes/holistic/compare_speed.py tiny holistic-tiny

The clips, 16 frames of 256x256 pixels, are decoded already. Ratios are taken within a round, over the first.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from qsave_reward.errors import QSaveError
from qsave_reward.loading import load_scorer
from qsave_reward.speed.timing import measure_in_turn, middle, ratio
from qsave_reward.speed.workload import rendered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="as `qsave score --model` takes it")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        scorers = {name: load_scorer(name) for name in options.models}
        work = rendered(options.clips, frames=16, size=(256, 256))
        variants = {
            name: partial(scorer.score_batch, work.clips, work.prompts) for name, scorer in scorers.items()
        }
        found = measure_in_turn(variants, options.rounds).rounds
    except QSaveError as error:
        sys.exit(f"error: {error}")
    print("| model | clips a second | time over the first | range |\n|---|---|---|---|")
    for name, seconds in middle(found).items():
        share = ratio(found, over=name, under=options.models[0])
        numbers = f"{options.clips / seconds:.1f} | {share.median:.2f} | {share.low:.2f} to {share.high:.2f}"
        print(f"| {name} | {numbers} |")


if __name__ == "__main__":
    main()
