"""What `Limits` accepts: plain positive numbers, since a decoder process and system calls stand behind it."""

import numpy as np
import pytest
from video_files import encode

from qsave_reward.errors import ConfigError
from qsave_reward.video import Limits, Sampling, read_clip

WHOLE = {"max_source_frames", "max_pixels", "max_bytes", "max_frame_bytes", "max_memory"}


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("limits") / "sound.mp4", 8)


@pytest.mark.parametrize("name", sorted(WHOLE))
@pytest.mark.parametrize("number", [2e9, np.float64(2e9), np.int64(2_000_000_000)])
def test_whole_numbers_may_be_floats(name, number):
    value = getattr(Limits(**{name: number}), name)
    assert type(value) is int and value == 2_000_000_000


@pytest.mark.parametrize("name", [*sorted(WHOLE), "max_seconds", "timeout"])
@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), 10**400, "8", None, [8], np.ones(2)])
def test_anything_else_is_refused(name, wrong):
    with pytest.raises(ConfigError, match=f"Limits.{name} must be a positive number"):
        Limits(**{name: wrong})


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_parts_of_bytes_are_refused(name):
    with pytest.raises(ConfigError, match=f"Limits.{name} must be a whole number, got 1000.5"):
        Limits(**{name: 1000.5})
    assert Limits(timeout=np.float32(2.5)).timeout == 2.5 and type(Limits(max_seconds=3).max_seconds) is float


@pytest.mark.parametrize(
    "limits",
    [
        {"max_memory": 1e9, "max_bytes": 1e8, "max_pixels": 1e7, "max_frame_bytes": 1e9},
        {"max_memory": 1 << 62, "max_bytes": 1 << 62, "max_pixels": 1 << 62, "max_frame_bytes": 1 << 62},
        {"max_source_frames": 100.0, "max_seconds": 1 << 62, "timeout": 1e18},
    ],
    ids=["floats", "none", "seconds"],
)
def test_a_clip_is_read_under_them(clip_path, limits):
    assert len(read_clip(clip_path, Sampling(3), limits=Limits(**limits)).frames) == 3
    assert len(read_clip(clip_path.read_bytes(), Sampling(3), limits=Limits(**limits)).frames) == 3
