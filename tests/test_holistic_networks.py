"""SlowFast and Video Swin beside their reference implementations."""

import hashlib
import math
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.slowfast_network import SlowFastConfig, SlowFastEncoder
from qsave_reward.holistic.video_swin import VideoSwin, VideoSwinConfig

SMALL_SLOWFAST = SlowFastConfig(width=16, fast_width=2, depths=(1, 1, 1, 1))
SMALL_SWIN = VideoSwinConfig(embed_dim=8, depths=(2, 2), heads=(1, 2), window=(2, 3, 3))


def chirp(n, phase=0.0):
    """`n` numbers that look random and need no generator."""
    return torch.sin(torch.arange(n).double() ** 2 / 10 + phase)


def pixels(*shape, dtype=torch.float32):
    return chirp(math.prod(shape)).view(shape).to(dtype)


def fill(module):
    """Give every tensor values by formula, of a size that keeps the signal alive; returns the module."""
    weights = module.state_dict()
    for phase, name in enumerate(sorted(weights)):
        tensor = weights[name]
        values = chirp(tensor.numel(), phase).view(tensor.shape)
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(1 + values / 2)
        elif tensor.ndim > 2 or name.endswith("weight"):
            tensor.copy_(values * (2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_(values / 3)
    return module.eval()


def summary(features):
    """Six numbers on which every value of a map has an influence."""
    flat = features.flatten().double()
    return [(flat[i::6] @ chirp(len(flat[i::6]))).item() / len(flat) ** 0.5 for i in range(6)]


@pytest.fixture(scope="module")
def slowfast():
    return fill(SlowFastEncoder(SMALL_SLOWFAST))


@pytest.fixture(scope="module")
def swin():
    return fill(VideoSwin(SMALL_SWIN))


@torch.no_grad()
def test_slowfast_gives_the_numbers_of_pytorchvideo():
    """Computed with pytorchvideo 0.1.5, `create_slowfast(model_depth=18, stem_dim_outs=(16, 2))`."""
    slow_numbers = [-0.4068971, -0.4654856, -0.3970923, -0.4140049, -0.4335412, -0.4193179]
    fast_numbers = [-0.0731553, -0.0265694, -0.0239253, -0.1390228, -0.2216374, -0.1845488]
    fast = pixels(1, 3, 8, 72, 90, dtype=torch.float64)
    slow_map, fast_map = fill(SlowFastEncoder(SMALL_SLOWFAST).double())(fast[:, :, ::4], fast)
    assert (slow_map.shape, fast_map.shape) == ((1, 512, 2, 3, 3), (1, 64, 8, 3, 3))
    assert summary(slow_map) == pytest.approx(slow_numbers, abs=1e-6)
    assert summary(fast_map) == pytest.approx(fast_numbers, abs=1e-6)


SHIFTED = [0.1860896, 0.2176809, 0.2119263, 0.4008818, 0.1988012, 0.4727856]
CLIPPED = [-0.0343738, -0.2129418, -0.2844323, -0.0656752, -0.0321752, -0.2142518]


@pytest.mark.parametrize(
    ("window", "size", "shape", "numbers"),
    [
        ((2, 3, 3), (7, 37, 50), (4, 5, 7), SHIFTED),  # all sides are filled up and shifted
        ((8, 7, 7), (8, 20, 60), (4, 3, 8), CLIPPED),  # the window is clipped in time and height
    ],
)
@torch.no_grad()
def test_video_swin_gives_the_numbers_of_mmaction(window, size, shape, numbers):
    """Computed with the SwinTransformer3D of mmaction2 1.2.0, which the authors' repository became."""
    swin = fill(VideoSwin(VideoSwinConfig(8, (2, 2), (1, 2), window=window)).double())
    features = swin(pixels(1, 3, *size, dtype=torch.float64))
    assert features.shape == (1, 16, *shape)
    assert summary(features) == pytest.approx(numbers, abs=1e-6)


@pytest.mark.parametrize(
    ("build", "tensors", "parameters", "digest"),
    [
        # Parameters with the head for 400 classes: 34,566,488 and 28,158,070, the published numbers.
        (SlowFastEncoder, 660, 34_566_488 - 400 * 2305, "0b70079910ddcac9"),
        (VideoSwin, 183, 28_158_070 - 400 * 769, "608429658c647e66"),
    ],
)
def test_full_size_has_the_names_and_shapes_of_the_reference(build, tensors, parameters, digest):
    """The digests are of the references' own state dicts, without heads."""
    with torch.device("meta"):
        model = build()
    weights = model.state_dict()
    lines = "\n".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(weights.items()))
    assert len(weights) == tensors
    assert sum(weight.numel() for weight in model.parameters()) == parameters
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


def test_full_size_spot_checks():
    with torch.device("meta"):
        slowfast, swin = SlowFastEncoder(), VideoSwin()
    shapes = {n: tuple(t.shape) for n, t in {**slowfast.state_dict(), **swin.state_dict()}.items()}
    assert shapes["blocks.0.multipathway_fusion.conv_fast_to_slow.weight"] == (16, 8, 7, 1, 1)
    assert shapes["blocks.1.multipathway_blocks.0.res_blocks.0.branch1_conv.weight"] == (256, 80, 1, 1, 1)
    assert shapes["layers.0.blocks.0.attn.relative_position_bias_table"] == (15 * 13 * 13, 3)
    assert (slowfast.slow_channels, slowfast.fast_channels, swin.out_channels) == (2048, 256, 768)


@torch.no_grad()
def test_slowfast_beside_pytorchvideo(slowfast):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, on import
        reference = pytest.importorskip("pytorchvideo.models.slowfast", exc_type=ImportError)
        theirs = reference.create_slowfast(model_depth=18, stem_dim_outs=(16, 2)).eval()
    theirs.load_state_dict(slowfast.state_dict(), strict=False)
    fast = torch.randn(2, 3, 16, 65, 80)
    maps = [fast[:, :, ::4], fast]
    for block in theirs.blocks[:5]:
        maps = block(maps)
    for ours, expected in zip(slowfast(fast[:, :, ::4], fast), maps, strict=True):
        torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_the_slow_pathway_sees_the_fast_one_and_not_the_reverse(slowfast):
    clip = pixels(2, 3, 8, 64, 64)
    slow_map, fast_map = slowfast(clip[:, :, ::4], clip)
    assert torch.equal(slowfast.fast(clip), fast_map)
    assert torch.equal(slowfast(torch.zeros_like(clip[:, :, ::4]), clip)[1], fast_map)
    other_slow_map, other_fast_map = slowfast(clip[:, :, ::4], clip.flip(2))
    assert not torch.allclose(other_slow_map, slow_map)
    assert not torch.allclose(other_fast_map, fast_map)


def test_gradients_reach_every_weight_of_slowfast():
    encoder = SlowFastEncoder(SMALL_SLOWFAST)
    clip = pixels(2, 3, 8, 64, 64)
    encoder.fast(clip).square().mean().backward()
    for name, weight in encoder.named_parameters():
        slow_only = "multipathway_blocks.0." in name or "multipathway_fusion." in name
        assert (weight.grad is None) == slow_only, name
    slow_map, fast_map = encoder(clip[:, :, ::4], clip)
    (slow_map.square().mean() + fast_map.square().mean()).backward()
    assert all(weight.grad.abs().max() > 0 for weight in encoder.parameters())


@pytest.mark.parametrize("fast", [(1, 3, 9, 32, 32), (2, 3, 8, 32, 32), (1, 3, 8, 32, 48), (3, 8, 32, 32)])
def test_pathways_must_show_one_clip(slowfast, fast):
    with pytest.raises(ConfigError, match="expected"):
        slowfast(torch.zeros(1, 3, 2, 32, 32), torch.zeros(fast))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 3, 8, 9, 9).byte(), torch.zeros(3, 8, 9, 9), torch.zeros(1, 3, 0, 9, 9)]
)
def test_clips_of_another_form_are_refused(slowfast, swin, wrong):
    for encoder in (slowfast.fast, swin):
        with pytest.raises(ConfigError, match=r"floating point \[B, 3, T, H, W\], got"):
            encoder(wrong)


