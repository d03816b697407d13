"""Rated clips to compare with: a world, or a file of records; the whole, or one process's part of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsave_reward.data import read_records
from qsave_reward.errors import ConfigError
from qsave_reward.metrics import ratings_ceiling
from qsave_reward.types import DIMENSIONS, Record
from qsave_reward.video import Clip
from qsave_reward.world import WorldItem, noise_ceiling, parse_world_name, world_item

WORLD_LIMIT = 1000
"""Clips rendered for `world:SPLIT` when no limit is given."""

FROM_WORLD = "SRCC of the true quality of the world with its MOS"
FROM_RATINGS = "root of the reliability of the mean of the ratings"


@dataclass(frozen=True)
class EvalData:
    """Rated clips to compare with.

    Attributes:
        name: what was loaded, for the record.
        items: pairs of a `Record` and the video as a `Scorer` takes it; consumed once.
        n: how many items the whole has.
        ceiling: the correlation that noisy raters allow a perfect scorer, for each dimension where it is
            known: the SRCC of the true quality with the MOS for a world, the PLCC (`metrics.ratings_ceiling`)
            for a file.
        ceiling_source: how the ceiling was found.
        part: what share of the whole `items` are: `(2, 4)` is every fourth item from the second on.
    """

    name: str
    items: Iterable[tuple[Record, Any]]
    n: int
    ceiling: Mapping[str, float] = field(default_factory=dict)
    ceiling_source: str | None = None
    part: tuple[int, int] = (1, 1)

    @property
    def indices(self) -> range:
        """The position of each of `items` in the whole."""
        return positions(self.n, self.part)


def positions(n: int, part: tuple[int, int]) -> range:
    """The positions that a part has of `n` items; none where there are more parts than items."""
    return range(part[0] - 1, n, part[1])


def load_data(name: str, *, limit: int | None = None, part: tuple[int, int] = (1, 1)) -> EvalData:
    """Open `world:SPLIT[:SEED]` (the first items, rendered in memory) or a file of records.

    Args:
        name: for example `"world:test"` or `"rated/records.jsonl"`.
        limit: most items; default `WORLD_LIMIT` for the world and all of a file.
        part: `(2, 4)` takes every fourth item from the second on, for the second of four processes. Ceilings
            are those of the whole.

    Raises:
        ConfigError: for an unknown split, a limit below 1, a part that does not exist, or a wrong file.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"expected a limit of at least 1, got {limit}")
    if not 1 <= part[0] <= part[1]:
        raise ConfigError(f"expected a part K/N with 1 <= K <= N, got {part[0]}/{part[1]}")
    if name.startswith("world:"):
        split, seed = parse_world_name(name)
        total = limit or WORLD_LIMIT
        rendered = _render(split, seed, positions(total, part))
        return EvalData(name, rendered, total, noise_ceiling(split, total, seed), FROM_WORLD, part)
    records = read_records(name)[:limit]
    mine = [records[i] for i in positions(len(records), part)]
    items = [(record, os.path.join(os.path.dirname(name), record.video)) for record in mine]
    return EvalData(name, items, len(records), _rated_ceiling(records), FROM_RATINGS, part)


def parse_part(text: str) -> tuple[int, int]:
    """`"2/4"` as `(2, 4)`.

    Raises:
        ConfigError: for any other form.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None:
        raise ConfigError(f"expected a part such as 2/4, the second of four, got {text!r}")
    return int(match[1]), int(match[2])


def open_video(name: str, record: Record) -> Any:
    """The video of an item of the data of a name, once more, as a `Scorer` or `read_clip` takes it.

    Raises:
        ConfigError: when the data was a world and the record is none of its items.
    """
    if not name.startswith("world:"):
        return os.path.join(os.path.dirname(name), record.video)
    split, seed = parse_world_name(name)
    start = f"world:{split}/{seed}/"
    index = record.video.removeprefix(start)
    if not record.video.startswith(start) or not (index.isascii() and index.isdigit()):
        raise ConfigError(f"expected a video such as '{start}0' in {name!r}, got {record.video!r}")
    return _clip(world_item(split, int(index), seed=seed))


def _render(split: str, seed: int, indices: Sequence[int]) -> Iterator[tuple[Record, Clip]]:
    for index in indices:
        item = world_item(split, index, seed=seed)
        yield item.record, _clip(item)


def _clip(item: WorldItem) -> Clip:
    return Clip(frames=item.frames, times=item.times, duration=len(item.frames) / item.fps, warnings=())


def _rated_ceiling(records: Sequence[Record]) -> dict[str, float]:
    """The ceiling of each dimension in which single ratings tell it."""
    found = {}
    for dimension in DIMENSIONS:
        try:
            found[dimension] = ratings_ceiling(
                [r.ratings[dimension] for r in records if r.ratings.get(dimension)]
            )
        except ConfigError as error:
            if error.code != "undefined":
                raise
    return found
