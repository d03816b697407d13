"""VideoReward: the right numbers in the right places, failures that are no numbers, floors that hold."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import WEIGHTS
from fake_model import FakeModel
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reward_cases import BROKEN, CALIBRATION, ColorModel, score_of, solid

from qsave_reward.calibration import Calibration
from qsave_reward.errors import AnswerError, ConfigError, VideoError
from qsave_reward.model import RewardModel
from qsave_reward.reward import VideoReward
from qsave_reward.types import DIMENSIONS, DimensionScore, VideoScore
from qsave_reward.video import Clip, read_clip, write_clip

PROMPT = "a red circle moves left"
COLORS = ((10, 100, 200), (255, 0, 50), (60, 70, 80))


def named(*values):
    return dict(zip(DIMENSIONS, values, strict=True))


def rate(reward, videos, **options):
    return reward(videos, [PROMPT] * len(videos), **{"fps": 8} | options)


def test_raw_values_and_combined():
    rewards = rate(VideoReward(ColorModel(), weights=named(1, 1, 2)), solid(*COLORS))
    expected = np.array([[score_of(level) for level in color] for color in COLORS])
    np.testing.assert_allclose(rewards.raw, expected, atol=1e-12)
    np.testing.assert_array_equal(rewards.values, rewards.raw)
    np.testing.assert_allclose(rewards.combined, expected @ [0.25, 0.25, 0.5], atol=1e-12)
    assert rewards.errors == (None, None, None)
    assert [card.scores["text_alignment"].mean for card in rewards.cards] == pytest.approx(expected[:, 2])
    for array in (rewards.raw, rewards.values, rewards.combined):
        assert array.dtype == np.float64
    assert not np.shares_memory(rewards.raw, rewards.values)


def test_a_calibration_gives_z_scores_and_leaves_raw_scores_alone():
    rewards = rate(VideoReward(ColorModel(), normalise=CALIBRATION), solid(*COLORS))
    np.testing.assert_allclose(rewards.raw[0], [score_of(level) for level in COLORS[0]])
    expected = (rewards.raw - [2.0, 3.0, 4.0]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(rewards.values, expected)
    np.testing.assert_allclose(rewards.combined, expected.mean(axis=1))


def test_a_masked_clip_is_nan_with_its_reason_and_changes_no_other():
    clips, reward = list(solid(*COLORS)), VideoReward(ColorModel(), on_error="mask", combine="softmin")
    clean, mixed = rate(reward, clips), rate(reward, [clips[0], BROKEN, *clips[1:]])
    for name in ("raw", "values", "combined"):
        assert np.isnan(getattr(mixed, name)[1]).all()
        np.testing.assert_array_equal(getattr(mixed, name)[[0, 2, 3]], getattr(clean, name))
    assert (mixed.errors[0], mixed.errors[1].code, mixed.cards[1]) == (None, "bad_values", None)


def test_reading_scoring_and_the_scorers_own_failures_are_all_masked(tmp_path):
    reward = VideoReward(ColorModel(), on_error="mask", normalise=CALIBRATION)
    clip = read_clip(solid(COLORS[0])[0], fps=8)
    rewards = reward(["nothing.mp4", clip, BROKEN, clip], [PROMPT, PROMPT, PROMPT, " "])
    codes = [error and error.code for error in rewards.errors]
    assert codes == ["not_found", None, "no_fps", "empty_prompt"]
    assert np.isnan(rewards.combined).tolist() == [True, False, True, True]


def test_all_failed_is_all_nan():
    reward = VideoReward(ColorModel(), on_error="mask", floors=named(2, 2, 2), combine="softmin")
    rewards = rate(reward, [BROKEN, BROKEN])
    assert np.isnan(rewards.combined).all() and None not in rewards.errors


def test_raise_names_the_clip_and_keeps_type_and_code():
    clips, scorer = list(solid(*COLORS)), ColorModel()
    with pytest.raises(VideoError, match=r"clip 2 of 0\.\.3: the frames contain NaN") as caught:
        rate(VideoReward(scorer), [*clips[:2], BROKEN, clips[2]])
    assert (caught.value.code, scorer.seen) == ("bad_values", [])
    with pytest.raises(ConfigError, match=r"clip 1 of 0\.\.1") as caught:
        VideoReward(ColorModel())(clips[:2], [PROMPT, ""], fps=8)
    assert caught.value.code == "empty_prompt"
    with pytest.raises(VideoError, match="^the frames contain NaN"):
        rate(VideoReward(ColorModel()), [BROKEN])


def test_nothing_to_score():
    rewards = VideoReward(ColorModel(), combine="softmin", floors=named(2, 2, 2))([], [])
    assert (rewards.raw.shape, rewards.combined.shape, rewards.errors) == ((0, 3), (0,), ())


@pytest.mark.parametrize("mean", [float("nan"), 0.5, 6.0, float("inf")])
def test_a_scorer_off_the_scale_is_a_failure(mean):
    class Wild(FakeModel):
        def _card(self, video, prompt, mode):
            wild = DimensionScore(mean, 0.0, (0, 0, 0, 0, 1))
            return VideoScore(dict.fromkeys(DIMENSIONS, wild), self.provenance)

    rewards = rate(VideoReward(Wild(), on_error="mask"), solid(COLORS[0]))
    assert rewards.errors[0].code == "bad_score" and np.isnan(rewards.raw).all()
    with pytest.raises(AnswerError):
        rate(VideoReward(Wild()), solid(COLORS[0]))


def test_a_mean_above_5_by_rounding_is_5():
    class Rounding(FakeModel):
        def _card(self, video, prompt, mode):
            high = DimensionScore(np.nextafter(5, 6), 0.0, (0, 0, 0, 0, 1))
            return VideoScore(dict.fromkeys(DIMENSIONS, high), self.provenance)

    assert rate(VideoReward(Rounding()), solid(COLORS[0])).raw.tolist() == [[5.0] * 3]


def test_every_form_of_the_same_clip_gives_the_same_reward(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    forms = [
        frames,
        frames.astype(np.float64) / 255,
        frames.transpose(0, 3, 1, 2),
        tensor,
        tensor.float() / 255,
        [Image.fromarray(frame) for frame in frames],
        list(frames),
    ]
    rewards = rate(VideoReward(ColorModel()), forms)
    np.testing.assert_allclose(rewards.raw, np.broadcast_to(rewards.raw[0], (7, 3)), atol=1e-12)
    batch = rate(VideoReward(ColorModel()), torch.stack([tensor, 255 - tensor]))
    np.testing.assert_allclose(batch.raw[1], 6 - rewards.raw[0], atol=1e-12)


def test_files_keep_their_own_rate_unless_one_is_given(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, solid(COLORS[0], frames=8)[0], fps=8)
    scorer = ColorModel()
    VideoReward(scorer)([str(path), path, path.read_bytes()], [PROMPT] * 3)
    assert scorer.seen == [str(path), path, path.read_bytes()]
    VideoReward(scorer)([path], [PROMPT], fps=4)
    np.testing.assert_allclose(scorer.seen[-1].times, np.arange(8) / 4)


def test_rates_and_times_reach_their_clips():
    scorer, clips = ColorModel(), list(solid(*COLORS))
    reward = VideoReward(scorer)
    own = read_clip(clips[2], fps=3)

    reward(clips, list("abc"), fps=np.float32(5))
    assert [clip.times[1] for clip in scorer.seen] == [0.2] * 3
    for rates in ([2, 4, None], (2, 4.0, None)):
        scorer.seen.clear()
        reward([*clips[:2], own], list("abc"), fps=rates)
        assert [clip.times[1] for clip in scorer.seen] == pytest.approx([0.5, 0.25, 1 / 3])
    for rates in (np.array([2, 4, 5]), torch.tensor([2.0, 4.0, 5.0])):
        scorer.seen.clear()
        reward(clips, list("abc"), fps=rates)
        assert [clip.times[1] for clip in scorer.seen] == [0.5, 0.25, 0.2]
    uneven = [0.0, 0.1, 0.5, 0.6]
    for times in (uneven, np.array(uneven), [uneven] * 3, np.array([uneven] * 3)):
        scorer.seen.clear()
        reward(clips, list("abc"), times=times)
        assert [clip.times.tolist() for clip in scorer.seen] == [uneven] * 3
    scorer.seen.clear()
    reward([clips[0], own], list("ab"), times=[uneven, None])
    assert [clip.times[1] for clip in scorer.seen] == [0.1, pytest.approx(1 / 3)]


def test_frames_are_sampled_as_the_scorer_does():
    scorer = ColorModel()
    rate(VideoReward(scorer), solid(COLORS[0], frames=50), fps=10)
    assert len(scorer.seen[0].frames) == scorer.frame_plan.max_frames == 8
    assert (scorer.seen[0].times[-1], scorer.seen[0].duration) == (4.9, 5.0)
    scorer.provenance = replace(scorer.provenance, frame_plan={"max_frames": 8, "fps": 1.0})
    rate(VideoReward(scorer), solid(COLORS[0], frames=50), fps=10)
    assert scorer.seen[1].times == pytest.approx(np.linspace(0, 4.9, 5), abs=0.06)
    scorer.provenance = replace(scorer.provenance, frame_plan={})
    rate(VideoReward(scorer), solid(COLORS[0], frames=50), fps=10)
    assert len(scorer.seen[2].frames) == 50


CLIP = Clip(np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1), 1.0)


@pytest.mark.parametrize(
    ("videos", "prompts", "options", "complaint"),
    [
        (list(solid(*COLORS)), "abc", {"fps": 8}, "wrap a single one"),
        ("clip.mp4", ["a"] * 8, {}, "wrap a single one"),
        (CLIP, ["a"], {}, "wrap a single one"),
        (list(solid(*COLORS)), ["a", "b"], {"fps": 8}, "expected 3 prompts"),
        (list(solid(*COLORS)), ["a", "b", None], {"fps": 8}, "plain texts, got NoneType"),
        (list(solid(*COLORS)), [[{"role": "user", "content": "a"}]] * 3, {"fps": 8}, "plain texts, got list"),
        (list(solid(*COLORS)), ["a"] * 3, {"fps": [8, 8]}, "list of 3"),
        (list(solid(*COLORS)), ["a"] * 3, {"fps": [8, "8", 8]}, "list of 3"),
        (list(solid(*COLORS)), ["a"] * 3, {"fps": 0}, "above 0"),
        (list(solid(*COLORS)), ["a"] * 3, {"fps": [8, float("nan"), 8]}, "above 0"),
        (list(solid(*COLORS)), ["a"] * 3, {"times": [[0, 1, 2, 3]] * 2}, "3 such lists"),
        (list(solid(*COLORS)), ["a"] * 3, {"times": [[0, 1, 2, 3], 1.0, 2.0]}, "3 such lists"),
        (list(solid(*COLORS)), ["a"] * 3, {"fps": 8, "times": [0, 1, 2, 3]}, "not both"),
        ([CLIP], ["a"], {"fps": 8}, "own times"),
    ],
)
def test_wrong_arguments_raise_even_when_failures_are_masked(videos, prompts, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        VideoReward(ColorModel(), on_error="mask")(videos, prompts, **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"weights": named(1, -1, 1)}, "weights must"),
        ({"weights": {"visual_quality": 1}}, "weights must"),
        ({"floors": {"quality": 2}}, "floors must"),
        ({"floors": {"visual_quality": 0.5}}, "floors must"),
        ({"floors": {"visual_quality": float("nan")}}, "floors must"),
        ({"combine": "min"}, "combine must be one of mean, softmin"),
        ({"on_error": "return"}, "on_error must be one of raise, mask"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"normalise": "checkpoint"}, "from_pretrained"),
        ({"normalise": True}, "from_pretrained"),
    ],
)
def test_wrong_options_are_refused(options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        VideoReward(ColorModel(), **options)


def test_a_name_is_no_scorer():
    with pytest.raises(ConfigError, match="from_pretrained"):
        VideoReward("tiny")


def test_a_calibration_of_other_weights_is_refused():
    with pytest.raises(ConfigError) as caught:
        VideoReward(ColorModel(), normalise=replace(CALIBRATION, revision="other"))
    assert caught.value.code == "calibration_revision"


def test_changing_the_given_weights_and_floors_later_changes_nothing():
    weights, floors = named(1, 1, 1), {"visual_quality": 2.0}
    reward = VideoReward(ColorModel(), weights=weights, floors=floors)
    before = rate(reward, solid((0, 255, 255))).combined[0]
    weights["visual_quality"], floors["visual_quality"] = -100.0, 1.0
    assert rate(reward, solid((0, 255, 255))).combined[0] == before == 1.0


levels = st.integers(0, 255)
colors = st.tuples(levels, levels, levels)
rewards = st.builds(
    VideoReward,
    st.builds(ColorModel),
    weights=st.none()
    | st.tuples(*[st.floats(0, 3)] * 3).filter(lambda w: sum(w) > 0.1).map(lambda w: named(*w)),
    normalise=st.sampled_from(["none", CALIBRATION]),
    floors=st.dictionaries(st.sampled_from(DIMENSIONS), st.floats(1, 5)),
    combine=st.sampled_from(["mean", "softmin"]),
    temperature=st.sampled_from([0.001, 0.3, 1.0, 1000.0]),
)


@given(rewards, colors, st.integers(0, 2), levels)
def test_raising_a_raw_score_never_lowers_the_reward(reward, color, channel, level):
    higher = list(color)
    higher[channel] = max(level, color[channel])
    low, high = rate(reward, solid(color, tuple(higher))).combined
    assert high >= low - 1e-9


@given(rewards, colors)
def test_a_dimension_under_its_floor_cannot_be_bought_back(reward, color):
    """Whatever the other dimensions: worth no more than its own value there."""
    for channel, name in enumerate(DIMENSIONS):
        best = [255, 255, 255]
        best[channel] = color[channel]
        scored = rate(reward, solid(tuple(best)))
        if scored.raw[0, channel] < reward.floors.get(name, 1):
            assert scored.combined[0] <= scored.values[0, channel]


def test_the_mean_alone_can_be_bought_back():
    """What the floor is for: the test above must not hold by chance."""
    frozen = solid((255, 13, 255))
    assert rate(VideoReward(ColorModel()), frozen).combined[0] > 3.5
    floors = {"dynamic_quality": 2.0}
    for options in ({}, {"weights": named(1, 0, 1)}, {"combine": "softmin"}):
        held = rate(VideoReward(ColorModel(), floors=floors, **options), frozen)
        assert held.combined[0] == pytest.approx(score_of(13))


def test_softmin_prefers_the_even_clip():
    even, uneven = solid((120, 120, 120), (255, 255, 0))
    for combine, winner in (("mean", 1), ("softmin", 0)):
        assert rate(VideoReward(ColorModel(), combine=combine), [even, uneven]).combined.argmax() == winner


def test_name_for_trainers():
    assert VideoReward(ColorModel()).__name__ == VideoReward.__dict__["__name__"] == "qsave_reward"


def test_pickled_and_back():
    reward = VideoReward(
        ColorModel(), weights=named(1, 2, 3), floors={"visual_quality": 2.0}, combine="softmin"
    )
    again = pickle.loads(pickle.dumps(reward))
    assert (again.weights, again.floors, again.__name__) == (reward.weights, reward.floors, "qsave_reward")
    assert rate(again, solid(*COLORS)).combined.tolist() == rate(reward, solid(*COLORS)).combined.tolist()
    error = pickle.loads(pickle.dumps(rate(replace(reward, on_error="mask"), [BROKEN]))).errors[0]
    assert (type(error), error.code) == (VideoError, "bad_values")


def test_a_model_is_pickled_as_where_it_came_from(tiny):
    content = pickle.dumps(tiny)
    assert len(content) < 2000
    again = pickle.loads(content)
    assert (again.provenance, again.batch_size, again.model.dtype) == (tiny.provenance, 8, torch.float32)
    half = RewardModel.from_pretrained("tiny", device="cpu", dtype=torch.bfloat16, batch_size=3)
    again = pickle.loads(pickle.dumps(half))
    assert (again.batch_size, again.model.dtype) == (3, torch.bfloat16)


def test_another_process_gives_the_same_rewards(tiny):
    """As a rank of a distributed run does: a fresh interpreter, its own copy of the model."""
    reward = VideoReward(tiny, floors={"visual_quality": 2.0}, on_error="mask")
    clips = [*solid(*COLORS[:2], frames=4).repeat(4, axis=2).repeat(4, axis=3), BROKEN]
    here = rate(reward, clips)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(reward, clips, [PROMPT] * 3, fps=8).result(timeout=100)
    np.testing.assert_allclose(there.raw, here.raw, atol=1e-5)
    np.testing.assert_allclose(there.combined, here.combined, atol=1e-5)
    assert np.isnan(here.combined).tolist() == [False, False, True]
    assert there.errors[2].code == here.errors[2].code
    assert there.cards[0].provenance == here.cards[0].provenance


@pytest.fixture
def checkpoint(tmp_path):
    """The bundled weights in a directory of their own."""
    for file in WEIGHTS.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


def test_from_pretrained_with_the_calibration_beside_the_weights(checkpoint, tiny):
    scores = [[2.0, 3.0, 4.0], [3.0, 3.5, 2.0]]
    Calibration.fit(scores, data="two", revision=tiny.provenance.revision).save(checkpoint)
    reward = VideoReward.from_pretrained(
        checkpoint, device="cpu", batch_size=2, normalise="checkpoint", on_error="mask"
    )
    assert (reward.on_error, reward.scorer.batch_size, reward.normalise.n) == ("mask", 2, 2)
    clips = solid(COLORS[0]).repeat(4, axis=2).repeat(4, axis=3)
    rewards = rate(reward, clips)
    np.testing.assert_allclose(rewards.raw, rate(VideoReward(tiny), clips).raw, atol=1e-5)
    np.testing.assert_allclose(rewards.values, (rewards.raw - np.mean(scores, 0)) / np.std(scores, 0, ddof=1))


def test_from_pretrained_refuses_a_missing_or_foreign_calibration(checkpoint):
    with pytest.raises(ConfigError) as caught:
        VideoReward.from_pretrained(checkpoint, device="cpu", normalise="checkpoint")
    assert caught.value.code == "no_calibration"
    CALIBRATION.save(checkpoint)
    with pytest.raises(ConfigError) as caught:
        VideoReward.from_pretrained(checkpoint, device="cpu", normalise="checkpoint")
    assert caught.value.code == "calibration_revision"


def test_importing_the_reward_needs_no_torch():
    modules = "adapters, best_of_n, calibration, reward, weighting"
    code = (
        f"from qsave_reward import {modules}; import sys;"
        "heavy = {'torch', 'transformers', 'trl', 'diffusers', 'av', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
