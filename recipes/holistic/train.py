"""Train a `HolisticScorer`: PLCC and rank loss on rated clips, LoRA on the language model.

    accelerate launch recipes/holistic/train.py --config configs/holistic/tiny.yaml
    python recipes/holistic/train.py --config configs/holistic/tiny.yaml --max_steps 100

Killed runs continue from their last checkpoint when the same command is given again. The output folder is a
checkpoint for `HolisticScorer.from_pretrained`, of the step with the best SRCC on clips that are held out.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from transformers import EvalPrediction, Trainer, TrainingArguments

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from clips import Source, WorldMix, open_clips, read_rated
from training import (
    check_muon,
    last_finished_checkpoint,
    muon_optimizer,
    parse_options,
    rows_needed,
    save_options,
    save_result,
)

from qsave_reward.data import split_by_prompt
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.holistic.configuration import BRANCHES, HolisticConfig
from qsave_reward.holistic.losses import quality_loss
from qsave_reward.holistic.network import expected_levels
from qsave_reward.holistic.scorer import load_holistic, model_inputs
from qsave_reward.holistic.text import compose, level_token_ids
from qsave_reward.holistic.views import make_views
from qsave_reward.metrics import srcc
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS, Record


@dataclass
class HolisticArguments:
    """What this recipe adds to the options of transformers' trainer."""

    model_name_or_path: str = field(metadata={"help": "what make_holistic_tiny.py or assemble.py wrote"})
    data: str = field(
        metadata={"help": "`world:train`, a file of records, or NTIRE's list `file|prompt|MOS` (*.txt)"}
    )
    trained_on: str = field(metadata={"help": "one sentence for users: what the scores mean"})
    eval_data: str = field(
        default="", metadata={"help": "as data; clips that are held out; empty: eval_share of data"}
    )
    eval_share: float = field(default=0.1, metadata={"help": "share of the prompts of data to hold out"})
    eval_clips: int = field(default=200, metadata={"help": "most clips that are held out"})
    rank_weight: float = field(default=0.3, metadata={"help": "weight of the rank loss"})
    level_weight: float = field(
        default=0.0, metadata={"help": "weight of (score - MOS)^2, which ties scores to the scale"}
    )
    lora_rank: int = field(default=8, metadata={"help": "0 trains the whole language model"})
    lora_alpha: float = field(default=16.0, metadata={"help": "strength of the LoRA"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout in the LoRA"})
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    muon: bool = field(default=False, metadata={"help": "Muon for matrices and AdamW for all else (muon.py)"})
    branches: list[str] = field(
        default_factory=list,
        metadata={"help": "encoders of the base to keep, as an ablation; default: all"},
    )
    train_semantic: bool = field(default=False, metadata={"help": "train BLIP too"})
    save_dtype: Literal["float32", "float16", "bfloat16"] | None = field(
        default=None, metadata={"help": "precision of the saved weights; default: that of training"}
    )
    varied_share: float = field(default=0.25, metadata={"help": "world: share of other sizes and rates"})
    mismatched_share: float = field(default=0.0, metadata={"help": "share with another clip's prompt"})


class HolisticTrainer(Trainer):
    """The trainer with the losses of AIGVEval; predictions are scores."""

    def __init__(self, *args: Any, arguments: HolisticArguments, level_ids: list[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments, self.level_ids = arguments, torch.tensor(level_ids)
        self.model_accepts_loss_kwargs = False  # a loss over a batch is a mean, not a sum over tokens

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.arguments.muon and self.optimizer is None:
            self.optimizer = muon_optimizer(self.model if model is None else model, self.args)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        targets = inputs.pop("labels")
        scores = expected_levels(model(**inputs, level_ids=self.level_ids.to(targets.device)))
        loss = quality_loss(
            scores,
            targets,
            rank_weight=self.arguments.rank_weight,
            level_weight=self.arguments.level_weight,
        )
        return (loss, scores) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        inputs = self._prepare_inputs(inputs)
        targets = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, scores = self.compute_loss(model, dict(inputs), return_outputs=True)
        return loss.detach(), scores.detach(), targets


def target(record: Record, *, per_dimension: bool) -> list[float]:
    """What the read-outs of a clip should say; NaN where nobody rated."""
    rated = [record.mos.get(name, math.nan) for name in DIMENSIONS]
    if per_dimension:
        return rated
    return [record.overall if record.overall is not None else sum(rated) / len(rated)]


def check_ratings(data: str, *, per_dimension: bool) -> None:
    """A ConfigError when a file has no rating that a model with these read-outs could learn."""
    if not data or data.startswith("world:"):
        return
    found = [target(record, per_dimension=per_dimension) for record in read_rated(data)]
    if np.isnan(found).all():
        wanted = "ratings of dimensions" if per_dimension else "an overall rating"
        raise ConfigError(f"{data}: expected {wanted} (as per_dimension of the base says), got none")


def sources(arguments: HolisticArguments, plan: FramePlan) -> tuple[Source, Source, int]:
    """Clips to train on, clips that are held out, and how many those are."""
    mix = WorldMix(varied_share=arguments.varied_share)
    options: dict[str, Any] = {"mix": mix, "mismatched_share": arguments.mismatched_share}
    if arguments.eval_data:
        held_out = None if arguments.eval_data.startswith("world:") else read_rated(arguments.eval_data)
        number = arguments.eval_clips if held_out is None else min(arguments.eval_clips, len(held_out))
        clips = open_clips(arguments.eval_data, plan, records=held_out)
        return open_clips(arguments.data, plan, **options), clips, number
    if arguments.data.startswith("world:"):
        raise ConfigError(f"{arguments.data} has no end to hold a share of out; give eval_data, as world:val")
    shares = {"train": 1 - arguments.eval_share, "held_out": arguments.eval_share}
    parts = split_by_prompt(read_rated(arguments.data), shares)
    if min(map(len, parts.values())) < 2:
        counts = ", ".join(f"{len(part)} in {name}" for name, part in parts.items())
        raise ConfigError(f"expected clips on both sides of eval_share {arguments.eval_share}, got {counts}")
    train = open_clips(arguments.data, plan, records=parts["train"], **options)
    held = open_clips(arguments.data, plan, records=parts["held_out"])
    return train, held, min(arguments.eval_clips, len(parts["held_out"]))


def make_dataset(
    source: Source, n: int, *, config: HolisticConfig, tokenizer: Any, seed: int | None
) -> Dataset:
    """Rows made when they are asked for; `seed`: fragments are cut at random places."""

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = []
        for index in batch["index"]:
            clip, record = source(index)
            generator = None if seed is None else torch.Generator().manual_seed(seed * 1_000_003 + index)
            made.append(
                {
                    "views": make_views(clip, config, generator=generator),
                    "reading": compose(tokenizer, config, record.prompt),
                    "labels": target(record, per_dimension=config.per_dimension),
                }
            )
        return {key: [row[key] for row in made] for key in made[0]}

    return Dataset.from_dict({"index": list(range(n))}).with_transform(rows)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Arguments of the model, and `labels` float32 [B, R]."""
    views, readings = ([row[name] for row in rows] for name in ("views", "reading"))
    inputs = model_inputs(views, readings, device=torch.device("cpu"))
    return inputs | {"labels": torch.tensor([row["labels"] for row in rows])}


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
    """Choose what is trained: everything but BLIP and, with a LoRA, the language model itself."""
    if "semantic" in model.config.branches:
        model.semantic.requires_grad_(arguments.train_semantic)
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
    lora = prepare(model, arguments)
    save_options(output, options, arguments)
    plan = FramePlan(max_frames=config.motion_frames, mode="uniform", slow_every=4)
    source, held_out, held_clips = sources(arguments, plan)
    trainer = HolisticTrainer(
        model=model,
        args=options,
        arguments=arguments,
        level_ids=level_token_ids(tokenizer),
        train_dataset=make_dataset(
            source, rows_needed(options), config=config, tokenizer=tokenizer, seed=options.seed
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
