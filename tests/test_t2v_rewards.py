"""Scores of rollouts: in order, never a number where there is none, and always of the same model."""

import json
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_model import FakeModel
from reward_cases import ColorModel, score_of, solid
from served import GatedModel, served

from qsave_reward.client import RewardClient
from qsave_reward.errors import ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.reward import VideoReward
from qsave_reward.server.settings import Settings

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from rewards import Scored, Scoring, check_identity, identity, open_reward
from rollout import Rollout
from train import Run
from train_options import TrainOptions

RED, BLUE = (200, 20, 40), (20, 60, 220)
TOKEN = "a-token-of-some-length"
DOWN = "http://127.0.0.1:9"


def rollout_of(frames, prompt="a red circle moves left"):
    """A rollout of which only frames and prompt matter."""
    latents = torch.zeros(len(frames), 1)
    return Rollout(prompt, frames, latents, {}, None, torch.tensor([999]), torch.float32, None)


def masked(scorer):
    return VideoReward(scorer, on_error="mask")


@pytest.fixture
def scoring():
    """Makes scorings of a scorer and closes them."""
    made = []

    def make(scorer, fps=8.0):
        made.append(Scoring(masked(scorer), fps=fps))
        return made[-1]

    yield make
    for one in made:
        one.close()


def colors(*chosen):
    return [[score_of(level) for level in color] for color in chosen]


def test_too_many_missing_scores_are_an_error_as_soon_as_it_is_certain():
    gone, here = (Scored(np.full((2, 3), value), ("down",) * 2, 0.0) for value in (np.nan, 3.0))
    never = Future()  # still waits for the server

    def collected(*results, limit):
        run = Run.__new__(Run)
        run.options, run.step = TrainOptions(output_dir="OUT", prompts_per_update=1, max_masked=limit), 6
        done = [Future() for _ in results]
        for future, result in zip(done, results, strict=True):
            future.set_result(result)
        return run.scored([*done, never][:4])

    assert len(collected(here, gone, here, here, limit=0.25)) == 4
    with pytest.raises(
        QSaveError, match="50% or more of the videos of update 7 .* 25%; the first reason: down"
    ):
        collected(here, gone, gone, limit=0.25)


def test_two_clips_come_back_in_order(scoring):
    found = scoring(ColorModel()).submit(rollout_of(solid(RED, BLUE))).result()
    assert found.values.dtype == np.float64 and found.errors == () and found.seconds > 0
    np.testing.assert_allclose(found.values, colors(RED, BLUE), atol=1e-6)
    again = scoring(ColorModel()).submit(rollout_of(solid(BLUE, RED))).result()
    np.testing.assert_array_equal(again.values, found.values[::-1])


def test_many_clips_come_back_in_order_from_servers(scoring):
    levels = [(12 * i, 255 - 12 * i, i) for i in range(20)]
    with served(ColorModel()) as one, served(ColorModel()) as other:
        reward = open_reward(f"{one},{other}", timeout=20)
        assert isinstance(reward.scorer, RewardClient) and reward.on_error == "mask"
        found = scoring(reward.scorer).submit(rollout_of(solid(*levels))).result()
    np.testing.assert_allclose(found.values, colors(*levels), atol=1e-6)


def test_the_scorer_gets_prompt_frames_and_times(scoring):
    class Watching(ColorModel):
        def score_batch(self, videos, prompts, **options):
            self.prompts = list(prompts)
            return super().score_batch(videos, prompts, **options)

    scorer = Watching()
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    scoring(scorer, fps=4.0).submit(rollout_of(frames, "a blue square")).result()
    assert scorer.prompts == ["a blue square"] * 2
    for clip, own in zip(scorer.seen, frames, strict=True):
        np.testing.assert_array_equal(clip.frames, own)
        np.testing.assert_allclose(clip.times, np.arange(5) / 4)


class Failing(ColorModel):
    """Cannot score a clip that is all black."""

    def _card(self, video, prompt, mode):
        if not video.frames.any():
            return VideoError("nothing to see", code="dark")
        return super()._card(video, prompt, mode)


