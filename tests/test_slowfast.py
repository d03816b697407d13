"""Which chunks are slow, how large they are, and when they are."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError
from qsave_reward.slowfast import FramePlan, _rgb_to_hsv, chunk_grids, fit_grid, patch_similarity, plan_chunks
from qsave_reward.video import Clip


def make_clip(frames, times=None, fps=8.0):
    times = np.arange(len(frames)) / fps if times is None else np.asarray(times, dtype=float)
    return Clip(frames=np.asarray(frames, dtype=np.uint8), times=times, duration=float(times[-1]) + 1 / fps)


def noise_frames(n, seed=0, size=(96, 128)):
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def test_a_still_clip_has_one_slow_chunk():
    still = np.repeat(noise_frames(1), 12, axis=0)
    assert [chunk.slow for chunk in plan_chunks(make_clip(still), FramePlan())] == [True] + [False] * 5


def test_a_cut_starts_a_new_slow_chunk_and_the_reference_moves_with_it():
    scenes = np.zeros((12, 96, 128, 3), dtype=np.uint8)
    scenes[:4] = scenes[8:] = (230, 230, 230)
    scenes[4:8] = (90, 0, 0)
    slow = [chunk.slow for chunk in plan_chunks(make_clip(scenes), FramePlan())]
    assert slow == [True, False, True, False, True, False]


def test_modes_for_ablations():
    clip = make_clip(np.repeat(noise_frames(1), 16, axis=0))
    assert all(chunk.slow for chunk in plan_chunks(clip, FramePlan(mode="all_slow")))
    uniform = [chunk.slow for chunk in plan_chunks(clip, FramePlan(mode="uniform", slow_every=3))]
    assert uniform == [True, False, False, True, False, False, True, False]


def test_hue_saturation_value_equal_the_standard_library():
    colors = np.random.default_rng(0).integers(0, 256, (200, 3))
    colors[:4] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [7, 7, 7]]
    ours = _rgb_to_hsv(torch.tensor(colors, dtype=torch.float32).T.reshape(1, 3, 1, -1))[0, :, 0].T
    for color, (hue, saturation, value) in zip(colors, ours.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(color / 255))
        assert math.cos((hue - h * 180) * math.pi / 90) > 1 - 1e-6  # hue is a circle
        assert (saturation, value) == pytest.approx((s * 255, v * 255), abs=1e-3)


def test_patch_similarity_by_hand():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    # alike, unlike, both black (left out), one black (unlike)
    both = torch.stack([first, second])
    # With itself a black patch is a black pair; `second` has one.
    assert torch.allclose(patch_similarity(both, 0.7), torch.tensor([[1, 1 / 3], [1 / 3, 1]]))
    assert (patch_similarity(both[:, 2:3], 0.7) == 1.0).all()


def test_patch_similarity_of_every_two_frames():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(5, 40, 6)) * (rng.random((5, 40, 1)) < 0.7)
    found = patch_similarity(torch.from_numpy(patches), 0.3)
    for i, j in itertools.product(range(5), repeat=2):
        pairs = [(a, b) for a, b in zip(patches[i], patches[j], strict=True) if a.any() or b.any()]
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs if a.any() and b.any()]
        assert found[i, j].item() == pytest.approx(sum(c > 0.3 for c in cosines) / len(pairs))


@pytest.mark.parametrize(("n", "expected"), [(1, [0.0]), (3, [0.0625, 0.25]), (4, [0.0625, 0.3125])])
def test_short_clips(n, expected):
    chunks = plan_chunks(make_clip(noise_frames(n)), FramePlan())
    assert [chunk.time for chunk in chunks] == expected
    if n % 2:
        assert np.array_equal(chunks[-1].frames[0], chunks[-1].frames[1])


def test_times_are_the_true_ones():
    uneven = [0.0, 0.04, 0.5, 0.52, 3.0, 3.4]
    chunks = plan_chunks(make_clip(noise_frames(6), uneven), FramePlan())
    assert [chunk.time for chunk in chunks] == pytest.approx([0.02, 0.51, 3.2])
    for fps, last in ((24, 14.5 / 24), (8, 14.5 / 8)):
        assert plan_chunks(make_clip(noise_frames(16), fps=fps), FramePlan())[-1].time == pytest.approx(last)


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(16, 2400),
    width=st.integers(16, 4000),
    n_slow=st.integers(1, 16),
    n_fast=st.integers(0, 40),
    budget=st.integers(56, 8000),
    share=st.sampled_from([0.1, 0.3, 1.0]),
)
def test_budget_share_and_aspect(height, width, n_slow, n_fast, budget, share):
    plan = FramePlan(token_budget=budget, fast_share=share)
    slow, fast = chunk_grids(height, width, n_slow, n_fast, plan)
    slow_tokens, fast_tokens = math.prod(slow), math.prod(fast)
    assert n_slow * slow_tokens + n_fast * fast_tokens <= budget
    assert fast_tokens <= max(share * slow_tokens, min(plan.min_fast_tokens, slow_tokens))
    assert slow_tokens <= plan.max_slow_tokens
    for rows, columns in (slow, fast):
        assert rows * plan.token_side < height + plan.token_side  # never enlarged by more than rounding
        if min(rows, columns) > 1:
            # some common scale explains both sides within one token
            low = max((rows - 1) / height, (columns - 1) / width)
            high = min((rows + 1) / height, (columns + 1) / width)
            assert low < high


def test_a_budget_is_used():
    slow, fast = chunk_grids(480, 832, 2, 6, FramePlan(token_budget=1404))
    used = 2 * math.prod(slow) + 6 * math.prod(fast)
    assert 0.9 * 1404 <= used <= 1404
    assert 0.25 <= math.prod(fast) / math.prod(slow) <= 0.3


def test_native_size_is_not_enlarged():
    assert chunk_grids(128, 128, 1, 7, FramePlan(token_budget=100_000)) == ((4, 4), (2, 2))
    assert fit_grid(16, 16, 768, 32) == (1, 1)
    assert fit_grid(32, 3200, 20, 32) == (1, 20)


def test_impossible_plans_are_refused():
    with pytest.raises(ConfigError, match="budget of 3 cannot hold 8 chunks"):
        plan_chunks(make_clip(noise_frames(16)), FramePlan(token_budget=3))
    for wrong in (
        {"mode": "fast"},
        {"max_frames": 0},
        {"fast_share": 0.0},
        {"similarity": 1.5},
        {"fps": -1.0},
    ):
        with pytest.raises(ConfigError):
            FramePlan(**wrong)
