"""Paths as the system reads them."""

from __future__ import annotations

import os
import re
from contextlib import suppress


def absolute_path(path: str | os.PathLike[str]) -> str:
    """Absolute path without `..`, which leads up from where a link points; other links stay."""
    path = os.fspath(path)
    head, up, tail = path.rpartition("../")
    with suppress(ValueError):  # no name that a file can have
        if up:
            path = os.path.join(os.path.realpath(head + up), tail)
    return os.path.abspath(path)


def rebased_path(path: str, folder: str, new_folder: str) -> str:
    """A path that is relative to a folder as one that is relative to another; both without links.

    Absolute paths, addresses and names of rendered clips, such as "world:train/0/17", stay.
    """
    if os.path.isabs(path) or "://" in path or re.fullmatch(r"world:[a-z]+/\d+/\d+", path):
        return path
    return os.path.relpath(absolute_path(os.path.join(folder, path)), new_folder)
