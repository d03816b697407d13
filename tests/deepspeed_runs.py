"""A recipe under DeepSpeed on two processes of a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def run_on_two(script: str, *options: Any) -> str:
    """Run `recipes/SCRIPT` with options and return what it printed; it must end well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [ROOT / "recipes" / script, "--ddp_backend", "gloo", "--warmup_steps", "0", *options]
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout + done.stderr
