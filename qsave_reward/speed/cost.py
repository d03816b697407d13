"""What a piece of work costs beside time: operations, memory; and how many operations the device can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from qsave_reward.speed.process_memory import resident_mb

_MATRIX = {"cpu": 1024}
_LARGE_MATRIX = 8192
_PRODUCTS = 8


def settler(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all it was given."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


def count_operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in `work`; a product and a
    sum count as two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def matrix_products(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """Work that keeps the device's matrix units as busy as they can be, and its number of operations."""
    side = _MATRIX.get(device.type, _LARGE_MATRIX)
    first = torch.ones(side, side, device=device, dtype=dtype)
    second, out = torch.full_like(first, 0.5), torch.empty_like(first)

    def work() -> None:
        for _ in range(_PRODUCTS):
            torch.mm(first, second, out=out)

    return work, 2 * side**3 * _PRODUCTS


def peak_mb(device: torch.device, work: Callable[[], Any]) -> float | None:
    """Most memory in use during `work`, in 10^6 bytes.

    Returns:
        On a CUDA device what torch had allocated there; else what this process had resident, all it holds
        included; `None` where the system cannot tell.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    except OSError:
        return None
    work()
    return resident_mb("VmHWM")
