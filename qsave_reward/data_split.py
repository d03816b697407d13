"""A file of rated clips becomes one file for each part, so that no prompt is in two of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from qsave_reward.clip_list import read_clip_list
from qsave_reward.data import check_shares, make_folder, part_of
from qsave_reward.errors import ConfigError
from qsave_reward.paths import rebased_path
from qsave_reward.tables import FilePath, fresh_file


@dataclass(frozen=True)
class Part:
    """One part of a split data set.

    Attributes:
        file: the JSONL file that was written.
        clips: lines in it.
        prompts: different texts among them, as written.
    """

    file: str
    clips: int
    prompts: int


def split_file(path: FilePath, out: FilePath, shares: Mapping[str, float], *, seed: int = 0) -> list[Part]:
    """Write `NAME.jsonl` in the folder `out` for each part, with the clips that `data.part_of` puts there.

    Lines keep their order and all their fields; a path that is relative to the old file is made relative to
    the new one. None is replaced before all are written.

    Args:
        path: JSONL or Parquet, as `read_clip_list` takes it.
        out: folder, made when it is not there.
        shares: share of the prompts for each part, by its name.
        seed: equal seeds give equal parts.

    Raises:
        ConfigError: for wrong shares or names, a wrong line, an output that is the input, and when a part
            would be empty.
    """
    check_shares(shares)
    for name in shares:
        if not name or name.startswith(".") or os.path.basename(name) != name:
            raise ConfigError(f"expected a name of a part that a file can have, such as train, got {name!r}")
    files = {name: os.path.join(out, f"{name}.jsonl") for name in shares}
    for file in files.values():
        if os.path.realpath(file) == os.path.realpath(path):
            raise ConfigError(f"{file!r} is the file to be split; write the parts to another folder")
    clips = read_clip_list(path)
    make_folder(out)
    prompts: dict[str, set[str]] = {name: set() for name in shares}
    counts = dict.fromkeys(shares, 0)
    with ExitStack() as stack:
        open_files = {
            name: stack.enter_context(open(stack.enter_context(fresh_file(file)), "w", encoding="utf-8"))
            for name, file in files.items()
        }
        for clip in clips:
            name = part_of(clip.prompt, shares, seed=seed)
            row = {**clip.row, "video": rebased_path(clip.video, clips.folder, os.path.realpath(out))}
            open_files[name].write(json.dumps(row) + "\n")
            counts[name] += 1
            prompts[name].add(clip.prompt)
        if empty := [name for name, count in counts.items() if not count]:
            number = len(set.union(*prompts.values()))
            raise ConfigError(
                f"no clip falls into {', '.join(empty)}: {os.fspath(path)} has {number} prompts; "
                "use larger shares, another seed or more data"
            )
    return [Part(files[name], counts[name], len(prompts[name])) for name in shares]
