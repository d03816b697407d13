"""Group-relative policy optimization of a reward model: stage 2 of Q-Save.

    accelerate launch recipes/reward/grpo.py --config configs/reward/tiny/2_grpo.yaml
    python recipes/reward/grpo.py --config configs/reward/tiny/2_grpo.yaml --max_steps 20

For every clip the model writes several reasoned answers; `qsave_reward.grading` grades them, and answers
better than those of their group become more likely. The log shows the mean of each grader, the share of
groups in which all answers earned the same (`frac_reward_zero_std`), `kl` and `completions/mean_length`.

Killed runs continue from their last checkpoint when the same command is given again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clips import WorldMix, open_clips, read_rated
from datasets import Dataset
from training import (
    check_max_steps,
    last_finished_checkpoint,
    load_model,
    parse_options,
    save_options,
    save_result,
)
from trl import GRPOConfig, GRPOTrainer, ModelConfig, get_peft_config

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.grading import WEIGHTS, grade
from qsave_reward.processor import QSaveProcessor, resize_chunks
from qsave_reward.prompt import build_messages
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.types import DIMENSIONS, Record

GRADERS = tuple(WEIGHTS)


@dataclass
class RewardArguments:
    """What this recipe adds to TRL's options."""

    data: str = field(metadata={"help": "`world:train` or a file of records"})
    trained_on: str = field(
        metadata={"help": "one sentence for users of the checkpoint: what its scores mean"}
    )
    freeze_vision: bool = field(default=True, metadata={"help": "train the language model only"})
    varied_share: float = field(
        default=0.0, metadata={"help": "world data: share of clips of other sizes and rates"}
    )


OPTIONS = (RewardArguments, FramePlan, GRPOConfig, ModelConfig)


def make_dataset(arguments: RewardArguments, n: int, plan: FramePlan) -> Dataset:
    """`n` questions with their chunks and the truth about them, made when they are asked for."""
    source = open_clips(arguments.data, plan, mix=WorldMix(varied_share=arguments.varied_share))

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made: dict[str, list[Any]] = {name: [] for name in ("prompt", "images", "record", "seconds", "clip")}
        for index in batch["index"]:
            clip, record = source(index)
            chunks = plan_chunks(clip, plan)
            made["prompt"].append(build_messages([chunk.time for chunk in chunks], record.prompt))
            made["images"].append(resize_chunks(chunks))
            made["record"].append(record)
            made["seconds"].append(clip.duration)
            made["clip"].append(index)
        return made

    return Dataset.from_dict({"index": list(range(n))}).with_transform(rows)


def reward_function(name: str) -> Callable[..., list[float | None]]:
    """One of `GRADERS` in the form that TRL calls; clips are ranked within the batch of one process."""

    def reward(
        completions: list[Any], record: list[Record], seconds: list[float], clip: list[int], **_: Any
    ) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        return list(grade(texts, record, groups=clip, durations=seconds)[name])

    reward.__name__ = name
    return reward


def reward_weights(given: list[float] | None) -> list[float]:
    """The weights of a run, one for each of `GRADERS`: `WEIGHTS` unless given; TRL would count all alike.

    Raises:
        ConfigError: for another number of weights, or one that TRL would leave out of its sum.
    """
    weights = list(WEIGHTS.values()) if given is None else given
    if len(weights) != len(GRADERS) or not all(map(math.isfinite, weights)):
        raise ConfigError(
            f"reward_weights needs one finite weight for each of {', '.join(GRADERS)}, got {weights}"
        )
    return weights


def check_truth(data: str) -> None:
    """A ConfigError when a file tells nothing to grade by: answers would only be compared with themselves."""
    known = data.startswith("world:") or any(r.mos or r.defects is not None for r in read_rated(data))
    if not known:
        raise ConfigError(
            f"{data}: expected `mos` of {', '.join(DIMENSIONS)} or `defects`, got neither; a set with an "
            "overall score only can train the holistic recipe (recipes/holistic/README.md)"
        )


def main() -> None:
    arguments, plan, config, model_config = parse_options(sys.argv[1:], *OPTIONS)
    config.remove_unused_columns = False
    config.reward_weights = reward_weights(config.reward_weights)
    check_max_steps(config)
    check_truth(arguments.data)
    share = config.per_device_train_batch_size * config.steps_per_generation
    if share % config.num_generations:
        raise ConfigError(
            f"the {share} answers of a process (per_device_train_batch_size * steps_per_generation) must be "
            f"a multiple of num_generations, {config.num_generations}: a clip is graded by one process"
        )
    output = Path(config.output_dir)
    processor = QSaveProcessor.for_model(model_config.model_name_or_path)
    plan = replace(plan, token_side=processor.patch_size * processor.merge_size)
    model = load_model(model_config, freeze_vision=arguments.freeze_vision)
    save_options(output, config, model_config, plan, arguments)
    answers = config.max_steps * config.generation_batch_size
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[reward_function(name) for name in GRADERS],
        args=config,
        train_dataset=make_dataset(arguments, answers // config.num_generations, plan),
        processing_class=processor,
        peft_config=get_peft_config(model_config),
    )
    trainer.train(resume_from_checkpoint=last_finished_checkpoint(output))
    save_result(trainer, plan, data=arguments.data, trained_on=arguments.trained_on)


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
