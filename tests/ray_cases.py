"""Jobs and scorers for the tests on Ray. Workers import this, so that it is a module of its own."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from fake_model import Company, FakeModel

from qsave_reward.errors import ServerError
from qsave_reward.scoring import Job, score_jobs, score_row
from qsave_reward.video import write_clip


def clip_jobs(folder, prompts):
    """A clip for each prompt, each brighter than the one before; their paths are relative to the folder."""
    for i in range(len(prompts)):
        write_clip(folder / f"{i}.mp4", np.full((8, 32, 48, 3), 20 + 25 * i, dtype=np.uint8), fps=8)
    return [Job(f"{i}.mp4", str(folder / f"{i}.mp4"), prompt) for i, prompt in enumerate(prompts)]


def plain_lines(jobs, how):
    """The lines of `qsave score --json`."""
    model = FakeModel()
    scored = score_jobs(model, jobs, batch_size=how.batch_size, explain=how.explain, reading={})
    return [json.dumps(score_row(one, asdict(model.provenance), reasoning=how.reasoning)) for one in scored]


class Noting(FakeModel):
    """Notes its process and each prompt in a file.

    A batch with "bad" in a prompt fails as a whole. The first with "deadly" takes the process along.
    """

    def __init__(self, notes: str) -> None:
        super().__init__()
        self.notes = Path(notes)

    def explain_batch(self, videos, prompts, *, on_error="raise"):
        if any("bad" in prompt for prompt in prompts):
            raise RuntimeError("the model choked\non it")
        known = self.notes.read_text() if self.notes.exists() else ""
        with open(self.notes, "a") as file:
            file.write("".join(f"{os.getpid()} {prompt}\n" for prompt in prompts))
        if any("deadly" in prompt for prompt in prompts) and "deadly" not in known:
            os._exit(1)
        return super().explain_batch(videos, prompts, on_error=on_error)


def noting(notes: str, threads: int) -> Noting:
    assert threads == 1
    return Noting(notes)


class Unloadable(FakeModel):
    """As a worker whose weights cannot be loaded."""

    def explain_batch(self, videos, prompts, *, on_error="raise"):
        raise ServerError("the worker could not load the model: no such device", code="no_worker")


def unloadable(threads: int) -> Unloadable:
    return Unloadable()


def fake(threads: int) -> FakeModel:
    return FakeModel()


class Slow(Company):
    """Takes its time for a batch, and then notes the prompts in a file."""

    def __init__(self, notes: str) -> None:
        super().__init__()
        self.notes = notes

    def score_batch(self, videos, prompts, **options):
        time.sleep(0.1)
        with open(self.notes, "a") as file:
            file.write("".join(prompt + "\n" for prompt in prompts))
        return super().score_batch(videos, prompts, **options)


def slow_worker(notes: str, threads: int, *, device: str | None = None) -> Slow:
    """In the place of `load_worker`; its model is the file for notes."""
    return Slow(notes)