@torch.no_grad()
def test_a_clip_gets_the_same_map_in_any_batch(slowfast, swin):
    clips = pixels(3, 3, 8, 45, 64)
    for encoder in (slowfast.fast, swin):
        alone = torch.cat([encoder(clip[None]) for clip in clips])
        torch.testing.assert_close(encoder(clips), alone, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(alone[0], alone[1], atol=0.1)


@torch.no_grad()
def test_half_precision(slowfast, swin):
    clip = pixels(1, 3, 8, 45, 64)
    for encoder in (slowfast.fast, swin):
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(clip)
        error = (rounded.float() - encoder(clip)).abs().mean() / encoder(clip).abs().mean()
        assert 0 < error < 0.03
    assert VideoSwin(SMALL_SWIN).bfloat16()(clip.bfloat16()).dtype == torch.bfloat16


def test_gradients_reach_every_weight_of_video_swin():
    swin = VideoSwin(SMALL_SWIN)
    (swin(pixels(2, 3, 8, 64, 64)) * pixels(2, 16, 4, 8, 8)).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in swin.parameters())


def same_box(size, window, token):
    """Tokens in the box of `token` after the shift: bool [t, h, w]. Boxes start half a window early."""
    boxes = [
        (torch.arange(n) + side - side // 2) // side if n > side else torch.zeros(n)
        for n, side in zip(size, window, strict=True)
    ]
    t, h, w = (box == box[i] for box, i in zip(boxes, token, strict=True))
    return t[:, None, None] & h[:, None] & w


sides = st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8))


