"""One table of the evaluations that `three_stages.sh` left in a folder, a row for each stage (Markdown).

    python recipes/reward/stage_table.py outputs/three_stages
    python recipes/reward/stage_table.py outputs/seed0 outputs/seed1 outputs/seed2

Several folders are runs that differ in their seed: the table has their means and standard deviations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.types import DIMENSIONS

STAGES = ("1_sft", "2_grpo", "3_sft")
HEAD = (
    "stage",
    *(f"{name.replace('_', ' ')}, {mode}" for mode in ("direct", "reasoned") for name in DIMENSIONS),
    "attribution F1",
    "span IoU",
    "answers not readable",
    "kept for stage 3",
)


def row(folders: Sequence[Path], stage: str) -> list[str]:
    """SRCC of each dimension in both modes, then attribution, failures and the kept share."""
    runs = [_results(folder, stage) for folder in folders]
    scores = [
        [results["results"][dimension]["srcc"] for results in of_mode]
        for of_mode in zip(*runs, strict=True)
        for dimension in DIMENSIONS
    ]
    reasoned = [results for _, results in runs]
    named = [[results["results"]["attribution"][name] for results in reasoned] for name in ("f1", "span_iou")]
    failed = ", ".join(str(results["n_failed"]) for results in reasoned)
    kept = ", ".join(map(_kept, folders)) if stage == STAGES[-1] else ""
    return [stage, *map(_cell, scores), *map(_cell, named), failed, kept]


def _results(folder: Path, stage: str) -> tuple[dict[str, Any], ...]:
    """What `qsave eval` said in direct and in reasoned mode."""
    files = [folder / f"{stage}.{mode}.json" for mode in ("direct", "reasoned")]
    if missing := [str(file) for file in files if not file.exists()]:
        raise ConfigError(
            f"expected the evaluations of a run of three_stages.sh that is done, {missing[0]} is not there: "
            "start it again with the same folder, it goes on where it was"
        )
    return tuple(json.loads(file.read_text()) for file in files)


def _kept(folder: Path) -> str:
    count = folder / "kept.count.json"
    if not count.exists():
        return ""
    tried = json.loads(count.read_text())
    return f"{tried['kept']} of {tried['tried']}"


def _cell(values: Sequence[float | None]) -> str:
    """A number, or mean and (sample) standard deviation of several; empty where a run has none."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return ""
    return f"{fmean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="OUT")
    folders = parser.parse_args().folders
    try:
        rows = [row(folders, stage) for stage in STAGES]
    except QSaveError as error:
        sys.exit(f"error: {error}")
    for cells in (HEAD, ("---",) * len(HEAD), *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
