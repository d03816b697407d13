"""`read_clip` on frames in memory, `Clip`, and which frames are sampled."""

import io
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_files import HEIGHT, WIDTH, numbered, numbers

from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.sampling import pick_frames, stamp_timeline
from qsave_reward.video import Clip, Limits, Sampling, read_clip

FRAMES = np.stack([numbered(i) for i in range(24)])
FLOATS = FRAMES.astype(np.float32) / 255


def refusal(video, **arguments) -> VideoError:
    with pytest.raises(VideoError) as caught:
        read_clip(video, **arguments)
    assert len(str(caught.value)) > 20
    return caught.value


# sampling

steps = st.lists(st.floats(1e-3, 10.0), min_size=0, max_size=60)
samplings = st.builds(Sampling, st.integers(1, 40), st.none() | st.floats(0.01, 60.0))


@settings(deadline=None)
@given(steps, samplings)
def test_picks_are_ordered_bounded_and_begin_with_the_first(gaps, sampling):
    times = np.concatenate(([0.0], np.cumsum(gaps)))
    picked = pick_frames(times, sampling)
    assert picked[0] == 0 and (np.diff(picked) > 0).all() and picked[-1] < len(times)
    assert len(picked) <= min(len(times), sampling.max_frames)
    if len(picked) > 1:
        assert picked[-1] == len(times) - 1
    if sampling.fps is None:
        assert len(picked) == min(len(times), sampling.max_frames)
    else:
        assert len(picked) <= 1 + times[-1] * sampling.fps + 1e-5


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 64), st.floats(1.0, 60.0))
def test_constant_rate_is_sampled_to_half_a_frame(count, kept, fps):
    times = np.arange(count) / fps
    picked = pick_frames(times, Sampling(kept))
    wanted = np.linspace(0, times[-1], min(count, kept))
    assert np.abs(times[picked] - wanted).max() <= 0.5 / fps + 1e-9


def test_sampling_goes_by_time_not_by_position():
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0, 3.0])
    assert pick_frames(times, Sampling(4)).tolist() == [0, 5, 6, 7]


def test_rate_limit():
    clip = read_clip(FRAMES, Sampling(100, fps=2), fps=8)
    assert clip.times.tolist() == [0.0, 0.625, 1.125, 1.75, 2.25, 2.875]
    assert len(read_clip(FRAMES, Sampling(100, fps=8), fps=8).frames) == 24


@pytest.mark.parametrize("wrong", [{"max_frames": 0}, {"fps": 0.0}, {"fps": float("nan")}])
def test_wrong_sampling(wrong):
    with pytest.raises(ConfigError):
        Sampling(**wrong)


def test_shared_and_missing_time_stamps():
    clock = stamp_timeline([0, 1, 1, 2], Fraction(1, 10), packets=[0, 1, 1, 2], last=None)
    assert clock.shown.tolist() == [0, 1, 3] and clock.times.tolist() == [0.0, 0.1, 0.2] and clock.warnings
    with pytest.raises(VideoError, match="pass fps="):
        stamp_timeline([0, 0, 0, 0, 1], Fraction(1, 10), packets=[], last=None)
    assert stamp_timeline([None, 3], Fraction(1, 10), packets=[], last=None).duration == 0.25


# frames in memory


@pytest.mark.parametrize(
    "video",
    [
        FRAMES,
        FLOATS,
        FLOATS.astype(np.float64),
        FRAMES.transpose(0, 3, 1, 2),
        list(FRAMES),
        [Image.fromarray(frame) for frame in FRAMES],
        torch.from_numpy(FRAMES),
        torch.from_numpy(FLOATS).permute(0, 3, 1, 2),
        list(torch.from_numpy(FLOATS).permute(0, 3, 1, 2)),
        torch.from_numpy(FLOATS).requires_grad_(),
    ],
    ids=["uint8", "float32", "float64", "TCHW", "list", "PIL", "tensor", "tensor-TCHW", "tensors", "graph"],
)
def test_every_form_of_frames(video):
    clip = read_clip(video, Sampling(7), fps=8)
    assert numbers(clip.frames) == [0, 4, 8, 11, 15, 19, 23]
    assert np.array_equal(clip.frames, FRAMES[[0, 4, 8, 11, 15, 19, 23]])
    assert (clip.times * 8).tolist() == [0, 4, 8, 11, 15, 19, 23] and clip.duration == 3.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_own_grey_levels(dtype):
    values = torch.from_numpy(FLOATS).to(dtype)
    expected = (values.double() * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(read_clip(values, Sampling(24), fps=8).frames, expected)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (1, 16, 16, 3), elements=st.floats(0, 1, width=32)))
def test_floats_are_rounded(values):
    assert np.array_equal(read_clip(values, fps=1).frames, np.rint(values * np.float32(255)).astype(np.uint8))


def test_three_frames_are_not_channels():
    assert read_clip(FRAMES[:3], fps=8).frames.shape == (3, HEIGHT, WIDTH, 3)


def test_result_does_not_share_memory_with_the_input():
    video = FRAMES.copy()
    clip = read_clip(video, Sampling(24), fps=8)
    video[:] = 0
    assert numbers(clip.frames)[-1] == 23


def test_transparent_images_lie_over_white():
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (read_clip([image], fps=1).frames == 255).all()


