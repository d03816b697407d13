"""Pairs of clips and which of the two people preferred, as two public sets give them.

Errors, and `videos` (the folder of the clips), are as in `benchmarks`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from qsave_reward.entries import csv_rows, objects, read_entries
from qsave_reward.errors import ConfigError
from qsave_reward.fields import show, text
from qsave_reward.tables import FilePath
from qsave_reward.types import DIMENSIONS

Choice = Literal["A", "B", "tie"]

OVERALL = "overall"
"""The key of `Preference.choices` for a judgement of the clips as a whole."""


@dataclass(frozen=True)
class Preference:
    """Which of two clips of one prompt people preferred.

    Attributes:
        prompt: the text both clips were generated from.
        video_a: path of the first clip, as in a `Record`.
        video_b: path of the second.
        choices: `"A"`, `"B"` or `"tie"` for each judged dimension (of `DIMENSIONS`) and for `"overall"`.
        generator_a: name of the model that made the first clip, or `None`.
        generator_b: the same of the second.
    """

    prompt: str
    video_a: str
    video_b: str
    choices: Mapping[str, Choice] = field(default_factory=dict)
    generator_a: str | None = None
    generator_b: str | None = None

    def __post_init__(self) -> None:
        for dimension, choice in self.choices.items():
            if dimension not in (*DIMENSIONS, OVERALL):
                raise ConfigError(f"expected one of {', '.join(DIMENSIONS)}, {OVERALL}; got {dimension!r}")
            if choice not in ("A", "B", "tie"):
                raise ConfigError(f"expected 'A', 'B' or 'tie' for {dimension}, got {show(choice)}")


def read_videogen_rewardbench(path: FilePath, *, videos: str = "") -> list[Preference]:
    """VideoGen-RewardBench (arXiv 2501.13918; `KwaiVGI/VideoGen-RewardBench`): `videogen-rewardbench.csv`.

    `VQ`, `MQ`, `TA` and `Overall` hold `A`, `B` or `same` and become the choices for `visual_quality`,
    `dynamic_quality`, `text_alignment` and `"overall"`; an empty one is left out. `path_A` and `path_B` are
    relative to the folder of the file.
    """
    labels = dict(zip(("VQ", "MQ", "TA", "Overall"), (*DIMENSIONS, OVERALL), strict=True))
    choices: dict[str, Choice] = {"A": "A", "B": "B", "same": "tie"}

    def build(row: Mapping[str, Any]) -> Preference:
        return Preference(
            prompt=text(row, "prompt"),
            video_a=os.path.join(videos, text(row, "path_A")),
            video_b=os.path.join(videos, text(row, "path_B")),
            choices={
                ours: _choice(row[label], label, choices) for label, ours in labels.items() if row[label]
            },
            generator_a=row["A_model"] or None,
            generator_b=row["B_model"] or None,
        )

    columns = ("path_A", "path_B", "A_model", "B_model", "prompt", *labels)
    return read_entries(path, csv_rows(path, columns), build=build)


def read_genai_bench(path: FilePath, *, videos: str = "") -> list[Preference]:
    """GenAI-Bench (arXiv 2406.04485; `TIGER-Lab/GenAI-Bench`, `video_generation`): Parquet or JSON lines.

    Left is A. The one vote becomes `"overall"`: `leftvote` is A, `rightvote` B, `tievote` and `bothbad_vote`
    (neither is better) are ties. The set gives addresses; a clip is expected as `MODEL/NAME`, where NAME is
    the last part of its address, since two models may use one name.
    """
    votes: dict[str, Choice] = {"leftvote": "A", "rightvote": "B", "tievote": "tie", "bothbad_vote": "tie"}

    def clip(row: Mapping[str, Any], side: str) -> str:
        address = text(row, f"{side}_video")
        if "://" not in address:
            return os.path.join(videos, address)
        return os.path.join(videos, text(row, f"{side}_model"), address.rpartition("/")[2])

    def build(row: Mapping[str, Any]) -> Preference:
        return Preference(
            prompt=text(row, "prompt"),
            video_a=clip(row, "left"),
            video_b=clip(row, "right"),
            choices={OVERALL: _choice(row.get("vote_type"), "vote_type", votes)},
            generator_a=text(row, "left_model"),
            generator_b=text(row, "right_model"),
        )

    columns = ("prompt", "vote_type", "left_model", "left_video", "right_model", "right_video")
    return read_entries(path, objects(path, columns), build=build)


def _choice(label: Any, field: str, choices: Mapping[str, Choice]) -> Choice:
    if not isinstance(label, str) or label not in choices:
        raise ConfigError(f"field {field!r}: expected one of {', '.join(choices)}; got {show(label)}")
    return choices[label]
