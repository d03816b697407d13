"""Muon for a whole network, convolutions included, with AdamW for what is no matrix.

Muon takes matrices only; a convolution's kernel is one, [out, in x height x ...], as soon as it is viewed so.
Small networks reach the same loss in far fewer steps than with AdamW alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from muon import Muon

SMALL = 512
"""Weights with fewer numbers stay with AdamW."""


class KernelMuon(Muon):
    """Muon on views of weights with two axes or more as matrices [first axis, all others]."""

    def __init__(self, weights: Iterable[Tensor], *, lr: float, weight_decay: float = 0.0) -> None:
        self.weights = list(weights)
        self.matrices = [torch.nn.Parameter(_matrix(weight.data)) for weight in self.weights]
        super().__init__(self.matrices, lr=lr, weight_decay=weight_decay)

    def step(self, closure: Any = None) -> None:
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.data = _matrix(weight.data)
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.weights:
            weight.grad = None


def optimizers_for(
    module: torch.nn.Module, *, lr: float, tables: Iterable[Tensor] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and kernels of a module, AdamW for the rest and for `tables` (embeddings)."""
    plain = {id(table) for table in tables}
    weights = [p for p in module.parameters() if p.ndim > 1 and p.numel() >= SMALL and id(p) not in plain]
    chosen = {id(p) for p in weights}
    others = [p for p in module.parameters() if id(p) not in chosen]
    return [
        KernelMuon(weights, lr=lr),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _matrix(weight: Tensor) -> Tensor:
    return weight.reshape(weight.shape[0], -1)
