"""Supervised fine-tuning of a reward model: stage 1 (and 3) of Q-Save.

    accelerate launch recipes/reward/sft.py --config configs/reward/tiny/1_sft.yaml
    python recipes/reward/sft.py --config configs/reward/tiny/1_sft.yaml --max_steps 100

Killed runs continue from their last checkpoint when the same command is given again. The output
directory is a checkpoint for `RewardModel.from_pretrained`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from clips import WorldMix, open_clips, read_rated, world_plans
from datasets import Dataset
from reprompt import reprompt
from spoken_facts import (
    DEFECTS,
    LAYERS,
    SpokenCollator,
    check_layers,
    defect_labels,
    prompt_labels,
    spoken_loss,
    visual_labels,
    word_ids,
)
from training import (
    check_muon,
    last_finished_checkpoint,
    load_model,
    muon_optimizer,
    parse_options,
    rows_needed,
    save_options,
    save_result,
)
from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.processor import QSaveProcessor
from qsave_reward.slots import slot_token_ids
from qsave_reward.slowfast import FramePlan
from qsave_reward.supervision import (
    SFTCollator,
    branch_inputs,
    score_losses,
    sft_row,
    text_loss,
)
from qsave_reward.types import DIMENSIONS, Mode
from qsave_reward.world.stream import plan_record


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
    vision_learning_share: float = field(
        default=1.0,
        metadata={"help": "with muon: learning rate of the vision tower as a share of the rest's"},
    )
    compile_blocks: bool = field(
        default=False, metadata={"help": "compile each transformer block (1.4 times as fast on a CPU)"}
    )
    repeat_shapes: bool = field(
        default=False, metadata={"help": "round batch shapes up (bfloat16 on a CPU then needs less memory)"}
    )
    save_dtype: Literal["float32", "float16", "bfloat16"] | None = field(
        default=None, metadata={"help": "precision of the saved weights; default: that of training"}
    )
    mismatched_share: float = field(
        default=0.0,
        metadata={"help": "share of clips shown with the prompt of another clip: alignment is bad"},
    )
    varied_share: float = field(
        default=0.25, metadata={"help": "world data: share of clips of other sizes and rates"}
    )
    facts_weight: float = field(
        default=0.0,
        metadata={"help": "world data: weight of tokens saying what is seen of a clip (spoken_facts.py)"},
    )
    films: str | None = field(
        default=None, metadata={"help": "world data: folder of real clips to use as backgrounds of some"}
    )
    films_share: float = field(default=1.0, metadata={"help": "with films: share of clips that may get one"})
    sought: list[str] = field(
        default_factory=list,
        metadata={"help": "world data: what is hard to learn, a defect or 'stated relation', for some clips"},
    )
    sought_share: float = field(default=0.25, metadata={"help": "with sought: share of such clips"})
    raters: int = field(default=5, metadata={"help": "world data: people who judge each clip"})
    prompts_per_clip: int = field(
        default=1,
        metadata={
            "help": "world data, with paired_answers: each clip is shown with its own prompt and others, "
            "which it follows or not (reprompt.py) and which do not see each other"
        },
    )


class RewardSFTTrainer(SFTTrainer):
    """TRL's trainer with the project's loss: written reasons plus the score term."""

    def __init__(self, *args: Any, arguments: RewardArguments, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments = arguments
        self.level_ids, _ = slot_token_ids(self.processing_class.tokenizer)
        self.word_ids = word_ids(self.processing_class.tokenizer) if arguments.facts_weight else {}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.arguments.muon and self.optimizer is None:
            self.optimizer = muon_optimizer(
                self.model if model is None else model,
                self.args,
                vision_share=self.arguments.vision_learning_share,
            )
        return super().create_optimizer(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels, slots, levels, mos = (inputs.pop(name) for name in ("labels", "slots", "levels", "mos"))
        direct, prompts, answers = (inputs.pop(name) for name in ("direct", "prompts", "answers"))
        spoken = {kind: inputs.pop(f"spoken_{kind}") for kind in self.word_ids}
        if self.arguments.paired_answers:
            inputs = branch_inputs(model, inputs, prompts, answers)
        asked = {"logits_to_keep": labels.shape[1], "output_hidden_states": bool(spoken)}
        outputs = model(**inputs, use_cache=False, **asked)
        losses = {"text": text_loss(outputs.logits, labels)}
        losses["level"], losses["expectation"] = score_losses(
            outputs.logits, slots, levels, mos, self.level_ids
        )
        metrics = self._metrics["train" if model.training else "eval"]
        facts = {}
        for kind, ids in self.word_ids.items():
            bare, states = self.accelerator.unwrap_model(model), outputs.hidden_states[LAYERS[kind]]
            facts[kind], right = spoken_loss(bare, states, spoken[kind], ids)
            metrics[f"{kind}_right"].append(right.item())
        loss = sum(getattr(self.arguments, f"{name}_weight") * value for name, value in losses.items())
        loss = loss + self.arguments.facts_weight * sum(facts.values())
        for name, value in (losses | facts).items():
            metrics[f"loss_{name}"].append(value.item())
        # The slots of a reasoned answer follow the true reasons and are easy; these have to look at the clip.
        levels = levels * direct[:, :, None]
        with torch.no_grad():
            for k, dimension in enumerate(DIMENSIONS):
                chosen = [one[:, k :: len(DIMENSIONS)] for one in (slots, levels, mos)]
                if chosen[1].any():
                    alone = score_losses(outputs.logits, *chosen, self.level_ids)
                    metrics[f"direct_{dimension}"].append(alone[1].item())
        return (loss, outputs) if return_outputs else loss


def world_mix(arguments: RewardArguments) -> WorldMix:
    """The clips of the world that a run takes."""
    return WorldMix(**{option.name: getattr(arguments, option.name) for option in fields(WorldMix)})


OPTIONS = (RewardArguments, FramePlan, SFTConfig, ModelConfig)


def make_dataset(
    arguments: RewardArguments, n: int, seed: int, processor: QSaveProcessor, plan: FramePlan
) -> Dataset:
    """Rows made when they are asked for: nothing is decoded or rendered ahead of time."""
    mix = world_mix(arguments)
    source = open_clips(arguments.data, plan, mix=mix, mismatched_share=arguments.mismatched_share)
    plan_of = world_plans(arguments.data, mix) if arguments.data.startswith("world:") else None

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = []
        for index in batch["index"]:
            clip, record = source(index)
            # A fixed irrational stride spreads the two kinds of rows evenly and without a random state.
            reasoned = (index * 0.6180339887 + seed * 0.414213562) % 1.0 < arguments.reasoned_share
            modes: list[Mode] = ["reasoned" if reasoned else "direct"]
            if arguments.paired_answers:
                modes = ["reasoned", "direct"]
            plans = [] if plan_of is None else [plan_of(index)]
            rng = np.random.default_rng([seed, index])
            plans += [reprompt(plans[0], rng) for _ in range(arguments.prompts_per_clip - 1)]
            records = [record, *map(plan_record, plans[1:])]
            row = sft_row(clip, record, processor, plan, modes, records[1:])
            if arguments.facts_weight:
                grids = [tuple(side // plan.token_side for side in pair.shape[1:3]) for pair in row["images"]]
                row["seen"] = visual_labels(plans[0], len(clip.times), grids)
                row["prompted"] = [
                    prompt_labels(each, asked.prompt) for each, asked in zip(plans, records, strict=True)
                ]
                row["defects"] = {name: defect_labels(plans[0], row["times"], name) for name in DEFECTS}
            made.append(row)
        return {key: [row[key] for row in made] for key in made[0]}

    return Dataset.from_dict({"index": list(range(n))}).with_transform(rows)


def check_prompts(arguments: RewardArguments) -> None:
    """A ConfigError when clips cannot be shown with so many prompts."""
    if arguments.prompts_per_clip < 1:
        raise ConfigError(f"prompts_per_clip must be at least 1, got {arguments.prompts_per_clip}")
    if arguments.prompts_per_clip > 1 and not (
        arguments.data.startswith("world:") and arguments.paired_answers
    ):
        raise ConfigError(
            "prompts_per_clip works with clips of the rendered world and paired_answers, got data "
            f"{arguments.data!r}, paired_answers {arguments.paired_answers}: use --prompts_per_clip 1"
        )


def check_ratings(data: str) -> None:
    """A ConfigError when a file has no rating of a dimension: nothing could be learnt from it."""
    if data.startswith("world:") or any(r.mos or any(r.ratings.values()) for r in read_rated(data)):
        return
    raise ConfigError(
        f"{data}: expected ratings of dimensions (`mos` of {', '.join(DIMENSIONS)}), got none; a set with an "
        "overall score only can train the holistic recipe (recipes/holistic/README.md)"
    )


def main() -> None:
    arguments, plan, config, model_config = parse_options(sys.argv[1:], *OPTIONS)
    check_muon(config, muon=arguments.muon)
    if arguments.facts_weight and (config.deepspeed or not arguments.data.startswith("world:")):
        raise ConfigError(
            f"facts_weight works with clips of the rendered world and without DeepSpeed, got data "
            f"{arguments.data!r}, deepspeed {config.deepspeed!r}: set it to 0 (--facts_weight 0)"
        )
    check_prompts(arguments)
    check_ratings(arguments.data)
    world_mix(arguments)  # refuses what it cannot take, before a model is read
    config.remove_unused_columns = False
    config.dataset_kwargs = {"skip_prepare_dataset": True}
    output = Path(config.output_dir)
    processor = QSaveProcessor.for_model(model_config.model_name_or_path)
    plan = replace(plan, token_side=processor.patch_size * processor.merge_size)
    model: Any = load_model(model_config, freeze_vision=arguments.freeze_vision)
    if arguments.facts_weight:
        check_layers(len(model.model.language_model.layers))
    if arguments.compile_blocks:
        for block in (*model.model.visual.blocks, *model.model.language_model.layers):
            block.compile(dynamic=True)
    save_options(output, config, model_config, plan, arguments)

    n = rows_needed(config)
    collator = SpokenCollator if arguments.facts_weight else SFTCollator
    trainer = RewardSFTTrainer(
        model=model,
        args=config,
        arguments=arguments,
        train_dataset=make_dataset(arguments, n, config.seed, processor, plan),
        data_collator=collator(processor, arguments.repeat_shapes),
        processing_class=processor,
        peft_config=get_peft_config(model_config),
    )
    trainer.train(resume_from_checkpoint=last_finished_checkpoint(output))
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
