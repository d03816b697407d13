"""Muon for the matrices of a network, AdamW for all else, as one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes each update of a matrix near orthogonal,
so that directions with small gradients learn as fast as those with large ones. The kernel of a convolution is
a matrix, too, [out, in x height x ...]. Embeddings, norms, biases and what reads pixels stay with AdamW. Both
take the same learning rate: Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv
2502.16982, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from precision import slow_bfloat16

NEWTON_SCHULZ, STEPS = (3.4445, -4.775, 2.0315), 5
"""Coefficients and number of iterations, as in `torch.optim.Muon`."""

PIXEL_CHANNELS = 3
"""Inputs of a convolution that reads pixels."""


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` scaled to AdamW's updates, in float32 on a device that imitates bfloat16. It takes
    weights with more than two axes as well, as matrices [first axis, all others]."""

    def __init__(
        self, params: Any, *, lr: float = 1e-3, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

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
                matrix = weight.grad.lerp(momentum, inertia).flatten(1).to(dtype)
                update = near_orthogonal(matrix)
                weight.mul_(1 - rate * group["weight_decay"])
                size = 0.2 * max(matrix.shape) ** 0.5
                weight.add_(update.view_as(weight), alpha=-rate * size)


def _mixes_features(module: torch.nn.Module) -> bool:
    """Whether a layer is a convolution of more than pixels."""
    kinds = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d
    return isinstance(module, kinds) and module.in_channels > PIXEL_CHANNELS


def near_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with singular values of about 1 (0.7 to 1.2), by Newton-Schulz iterations in its dtype."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
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
        kernels = {id(module.weight) for module in model.modules() if _mixes_features(module)}
        muon: list[dict[str, Any]] = []
        adamw: list[dict[str, Any]] = []
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        for seeing in (False, True):
            part = [p for name, p in trained if ("visual." in name) is seeing]
            matrices = [p for p in part if id(p) in kernels or (p.ndim == 2 and id(p) not in tables)]
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
