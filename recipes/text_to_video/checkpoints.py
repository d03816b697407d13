"""Checkpoints of a run: complete or not there at all; the newest two stay."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write `folder/step-N` with everything that was prepared or registered, and drop older ones.

    All processes must call it.
    """
    part = folder / f"step-{step}.part"
    frozen = {"exclude_frozen_parameters": True} if _with_deepspeed(accelerator) else {}
    accelerator.save_state(str(part), **frozen)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        part.rename(folder / f"step-{step}")
        for old in _finished(folder)[:-2]:
            shutil.rmtree(folder / f"step-{old}")
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, folder: Path) -> int:
    """Load the newest complete checkpoint; its step, or 0 where there is none."""
    steps = _finished(folder)
    for torn in folder.glob("step-*.part") if accelerator.is_main_process else ():
        shutil.rmtree(torn)
    accelerator.wait_for_everyone()
    if not steps:
        return 0
    frozen = {"load_module_strict": False} if _with_deepspeed(accelerator) else {}
    accelerator.load_state(str(folder / f"step-{steps[-1]}"), **frozen)
    # Checkpoints lie between updates. The count of batches in them fits the number of processes that wrote
    # them and is missing for others: the optimizer would step in the middle of an update.
    accelerator.step = 0
    return steps[-1]


def _with_deepspeed(accelerator: Accelerator) -> bool:
    """DeepSpeed alone would write the frozen weights too."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def _finished(folder: Path) -> list[int]:
    names = [re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*")]
    return sorted(int(name[1]) for name in names if name)
