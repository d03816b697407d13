"""Muon for the matrices of a network, AdamW for all else, as one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes each update of a matrix near orthogonal,
so that directions with small gradients learn as fast as those with large ones. Embeddings, norms, biases
and the patch embedding stay with AdamW. Both take the same learning rate: Muon's updates are scaled to the
size of AdamW's (Liu et al. 2025, arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps `torch.optim.Muon` and `torch.optim.AdamW` together.

    `param_groups` are those of both, so that a learning-rate schedule reaches each of them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        vision_share: float = 1.0,
    ) -> None:
        """`vision_share`: learning rate of the weights under a module called `visual`, as a share of `lr`."""
        tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
        muon: list[dict[str, Any]] = []
        adamw: list[dict[str, Any]] = []
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        for seeing in (False, True):
            part = [p for name, p in trained if ("visual." in name) is seeing]
            matrices = [p for p in part if p.ndim == 2 and id(p) not in tables]
            chosen = {id(p) for p in matrices}
            others = [p for p in part if id(p) not in chosen]
            rate = lr * (vision_share if seeing else 1.0)
            muon.append({"params": matrices, "lr": rate})
            decayed, plain = [p for p in others if p.ndim > 1], [p for p in others if p.ndim <= 1]
            adamw.append({"params": decayed, "lr": rate, "weight_decay": weight_decay})
            adamw.append({"params": plain, "lr": rate, "weight_decay": 0.0})
        muon, adamw = ([group for group in groups if group["params"]] for groups in (muon, adamw))
        # Either may have nothing to do: LoRA has matrices only.
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if muon:
            self.parts["muon"] = torch.optim.Muon(
                muon, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        if adamw:
            self.parts["adamw"] = torch.optim.AdamW(adamw, betas=betas)
        super().__init__([p for _, p in trained], {"lr": lr})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self.parts.values():
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()
