"""Rejection sampling for stage 3: reasons that the trained model wrote and whose scores people agree with.

    python recipes/reward/keep_reasons.py --model outputs/tiny/2_grpo --data world:train:4 --n 2000 \\
        --out outputs/tiny/kept.jsonl

A clip is kept when each rated dimension's score, read after the written reasons, is within `--margin` of
the MOS and its answer has the agreed form. What is written is a record file: human ratings, and the model's
own description and defects in place of the true ones. A killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from clips import open_clips

from qsave_reward.data import read_records, write_records
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.model import RewardModel
from qsave_reward.prompt import rationale_of
from qsave_reward.terminal import progress_bar
from qsave_reward.types import Record, VideoScore

SAVE_EVERY = 8
"""Batches between two savings."""


def agrees(card: VideoScore, record: Record, margin: float) -> bool:
    """Whether every rated dimension's score is within `margin` score points of the MOS."""
    return all(abs(card.scores[name].mean - value) <= margin for name, value in record.mos.items())


def kept_record(card: VideoScore, record: Record) -> Record:
    """The record with the model's own reasons."""
    return replace(record, defects=card.defects, rationale=rationale_of(card.reasoning or ""))


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
    model = RewardModel.from_pretrained(args.model, device=args.device)
    source = open_clips(args.data, model.frame_plan, varied_share=0.0)
    count = args.out.with_suffix(".count.json")
    identity = {"revision": model.metadata.revision, "data": args.data, "margin": args.margin}
    state = {**identity, "tried": 0, "unreadable": 0, "kept": 0}
    kept: list[Record] = []
    if count.exists():
        state = json.loads(count.read_text())
        if {name: state[name] for name in identity} != identity:
            raise ConfigError(f"{args.out} was begun with other settings ({count}); choose another --out")
        kept = read_records(args.out)[: state["kept"]] if state["kept"] else []

    with progress_bar(args.n, "writing reasons") as advance:
        advance(state["tried"])
        while state["tried"] < args.n:
            last = min(state["tried"] + SAVE_EVERY * model.batch_size, args.n)
            pairs = [source(index) for index in range(state["tried"], last)]
            cards = model.score_batch(
                [clip for clip, _ in pairs], [r.prompt for _, r in pairs], mode="reasoned", on_error="mask"
            )
            for card, (_, record) in zip(cards, pairs, strict=True):
                if isinstance(card, QSaveError):
                    state["unreadable"] += 1
                elif agrees(card, record, args.margin):
                    kept.append(kept_record(card, record))
            advance(last - state["tried"])
            state |= {"tried": last, "kept": len(kept)}
            if kept:
                write_records(args.out, kept)
            count.write_text(json.dumps(state))
    print(json.dumps({**state, "kept_share": state["kept"] / state["tried"]}))


if __name__ == "__main__":
    main()
