"""Does the score fall when a real clip is made worse? A test that needs no ratings.

    python recipes/reward/known_defects.py --model tiny --data clips.jsonl --out outputs/known_defects.json
    python recipes/reward/known_defects.py --model tiny --data world:test --limit 100 --out drops.json

The second takes clips of the rendered world that have no defect of their own.

Every clip gets each known defect of picture or motion at growing severity. The table says in how many of the
clips the score of that defect's dimension is below that of the untouched clip, and by how much on average.
0.50 is what a score that does not see the defect would reach.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qsave_reward.checkpoint_scorer import CheckpointScorer
from qsave_reward.data import read_records, write_lines
from qsave_reward.errors import ConfigError, QSaveError, VideoError
from qsave_reward.loading import load_scorer
from qsave_reward.terminal import progress_bar
from qsave_reward.types import Defect, Record, Scorer
from qsave_reward.video import Clip
from qsave_reward.world import WorldConfig, parse_world_name, world_item
from qsave_reward.world.defects import LABELS, degrade, draw_span

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
DROPS = "frame drops"
"""Not a defect of the world: every second, third, ... frame is shown for as long as those it replaces."""
JUDGED = ("visual_quality", "dynamic_quality")
DEFECTS = {label: dimension for dimension in JUDGED for label in LABELS[dimension]} | {DROPS: JUDGED[1]}
"""Each defect and the dimension whose score it should lower."""
SHORT_SIDE = 256
"""Pixels to which clips are reduced before they are made worse, so that a severity means the same in all."""

MIN_FRAMES = 4
"""Frames a clip needs: a shorter one has no room for a freeze or a jump that begins and ends in it."""


@dataclass(frozen=True)
class Drop:
    """What a defect of one severity did to the score of its dimension, over all clips.

    Attributes:
        fell: share of clips whose score fell, 0 to 1; half of those that stayed the same count.
        mean: mean of (score without - score with the defect), in score points.
        n: clips compared.
    """

    label: str
    severity: float
    fell: float
    mean: float
    n: int


def worse(clip: Clip, label: str, severity: float) -> Clip:
    """The clip with one defect; the same random draws for every severity.

    A freeze is longer the more severe it is, and a jump goes there and back, as in the world; the others last
    for the whole clip.
    """
    frames = clip.frames
    if label == DROPS:
        hold = 1 + round(4 * severity)
        frames = frames[np.arange(len(frames)) // hold * hold]
    else:
        span: tuple[float | None, float | None] = (None, None)
        if label in ("freeze", "jump"):
            span = draw_span(np.random.Generator(np.random.PCG64(0)), label, severity, clip.times)
        defect = Defect(DEFECTS[label], label, severity, *span)
        frames = degrade(frames, clip.times, [defect], np.random.Generator(np.random.PCG64(0)))
    return replace(clip, frames=frames)


def reduced(clip: Clip) -> Clip:
    """The clip with a short side of `SHORT_SIDE` pixels; smaller ones stay."""
    height, width = clip.frames.shape[1:3]
    scale = SHORT_SIDE / min(height, width)
    if scale >= 1:
        return clip
    size = (round(width * scale), round(height * scale))
    frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in clip.frames]
    return replace(clip, frames=np.stack(frames))


def drops(clean: NDArray[np.float64], damaged: Mapping[tuple[str, float], NDArray[np.float64]]) -> list[Drop]:
    """One `Drop` for each defect and severity from scores [clips] of its dimension.

    Args:
        clean: scores of the untouched clips, [clips, 2]: visual, dynamic.
        damaged: for each defect and severity scores [clips] in the same order.
    """
    found = []
    for (label, severity), scores in damaged.items():
        change = clean[:, JUDGED.index(DEFECTS[label])] - scores
        fell = float(np.mean((change > 0) + 0.5 * (change == 0)))
        found.append(Drop(label, severity, fell, float(change.mean()), len(change)))
    return found


def measure(scorer: Scorer, clips: Sequence[Clip], prompts: Sequence[str]) -> list[Drop]:
    """Score every clip as it is and with every defect at every severity."""

    def scores(batch: Sequence[Clip], *dimensions: str) -> NDArray[np.float64]:
        cards = scorer.score_batch(batch, prompts)
        return np.array([[card.scores[dimension].mean for dimension in dimensions] for card in cards])

    reference = scores(clips, *JUDGED)
    todo = [(label, severity) for label in DEFECTS for severity in SEVERITIES]
    damaged = {}
    with progress_bar(len(todo), "scoring") as advance:
        for label, severity in todo:
            batch = [worse(clip, label, severity) for clip in clips]
            damaged[label, severity] = scores(batch, DEFECTS[label])[:, 0]
            advance(1)
    return drops(reference, damaged)


def table(found: Sequence[Drop]) -> list[str]:
    """Markdown: a row for each defect, a column for each severity, in the cells share and mean drop."""
    lines = ["| defect | " + " | ".join(f"severity {s:g}" for s in SEVERITIES) + " |"]
    lines.append("|---" * (1 + len(SEVERITIES)) + "|")
    for label in DEFECTS:
        cells = [f"{d.fell:.2f} ({d.mean:+.2f})" for d in found if d.label == label]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def read_all(model: CheckpointScorer, records: Sequence[Record], root: Path) -> tuple[list[Clip], list[str]]:
    """The clips that can be made worse, and their prompts; the others are named on the error output."""
    clips, prompts = [], []
    for record in records:
        try:
            clip = model.read(root / record.video)
            if len(clip.frames) < MIN_FRAMES:
                raise VideoError(f"expected at least {MIN_FRAMES} frames, got {len(clip.frames)}")
        except VideoError as error:
            print(f"left out {record.video}: {error}", file=sys.stderr)
            continue
        clips.append(reduced(clip))
        prompts.append(record.prompt)
    if not clips:
        raise ConfigError(f"none of the {len(records)} clips could be read and has {MIN_FRAMES} frames")
    return clips, prompts


def render_all(name: str, number: int) -> tuple[list[Clip], list[str]]:
    """The first clips of `world:SPLIT[:SEED]`, rendered without defects."""
    split, seed = parse_world_name(name)
    items = [world_item(split, i, seed=seed, config=WorldConfig(clean=True)) for i in range(number)]
    clips = [Clip(item.frames, item.times, len(item.frames) / item.fps, ()) for item in items]
    return clips, [item.record.prompt for item in items]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", required=True, help="records with `video` and `prompt`, or world:SPLIT")
    parser.add_argument("--limit", type=int, default=100, help="clips of a world")
    parser.add_argument("--out", type=Path, required=True, help="JSON with every number")
    parser.add_argument("--device", default=None)
    args = parser.parse_args()
    model = load_scorer(args.model, device=args.device)
    if args.data.startswith("world:"):
        clips, prompts = render_all(args.data, args.limit)
    else:
        clips, prompts = read_all(model, read_records(args.data), Path(args.data).parent)
    found = measure(model, clips, prompts)
    result = {"revision": model.metadata.revision, "clips": len(clips), "drops": list(map(asdict, found))}
    write_lines(args.out, [json.dumps(result, indent=1)])
    print("\n".join(table(found)))


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
