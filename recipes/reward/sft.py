"""Supervised fine-tuning of a reward model: stage 1 (and 3) of Q-Save.

    accelerate launch recipes/reward/sft.py --config configs/reward/tiny/1_sft.yaml
    python recipes/reward/sft.py --config configs/reward/tiny/1_sft.yaml --max_steps 100

Killed runs continue from their last checkpoint when the same command is given again. The output
directory is a checkpoint for `RewardModel.from_pretrained`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from datasets import Dataset
from training import last_finished_checkpoint, muon_optimizer, parse_options
from transformers import AutoModelForImageTextToText
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from qsave_reward.checkpoint import write_metadata
from qsave_reward.data import read_records
from qsave_reward.errors import ConfigError
from qsave_reward.fast_vision import use_fast_vision
from qsave_reward.processor import QSaveProcessor
from qsave_reward.slowfast import FramePlan
from qsave_reward.supervision import (
    IGNORED,
    SFTCollator,
    branch_inputs,
    score_losses,
    sft_row,
    slot_token_ids,
    text_loss,
)
from qsave_reward.types import DIMENSIONS, Mode, Record
from qsave_reward.video import Clip, Sampling, read_clip
from qsave_reward.world import WorldConfig, parse_world_name, vocabulary, world_item


@dataclass
class RewardArguments:
    """What this recipe adds to TRL's options."""

    data: str = field(metadata={"help": "`world:train` or a JSONL file of records"})
    trained_on: str = field(
        metadata={"help": "one sentence for users of the checkpoint: what its scores mean"}
    )
    reasoned_share: float = field(default=0.5, metadata={"help": "share of rows that teach written reasons"})
    paired_answers: bool = field(
        default=False,
        metadata={
            "help": "teach both answers of every clip in one row, instead of a reasoned_share: nearly twice "
            "the answers in the same time; needs attention that takes a mask (not flash attention)"
        },
    )
    text_weight: float = field(default=1.0, metadata={"help": "weight of the cross-entropy on the reasons"})
    level_weight: float = field(default=1.0, metadata={"help": "weight of the cross-entropy at the slots"})
    expectation_weight: float = field(default=0.5, metadata={"help": "weight of (expected level - MOS)^2"})
    freeze_vision: bool = field(default=False, metadata={"help": "train the language model only"})
    muon: bool = field(default=False, metadata={"help": "Muon for matrices and AdamW for all else (muon.py)"})
    compile_blocks: bool = field(
        default=False, metadata={"help": "compile each transformer block (1.4 times as fast on a CPU)"}
    )
    repeat_shapes: bool = field(
        default=False, metadata={"help": "round batch shapes up (bfloat16 on a CPU then needs less memory)"}
    )
    save_dtype: Literal["float32", "float16", "bfloat16"] | None = field(
        default=None, metadata={"help": "precision of the saved weights; default: that of training"}
    )
    varied_share: float = field(
        default=0.25, metadata={"help": "world data: share of clips of other sizes and rates"}
    )


