"""Lists of generated clips to choose from.

    {"video": "0.mp4", "prompt": "a red circle moves left", "seed": 7}      one clip a line (or table row)
    clips/0.mp4  clips/0.txt                                                a folder; the prompt is in 0.txt
    {"prompt": "a red circle moves left", "videos": ["0.mp4", "1.mp4"]}     all clips of one prompt a line

Relative paths are relative to the file that lists them. A prompt may be empty here: that is for the scorer to
refuse, item by item.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from qsave_reward.errors import ConfigError
from qsave_reward.fields import optional_text, show, text
from qsave_reward.tables import FilePath, decode, read_bytes, read_rows, unit

SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm", ".webp")
"""Files of a folder that are its clips, by the end of their names in lower case."""


class Listed(NamedTuple):
    """One clip of a list.

    Attributes:
        row: the fields of its line, `video` and `prompt` among them.
        video: its path as written.
        prompt: the text it was generated from.
    """

    row: dict[str, Any]
    video: str
    prompt: str


@dataclass(frozen=True)
class ClipList:
    """A checked list of clips that stays on disk. Build it with `read_clip_list`.

    Attributes:
        path: the file or folder.
        count: number of clips, at least 1.
        digest: of all that the list says.
    """

    path: str
    count: int
    digest: str

    @property
    def folder(self) -> str:
        """What relative paths are relative to, without links, so that `..` means one thing only."""
        return os.path.realpath(self.path if os.path.isdir(self.path) else os.path.dirname(self.path))

    def __iter__(self) -> Iterator[Listed]:
        """The clips in order, read anew.

        Raises:
            ConfigError: after the last one, when the list is no longer what it was.
        """
        digest = hashlib.sha256()
        yield from _listed(self.path, digest)
        if digest.hexdigest() != self.digest:
            raise ConfigError(
                f"{self.path!r} changed while it was in use; start again with the list as it is"
            )


def read_clip_list(path: FilePath) -> ClipList:
    """Check a JSONL or Parquet file with `video` and `prompt` (other fields are the user's own), or a folder.

    Of a folder, all files that end in one of `SUFFIXES` are clips, in the order of their names; folders
    inside are not looked into. The prompt of NAME.mp4 is the text of NAME.txt beside it.

    Raises:
        ConfigError: when nothing is listed, a line is wrong or a clip of a folder has no prompt.
    """
    digest = hashlib.sha256()
    count = sum(1 for _ in _listed(os.fspath(path), digest))
    return ClipList(os.fspath(path), count, digest.hexdigest())


def _listed(path: str, digest: Any) -> Iterator[Listed]:
    """The clips of a list; what it says is added to the digest."""
    for place, row in _folder_rows(path) if os.path.isdir(path) else _file_rows(path):
        try:
            # Parquet knows values, such as dates, that lines cannot carry on.
            digest.update(json.dumps(row).encode() + b"\n")
            clip = Listed(row, text(row, "video"), text(row, "prompt", empty=True))
        except (ConfigError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path}, {place}: {error}") from error
        yield clip


def _file_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in read_rows(path):
        yield f"{unit(path)} {number}", row


def _folder_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise ConfigError(f"cannot read the folder {path!r}: {error.strerror}") from error
    clips = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not clips:
        raise ConfigError(f"expected clips ({', '.join(SUFFIXES)}) in the folder {path!r}, got none")
    for name in clips:
        beside = Path(path, name).with_suffix(".txt")
        if not beside.is_file():
            raise ConfigError(f"expected the prompt of {name!r} in {str(beside)!r}, which is no file")
        try:
            prompt = decode(read_bytes(beside)).strip()
        except ConfigError as error:
            raise ConfigError(f"{str(beside)!r}: {error}") from error
        yield name, {"video": name, "prompt": prompt}


class Group(NamedTuple):
    """All candidates of one prompt.

    Attributes:
        prompt: the text they were generated from.
        videos: their paths as written, at least one.
        id: what the user calls the group, or `None`.
    """

    prompt: str
    videos: tuple[str, ...]
    id: str | None


def read_groups(path: FilePath) -> list[Group]:
    """Read lines (or table rows) with `prompt`, `videos` and perhaps `id`.

    Raises:
        ConfigError: when the file cannot be read, is empty or has a wrong line; the message names the line.
    """
    groups = []
    for number, row in read_rows(path, Group._fields):
        try:
            groups.append(Group(text(row, "prompt", empty=True), _videos(row), optional_text(row, "id")))
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}, {unit(path)} {number}: {error}") from error
    return groups


def _videos(row: dict[str, Any]) -> tuple[str, ...]:
    videos = row.get("videos")
    if not isinstance(videos, list) or not videos:
        raise ConfigError(f"field 'videos': expected a list of paths, at least one, got {show(videos)}")
    return tuple(text({"video": video}, "video") for video in videos)
