"""Thin strips: what is enlarged before fragments are cut has a bound, and is otherwise what it was."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from qsave_reward.errors import VideoError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.views import MAX_ENLARGED, cut_fragments, make_views
from qsave_reward.video import Clip


def noise(frames, height, width):
    random = np.random.default_rng(0)
    return random.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 200), (90, 50), (16, 999)])
@pytest.mark.parametrize("seed", [None, 1])
def test_enlarging_frame_by_frame_changes_no_pixel(height, width, seed):
    frames = torch.from_numpy(noise(3, height, width)).permute(0, 3, 1, 2)
    scale = 64 / min(height, width)
    size = (max(64, round(height * scale)), max(64, round(width * scale)))
    whole = functional.interpolate(frames.float(), size, mode="bilinear").round().byte()
    cut = [
        cut_fragments(
            one, 4, size=16, generator=None if seed is None else torch.Generator().manual_seed(seed)
        )
        for one in (frames, whole)
    ]
    assert torch.equal(*cut)


@pytest.mark.parametrize("shape", [(16, 65000), (65000, 16)])
def test_strips_are_refused_before_they_cost_anything(shape):
    clip = Clip(np.zeros((1, *shape, 3), np.uint8), np.zeros(1), 1.0)
    with pytest.raises(VideoError, match="become (910000x224|224x910000); crop the clip") as caught:
        make_views(clip, HolisticConfig(vision_config={"image_size": 16}))
    assert caught.value.code == "too_large"


def test_the_bound_is_what_it_says():
    longest = MAX_ENLARGED // 128  # is enlarged twofold, to 64 rows
    assert cut_fragments(torch.zeros(1, 3, 32, longest).byte(), 4, size=16).shape == (1, 3, 64, 64)
    with pytest.raises(VideoError, match=f"got {longest + 1}x32"):
        cut_fragments(torch.zeros(1, 3, 32, longest + 1).byte(), 4, size=16)