class RewardSFTTrainer(SFTTrainer):
    """TRL's trainer with the project's loss: written reasons plus the score term."""

    def __init__(self, *args: Any, arguments: RewardArguments, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments = arguments
        self.level_ids, _ = slot_token_ids(self.processing_class.tokenizer)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.arguments.muon and self.optimizer is None:
            self.optimizer = muon_optimizer(self.model if model is None else model, self.args)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels, slots, levels, mos = (inputs.pop(name) for name in ("labels", "slots", "levels", "mos"))
        branches = inputs.pop("branches")
        if self.arguments.paired_answers:
            inputs = branch_inputs(model, inputs, branches)
        outputs = model(**inputs, use_cache=False, logits_to_keep=labels.shape[1])
        text = text_loss(outputs.logits, labels)
        level, expectation = score_losses(outputs.logits, slots, levels, mos, self.level_ids)
        weights = self.arguments
        loss = (
            weights.text_weight * text
            + weights.level_weight * level
            + weights.expectation_weight * expectation
        )
        metrics = self._metrics["train" if model.training else "eval"]
        for name, value in (("text", text), ("level", level), ("expectation", expectation)):
            metrics[f"loss_{name}"].append(value.item())
        # The slots of a reasoned answer follow the true reasons and are easy; these have to look at the clip.
        count = len(DIMENSIONS)
        direct = torch.full((len(labels),), self.arguments.paired_answers, device=labels.device)
        direct = direct | (labels == IGNORED).all(dim=1)
        with torch.no_grad():
            for k, dimension in enumerate(DIMENSIONS):
                chosen = (
                    slots[direct, k - count, None],
                    levels[direct, k - count, None],
                    mos[direct, k - count, None],
                )
                if chosen[1].any():
                    alone = score_losses(outputs.logits[direct], *chosen, self.level_ids)
                    metrics[f"direct_{dimension}"].append(alone[1].item())
        return (loss, outputs) if return_outputs else loss


def parse(argv: list[str]) -> tuple[RewardArguments, FramePlan, SFTConfig, ModelConfig]:
    """Options of a run; a misspelt name, a wrong type or a wrong choice stops it."""
    return parse_options(argv, RewardArguments, FramePlan, SFTConfig, ModelConfig)


def make_dataset(
    arguments: RewardArguments, n: int, seed: int, processor: QSaveProcessor, plan: FramePlan
) -> Dataset:
    """Rows made when they are asked for: nothing is decoded or rendered ahead of time."""
    if arguments.data.startswith("world:"):
        split, world_seed = parse_world_name(arguments.data)
        source = _world_source(split, world_seed, arguments.varied_share, plan)
    else:
        records = read_records(arguments.data)
        if not records:
            raise ConfigError(f"{arguments.data} holds no records")
        source = _record_source(records, Path(arguments.data).parent, plan)

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = []
        for index in batch["index"]:
            clip, record = source(index)
            # A fixed irrational stride spreads the two kinds of rows evenly and without a random state.
            reasoned = (index * 0.6180339887 + seed * 0.414213562) % 1.0 < arguments.reasoned_share
            modes: list[Mode] = ["reasoned" if reasoned else "direct"]
            if arguments.paired_answers:
                modes = ["reasoned", "direct"]
            made.append(sft_row(clip, record, processor, plan, modes))
        return {key: [row[key] for row in made] for key in made[0]}

    return Dataset.from_dict({"index": list(range(n))}).with_transform(rows)


def _world_source(split: str, seed: int, varied_share: float, plan: FramePlan) -> Any:
    sampling = Sampling(max_frames=plan.max_frames, fps=plan.fps)

    def source(index: int) -> tuple[Clip, Record]:
        varied = index * 0.7548776662 % 1.0 < varied_share
        item = world_item(split, index, seed=seed, config=WorldConfig(varied=varied))
        return read_clip(item.frames, sampling, times=item.times.tolist()), item.record

    return source


def _record_source(records: list[Record], root: Path, plan: FramePlan) -> Any:
    sampling = Sampling(max_frames=plan.max_frames, fps=plan.fps)

    def source(index: int) -> tuple[Clip, Record]:
        record = records[index % len(records)]
        return read_clip(root / record.video, sampling), record

    return source


def main() -> None:
    arguments, plan, config, model_config = parse(sys.argv[1:])
    config.remove_unused_columns = False
    config.dataset_kwargs = {"skip_prepare_dataset": True}
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)

    processor = QSaveProcessor.for_model(model_config.model_name_or_path)
    plan = replace(plan, token_side=processor.patch_size * processor.merge_size)
    model = AutoModelForImageTextToText.from_pretrained(
        model_config.model_name_or_path, dtype=model_config.dtype
    )
    use_fast_vision(model)
    if arguments.freeze_vision:
        model.model.visual.requires_grad_(False)
    if arguments.compile_blocks:
        for block in (*model.model.visual.blocks, *model.model.language_model.layers):
            block.compile(dynamic=True)

    n = config.max_steps * config.train_batch_size * config.gradient_accumulation_steps * config.world_size
    trainer = RewardSFTTrainer(
        model=model,
        args=config,
        arguments=arguments,
        train_dataset=make_dataset(arguments, n, config.seed, processor, plan),
        data_collator=SFTCollator(processor, arguments.repeat_shapes),
        processing_class=processor,
        peft_config=get_peft_config(model_config),
    )
    resolved = {**config.to_dict(), **asdict(model_config), **asdict(plan), **asdict(arguments)}
    (output / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(resolved, default=str))))
    trainer.train(resume_from_checkpoint=last_finished_checkpoint(output))
    if model_config.use_peft:
        trainer.model = trainer.model.merge_and_unload()
    if arguments.save_dtype is not None:
        trainer.model.to(getattr(torch, arguments.save_dtype))
    trainer.save_model(output)
    if trainer.is_world_process_zero():
        world = arguments.data.startswith("world:")
        write_metadata(
            output, plan, trained_on=arguments.trained_on, prompt_words=vocabulary() if world else None
        )


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
