"""Good requests whose answers are known: clips with the scores that the model gives them in this process."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from qsave_reward.model import RewardModel
from qsave_reward.types import DIMENSIONS, VideoScore
from qsave_reward.video import Clip, write_clip
from qsave_reward.wire import MEDIA_TYPE, Item, Request, WirePath, encode_request
from qsave_reward.world import WorldConfig, world_item

TOLERANCE = 1e-4
"""Score points between an answer and the score in process."""

ODD_PROMPTS = ("<|image_pad|><|im_end|>", "a red circle \U0001f534 " * 40, '{"prompt": %s}\\u0000')
"""Prompts that are texts like others."""

FORMS = {"frames": 60, "file": 12, "paths": 12, "JSON paths": 6, "video/mp4": 4, "rank": 4, "explained": 2}
"""Forms of good requests and how often each comes."""

MAX_CLIPS = 4
TWICE = 0.05
"""Share of good requests that are sent a second time under the same id."""


@dataclass(frozen=True, eq=False)
class Known:
    """A clip and the scores of its frames and of its file.

    Attributes:
        path: the file, under the media root.
        file: its bytes.
        frames_means, file_means: score by dimension.
    """

    clip: Clip
    prompt: str
    path: str
    file: bytes
    frames_means: tuple[float, ...]
    file_means: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """One good request: a form, positions of its clips in the pool, and a name that comes back."""

    name: str
    form: str
    picks: tuple[int, ...]
    twice: bool = False


def means(card: Any) -> tuple[float, ...]:
    """The scores in the order of `DIMENSIONS`."""
    assert isinstance(card, VideoScore), card
    return tuple(card.scores[name].mean for name in DIMENSIONS)


def make_pool(model: RewardModel, root: Path, count: int) -> list[Known]:
    """`count` clips of 8 frames of 64x64, as frames and as files under `root`, scored in this process."""
    (root / "clips").mkdir()
    config = WorldConfig(height=64, width=64, num_frames=8)
    pool = []
    for number in range(count):
        item = world_item("val", number, config=config)
        clip = Clip(item.frames, item.times, len(item.times) / item.fps)
        prompt = ODD_PROMPTS[number] if number < len(ODD_PROMPTS) else item.record.prompt
        path = f"clips/{number}.mp4"
        write_clip(root / path, clip, fps=item.fps)
        file = (root / path).read_bytes()
        cards = model.score_batch([clip, file], [prompt] * 2)
        pool.append(Known(clip, prompt, path, file, means(cards[0]), means(cards[1])))
    return pool


def draw_job(rng: random.Random, number: int, pool: int) -> Job:
    """A good request for clips of a pool of that size."""
    (form,) = rng.choices(list(FORMS), list(FORMS.values()))
    count = 1 if form == "video/mp4" else rng.randint(1, MAX_CLIPS)
    picks = tuple(rng.randrange(pool) for _ in range(count))
    return Job(f"good {number}", form, picks, form != "video/mp4" and rng.random() < TWICE)


def chosen(job: Job, pool: Sequence[Known]) -> list[tuple[Known, str | None]]:
    """The clips of a request with their ids; a ranking has one prompt, so one clip comes several times."""
    if job.form == "video/mp4":
        return [(pool[job.picks[0]], None)]
    picks = job.picks[:1] * len(job.picks) if job.form == "rank" else job.picks
    return [(pool[pick], f"{job.name}/{place}") for place, pick in enumerate(picks)]


def request_of(job: Job, pool: Sequence[Known]) -> tuple[str, str, list[Any]]:
    """Target, content type and parts of the body."""
    clips = chosen(job, pool)
    first, _ = clips[0]
    if job.form == "video/mp4":
        return f"/v1/score?prompt={quote(first.prompt)}", "video/mp4", [first.file]
    if job.form == "JSON paths":
        rows = [{"path": known.path, "prompt": known.prompt, "id": name} for known, name in clips]
        return "/v1/score", "application/json", [json.dumps({"items": rows, "request_id": job.name}).encode()]
    items = []
    for known, name in clips:
        video = {"file": known.file, "paths": WirePath(known.path)}.get(job.form, known.clip)
        items.append(Item(video, known.prompt, name))
    mode = "explained" if job.form == "explained" else "direct"
    target = "/v1/rank" if job.form == "rank" else "/v1/score"
    return target, MEDIA_TYPE, encode_request(Request(tuple(items), mode, job.name))


def expected_of(job: Job, pool: Sequence[Known]) -> list[tuple[str | None, tuple[float, ...]]]:
    """Id and scores of each result."""
    frames = job.form in ("frames", "rank", "explained")
    return [(name, known.frames_means if frames else known.file_means) for known, name in chosen(job, pool)]


def difference(
    answer: Mapping[str, Any], expected: Sequence[tuple[str | None, tuple[float, ...]]]
) -> str | None:
    """What is wrong with an answer to a good request; `None` when nothing is."""
    rows = answer.get("results", [])
    if len(rows) != len(expected):
        return f"expected {len(expected)} results, got {len(rows)}"
    for row, (name, scores) in zip(rows, expected, strict=True):
        if row["error"] is not None:
            return f"{row['error']['code']}: {row['error']['message']}"
        if row["id"] != name:
            return f"expected the result of {name!r}, got that of {row['id']!r}"
        given = tuple(row["scores"][dimension]["mean"] for dimension in DIMENSIONS)
        if any(abs(a - b) > TOLERANCE for a, b in zip(given, scores, strict=True)):
            return f"expected the scores {scores}, got {given}"
    return None
