"""Load a text-to-video pipeline: the embedded generator, a folder, or a name on the hub."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from families import family_of

from qsave_reward.errors import ConfigError

EMBEDDED = Path(__file__).parent / "tiny"
"""The embedded generator; `pretrain_tiny.py` makes another one."""


def load_pipeline(
    name: str, *, dtype: str = "float32", device: Any = "cpu", arguments: Iterable[str] = ()
) -> Any:
    """A pipeline in evaluation mode, without progress bars of its own.

    Args:
        name: `tiny`, a folder, or a hub name.
        dtype: name of a torch dtype.
        arguments: names of arguments that it will be called with.

    Raises:
        ConfigError: when there is none, its family is unknown, or it takes no such argument.
    """
    path = EMBEDDED if name == "tiny" else Path(name)
    if not (path / "model_index.json").is_file() and (
        path.exists() or name == "tiny" or name.startswith((".", "/"))
    ):
        raise ConfigError(f"expected a diffusers pipeline (a folder with model_index.json), got {path}")
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(path) if name == "tiny" else name, dtype=getattr(torch, dtype)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load the pipeline {name}: {error}") from error
    family_of(pipeline)
    taken = inspect.signature(pipeline.__call__).parameters
    if unknown := set(arguments) - set(taken):
        raise ConfigError(
            f"extra: {type(pipeline).__name__} takes no {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(taken)}"
        )
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline.to(device)
