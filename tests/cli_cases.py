"""Clips and a `qsave` command with a fake model, for the tests of the command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel

from qsave_reward import cli, command_options
from qsave_reward.video import write_clip


def write_clips(folder: Path) -> list[str]:
    """Three clips, each brighter than the one before."""
    paths = []
    for i, level in enumerate((40, 120, 200)):
        write_clip(folder / f"{i}.mp4", np.full((8, 32, 48, 3), level, dtype=np.uint8), fps=8)
        paths.append(str(folder / f"{i}.mp4"))
    return paths


def command(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs `qsave`; returns exit code, standard output, standard error."""

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qsave", *args])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


def fake_command(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs `qsave` with a fake model, `run.model`."""
    model = FakeModel()
    monkeypatch.setattr(command_options, "load_model", lambda name, device: model)
    monkeypatch.setenv("COLUMNS", "80")
    run = command(monkeypatch, capsys)
    run.model = model
    return run
