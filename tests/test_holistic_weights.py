"""What a file must hold to become the weights of SlowFast or Video Swin."""

import pytest
import torch
from safetensors.torch import save_file

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.slowfast_network import SlowFastConfig, SlowFastEncoder, load_slowfast
from qsave_reward.holistic.video_swin import VideoSwin, VideoSwinConfig, load_video_swin

SMALL_SLOWFAST = SlowFastConfig(width=16, fast_width=2, depths=(1, 1, 1, 1))
SMALL_SWIN = VideoSwinConfig(embed_dim=8, depths=(2, 2), heads=(1, 2), window=(2, 3, 3))


def public_file(encoder, path):
    """The tensors of `encoder` as its authors publish them, head and all; returns what was saved."""
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    if isinstance(encoder, SlowFastEncoder):
        saved = {**weights, "blocks.6.proj.weight": torch.ones(4, 4), "blocks.6.proj.bias": torch.ones(4)}
        torch.save({"model_state": saved, "epoch": 3}, path)
    else:
        saved = {f"backbone.{name}": tensor for name, tensor in weights.items()}
        saved["cls_head.fc_cls.weight"] = torch.ones(4, 4)
        torch.save({"meta": {"mmcv_version": "1.3.0"}, "state_dict": saved}, path)
    return saved


BOTH = pytest.mark.parametrize(
    ("build", "config", "load"),
    [(SlowFastEncoder, SMALL_SLOWFAST, load_slowfast), (VideoSwin, SMALL_SWIN, load_video_swin)],
)


@BOTH
def test_a_public_checkpoint_is_loaded_whole(build, config, load, tmp_path):
    source = build(config)
    public_file(source, tmp_path / "public.pyth")
    save_file(
        {name: tensor for name, tensor in source.state_dict().items() if "num_batches" not in name},
        tmp_path / "plain.safetensors",
    )
    for path in (tmp_path / "public.pyth", str(tmp_path / "plain.safetensors")):
        encoder = build(config)
        load(encoder, path)
        for name, tensor in source.state_dict().items():
            assert torch.equal(encoder.state_dict()[name], tensor), name


DAMAGES = {
    "missing": lambda saved, name: saved.pop(name),
    "unexpected": lambda saved, name: saved.update({f"{name}.more": saved[name]}),
    "different": lambda saved, name: saved.update({name: saved[name][1:]}),
    "in place of torch.float32": lambda saved, name: saved.update({name: saved[name].to(torch.int8)}),
}


@BOTH
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_fits_partly_is_refused_whole(build, config, load, damage, tmp_path):
    encoder, path = build(config), tmp_path / "damaged.pth"
    saved = public_file(build(config), path)
    name = [name for name in saved if "norm" in name and name.endswith("weight")][-1]
    DAMAGES[damage](saved, name)
    torch.save({"state_dict": saved}, path)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ConfigError, match=damage) as caught:
        load(encoder, path)
    assert name in str(caught.value) and caught.value.code == "bad_weights"
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_a_checkpoint_with_another_window_of_the_same_shapes_is_refused(tmp_path):
    public_file(VideoSwin(VideoSwinConfig(8, (2, 2), (1, 2), window=(3, 2, 3))), tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="relative_position_index: other values"):
        load_video_swin(VideoSwin(SMALL_SWIN), tmp_path / "other.pth")


class Boom:
    def __reduce__(self):
        return pytest.fail, ("code of a file was run",)


@pytest.mark.parametrize(
    "content", [b"", b"no weights", Boom(), [1], {"model_state": {"a": 1}}, {0: torch.ones(1)}]
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_anything_else_is_refused_and_not_run(content, ending, tmp_path):
    path = tmp_path / f"file.{ending}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ConfigError, match="cannot be read|holds no tensors"):
        load_video_swin(VideoSwin(SMALL_SWIN), path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_video_swin(VideoSwin(SMALL_SWIN), tmp_path / "nowhere.pth")
