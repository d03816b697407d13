"""bfloat16 where the hardware has it: a CPU that must imitate it takes 50 times as long as in float32."""

from __future__ import annotations

import sys

import torch


def slow_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether a device imitates bfloat16: a CPU on which oneDNN has nothing for it (x86 without AVX-512)."""
    if torch.device(device).type != "cpu":
        return False
    return not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def precision_options() -> list[str]:
    """What is added to the options of a training: `--bf16 false`, said so, where it would be imitated."""
    if torch.accelerator.is_available() or not slow_bfloat16():
        return []
    print("this CPU would have to imitate bfloat16: trained in float32 (--bf16 false)", file=sys.stderr)
    return ["--bf16", "false"]
