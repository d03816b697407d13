"""SlowFast against other ways to spend the same visual tokens: the same short training under each plan.

    python recipes/reward/compare_plans.py --config configs/reward/tiny/1_sft.yaml --start tiny \
        --out outputs/plans --plans slowfast:128 uniform:128 all_slow:128 slowfast:96 slowfast:64

Every plan starts from the same checkpoint and sees the same clips in the same order; what differs is how
frames become chunks. A plan that was trained and evaluated already is not done again. The first plan is the
one the others are compared with, clip by clip. The variable LAUNCH, say "torchrun --nproc_per_node 2",
starts the training.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsave_reward.checkpoint import find_checkpoint, read_metadata
from qsave_reward.errors import ConfigError
from qsave_reward.evaluate import Evaluation, load_evaluation
from qsave_reward.evaluate.summary import columns
from qsave_reward.metrics import bootstrap_ci, srcc
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import Clip
from qsave_reward.world import world_item

Floats = NDArray[np.float64]

MODES = ("slowfast", "uniform", "all_slow")
COUNTED = 200
"""Test clips whose tokens are counted."""


def parse_plan(text: str) -> tuple[str, int]:
    """Mode and token budget of `MODE:TOKENS`.

    Raises:
        ConfigError: for anything else.
    """
    mode, _, tokens = text.partition(":")
    if mode not in MODES or not tokens.isdecimal() or int(tokens) < 1:
        raise ConfigError(f"expected {' or '.join(MODES)}, a colon and a token budget, got {text!r}")
    return mode, int(tokens)


def tokens_used(plan: FramePlan, count: int = COUNTED) -> float:
    """Mean number of visual tokens that test clips of the world really take."""
    used = []
    for index in range(count):
        item = world_item("test", index)
        clip = Clip(item.frames, item.times, len(item.times) / item.fps)
        side = plan.token_side
        used.append(sum(c.height * c.width // side**2 for c in plan_chunks(clip, plan)))
    return float(np.mean(used))


def srcc_gain(scores: ArrayLike, base: ArrayLike, mos: ArrayLike) -> float:
    """SRCC of `scores` with `mos` minus that of `base`, all [n] for the same clips."""
    return srcc(scores, mos) - srcc(base, mos)


def run(command: Sequence[str]) -> None:
    print("==", " ".join(command), file=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)


def train_and_score(options: argparse.Namespace, name: str) -> None:
    """Fine-tune under one plan and keep the predictions of the test clips, unless that is done."""
    mode, tokens = parse_plan(name)
    folder = options.out / name.replace(":", "_")
    if not (folder / "qsave.json").exists():
        start = str(find_checkpoint(options.start))
        script = str(Path(__file__).with_name("sft.py"))
        train = [
            *shlex.split(os.environ.get("LAUNCH", sys.executable)),
            script,
            "--config",
            options.config,
            "--model_name_or_path",
            start,
        ]
        train += ["--output_dir", str(folder), "--mode", mode, "--token_budget", str(tokens)]
        run([*train, "--max_steps", str(options.steps), *options.train])
    if not (folder / "eval" / "evaluation.json").exists():
        score = [sys.executable, "-c", "from qsave_reward.cli import main; main()", "eval"]
        score += ["--model", str(folder), "--data", "world:test", "--limit", str(options.limit)]
        run([*score, "--attribution-limit", "0", "--out", str(folder / "eval")])


def row(options: argparse.Namespace, name: str, base: str) -> list[str]:
    """Tokens, SRCC of each dimension, and the difference to the first plan with its interval."""
    folders = [options.out / plan.replace(":", "_") for plan in (name, base)]
    plan = read_metadata(folders[0]).frame_plan
    mine, theirs = (load_evaluation([str(folder / "eval")]) for folder in folders)
    cells = [name, f"{tokens_used(plan):.0f}"]
    for dimension in DIMENSIONS:
        scores, mos, indexes = _columns(mine, dimension)
        result = f"{srcc(scores, mos):.3f}"
        if name != base:
            there, _, others = _columns(theirs, dimension)
            if indexes != others:
                raise ConfigError(
                    f"{folders[0]} and {folders[1]} have scores of other clips; start them anew"
                )
            low, high = bootstrap_ci(srcc_gain, scores, there, mos)
            result += f" ({srcc_gain(scores, there, mos):+.3f} [{low:+.3f}, {high:+.3f}])"
        cells.append(result)
    return cells


def _columns(evaluation: Evaluation, dimension: str) -> tuple[Floats, Floats, list[int]]:
    """Predicted and known scores of one dimension, float64 [n], and the numbers of the clips."""
    found = columns(evaluation.predictions, dimension)
    return found.predicted, found.truth, [prediction.index for prediction in found.predictions]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML of sft.py")
    parser.add_argument("--start", required=True, help="checkpoint that every plan starts from")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--plans", nargs="+", required=True, metavar="MODE:TOKENS")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--limit", type=int, default=1000, help="test clips")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="further options of sft.py")
    options = parser.parse_args()
    for name in options.plans:
        parse_plan(name)
    for name in options.plans:
        train_and_score(options, name)
    head = ["plan", "tokens a clip", *(name.replace("_", " ") for name in DIMENSIONS)]
    rows = [row(options, name, options.plans[0]) for name in options.plans]
    (options.out / "table.json").write_text(json.dumps({"head": head, "rows": rows}, indent=1) + "\n")
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
