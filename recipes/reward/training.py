"""What the training recipes of the reward model share: options, resuming, and the optimizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from muon import MuonWithAdamW
from transformers import TrainingArguments
from trl import TrlParser

from qsave_reward.config import expand_config
from qsave_reward.errors import ConfigError


def parse_options(argv: list[str], *kinds: type) -> tuple[Any, ...]:
    """One object of each dataclass in `kinds` from `--config FILE` and overrides.

    Raises:
        ConfigError: for a misspelt name, a wrong type or a wrong choice.
    """
    parser = TrlParser(kinds, allow_abbrev=False)
    try:
        return parser.parse_args_and_config(expand_config(argv))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def last_finished_checkpoint(output: Path) -> str | None:
    """The latest checkpoint that was written to its end; the trainer writes its state last."""
    for folder in sorted(output.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        return str(folder)
    return None


def muon_optimizer(model: torch.nn.Module, options: TrainingArguments) -> MuonWithAdamW:
    """Muon with the learning rate, weight decay and AdamW betas of a trainer's options."""
    return MuonWithAdamW(
        model,
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        betas=(options.adam_beta1, options.adam_beta2),
    )
