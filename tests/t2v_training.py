"""A tiny pipeline with a LoRA, and all that trains it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from families import ATTENTION, family_of
from lora import Policies, add_lora
from t2v_pipelines import build
from train_options import TrainOptions
from updates import Learner


def fill(weights: list[Tensor], seed: int) -> None:
    """Weights that do something: a fresh LoRA changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))


def adapted(name: str, *, rank: int = 4, alpha: float = 8.0, seed: int = 1) -> tuple[Any, list[Tensor]]:
    """A pipeline with a LoRA of random weights, and the weights."""
    pipeline = build(name)
    weights = add_lora(pipeline.transformer, rank=rank, alpha=alpha, targets=ATTENTION, seed=0)
    fill(weights, seed)
    return pipeline, weights


def learner_for(pipeline: Any, *, rank: int = 4, checkpointing: bool = False, **changes: Any) -> Learner:
    """What trains a pipeline, with changed `TrainOptions`; an update of one rollout is one optimizer step."""
    options = TrainOptions(output_dir="unused", **changes)
    accelerator = Accelerator()
    accelerator.gradient_accumulation_steps = options.levels_per_video if options.algorithm == "nft" else 1
    pipeline.to(accelerator.device)
    family = family_of(pipeline)
    targets = options.lora_targets or family.lora_targets
    weights = add_lora(pipeline.transformer, rank=rank, alpha=2.0 * rank, targets=targets, seed=0)
    if checkpointing:
        pipeline.transformer.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(
        weights, lr=options.learning_rate, eps=options.adam_epsilon, weight_decay=options.weight_decay
    )
    model, optimizer = accelerator.prepare(pipeline.transformer, optimizer)
    return Learner(
        accelerator,
        model,
        optimizer,
        pipeline=pipeline,
        family=family,
        policies=Policies(weights),
        options=options,
    )
