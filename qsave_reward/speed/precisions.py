"""One model in several number types."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch

from qsave_reward.checkpoint_scorer import CheckpointScorer
from qsave_reward.errors import ConfigError
from qsave_reward.speed.workload import Workload

AnyScorer = TypeVar("AnyScorer", bound=CheckpointScorer)

_NO_INT8_THERE = "torch quantizes dynamically on a CPU only"
_NO_FLOAT16_THERE = "measured on CUDA only"


def reloaded(scorer: AnyScorer, dtype: torch.dtype) -> AnyScorer:
    """The same checkpoint in another number type, on the same device."""
    return type(scorer).from_pretrained(
        scorer.provenance.model, device=scorer.model.device, dtype=dtype, batch_size=scorer.batch_size
    )


def other_precisions(scorer: AnyScorer, sample: Workload) -> tuple[dict[str, AnyScorer], dict[str, str]]:
    """The model as `bfloat16`, `float16` and `int8`, where the device has it; of those left out, why.

    Args:
        scorer: in float32.
        sample: clips that each must be able to score.
    """
    skipped = {}
    found = {"bfloat16": reloaded(scorer, torch.bfloat16)}
    if scorer.model.device.type == "cuda":
        found["float16"] = reloaded(scorer, torch.float16)
    else:
        skipped["float16"] = _NO_FLOAT16_THERE
    if scorer.model.device.type == "cpu":
        try:
            found["int8"] = quantized(scorer)
        except (
            ImportError,
            RuntimeError,
        ) as error:  # a torch without it, or one without kernels for this CPU
            skipped["int8"] = f"torch cannot quantize it: {_first_line(error)}"
    else:
        skipped["int8"] = _NO_INT8_THERE
    for name in list(found):
        try:
            found[name].score_batch(sample.clips, sample.prompts)
        # Kernels that do not exist, code that reads the weights of a quantized layer, scores that overflow.
        except (RuntimeError, TypeError, AttributeError, ConfigError) as error:
            del found[name]
            skipped[name] = f"cannot score: {_first_line(error)}"
    return found, skipped


def quantized(scorer: AnyScorer) -> AnyScorer:
    """The same checkpoint with weights of linear layers in int8, their inputs scaled to int8 call by call.

    The layer that scores are read from stays as it is.

    Raises:
        ImportError: this torch has no `torch.ao.quantization`.
        RuntimeError: it has no kernels for this machine.
    """
    from torch.ao.quantization import quantize_dynamic

    copy = reloaded(scorer, torch.float32)
    last = copy.model.get_output_embeddings()
    modules = copy.model.named_modules()
    names = {name for name, module in modules if type(module) is torch.nn.Linear and module is not last}
    with warnings.catch_warnings():
        # It will move to another package one day; torch 2.13 still has it.
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        copy.model = quantize_dynamic(  # type: ignore[no-untyped-call]
            copy.model, names, dtype=torch.qint8, inplace=True
        )
    return copy


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
