"""Train a `HolisticScorer`: PLCC and rank loss on rated clips, LoRA on the language model.

    accelerate launch recipes/holistic/train.py --config configs/holistic/tiny.yaml
    python recipes/holistic/train.py --config configs/holistic/tiny.yaml --max_steps 100

Killed runs continue from their last checkpoint when the same command is given again. The output folder is a
checkpoint for `HolisticScorer.from_pretrained`, of the step with the best SRCC on clips that are held out.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from transformers import EvalPrediction, Trainer, TrainingArguments

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from clips import world_plans
from holistic_options import HolisticArguments
from spoken_facts import word_ids
from token_facts import Listener
from training import (
    check_muon,
    last_finished_checkpoint,
    muon_optimizer,
    parse_options,
    rows_needed,
    save_options,
    save_result,
)
from training_rows import check_ratings, collate, make_dataset, sources, world_mix

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.holistic.configuration import BRANCHES, HolisticConfig
from qsave_reward.holistic.losses import quality_loss
from qsave_reward.holistic.network import expected_levels
from qsave_reward.holistic.scorer import load_holistic
from qsave_reward.holistic.text import level_token_ids
from qsave_reward.metrics import srcc
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS


class HolisticTrainer(Trainer):
    """The trainer with the losses of AIGVEval; predictions are scores."""

    def __init__(self, *args: Any, arguments: HolisticArguments, level_ids: list[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments, self.level_ids = arguments, torch.tensor(level_ids)
        self.listener = None
        if arguments.facts_weight:
            self.listener = Listener(self.model.language, word_ids(self.processing_class))
        self.heard: dict[str, list[float]] = defaultdict(list)
        self.model_accepts_loss_kwargs = False  # a loss over a batch is a mean, not a sum over tokens

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.arguments.muon and self.optimizer is None:
            self.optimizer = muon_optimizer(self.model if model is None else model, self.args)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        for branch in set(self.arguments.frozen) & set(self.model.config.branches):
            getattr(self.model, branch).eval()  # batch norms too
        targets, spoken = inputs.pop("labels").flatten(0, 1), inputs.pop("spoken", None)
        logits = model(**inputs, level_ids=self.level_ids.to(targets.device))
        scores = expected_levels(logits).reshape(targets.shape)  # a row for each prompt of each clip
        loss = quality_loss(
            scores,
            targets,
            rank_weight=self.arguments.rank_weight,
            level_weight=self.arguments.level_weight,
        )
        if self.listener is not None and spoken is not None:
            self.heard["loss_scores"].append(loss.item())
            for kind, (wrong, right) in self.listener.losses(spoken).items():
                loss = loss + self.arguments.facts_weight * wrong
                self.heard[f"{kind}_right"].append(right.item())
        return (loss, scores) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """As the trainer does, with the means of `heard` since the last time."""
        if "loss" in logs:
            logs = logs | {name: round(float(np.mean(found)), 4) for name, found in self.heard.items()}
            self.heard.clear()
        super().log(logs, *args)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        inputs = self._prepare_inputs(inputs)
        targets = inputs["labels"].flatten(0, 1)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, scores = self.compute_loss(model, dict(inputs), return_outputs=True)
        return loss.detach(), scores.detach(), targets


def agreement(prediction: EvalPrediction) -> dict[str, float]:
    """`srcc` over read-outs, and of each where there are three."""
    scores, targets = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    found = {}
    for k in range(scores.shape[1]):
        rated = ~np.isnan(targets[:, k])
        if rated.sum() > 1 and np.ptp(targets[rated, k]) > 0 and np.ptp(scores[rated, k]) > 0:
            name = DIMENSIONS[k] if scores.shape[1] > 1 else "overall"
            found[f"srcc_{name}"] = srcc(scores[rated, k], targets[rated, k])
    if not found:
        raise ConfigError(
            "expected held-out clips with different ratings and different scores, got the same for all: take "
            "more of them (eval_clips) or a lower learning_rate"
        )
    return found | {"srcc": float(np.mean(list(found.values())))}


def check_world(arguments: HolisticArguments, config: HolisticConfig) -> None:
    """A ConfigError when clips cannot be read with more prompts, or words of prompts be asked for facts."""
    known = arguments.data.startswith("world:") and config.show_prompt and config.per_dimension
    if not known and (arguments.facts_weight or arguments.prompts_per_clip > 1):
        raise ConfigError(
            f"facts_weight and prompts_per_clip work with clips of the rendered world and a base with "
            f"show_prompt and per_dimension, got data {arguments.data!r}, show_prompt {config.show_prompt}, "
            f"per_dimension {config.per_dimension}: leave them out (--facts_weight 0 --prompts_per_clip 1)"
        )
    if not 0 <= arguments.agreed_share <= 1:
        raise ConfigError(f"agreed_share must be from 0 to 1, got {arguments.agreed_share}")
    if arguments.prompts_per_clip < 1:
        raise ConfigError(f"prompts_per_clip must be at least 1, got {arguments.prompts_per_clip}")


def keep_branches(model: Any, branches: list[str]) -> None:
    """Take the other encoders, and what projects their tokens, out of a model.

    Raises:
        ConfigError: when it lacks one of `branches`.
    """
    if not set(branches) <= set(model.config.branches):
        raise ConfigError(f"expected branches among {model.config.branches}, got {branches}")
    for name in [name for name, _ in model.named_children()]:
        branch = name.split("_")[0]
        if branch in BRANCHES and branch not in branches:
            delattr(model, name)
    model.config.branches = [branch for branch in BRANCHES if branch in branches]


def prepare(model: Any, arguments: HolisticArguments) -> LoraModel | None:
    """Choose what is trained: all but frozen encoders and, with a LoRA, the language model itself."""
    if unknown := set(arguments.frozen) - set(BRANCHES):
        raise ConfigError(f"frozen: expected branches among {', '.join(BRANCHES)}, got {', '.join(unknown)}")
    for branch in set(arguments.frozen) & set(model.config.branches):
        getattr(model, branch).requires_grad_(False)
    if not arguments.lora_rank:
        return None
    options = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_targets,
    )
    try:
        return LoraModel(model.language, options, "default")
    except ValueError as error:
        raise ConfigError(f"lora_targets {arguments.lora_targets}: {error}") from error


OPTIONS = (HolisticArguments, TrainingArguments)


def main() -> None:
    arguments, options = parse_options(sys.argv[1:], *OPTIONS)
    options.remove_unused_columns = False
    check_muon(options, muon=arguments.muon)
    output = Path(options.output_dir)
    base = Path(arguments.model_name_or_path)
    model, tokenizer = load_holistic(base, dtype=torch.float32)
    keep_branches(model, arguments.branches or model.config.branches)
    config = model.config
    for data in (arguments.data, arguments.eval_data):
        check_ratings(data, per_dimension=config.per_dimension)
    check_world(arguments, config)
    lora = prepare(model, arguments)
    save_options(output, options, arguments)
    plan = FramePlan(max_frames=config.motion_frames, mode="uniform", slow_every=4)
    source, held_out, held_clips = sources(arguments, plan)
    rendered = arguments.data.startswith("world:")
    trainer = HolisticTrainer(
        model=model,
        args=options,
        arguments=arguments,
        level_ids=level_token_ids(tokenizer),
        train_dataset=make_dataset(
            source,
            rows_needed(options),
            config=config,
            tokenizer=tokenizer,
            seed=options.seed,
            plan_of=world_plans(arguments.data, world_mix(arguments)) if rendered else None,
            prompts=arguments.prompts_per_clip,
            facts=bool(arguments.facts_weight),
            agreed_share=arguments.agreed_share,
        ),
        eval_dataset=make_dataset(held_out, held_clips, config=config, tokenizer=tokenizer, seed=None),
        data_collator=collate,
        compute_metrics=agreement,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=last_finished_checkpoint(output))
    if lora is not None:
        model.language = lora.merge_and_unload()
    save_result(
        trainer,
        plan,
        data=arguments.data,
        trained_on=arguments.trained_on,
        save_dtype=arguments.save_dtype,
    )


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
