"""Loading the published weights of an encoder: all of them or none."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from qsave_reward.errors import ConfigError

COUNTER = ".num_batches_tracked"


def load_strictly(encoder: nn.Module, path: str | Path, *, head: str, prefix: str = "") -> None:
    """Load every tensor of `encoder` from a file, or none.

    Args:
        encoder: gets the weights; its device and dtype stay.
        path: safetensors (by its ending), or what `torch.save` writes; the latter is read as plain tensors,
            so that no code in it can run. The weights may lie under `model_state` or `state_dict`.
        head: tensors whose names begin so are left out.
        prefix: what the file puts before each name of `encoder`; a file without it is read as well.

    Raises:
        ConfigError: `code="bad_weights"`: the file cannot be read; it lacks a tensor of `encoder`, has
            one that `encoder` lacks, or one of another shape or, for whole numbers, other values. Counters
            of batch normalisation, which play no part here, are left out on both sides.
    """
    weights = _read_weights(Path(path))
    if not any(name.startswith(prefix) for name in weights):
        prefix = ""
    weights = {n: t for n, t in weights.items() if not n.startswith(head) and not n.endswith(COUNTER)}
    wanted = {prefix + n: t for n, t in encoder.state_dict().items() if not n.endswith(COUNTER)}
    shared = [(n, _difference(weights[n], ours)) for n, ours in wanted.items() if n in weights]
    problems = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "different": [f"{name}: {difference}" for name, difference in shared if difference],
    }
    if any(problems.values()):
        told = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])})" for kind, names in problems.items() if names
        )
        raise ConfigError(
            f"{path} does not hold the weights of this {type(encoder).__name__}: {told}; nothing was loaded. "
            "Use the checkpoint of this architecture, or the configuration of this checkpoint",
            code="bad_weights",
        )
    encoder.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in weights.items()})


def _difference(theirs: Tensor, ours: Tensor) -> str:
    if theirs.shape != ours.shape or theirs.is_floating_point() != ours.is_floating_point():
        return f"{theirs.dtype} {list(theirs.shape)} in place of {ours.dtype} {list(ours.shape)}"
    # What is not floating point is a table that follows from the configuration.
    same = ours.is_floating_point() or torch.equal(theirs.long(), ours.long().cpu())
    return "" if same else "other values"


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        raw = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 (runs no code)
    except Exception as error:  # the bytes of a damaged file can raise anything
        raise ConfigError(
            f"{path} cannot be read as safetensors or as a torch file of plain tensors "
            f"({type(error).__name__}: {error})",
            code="bad_weights",
        ) from error
    for key in ("model_state", "state_dict"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
    if not isinstance(raw, dict) or not all(
        isinstance(t, Tensor) and isinstance(n, str) for n, t in raw.items()
    ):
        raise ConfigError(
            f"{path} holds no tensors by name, alone or under model_state or state_dict", code="bad_weights"
        )
    return raw
