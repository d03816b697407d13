"""Using the stream: names such as "world:test:7", the noise ceiling, a data set for loaders, files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS
from qsave_reward.world.raters import overall_quality
from qsave_reward.world.stream import (
    SPLITS,
    WORLD_VERSION,
    WorldConfig,
    WorldItem,
    plan_record,
    render_plan,
    world_item,
    world_plan,
)


def parse_world_name(name: str) -> tuple[str, int]:
    """Split and seed of "world:SPLIT" (seed 0) or "world:SPLIT:SEED".

    Raises:
        ConfigError: for any other name.
    """
    match = re.fullmatch(rf"world:({'|'.join(SPLITS)})(?::([0-9]+))?", name)
    if match is None:
        raise ConfigError(
            f"expected 'world:SPLIT' or 'world:SPLIT:SEED' with a split of {', '.join(SPLITS)}, got {name!r}"
        )
    return match[1], int(match[2] or 0)


def noise_ceiling(split: str, n: int, seed: int = 0, config: WorldConfig | None = None) -> dict[str, float]:
    """SRCC of the true quality with the MOS over the first `n` items: what a perfect scorer would reach.

    Also for `overall`, of which the true quality is what raters mix without bias and noise. Renders nothing.
    A dimension in which all items are equal has no ceiling and is left out.
    """
    from qsave_reward.metrics import srcc

    plans = [world_plan(split, index, seed=seed, config=config) for index in range(n)]
    known = {name: [(plan.latent[name], plan.opinion.mos[name]) for plan in plans] for name in DIMENSIONS}
    known["overall"] = [(overall_quality(plan.latent), plan.opinion.overall) for plan in plans]
    ceilings = {}
    for name, pairs in known.items():
        truth, mos = ([pair[k] for pair in pairs] for k in (0, 1))
        if len(set(truth)) > 1 and len(set(mos)) > 1:
            ceilings[name] = srcc(truth, mos)
    return ceilings


class WorldDataset:
    """Items `start`, `start + step`, ... of a split: a map-style data set for `torch.utils.data.DataLoader`.

    A loader needs a length and items only, so torch is not imported here. Items depend on their index alone:
    workers and ranks may share them out, for example with `WorldDataset("train", n, start=rank, step=ranks)`.

    Example:
        >>> data = WorldDataset("train", 1000, transform=lambda item: item.record.prompt)
        >>> len(data)
        1000
    """

    def __init__(
        self,
        split: str,
        length: int,
        *,
        seed: int = 0,
        config: WorldConfig | None = None,
        start: int = 0,
        step: int = 1,
        transform: Callable[[WorldItem], Any] | None = None,
    ) -> None:
        if length < 1 or start < 0 or step < 1:
            raise ConfigError(f"need length >= 1, start >= 0 and step >= 1, got {length}, {start} and {step}")
        self.split, self.length, self.seed, self.config = split, length, seed, config
        self.start, self.step, self.transform = start, step, transform

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Any:
        """The `WorldItem` at a position, or what `transform` makes of it."""
        if not 0 <= position < self.length:
            raise IndexError(f"position {position} of a data set of {self.length} items")
        index = self.start + position * self.step
        item = world_item(self.split, index, seed=self.seed, config=self.config)
        return item if self.transform is None else self.transform(item)


def export_world(
    out: str | os.PathLike[str],
    n: int,
    *,
    seed: int = 0,
    split: str = "train",
    config: WorldConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the first `n` items as H.264 files and a `records.jsonl` whose paths are relative to it.

    A stopped export goes on where it was: finished clips are kept; a file appears complete or not at all.

    Args:
        out: folder, created if missing.
        n: number of items, at least 1; may grow in a later call.
        seed: of the stream.
        split: "train", "val" or "test".
        config: of the stream.
        progress: called with (clips done, `n`) after each clip.

    Returns:
        Path of `records.jsonl`.

    Raises:
        ConfigError: when the folder holds another world, or cannot be written.
    """
    from qsave_reward.data import make_folder, write_lines, write_records
    from qsave_reward.video import write_clip

    if n < 1:
        raise ConfigError(f"expected at least one item to export, got {n}")
    config = config or WorldConfig()
    folder = Path(out)
    make_folder(folder / "clips")
    identity = {"version": WORLD_VERSION, "split": split, "seed": seed, "config": asdict(config)}
    marker = folder / "world.json"
    if not marker.exists():
        write_lines(marker, [json.dumps(identity, indent=2)])
    elif _read_marker(marker) != identity:
        raise ConfigError(
            f"{folder} holds another world ({marker}); choose another folder or the same settings"
        )
    records = []
    for index in range(n):
        plan = world_plan(split, index, seed=seed, config=config)
        relative = f"clips/{index:06d}.mp4"
        if not (folder / relative).exists():
            try:
                write_clip(folder / relative, render_plan(plan).frames, fps=plan.config.fps)
            except OSError as error:
                raise ConfigError(f"cannot write {folder / relative}: {error}") from error
        records.append(replace(plan_record(plan), video=relative))
        if progress is not None:
            progress(index + 1, n)
    write_records(folder / "records.jsonl", records)
    return folder / "records.jsonl"


def _read_marker(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"expected {path} to say which world the folder holds, got {error}; choose another folder, or "
            "delete that file if the clips are of this world"
        ) from error
