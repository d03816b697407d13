"""One table of the evaluations that `three_stages.sh` left in a folder, a row for each stage (Markdown).

python recipes/reward/stage_table.py outputs/three_stages
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

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


def row(folder: Path, stage: str) -> list[str]:
    """SRCC of each dimension in both modes, then attribution and failures in reasoned mode."""
    cells = [stage]
    reasoned: dict[str, Any] = {}
    for mode in ("direct", "reasoned"):
        reasoned = json.loads((folder / f"{stage}.{mode}.json").read_text())
        cells += [_number(reasoned["results"][dimension]["srcc"]) for dimension in DIMENSIONS]
    attribution = reasoned["results"]["attribution"]
    cells += [_number(attribution["f1"]), _number(attribution["span_iou"]), str(reasoned["n_failed"])]
    count = folder / "kept.count.json"
    kept = ""
    if stage == STAGES[-1] and count.exists():
        tried = json.loads(count.read_text())
        kept = f"{tried['kept']} of {tried['tried']}"
    return [*cells, kept]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> None:
    folder = Path(sys.argv[1])
    for cells in (HEAD, ("---",) * len(HEAD), *(row(folder, stage) for stage in STAGES)):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