@pytest.mark.parametrize(
    ("video", "code"),
    [
        ([], "no_frames"),
        (FRAMES[:0], "no_frames"),
        (FRAMES[0], "bad_shape"),
        (FRAMES[None], "bad_shape"),
        (FRAMES.transpose(3, 0, 1, 2), "bad_shape"),
        (np.zeros((4, 32, 32, 4), np.uint8), "bad_shape"),
        (np.zeros((2, 4, 32, 32, 3), np.uint8), "bad_shape"),
        ([FRAMES[0], FRAMES[1][:32]], "frame_sizes"),
        (FRAMES[:, :8], "too_small"),
        (FRAMES[:, :0], "too_small"),
        (FLOATS[:, :0], "too_small"),
        (FLOATS.transpose(0, 3, 1, 2)[..., :0], "too_small"),
        (np.zeros((1, 1, 1, 3), np.uint8), "too_small"),
        (FRAMES.astype(np.int64), "bad_dtype"),
        (FRAMES.astype(np.float32), "bad_values"),
        (FLOATS * 2 - 1, "bad_values"),
        (np.full((1, 32, 32, 3), np.nan), "bad_values"),
        (np.full((1, 32, 32, 3), np.inf), "bad_values"),
        (np.full((1, 32, 32, 3), "a"), "bad_dtype"),
        ([Image.new("F", (32, 32))], "bad_dtype"),
        (12, "bad_type"),
        (None, "bad_type"),
        ([b"abc"], "bad_type"),
    ],
)
def test_refused_frames(video, code):
    assert refusal(video, fps=8).code == code


def unread_image(*, share=1.0, kind="PNG"):
    """An image of which Pillow has read the header only."""
    data = io.BytesIO()
    Image.fromarray(numbered(3)).save(data, kind)
    return Image.open(io.BytesIO(data.getvalue()[: int(share * len(data.getvalue()))]))


def test_images_whose_file_is_gone_or_cut_short(tmp_path):
    assert numbers(read_clip([unread_image()], fps=8).frames) == [3]
    for kind in ("PNG", "JPEG"):
        assert refusal([unread_image(share=0.9, kind=kind)], fps=8).code == "corrupt"
    closed, underneath = unread_image(), unread_image()
    closed.close()
    underneath.fp.close()
    Image.fromarray(numbered(3)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as left:
        pass
    loaded = unread_image()
    loaded.load()
    loaded.close()
    for image in (closed, underneath, left, loaded):
        assert refusal([unread_image(), image], fps=8).code == "corrupt"


def test_images_with_premultiplied_grey():
    grey = Image.new("LA", (32, 32), (200, 255))
    grey.paste((100, 0), (0, 0, 32, 16))
    frames = read_clip([grey.convert("La")], fps=8).frames
    assert (frames[0, :16] == 255).all() and (frames[0, 16:] == 200).all()


def test_a_batch_of_one_is_named():
    assert "video[0]" in str(refusal(FRAMES[None], fps=8))


def test_frames_need_times():
    assert refusal(FRAMES).code == "no_fps"
    clip = read_clip(FRAMES[:4], times=[5.0, 5.5, 6.0, 7.0])
    assert clip.times.tolist() == [0.0, 0.5, 1.0, 2.0] and clip.duration == 2.5
    assert refusal(FRAMES[:4], times=[0.0, 1.0]).code == "bad_times"
    assert refusal(FRAMES[:2], times=[1.0, 1.0]).code == "bad_times"
    assert refusal(FRAMES[:2], times=[0.0, float("nan")]).code == "bad_times"


@pytest.mark.parametrize(
    "wrong", [{"fps": 0}, {"fps": float("inf")}, {"fps": 1, "times": [0.0]}, {"fps": 1, "decoder": "opencv"}]
)
def test_wrong_arguments(wrong):
    with pytest.raises(ConfigError):
        read_clip(FRAMES, **wrong)
    with pytest.raises(ConfigError):
        Limits(timeout=0)
    with pytest.raises(ConfigError):
        Limits(timeout=float("inf"))


# Clip


def test_a_clip_is_thinned_with_its_own_times():
    clip = read_clip(FRAMES, Sampling(24), fps=8)
    assert read_clip(clip, Sampling(24)) is clip
    thinner = read_clip(clip, Sampling(3))
    assert thinner.times.tolist() == [0.0, 1.375, 2.875] and thinner.duration == clip.duration
    with pytest.raises(ConfigError):
        read_clip(clip, fps=3)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"frames": FLOATS[:2]}, "bad_dtype"),
        ({"frames": FRAMES[:2, ..., :1]}, "bad_shape"),
        ({"times": np.array([0.0])}, "bad_times"),
        ({"times": np.array([0.0, 0.0])}, "bad_times"),
        ({"times": np.array([-1.0, 0.0])}, "bad_times"),
        ({"times": np.array([0, 1])}, "bad_times"),
        ({"duration": 0.1}, "bad_times"),
        ({"duration": float("nan")}, "bad_times"),
    ],
)
def test_clip_checks_itself(change, code):
    sound = {"frames": FRAMES[:2], "times": np.array([0.0, 0.5]), "duration": 1.0}
    Clip(**sound)
    with pytest.raises(VideoError) as caught:
        Clip(**{**sound, **change})
    assert caught.value.code == code
