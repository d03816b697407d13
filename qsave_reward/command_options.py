"""Options and loading shared by the `qsave` commands."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from qsave_reward.errors import ConfigError

if TYPE_CHECKING:
    from qsave_reward.checkpoint_scorer import CheckpointScorer

JsonFlag = Annotated[bool, typer.Option("--json", help="Machine output on standard output.")]
Model = Annotated[
    str, typer.Option(help="'tiny' or 'holistic-tiny' (bundled), a checkpoint directory or a hub id.")
]
FrameSize = Annotated[
    str, typer.Option(metavar="HxW", help="Height and width of the clips in pixels, as 480x832.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: a GPU if there is one.")]


def load_model(name: str, device: str | None) -> CheckpointScorer:
    """Load a model, quietly."""
    import torch
    from transformers.utils import logging

    from qsave_reward.loading import load_scorer

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return load_scorer(name, device=device)


def missing_extra(error: ImportError, extra: str) -> ConfigError:
    """The error of a command whose optional packages are not installed."""
    return ConfigError(f"this needs {error.name}: pip install 'qsave_reward[{extra}]'", code="missing_extra")


def check_target(path: str) -> None:
    """Refuse before the work is done what could not be written after it."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {path!r}: expected a file name in an existing folder")


def frame_size(text: str) -> tuple[int, int]:
    """Height and width that a `FrameSize` says."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise typer.BadParameter(f"expected HEIGHTxWIDTH such as 128x128, got {text!r}", param_hint="--size")
    return int(match[1]), int(match[2])
