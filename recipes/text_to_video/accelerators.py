"""How a run uses accelerate: one process, DDP or DeepSpeed ZeRO-2."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.utils import DistributedType
from train_options import TrainOptions

from qsave_reward.errors import ConfigError

PATIENCE = timedelta(hours=3)
"""How long a process waits for the others; NCCL's 10 minutes are too few where a reward server is slow."""


def open_accelerator(options: TrainOptions) -> Accelerator:
    """An accelerator that steps the optimizer `minibatches` times in an update.

    Raises:
        ConfigError: where prompts cannot be shared between the processes or the optimizer steps, or the
            weights are sharded.
    """
    if not torch.cuda.is_available():
        PartialState(cpu=True, timeout=PATIENCE)  # else DeepSpeed runs on CPUs do not find each other
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    _refuse_shards(accelerator)
    processes = accelerator.num_processes
    if options.prompts_per_update % processes:
        raise ConfigError(
            f"prompts_per_update ({options.prompts_per_update}) must be a multiple of the number of "
            f"processes ({processes})"
        )
    if options.eval_count < processes:
        raise ConfigError(
            f"eval_count ({options.eval_count}) must be at least the number of processes ({processes}), "
            "which share the prompts of an evaluation"
        )
    groups = options.prompts_per_update // processes
    if groups % options.minibatches:
        raise ConfigError(
            f"minibatches ({options.minibatches}) must divide the number of prompts of a process ({groups}, "
            f"prompts_per_update over {processes} processes): an optimizer step takes whole groups"
        )
    repeats = options.levels_per_video if options.algorithm == "nft" else 1
    chunks = groups * (options.group_size // options.batch_size) * repeats
    accelerator.gradient_accumulation_steps = chunks // options.minibatches
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = options.batch_size
        config["gradient_accumulation_steps"] = accelerator.gradient_accumulation_steps
        config["gradient_clipping"] = options.max_grad_norm
    return accelerator


def _refuse_shards(accelerator: Accelerator) -> None:
    """Sampling and the old policy run the bare transformer, which needs its weights whole."""
    kind, found = accelerator.distributed_type, ""
    if kind == DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3:
        found = "DeepSpeed ZeRO stage 3"
    if kind == DistributedType.FSDP:
        found = "FSDP"
    if found:
        raise ConfigError(
            f"expected whole weights in each process, got {found}, which shards them; use DeepSpeed ZeRO "
            "stage 2 (configs/accelerate/zero2.yaml) or plain DDP"
        )


def keep_model_out(accelerator: Accelerator) -> None:
    """Checkpoints hold the LoRA (`Policies`), not the frozen transformer."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return
    accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
    accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
