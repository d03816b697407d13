"""How the embedded model starts before any training."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from make_tiny import look_around, scale_by_width, silence_deepstack

SIDE = 9


@pytest.fixture
def model():
    torch.manual_seed(0)
    text = {"vocab_size": 99, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 24}
    vision = {"depth": 4, "hidden_size": 160, "intermediate_size": 96, "num_heads": 5, "out_hidden_size": 48}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [1]}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision))


def attention_of_the_middle(visual, block):
    """Attention of the middle patch of a SIDE x SIDE picture, from places alone: [heads, SIDE, SIDE]."""
    attention = visual.blocks[block].attn
    query, key = attention.qkv.bias[: 2 * attention.dim].view(2, 1, attention.num_heads, -1)
    grid = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), dim=-1)
    cos, sin = visual.rotary_pos_emb(torch.zeros(1), grid.view(-1, 2))
    query, key = apply_rotary_pos_emb_vision(
        query.expand(SIDE**2, -1, -1), key.expand(SIDE**2, -1, -1), cos, sin
    )
    scores = torch.einsum("hd,nhd->hn", query[SIDE**2 // 2], key) * attention.scaling
    return scores.softmax(dim=-1).view(-1, SIDE, SIDE)


@pytest.mark.parametrize(("block", "reach"), [(0, 0.7), (1, 0.7), (2, 1.4), (3, 1.4)])
def test_four_heads_look_at_the_four_corners_and_the_others_everywhere(model, block, reach):
    with torch.no_grad():
        look_around(model.model.visual)
        seen = attention_of_the_middle(model.model.visual, block)
    places = torch.arange(SIDE) - SIDE // 2.0
    for head, (down, right) in enumerate([(-1, -1), (-1, 1), (1, -1), (1, 1)]):
        center = [(seen[head].sum(dim=1 - axis) * places).sum().item() for axis in (0, 1)]
        assert center == pytest.approx([down * reach, right * reach], abs=0.25)
        # All but a little falls on the middle and its neighbours, or one patch farther in later blocks.
        near = slice(SIDE // 2 - 2, SIDE // 2 + 3)
        assert seen[head][near, near].sum() > 0.95
    assert torch.allclose(seen[4], torch.full((SIDE, SIDE), 1 / SIDE**2), atol=1e-6)


def test_outputs_of_linear_layers_are_as_large_as_inputs(model):
    scale_by_width(model)
    for name in ("visual.merger.linear_fc1", "language_model.layers.0.mlp.down_proj"):
        layer = model.model.get_submodule(name)
        out = torch.randn(2000, layer.in_features) @ layer.weight.T
        assert out.std().item() == pytest.approx(1.0, abs=0.1)


def test_later_layers_get_nothing_from_the_tower_at_first(model):
    silence_deepstack(model.model.visual)
    with torch.no_grad():
        pixels = torch.randn(16, 3 * 2 * 16 * 16)
        features = model.model.visual(pixels, grid_thw=torch.tensor([[1, 4, 4]]), return_dict=True)
    assert len(features.deepstack_features) == 1
    assert not features.deepstack_features[0].any() and features.pooler_output.any()
