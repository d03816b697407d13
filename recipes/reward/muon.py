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
from precision import slow_bfloat16


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` scaled to AdamW's updates, in float32 on a device that imitates bfloat16."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, inertia = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - inertia)
                dtype = torch.float32 if slow_bfloat16(weight.device) else torch.bfloat16
                update = near_orthogonal(
                    weight.grad.lerp(momentum, inertia).to(dtype), group["ns_coefficients"], group["ns_steps"]
                )
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-rate * 0.2 * max(weight.shape) ** 0.5)


def near_orthogonal(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int
) -> torch.Tensor:
    """The matrix with singular values of about 1 (0.7 to 1.2), by Newton-Schulz iterations in its dtype."""
    a, b, c = coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps `Muon` and `torch.optim.AdamW` together.

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
            self.parts["muon"] = Muon(muon, weight_decay=weight_decay)
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
