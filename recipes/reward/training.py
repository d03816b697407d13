"""What the training recipes of the reward model share: options, model, optimizer, resuming, the result."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from clips import rendered_only
from muon import MuonWithAdamW
from precision import precision_options
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments
from trl import ModelConfig, TrlParser

from qsave_reward.checkpoint import write_metadata
from qsave_reward.config import expand_config
from qsave_reward.errors import ConfigError
from qsave_reward.fast_vision import use_fast_vision
from qsave_reward.slowfast import FramePlan
from qsave_reward.world import vocabulary


def parse_options(argv: list[str], *kinds: type) -> tuple[Any, ...]:
    """One object of each dataclass in `kinds` from `--config FILE` and overrides.

    Raises:
        ConfigError: for a misspelt name, a wrong type or a wrong choice.
    """
    parser = TrlParser(kinds, allow_abbrev=False)
    try:
        return parser.parse_args_and_config([*expand_config(argv), *precision_options()])
    except ValueError as error:
        raise ConfigError(str(error)) from error


def save_options(output: Path, *options: Any) -> None:
    """Write every option of a run, defaults included, to `config.yaml` in its output directory."""
    output.mkdir(parents=True, exist_ok=True)
    resolved: dict[str, Any] = {}
    for one in options:
        resolved |= one.to_dict() if isinstance(one, TrainingArguments) else asdict(one)
    (output / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(resolved, default=str))))


def check_max_steps(config: TrainingArguments) -> None:
    """A ConfigError unless `max_steps` is set: clips are made when they are asked for, without an end."""
    if config.max_steps <= 0:
        raise ConfigError(f"expected max_steps above 0, got {config.max_steps}; there are no epochs here")


def check_muon(options: TrainingArguments, *, muon: bool) -> None:
    """A ConfigError when Muon is asked for together with DeepSpeed, which has optimizers of its own."""
    if muon and options.deepspeed:
        raise ConfigError("muon works without DeepSpeed only; leave out one of the two")


def rows_needed(config: TrainingArguments) -> int:
    """How many rows all processes together take in `max_steps`.

    Raises:
        ConfigError: when `max_steps` is not set.
    """
    check_max_steps(config)
    return int(
        config.max_steps * config.train_batch_size * config.gradient_accumulation_steps * config.world_size
    )


def load_model(config: ModelConfig, *, freeze_vision: bool) -> torch.nn.Module:
    """The model to train, with exact shortcuts in its vision tower."""
    model = AutoModelForImageTextToText.from_pretrained(
        config.model_name_or_path,
        revision=config.model_revision,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
    )
    use_fast_vision(model)
    if freeze_vision:
        model.model.visual.requires_grad_(False)
    return model


def last_finished_checkpoint(output: Path) -> str | None:
    """The latest checkpoint that was written to its end; the trainer writes its state last."""
    for folder in sorted(output.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        return str(folder)
    return None


def muon_optimizer(
    model: torch.nn.Module, options: TrainingArguments, *, vision_share: float = 1.0
) -> MuonWithAdamW:
    """Muon with the learning rate, weight decay and AdamW betas of a trainer's options."""
    return MuonWithAdamW(
        model,
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        betas=(options.adam_beta1, options.adam_beta2),
        vision_share=vision_share,
    )


def save_result(
    trainer: Trainer, plan: FramePlan, *, data: str, trained_on: str, save_dtype: str | None = None
) -> None:
    """Write the trained model as a checkpoint for `RewardModel.from_pretrained`; LoRA weights are merged."""
    output = Path(str(trainer.args.output_dir))
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model = trainer.model.merge_and_unload()
    if save_dtype is not None:
        trainer.model.to(getattr(torch, save_dtype))
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        words = vocabulary() if rendered_only(data) else None
        write_metadata(output, plan, trained_on=trained_on, prompt_words=words)
