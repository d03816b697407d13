"""Muon for a whole network, convolutions included, with AdamW for what is no matrix.

Small networks reach the same loss in far fewer steps than with AdamW alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from muon import Muon

SMALL = 512
"""Weights with fewer numbers stay with AdamW."""


def optimizers_for(
    module: torch.nn.Module, *, lr: float, tables: Iterable[Tensor] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and kernels of a module, AdamW for the rest and for `tables` (embeddings)."""
    plain = {id(table) for table in tables}
    weights = [p for p in module.parameters() if p.ndim > 1 and p.numel() >= SMALL and id(p) not in plain]
    chosen = {id(p) for p in weights}
    others = [p for p in module.parameters() if id(p) not in chosen]
    return [
        Muon(weights, lr=lr),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