def test_a_clip_that_fails_is_masked_and_the_others_keep_their_places(scoring):
    found = scoring(Failing()).submit(rollout_of(solid(RED, (0, 0, 0), BLUE))).result()
    assert np.isnan(found.values).all(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(found.values[[0, 2]], colors(RED, BLUE), atol=1e-6)
    assert found.errors == ("nothing to see",)


def test_an_answer_of_another_model_is_an_error_even_if_it_is_one_of_many(scoring):
    class Changed(ColorModel):
        def _card(self, video, prompt, mode):
            card = super()._card(video, prompt, mode)
            other = replace(self.provenance, revision="4567")
            return replace(card, provenance=other) if video.frames[0, 0, 0, 2] == BLUE[2] else card

    own = scoring(Changed())
    future = own.submit(rollout_of(solid(RED, BLUE, RED)))
    with pytest.raises(ServerError, match="0123.*4567.*same model") as caught:
        future.result()
    assert caught.value.code == "other_model"
    assert not np.isnan(own.submit(rollout_of(solid(RED))).result().values).any()


def test_a_server_that_goes_away_masks_its_videos_and_says_why(scoring):
    with served(ColorModel()) as url:
        own = scoring(open_reward(url, timeout=2.0).scorer)
        assert own.submit(rollout_of(solid(RED))).result().errors == ()
    found = own.submit(rollout_of(solid(RED, BLUE))).result()
    assert found.values.shape == (2, 3) and np.isnan(found.values).all()
    assert len(found.errors) == 2 and all(url.removeprefix("http://") in error for error in found.errors)


def test_a_slow_server_masks_too_and_the_wait_ends(scoring):
    scorer = GatedModel()
    with served(scorer) as url:
        own = scoring(open_reward(url, timeout=0.5).scorer)
        scorer.gate.clear()
        try:
            began = time.monotonic()
            found = own.submit(rollout_of(solid(RED, BLUE))).result(timeout=20)
        finally:
            scorer.gate.set()
    assert np.isnan(found.values).all() and len(found.errors) == 2
    assert 0.4 < found.seconds <= time.monotonic() - began < 15


def test_a_programming_error_is_no_missing_score(scoring):
    class Wrong(FakeModel):
        def score_batch(self, videos, prompts, **options):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        scoring(Wrong()).submit(rollout_of(solid(RED))).result()
    with pytest.raises(ConfigError, match="fps"):
        scoring(ColorModel(), fps=-1.0).submit(rollout_of(solid(RED))).result()


def test_scoring_goes_on_while_videos_are_made_and_in_the_order_of_submission(scoring):
    gate, order = threading.Event(), []

    class Waiting(ColorModel):
        def score_batch(self, videos, prompts, **options):
            assert gate.wait(20)
            order.append(prompts[0])
            return super().score_batch(videos, prompts, **options)

    own = scoring(Waiting())
    futures = [own.submit(rollout_of(solid(RED), f"prompt {i}")) for i in range(3)]
    assert not any(future.done() for future in futures)
    gate.set()
    assert all(future.result(timeout=20).errors == () for future in futures)
    assert order == ["prompt 0", "prompt 1", "prompt 2"]


def test_what_waits_is_dropped_at_the_end():
    gate, begun = threading.Event(), threading.Event()

    class Waiting(ColorModel):
        def score_batch(self, videos, prompts, **options):
            begun.set()
            assert gate.wait(20)
            return super().score_batch(videos, prompts, **options)

    own = Scoring(masked(Waiting()), fps=8.0)
    first, second = (own.submit(rollout_of(solid(RED))) for _ in range(2))
    assert begun.wait(20)
    threading.Timer(0.2, gate.set).start()
    own.close()
    assert first.result().errors == () and second.cancelled()


def test_a_server_that_is_down_is_noticed_at_the_start():
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        open_reward(DOWN, timeout=1.0)


def test_servers_of_different_models_are_noticed_at_the_start():
    other = ColorModel()
    other.provenance = replace(other.provenance, revision="4567")
    with (
        served(ColorModel()) as one,
        served(other) as two,
        pytest.raises(ServerError, match="different models"),
    ):
        open_reward(f"{one},{two}", timeout=5.0)


def test_a_token_comes_from_a_file(tmp_path):
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "wrong").write_text("another-token-of-some-length")
    with served(ColorModel(), Settings(token=TOKEN)) as url:
        reward = open_reward(url, timeout=5.0, token_file=str(tmp_path / "token"))
        assert identity(reward)["revision"] == "0123"
        with pytest.raises(ServerError) as caught:
            open_reward(url, timeout=5.0, token_file=str(tmp_path / "wrong"))
        assert caught.value.code == "unauthorized"


def test_a_token_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no-token"):
        open_reward(DOWN, timeout=1.0, token_file=str(tmp_path / "no-token"))


@pytest.mark.parametrize("name", ["./there/is/none", "http://127.0.0.1:9,there"])
def test_what_is_no_reward_is_refused(name):
    with pytest.raises(ConfigError):
        open_reward(name, device="cpu", timeout=1.0)


def test_an_identity_is_weights_and_frames():
    own = identity(masked(FakeModel()))
    assert own["revision"] == "0123" and own["frame_plan"]["max_frames"] == 8
    check_identity(masked(FakeModel()), own)
    for changes in ({"revision": "4567"}, {"frame_plan": own["frame_plan"] | {"max_frames": 16}}):
        other = FakeModel()
        other.provenance = replace(other.provenance, **changes)
        with pytest.raises(ConfigError, match="scores of different models cannot be compared") as caught:
            check_identity(masked(other), own)
        assert str(list(changes.values())[0]) in str(caught.value) and str(own) in str(caught.value)


def test_an_identity_survives_the_log_and_is_the_same_through_a_server(tiny):
    for scorer in (FakeModel(), tiny):
        own = identity(masked(scorer))
        check_identity(masked(scorer), json.loads(json.dumps(own)))
        with served(scorer) as url:
            check_identity(open_reward(url, timeout=10.0), own)
