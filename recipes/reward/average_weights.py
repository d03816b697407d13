"""The mean of the weights of checkpoints that come from one another: a better model at no cost of scoring.

    python recipes/reward/average_weights.py outputs/run/checkpoint-900 outputs/run --out outputs/mean

Weights of runs that share most of their training lie in one valley of the loss, and their mean is often
better than each of them ("model soups", arXiv 2203.05482); weights that were trained apart have no such mean.
Which mean is best is for clips of validation to say (`qsave eval`), not those of the test. A folder given
twice has twice the weight. The result has the settings of the last folder, a
whole checkpoint; folders that the trainer writes while it runs will do for the others.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from qsave_reward.checkpoint import read_metadata, write_metadata
from qsave_reward.checkpoint_scorer import LOADING_FAULTS, load_weights
from qsave_reward.errors import ConfigError, QSaveError


def average_weights(folders: Sequence[Path], out: Path) -> str:
    """Write the mean of all weights to a new folder, a checkpoint for `RewardModel.from_pretrained`.

    Args:
        folders: at least two, each with weights of the same names and sizes; the last is a whole checkpoint.
        out: must not exist; it is there as a whole or not at all.

    Returns:
        The revision of the new weights.

    Raises:
        ConfigError: when there are too few folders, `out` exists, a folder has no whole model, or weights do
            not fit each other.
    """
    if len(folders) < 2:
        raise ConfigError(f"a mean needs at least two checkpoints, got {len(folders)}")
    if out.exists():
        raise ConfigError(f"{out} exists; choose another --out")
    *others, last = folders
    metadata = read_metadata(last)
    model = _load(last)
    sums = {name: weight.detach().float() for name, weight in model.named_parameters()}
    for folder in others:
        more = {name: weight.detach() for name, weight in _load(folder).named_parameters()}
        if odd := {k for k in sums.keys() | more.keys() if _shape(sums, k) != _shape(more, k)}:
            name = min(odd)
            raise ConfigError(
                f"{folder} has other weights than {last}: {name} has the shape {_shape(more, name)}, "
                f"expected {_shape(sums, name)}; only checkpoints of one model have a mean"
            )
        for name, weight in more.items():
            sums[name] = sums[name] + weight.float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(sums[name] / len(folders))
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    AutoTokenizer.from_pretrained(last).save_pretrained(part)
    revision = write_metadata(
        part, metadata.frame_plan, trained_on=metadata.trained_on, prompt_words=metadata.prompt_words
    ).revision
    part.rename(out)
    return revision


def _load(folder: Path) -> torch.nn.Module:
    try:
        model: torch.nn.Module = load_weights(AutoModelForImageTextToText, folder, dtype="auto")
    except ConfigError:
        raise
    except LOADING_FAULTS as error:
        raise ConfigError(f"{folder}: expected the weights of a model, got: {error}") from error
    return model


def _shape(weights: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="checkpoints, two or more")
    parser.add_argument("--out", required=True, type=Path, help="a new folder")
    args = parser.parse_args()
    print(f"{args.out}: revision {average_weights(args.folders, args.out)}")


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
