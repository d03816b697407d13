"""Where the training recipes get their rated clips: the rendered world, or a file of records."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qsave_reward.benchmarks import read_qeval_video
from qsave_reward.data import normalise_prompt, read_records
from qsave_reward.errors import ConfigError
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import Defect, Record
from qsave_reward.video import Clip, Sampling, read_clip
from qsave_reward.world import LABELS, WorldConfig, WorldPlan, parse_world_name, render_plan, world_plan

Source = Callable[[int], tuple[Clip, Record]]
"""Number of a row, from 0 without end, to its clip and its record."""

NEIGHBOURS = 8
"""World items after a clip that are searched for another prompt; nearly always the first has one."""
SEARCHED = 64
"""World items that are searched for one with a certain trait; nearly always some have it."""
STATED_RELATION = "stated relation"
"""The trait of a clip whose prompt says where one object is, seen from another; the others are defects."""


@dataclass(frozen=True)
class WorldMix:
    """Which clips of the rendered world are taken.

    Attributes:
        varied_share: share of clips of other sizes and rates.
        films: folder of real clips to use as backgrounds (`WorldConfig.films`).
        films_share: share of clips that may get one.
        sought: what is hard to learn, a defect such as "wrong motion" or `STATED_RELATION`: clips that are
            looked for have one of these, each equally often. A name may stand twice.
        sought_share: share of clips that are looked for, when `sought` is not empty.
        raters: people who judge each clip; the more there are, the less chance is in what is learned.
    """

    varied_share: float = 0.0
    films: str | None = None
    films_share: float = 1.0
    sought: Sequence[str] = ()
    sought_share: float = 0.25
    raters: int = 5

    def __post_init__(self) -> None:
        known = {STATED_RELATION}.union(*LABELS.values())
        if unknown := set(self.sought) - known:
            raise ConfigError(f"sought: unknown {sorted(unknown)}; expected some of {sorted(known)}")
        WorldConfig(raters=self.raters)  # refuses too few


def world_plans(data: str, mix: WorldMix) -> Callable[[int], WorldPlan]:
    """Number of a row, from 0 without end, to the plan of its clip of `world:SPLIT[:SEED]`.

    Raises:
        ConfigError: for an unknown split.
    """
    split, seed = parse_world_name(data)

    def plan_of(index: int) -> WorldPlan:
        # Fixed irrational strides spread each kind evenly and without a random state.
        config = WorldConfig(
            varied=index * 0.7548776662 % 1.0 < mix.varied_share,
            films=mix.films if index * 0.8191725134 % 1.0 < mix.films_share else None,
            raters=mix.raters,
        )
        if mix.sought and index * 0.3247179572 % 1.0 < mix.sought_share:
            for other in range(index * SEARCHED, (index + 1) * SEARCHED):
                # The next seed: no clip comes twice.
                plan = world_plan(split, other, seed=seed + 1, config=config)
                if mix.sought[index % len(mix.sought)] in _traits(plan):
                    return plan
        return world_plan(split, index, seed=seed, config=config)

    return plan_of


def _traits(plan: WorldPlan) -> set[str]:
    return {defect.label for defect in plan.defects} | ({STATED_RELATION} if plan.scene.relation else set())


def open_clips(
    data: str,
    plan: FramePlan,
    *,
    mix: WorldMix | None = None,
    mismatched_share: float = 0.0,
    records: Sequence[Record] | None = None,
) -> Source:
    """Rated clips of `world:SPLIT[:SEED]` or of a file, read when they are asked for.

    A file is used again and again; its videos are paths beside it or names of world items
    ("world:train/0/17").

    Args:
        data: name of the world or path of the file.
        plan: how many frames are sampled.
        mix: which of the world's clips; default: all as they come.
        mismatched_share: share of clips that get the prompt of another clip (see `mismatch`), the next that
            has another one. Where there is none, a clip keeps its own.
        records: some of those in the file `data`; default: all (`read_rated`).

    Raises:
        ConfigError: for an unknown split or a wrong file.
    """
    sampling = Sampling(max_frames=plan.max_frames, fps=plan.fps)
    mix = mix or WorldMix()

    def render(planned: WorldPlan) -> tuple[Clip, Record]:
        item = render_plan(planned)
        return read_clip(item.frames, sampling, times=item.times.tolist()), item.record

    if data.startswith("world:"):
        plan_of, reach = world_plans(data, mix), NEIGHBOURS

        def source(index: int) -> tuple[Clip, Record]:
            return render(plan_of(index))

        def prompt_of(index: int) -> str:
            return plan_of(index).prompt

    else:
        rated, root = read_rated(data) if records is None else records, Path(data).parent
        reach = len(rated) - 1

        def source(index: int) -> tuple[Clip, Record]:
            record = rated[index % len(rated)]
            named = re.fullmatch(r"world:([a-z]+)/(\d+)/(\d+)", record.video)
            if named:
                split, seed, number = named[1], int(named[2]), int(named[3])
                item = world_plan(split, number, seed=seed, config=WorldConfig(films=mix.films))
                return render(item)[0], record
            return read_clip(root / record.video, sampling), record

        def prompt_of(index: int) -> str:
            return rated[index % len(rated)].prompt

    def maybe_mismatched(index: int) -> tuple[Clip, Record]:
        clip, record = source(index)
        if index * 0.5698402910 % 1.0 < mismatched_share:
            own = normalise_prompt(record.prompt)
            following = (prompt_of(index + step) for step in range(1, reach + 1))
            other = next((prompt for prompt in following if normalise_prompt(prompt) != own), None)
            record = record if other is None else mismatch(record, other)
        return clip, record

    return maybe_mismatched


def read_rated(data: str) -> list[Record]:
    """Records of a JSONL or Parquet file, or of a list `file|prompt|MOS` as NTIRE gave it out (*.txt)."""
    return read_qeval_video(data) if data.endswith(".txt") else read_records(data)


def mismatch(record: Record, prompt: str) -> Record:
    """The record of the same clip shown with the prompt of another one: text alignment is bad, by all raters.

    Most prompts are followed in most respects, so a model learns to describe a clip by repeating the prompt.
    Here that is wrong, and the clip has to be looked at. Defects that are unknown stay so.
    """
    answers = len(record.ratings.get("text_alignment", ())) or 1
    defects = record.defects
    if defects is not None:
        seen = (defect for defect in defects if defect.dimension != "text_alignment")
        defects = (*seen, Defect("text_alignment", "missing object", 1.0))
    return replace(
        record,
        prompt=prompt,
        mos={**record.mos, "text_alignment": 1.0},
        ratings={**record.ratings, "text_alignment": (1.0,) * answers},
        defects=defects,
        overall=None,
    )


def rendered_only(data: str) -> bool:
    """Whether all clips of a source are from the rendered world."""
    return data.startswith("world:") or all(record.video.startswith("world:") for record in read_rated(data))
