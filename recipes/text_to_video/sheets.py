"""Sample sheets: some frames of some videos, with prompt and scores, as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from evaluation import Evaluation
from PIL import Image, ImageDraw, ImageFont

from qsave_reward.types import DIMENSIONS

ROWS, COLUMNS, SIDE, GAP, TEXT = 8, 6, 128, 4, 34


def save_sheet(evaluation: Evaluation, path: Path) -> None:
    """The first video of the first `ROWS` prompts, `COLUMNS` frames of each, as PNG."""
    number = min(ROWS, len(evaluation.prompts))
    strips = [draw_row(evaluation, i) for i in range(number)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(np.concatenate(strips)).save(part, format="PNG", optimize=True)
    part.rename(path)


def draw_row(evaluation: Evaluation, row: int) -> np.ndarray:
    """One strip, uint8 [H, W, 3]: text above frames."""
    clip = evaluation.frames[row][0]
    chosen = np.linspace(0, len(clip) - 1, COLUMNS).round().astype(int)
    height = round(SIDE * clip.shape[1] / clip.shape[2])
    width = COLUMNS * (SIDE + GAP) - GAP
    canvas = Image.new("RGB", (width, TEXT + height + GAP), "white")
    for column, frame in enumerate(clip[chosen]):
        canvas.paste(
            Image.fromarray(frame).resize((SIDE, height), Image.Resampling.BICUBIC),
            (column * (SIDE + GAP), TEXT),
        )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    draw.text((2, 1), evaluation.prompts[row], fill="black", font=font)
    names = [f"reward.{name}" for name in DIMENSIONS] + ["gold.overall"]
    scores = [
        f"{n.split('.')[-1] if 'gold' not in n else 'gold'} {evaluation.metrics[n][row][0]:.2f}"
        for n in names
        if n in evaluation.metrics
    ]
    draw.text((2, 16), "   ".join(scores).replace("_", " "), fill="#555555", font=font)
    return np.asarray(canvas)
