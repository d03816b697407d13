"""Run a training script of transformers' `Trainer` unchanged, with a clock at every step; then stop it.

    python -m qsave_reward.speed.timed_training REPORT WARMUP STEPS SCRIPT [ARGUMENT ...]

A step lasts from asking for its batches to asking for the next ones. REPORT gets a line of JSON for each step
when its batches are there: `asked` and `got`, seconds of one clock. After WARMUP and STEPS steps comes a last
line: `ended`, when the next batches were asked for; `clips` and `tokens` (padding left out) of the STEPS;
`peak_mb` of the whole run (on CUDA what torch had allocated there, else what this process had resident;
`null` where the system cannot tell); `device` and `threads`. Then the script ends, with exit code 0, before
it saves anything.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from transformers import Trainer

from qsave_reward.speed.process_memory import resident_mb


def time_steps(report: TextIO, *, warmup: int, steps: int) -> None:
    """From now on a `Trainer` of this process writes to `report`; after the last line it ends the process."""
    fetch = Trainer.get_batch_samples
    done, clips = 0, 0
    tokens: list[torch.Tensor] = []

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal done, clips
        asked = time.perf_counter()
        if done == warmup + steps:
            found = {"ended": asked, "clips": clips, "tokens": int(sum(tokens))}
            _write(report, found | _place(self.args.device))
            raise SystemExit(0)
        batches, counted = fetch(self, *args, **kwargs)
        got = time.perf_counter()
        if done >= warmup:
            clips += len(batches) * self.args.train_batch_size
            # Sums stay on the device: to look at them would wait for it.
            tokens.extend(batch["attention_mask"].sum() for batch in batches)
        done += 1
        _write(report, {"asked": asked, "got": got})
        return batches, counted

    Trainer.get_batch_samples = timed  # type: ignore[method-assign]


def _place(device: torch.device) -> dict[str, Any]:
    on_cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if on_cuda else resident_mb("VmHWM")
    return {"peak_mb": peak, "device": str(device), "threads": torch.get_num_threads()}


def _write(report: TextIO, line: dict[str, Any]) -> None:
    report.write(json.dumps(line) + "\n")
    report.flush()


def main() -> None:
    path, warmup, steps, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))  # as Python does for a script
    with open(path, "w") as report:
        time_steps(report, warmup=int(warmup), steps=int(steps))
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