@given(size=sides, place=st.tuples(*[st.floats(0, 0.99)] * 3))
@example(size=(2, 3, 4), place=(0, 0, 0))
@example(size=(5, 7, 8), place=(0.99, 0.99, 0.99))
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_a_token_reaches_exactly_its_box(size, place):
    window = (2, 3, 4)
    swin = fill(VideoSwin(VideoSwinConfig(8, (2,), (2,), patch=(1, 1, 1), window=window)).double())
    for linear in (swin.layers[0].blocks[0].attn.proj, swin.layers[0].blocks[0].mlp.fc2):
        linear.weight.zero_()  # the first block, which is not shifted, does nothing
    clip = pixels(1, 3, *size, dtype=torch.float64)
    token = tuple(int(share * side) for share, side in zip(place, size, strict=True))
    other = clip.clone()
    other[(0, slice(None), *token)] += torch.tensor([1.0, -2.0, 3.0])
    inside = same_box(size, window, token)
    assert torch.equal((swin(clip) != swin(other)).any(dim=1)[0], inside)
    swin.layers[0].blocks[1].attn.qkv.weight.mul_(100)  # logits by which a mere penalty is outweighed
    assert not ((swin(clip) != swin(other)).any(dim=1)[0] & ~inside).any()


@given(size=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)))
@settings(max_examples=20, deadline=None)
@torch.no_grad()
def test_any_size_is_filled_up(size):
    features = VideoSwin(SMALL_SWIN)(torch.zeros(1, 3, *size))
    assert features.shape == (1, 16, *(math.ceil(n / by) for n, by in zip(size, (2, 8, 8), strict=True)))
    assert features.isfinite().all()


SLOWFAST_CHANGES = [{"depths": [1, 1, 1]}, {"width": 0}, {"lateral_kernel": 4}]
SWIN_CHANGES = [
    {"depths": []},
    {"heads": [3, 6]},
    {"window": [7, 7]},
    {"patch": [2, 0, 4]},
    {"embed_dim": 98},
]


def test_impossible_sizes_are_refused():
    for config, changes in ((SlowFastConfig, SLOWFAST_CHANGES), (VideoSwinConfig, SWIN_CHANGES)):
        for change in changes:
            with pytest.raises(ConfigError, match="needs"):
                config(**change)


def test_sizes_may_come_from_json():
    assert VideoSwinConfig(8, depths=[2, 2], heads=[1, 2], window=[2, 3, 3]) == SMALL_SWIN
