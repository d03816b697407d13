"""Real clips as backgrounds of rendered scenes, for a world whose pictures are less tidy."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.limits import Limits
from qsave_reward.video import Sampling, read_clip

Pixels = NDArray[np.float32]

SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".webp")
CONTRAST = 0.6
"""Share of a film's contrast that is kept, so that the objects in front of it stay easy to see."""
MOST_FRAMES = 64
MOST_PIXELS = 512
"""Worlds are at most 512 pixels high or wide."""
PATIENCE = 120.0
"""Seconds for reading a film: it happens once, beside a training that keeps all cores busy."""


@lru_cache(maxsize=16)
def film_paths(folder: str) -> tuple[str, ...]:
    """The videos directly in a folder, by name.

    Raises:
        ConfigError: when there are none.
    """
    found = sorted(str(p) for p in Path(folder).glob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise ConfigError(f"expected a folder with videos ({', '.join(SUFFIXES)}), found none in {folder}")
    return tuple(found)


@lru_cache(maxsize=32)
def _film(path: str) -> NDArray[np.uint8]:
    """Frames of a film with a short side of at most `MOST_PIXELS`, so that many fit in memory."""
    try:
        frames = read_clip(path, Sampling(max_frames=MOST_FRAMES), limits=Limits(timeout=PATIENCE)).frames
    except VideoError as error:
        raise ConfigError(f"cannot use {path} as a background: {error}") from error
    factor = math.ceil(min(frames.shape[1:3]) / MOST_PIXELS)
    return np.stack([np.asarray(Image.fromarray(frame).reduce(factor)) for frame in frames])


def film_background(
    folder: str, color: tuple[int, int, int], count: int, *, height: int, width: int, rng: np.random.Generator
) -> Pixels:
    """A piece of a real clip, muted towards a color: float32 [count, height, width, 3], 0..255.

    Film, place and first frame are drawn by `rng`. A film that is too short is played forwards and backwards.
    """
    paths = film_paths(folder)
    frames = _film(paths[int(rng.integers(len(paths)))])
    rows, columns = frames.shape[1:3]
    scale = min(rows / height, columns / width)
    tall, wide = (max(1, round(side * scale * rng.uniform(0.6, 1.0))) for side in (height, width))
    top, left = int(rng.integers(rows - tall + 1)), int(rng.integers(columns - wide + 1))
    loop = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    start = int(rng.integers(len(loop)))
    box = (left, top, left + wide, top + tall)
    picked = [
        Image.fromarray(frames[loop[(start + k) % len(loop)]]).resize((width, height), box=box)
        for k in range(count)
    ]
    film = np.stack([np.asarray(image, dtype=np.float32) for image in picked])
    muted: Pixels = np.clip(
        np.array(color, np.float32) + CONTRAST * (film - film.mean(axis=(0, 1, 2))), 0, 255
    ).astype(np.float32)
    return muted
