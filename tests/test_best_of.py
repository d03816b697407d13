"""best_of_n with functions, files and a pipeline of the shape of diffusers; brightness decides."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_model import FakeModel
from reward_cases import BROKEN

from qsave_reward.best_of import BestOf, best_of_n, candidate_seed
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.reward import VideoReward
from qsave_reward.video import read_clip, write_clip

PROMPTS = ["a dog", "a cat"]


def frames(level):
    return np.full((4, 16, 16, 3), level, dtype=np.uint8)


def scripted(*levels):
    """A generator that gives these levels one after another, `None` for broken frames."""
    left = iter(levels)
    calls = []

    def generate(prompt, seed):
        calls.append((prompt, seed))
        level = next(left)
        return BROKEN if level is None else frames(level)

    generate.calls = calls
    return generate


class FakePipeline:
    """Frames of noise around a drawn brightness, as a diffusers pipeline returns them."""

    def __init__(self, kind="np"):
        self.kind, self.calls = kind, []

    @torch.no_grad()
    def __call__(self, prompt=None, num_frames=4, generator=None, num_videos_per_prompt=1, return_dict=True):
        self.calls.append((prompt, generator.initial_seed(), num_frames))
        video = torch.rand(1, generator=generator) * torch.ones(num_videos_per_prompt, num_frames, 16, 16, 3)
        if self.kind == "np":
            video = video.numpy()
        elif self.kind == "pt":
            video = video.permute(0, 1, 4, 2, 3)
        else:
            video = [list(clip.numpy()) for clip in video]
        return SimpleNamespace(frames=video) if return_dict else (video,)


def reward(**options):
    return VideoReward(FakeModel(), **options)


def test_the_brightest_is_kept():
    generate = scripted(10, 200, 90, 70, 50, 60)
    dog, cat = best_of_n(generate, PROMPTS, 3, reward(), fps=8)
    assert (dog.prompt, dog.index, dog.n_failed, cat.prompt, cat.index) == ("a dog", 1, 0, "a cat", 0)
    assert dog.video[0, 0, 0, 0] == 200 and dog.value == pytest.approx(1 + 4 * 200 / 255)
    np.testing.assert_allclose(dog.rewards.combined, 1 + 4 * np.array([10, 200, 90]) / 255)
    assert dog.rewards.raw.shape == (3, 3) and len(dog.rewards.cards) == 3
    assert [call[0] for call in generate.calls] == ["a dog"] * 3 + ["a cat"] * 3
    assert tuple(call[1] for call in generate.calls[3:]) == cat.seeds and cat.seed == cat.seeds[0]


def test_ties_go_to_the_lower_index():
    assert best_of_n(scripted(10, 80, 80, 80), ["a"], 4, reward(), fps=8)[0].index == 1


@pytest.mark.parametrize("on_error", ["raise", "mask"])
def test_failed_candidates_are_left_out_and_counted(on_error):
    best, none, last = best_of_n(
        scripted(None, 5, None, None, None, None, 7, 5, None),
        ["a", "b", "c"],
        3,
        reward(on_error=on_error),
        fps=8,
    )
    assert (best.index, best.n_failed) == (1, 2)
    assert np.isnan(best.rewards.combined).tolist() == [True, False, True]
    assert [error and error.code for error in best.rewards.errors] == ["bad_values", None, "bad_values"]
    assert isinstance(none, QSaveError) and none.code == "all_failed"
    assert "'b'" in str(none) and "NaN" in str(none)
    assert (last.index, last.n_failed) == (0, 1)


def test_an_empty_prompt_is_an_error_in_its_place():
    results = best_of_n(scripted(1, 2), ["", "a"], 1, reward(), fps=8)
    assert (results[0].code, results[1].index) == ("all_failed", 0)


def test_what_the_generator_raises_passes_through():
    def generate(prompt, seed):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        best_of_n(generate, PROMPTS, 2, reward(), fps=8)


def test_seeds_depend_on_position_and_seed_only():
    many = best_of_n(scripted(*range(8)), PROMPTS, 4, reward(), fps=8)
    few = best_of_n(scripted(*range(4)), PROMPTS, 2, reward(), fps=8)
    assert [best.seeds[:2] for best in many] == [best.seeds for best in few]
    drawn = [candidate_seed(s, p, i) for s in range(4) for p in range(20) for i in range(20)]
    assert len(set(drawn)) == len(drawn) and min(drawn) >= 0 and max(drawn) < 2**32
    assert many[1].seeds[2] == candidate_seed(0, 1, 2)
    other = best_of_n(scripted(*range(4)), PROMPTS, 2, reward(), seed=1, fps=8)
    assert other[1].seeds == (candidate_seed(1, 1, 0), candidate_seed(1, 1, 1))
    assert candidate_seed(0, 0, 0) == 2968811710  # another number would make old choices irreproducible


@pytest.mark.parametrize("kind", ["np", "pt", "list"])
def test_a_pipeline_is_called_as_diffusers_is(kind):
    pipeline = FakePipeline(kind)
    results = best_of_n(pipeline, PROMPTS, 3, reward(), fps=8)
    expected = [[candidate_seed(0, p, i) for i in range(3)] for p in range(2)]
    assert [(call[0], call[1]) for call in pipeline.calls] == [
        (prompt, seed) for prompt, seeds in zip(PROMPTS, expected, strict=True) for seed in seeds
    ]
    for best, seeds in zip(results, expected, strict=True):
        drawn = [float(torch.rand(1, generator=torch.Generator().manual_seed(seed))) for seed in seeds]
        assert best.index == int(np.argmax(drawn))
        np.testing.assert_allclose(best.rewards.raw[:, 0], 1 + 4 * np.array(drawn), atol=4 / 255)
        assert len(best.video) == 4


def test_options_of_a_pipeline_are_bound():
    pipeline = FakePipeline()
    (best,) = best_of_n(partial(pipeline, num_frames=7), ["a"], 2, reward(), fps=8)
    assert isinstance(best, BestOf) and len(best.video) == 7
    for options in ({"return_dict": False}, {"num_videos_per_prompt": 2}):
        with pytest.raises(ConfigError, match="one clip in .frames"):
            best_of_n(partial(pipeline, **options), ["a"], 2, reward(), fps=8)


def test_frames_need_a_rate():
    pipeline, function = FakePipeline(), scripted(1, 2, 3)
    for generate in (pipeline, function):
        with pytest.raises(ConfigError, match="fps="):
            best_of_n(generate, ["a"], 3, reward())
    assert (len(pipeline.calls), len(function.calls)) == (0, 1)


def test_files_and_clips_need_none(tmp_path):
    def write(prompt, seed):
        path = tmp_path / f"{seed}.mp4"
        write_clip(path, frames(seed % 200), fps=8)
        return path

    (best,) = best_of_n(write, ["a"], 3, reward())
    assert best.video == tmp_path / f"{max(best.seeds, key=lambda seed: seed % 200)}.mp4"
    (best,) = best_of_n(lambda prompt, seed: read_clip(frames(seed % 200), fps=8), ["a"], 3, reward())
    assert best.seed == max(best.seeds, key=lambda seed: seed % 200)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"prompts": "a dog"}, "wrap a single one"),
        ({"n": 0}, "n >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"generate": "pipe"}, "diffusers pipeline or a function"),
    ],
)
def test_wrong_arguments(changes, complaint):
    given = {"generate": scripted(1), "prompts": ["a"], "n": 1, "reward": reward(), "fps": 8} | changes
    with pytest.raises(ConfigError, match=complaint):
        best_of_n(**given)


def test_no_prompts():
    assert best_of_n(scripted(), [], 3, reward(), fps=8) == []
