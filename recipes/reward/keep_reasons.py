"""Rejection sampling for stage 3: reasons that the trained model wrote and whose scores people agree with.

    python recipes/reward/keep_reasons.py --model outputs/tiny/2_grpo --data world:train:4 --n 2000 \\
        --out outputs/tiny/kept.jsonl

A clip is kept when all three dimensions are rated, each score, read after the written reasons, is within
`--margin` of the MOS, and the answer has the agreed form. What is written is a record file: human ratings,
and the model's own description and defects in place of the true ones. A killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from clips import Source, open_clips

from qsave_reward.data import read_records, write_lines, write_records
from qsave_reward.errors import ConfigError, QSaveError, VideoError
from qsave_reward.model import RewardModel
from qsave_reward.paths import absolute_path
from qsave_reward.prompt import rationale_of
from qsave_reward.terminal import progress_bar
from qsave_reward.types import DIMENSIONS, Record, Scorer, VideoScore

SAVE_EVERY = 8
"""Batches between two savings."""


def agrees(card: VideoScore, record: Record, margin: float) -> bool:
    """Whether all dimensions are rated and each score is within `margin` score points of the MOS."""
    return all(
        name in record.mos and abs(card.scores[name].mean - record.mos[name]) <= margin for name in DIMENSIONS
    )


def kept_record(card: VideoScore, record: Record, root: Path) -> Record:
    """The record with the model's own reasons, and the path of its clip (beside `root`) made absolute: the
    kept file may lie elsewhere."""
    rendered = record.video.startswith("world:")
    return replace(
        record,
        video=record.video if rendered else absolute_path(root / record.video),
        defects=card.defects,
        rationale=rationale_of(card.reasoning or ""),
    )


def clips_to_try(data: str, n: int) -> int:
    """`n`, or all clips of a file that has fewer: greedy answers would be the same the second time.

    Raises:
        ConfigError: for `n` below 1 or a wrong file.
    """
    if n < 1:
        raise ConfigError(f"expected --n of at least 1, got {n}")
    return n if data.startswith("world:") else min(n, len(read_records(data)))


def try_clips(
    model: Scorer, source: Source, numbers: Iterable[int], *, margin: float, root: Path
) -> tuple[list[Record], int]:
    """The kept records among these numbers of `source`, and how many clips or answers cannot be read."""
    pairs, unreadable = [], 0
    for number in numbers:
        try:
            pairs.append(source(number))
        except VideoError as error:
            print(f"left out: {error}", file=sys.stderr)
            unreadable += 1
    clips, prompts = [clip for clip, _ in pairs], [record.prompt for _, record in pairs]
    kept = []
    for card, (_, record) in zip(
        model.score_batch(clips, prompts, mode="reasoned", on_error="return"), pairs, strict=True
    ):
        if isinstance(card, QSaveError):
            unreadable += 1
        elif agrees(card, record, margin):
            kept.append(kept_record(card, record, root))
    return kept, unreadable


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="`world:SPLIT[:SEED]` or a file of records")
    parser.add_argument("--n", type=int, required=True, help="clips to try")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--margin", type=float, default=0.75, help="score points")
    parser.add_argument("--device", default=None)
    args = parser.parse_args()
    n = clips_to_try(args.data, args.n)
    count = args.out.with_suffix(".count.json")
    if args.out.exists() and not count.exists():
        raise ConfigError(
            f"{args.out} exists and is not of this script (there is no {count}); choose another --out, or "
            "move the file away"
        )
    model = RewardModel.from_pretrained(args.model, device=args.device)
    source = open_clips(args.data, model.frame_plan)
    identity = {"revision": model.metadata.revision, "data": args.data, "margin": args.margin}
    state = {**identity, "tried": 0, "unreadable": 0, "kept": 0}
    kept: list[Record] = []
    if count.exists():
        state = json.loads(count.read_text())
        if {name: state[name] for name in identity} != identity:
            raise ConfigError(f"{args.out} was begun with other settings ({count}); choose another --out")
        kept = read_records(args.out)[: state["kept"]] if state["kept"] else []
    else:
        # Before the first records: a run killed between the two must not find its own file to be another's.
        write_lines(count, [json.dumps(state)])

    with progress_bar(n, "writing reasons") as advance:
        advance(state["tried"])
        while state["tried"] < n:
            last = min(state["tried"] + SAVE_EVERY * model.batch_size, n)
            numbers = range(state["tried"], last)
            more, unreadable = try_clips(
                model, source, numbers, margin=args.margin, root=Path(args.data).parent
            )
            kept += more
            advance(len(numbers))
            state |= {"tried": last, "unreadable": state["unreadable"] + unreadable, "kept": len(kept)}
            if kept:
                write_records(args.out, kept)
            write_lines(count, [json.dumps(state)])
    if not kept:
        raise ConfigError(
            f"kept none of {state['tried']} answers ({state['unreadable']} clips or answers not readable); "
            "look at some by `qsave score --explain`, or allow a larger --margin"
        )
    print(json.dumps({**state, "kept_share": state["kept"] / state["tried"]}))


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
