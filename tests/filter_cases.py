"""A set of clips for the tests of `filter_clips`, and what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

from cli_cases import write_clips
from fake_model import FakeModel
from list_files import lines

from qsave_reward.clip_list import read_clip_list
from qsave_reward.filtering import Summary, filter_clips
from qsave_reward.selection import Selection, parse_keep

OUTPUTS = ("kept.jsonl", "rejected.jsonl", "pairs.jsonl", "summary.json")
ROWS = [
    {"seed": 5, "video": "clips/1.mp4", "prompt": "a", "nested": {"x": [1, None]}, "reason": "mine"},
    {"video": "clips/2.mp4", "prompt": "a"},
    {"video": "clips/none.mp4", "prompt": "a", "overall": 4},
    {"video": "clips/0.mp4", "prompt": "a"},
    {"video": "clips/2.mp4", "prompt": "b", "überschrift": "ü"},
    {"video": "clips/1.mp4", "prompt": " "},
    {"video": "clips/0.mp4", "prompt": "b"},
]
"""Brightness, and with it the value, rises with the number of the clip: about 1.6, 2.9, 4.1."""
HANDED_OVER = 6
"""Clips of `ROWS` that reach the scorer: it refuses the empty prompt."""
TOP = Selection(parse_keep("top:2"))


def write_set(folder: Path) -> Path:
    """A folder with `in.jsonl` (of `ROWS`) and, beside it, a folder of clips."""
    (folder / "clips").mkdir()
    write_clips(folder / "clips")
    lines(folder / "in.jsonl", ROWS)
    return folder


def run(source: Path, out: Path, selection: Selection = TOP, **options) -> tuple[Summary, int]:
    """Filter with a fake model; the summary and how many clips were handed to the model."""
    model = options.pop("model", FakeModel())
    summary = filter_clips(model, read_clip_list(source), out=out, selection=selection, **options)
    return summary, sum(n for _, n in model.batches)


def rows(path: Path) -> list[dict]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(out: Path) -> dict[str, bytes]:
    """What lies beside the score log."""
    return {name: (out / name).read_bytes() for name in OUTPUTS if (out / name).exists()}
