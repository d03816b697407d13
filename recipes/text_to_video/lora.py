"""The weights that are trained: a LoRA in a transformer, and the older versions of it that training needs.

The old policy, the reference and the running average are lists of tensors, put in the LoRA's place for as
long as they are used (`using`). One adapter is enough, nothing has to be switched, and what a trainer wrapper
(DDP, DeepSpeed) sees never changes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qsave_reward.errors import ConfigError

NAME = "default"
LORA_FILE = "pytorch_lora_weights.safetensors"


def add_lora(
    transformer: torch.nn.Module, *, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> list[Tensor]:
    """Freeze a transformer and give the layers whose names end in `targets` a LoRA, float32.

    Returns:
        the trainable parameters, in the order of the model.

    Raises:
        ConfigError: when one of `targets` matches no linear layer; peft alone says so only when none matches.
    """
    linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    missing = [target for target in targets if not any(_ends_in(name, target) for name in linear)]
    if missing or not targets:
        endings = sorted({".".join(name.split(".")[-2:]) for name in linear})
        raise ConfigError(
            f"LoRA targets {', '.join(missing) or '(none given)'} match no linear layer of "
            f"{type(transformer).__name__}; its layers end in {', '.join(endings)}"
        )
    transformer.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(
            LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets)),
            NAME,
        )
    cast_training_params(transformer, torch.float32)
    return trained(transformer)


def load_lora(pipeline: Any, path: str | Path) -> None:
    """Put an exported LoRA into a pipeline, for evaluation.

    Raises:
        ConfigError: where there is none, or it was made for other layers.
    """
    path = Path(path)
    if not (path / LORA_FILE).is_file():
        raise ConfigError(f"expected a folder with {LORA_FILE}, got {path}")
    try:
        pipeline.load_lora_weights(str(path), adapter_name=NAME)
    except (ValueError, RuntimeError, KeyError, OSError, SafetensorError) as error:
        raise ConfigError(f"the LoRA in {path} does not fit {type(pipeline).__name__}: {error}") from error
    with safe_open(path / LORA_FILE, framework="pt") as file:
        given = len(file.keys())
    taken = len(get_peft_model_state_dict(pipeline.transformer, adapter_name=NAME))
    if given != taken:
        raise ConfigError(
            f"the LoRA in {path} does not fit {type(pipeline).__name__}: of its {given} weights {taken} "
            "have a place"
        )


def export_lora(pipeline: Any, path: Path) -> None:
    """Write the LoRA for `pipeline.load_lora_weights`, with the alpha / rank it was trained at.

    An earlier one in `path` is replaced when the new one is complete.
    """
    transformer, part = pipeline.transformer, path.with_name(f"{path.name}.part")
    pipeline.save_lora_weights(
        str(part),
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name=NAME),
        transformer_lora_adapter_metadata=transformer.peft_config[NAME].to_dict(),
    )
    if path.exists():
        shutil.rmtree(path)
    part.rename(path)


def trained(module: torch.nn.Module) -> list[Tensor]:
    """The parameters with a gradient."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def copy_of(weights: Iterable[Tensor]) -> list[Tensor]:
    """Detached copies."""
    return [weight.detach().clone() for weight in weights]


@torch.no_grad()
def blend(target: list[Tensor], source: Sequence[Tensor], keep: float) -> None:
    """target = keep target + (1 - keep) source, in place."""
    for old, new in zip(target, source, strict=True):
        old.lerp_(new.detach(), 1.0 - keep)


@contextmanager
def using(parameters: Sequence[Tensor], weights: Sequence[Tensor]) -> Iterator[None]:
    """Run without gradient and with `weights` in place of `parameters`, which come back afterwards.

    Raises:
        RuntimeError: in a backward pass meanwhile; with gradient checkpointing it would use wrong weights.
    """
    own = [parameter.data for parameter in parameters]
    hooks = [p.register_post_accumulate_grad_hook(_refuse) for p in parameters if p.requires_grad]
    with torch.no_grad():
        try:
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.data = weight.data
            yield
        finally:
            for parameter, data in zip(parameters, own, strict=True):
                parameter.data = data
            for hook in hooks:
                hook.remove()


def _refuse(_parameter: Tensor) -> None:
    raise RuntimeError("a backward pass ran while other weights were in place; leave `using` first")


class Policies:
    """The versions of the trained weights; saved and restored with a checkpoint.

    Attributes:
        current: the parameters themselves.
        old: what makes the rollouts.
        reference: the start, which `kl` holds on to.
        average: what is evaluated and exported.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.current = parameters
        self.old, self.reference, self.average = (copy_of(parameters) for _ in range(3))

    def state_dict(self) -> dict[str, Any]:
        return {name: copy_of(getattr(self, name)) for name in ("current", "old", "reference", "average")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, weights in state.items():
                for own, saved in zip(getattr(self, name), weights, strict=True):
                    own.copy_(saved)


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
