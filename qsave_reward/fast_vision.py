"""Two exact shortcuts in the vision tower of Qwen3-VL.

The stock tower embeds patches by a 3-D convolution whose stride equals its kernel, and attends to one
image at a time in a Python loop. Clips cut into many small chunks make both slow. Here the convolution
is the matrix product that it is, and images of one size are attended to together. Weights, names and
results stay those of the stock tower.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionAttention,
    Qwen3VLVisionPatchEmbed,
    apply_rotary_pos_emb_vision,
)


def use_fast_vision(model: torch.nn.Module) -> torch.nn.Module:
    """Install both shortcuts in every Qwen3-VL vision tower inside `model`; returns `model`."""
    for module in model.modules():
        if isinstance(module, Qwen3VLVisionPatchEmbed):
            module.forward = MethodType(_embed_patches, module)  # type: ignore[method-assign]
        elif isinstance(module, Qwen3VLVisionAttention):
            module.forward = MethodType(_attend_by_size, module)  # type: ignore[method-assign]
    return model


def _embed_patches(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    weight = self.proj.weight
    return F.linear(hidden_states.to(weight.dtype), weight.flatten(1), self.proj.bias)


# Its groups differ from batch to batch: it would be compiled anew each time.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_by_size(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **kwargs: Any,
) -> torch.Tensor:
    """Attention inside each image, unmasked; `hidden_states` is [patches, hidden], image after image."""
    total = hidden_states.shape[0]
    query, key, value = self.qkv(hidden_states).view(total, 3, self.num_heads, -1).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    stacked = torch.stack([query, key, value.to(query.dtype)])
    lengths = cu_seqlens.diff()
    by_length = lengths.argsort(stable=True)
    # Bring images of one size together by one gather, and back by one: a gather for each size would cost a
    # full-size gradient for each size.
    starts, sizes = cu_seqlens[:-1][by_length], lengths[by_length]
    offsets = torch.arange(total, device=starts.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    order = starts.repeat_interleave(sizes) + offsets
    values, counts = torch.unique_consecutive(sizes, return_counts=True)
    groups = list(zip(values.tolist(), counts.tolist(), strict=True))
    attended = []
    parts = torch.split(stacked[:, order], [length * count for length, count in groups], dim=1)
    for part, (length, _) in zip(parts, groups, strict=True):
        query, key, value = part.view(3, -1, length, *part.shape[2:]).transpose(2, 3)
        output = _attend(query, key, value, scale=self.scaling)
        attended.append(output.transpose(1, 2).flatten(0, 1).flatten(1))
    projected: torch.Tensor = self.proj(torch.cat(attended)[order.argsort()])
    return projected


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Unmasked attention, [images, heads, patches, dim]."""
    if query.device.type == "cpu" and query.shape[2] <= 256:
        # torch's fused CPU kernel is slow on many short rows: the plain formula trained 1.3 times as fast in
        # bfloat16. It is kept in single precision, away from kernels that are built for each new shape.
        with torch.autocast("cpu", enabled=False):
            precise = torch.promote_types(query.dtype, torch.float32)
            scores = query.to(precise) @ key.to(precise).transpose(-1, -2) * scale
            return (scores.softmax(dim=-1) @ value.to(precise)).to(value.dtype)
    return F.scaled_dot_product_attention(query, key, value, scale=scale)
