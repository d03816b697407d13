"""What a server's machine does wrong is not the clips' fault, and what it holds is bounded."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_model import FakeModel
from served import HTTP, GatedModel, served, serving, wait_until

from qsave_reward.client import RewardClient
from qsave_reward.errors import ServerError
from qsave_reward.server import batching, intake
from qsave_reward.server.app import create_app
from qsave_reward.server.settings import Settings
from qsave_reward.types import Provenance, VideoScore
from qsave_reward.video import Clip, write_clip
from qsave_reward.wire import MAX_PROMPT, MEDIA_TYPE, Item, Request, encode_request

PACKED = {"Content-Type": MEDIA_TYPE}


def gray(value: int, *, side: int = 32, last: int | None = None) -> Clip:
    pixels = np.full((8, side, side, 3), value, np.uint8)
    pixels[-1] = value if last is None else last
    return Clip(pixels, np.arange(8) / 8.0, 1.0)


def post(url: str, *items: Item, **options):
    body = b"".join(bytes(part) for part in encode_request(Request(items, **options)))
    return HTTP.post(f"{url}/v1/score", content=body, headers=PACKED)


def number(url: str, name: str) -> float:
    lines = HTTP.get(f"{url}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


class Broken(FakeModel):
    """After the warm-up its process does not start any more, until it is mended."""

    mended = False

    def score_batch(self, videos, prompts, **options):
        if prompts != ["warm-up"] and not self.mended:
            raise ServerError("no such device", code="no_worker")
        return super().score_batch(videos, prompts, **options)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(batching, "_START_PAUSE", 0.01)
    monkeypatch.setattr(batching, "REST", 0.5)


def test_another_replica_takes_the_batches_of_a_broken_one(quick):
    with served([Broken(), FakeModel()]) as url:
        for value in (10, 200, 90):
            (row,) = post(url, Item(gray(value), "x")).json()["results"]
            assert row["overall"] == pytest.approx(1 + 4 * value / 255)
        assert HTTP.get(f"{url}/ready").status_code == 200


def test_a_server_whose_workers_do_not_start_is_not_ready_until_they_do(quick):
    model = Broken()
    with served(model) as url:
        reply = post(url, Item(gray(1), "x"))
        assert reply.status_code == 503 and int(reply.headers["Retry-After"]) >= 1
        assert reply.json()["results"][0]["error"]["code"] == "no_worker"
        assert HTTP.get(f"{url}/ready").status_code == 503 and number(url, "qsave_ready") == 0
        assert post(url, Item(gray(1), "x")).json()["error"]["code"] == "not_ready"
        model.mended = True
        wait_until(lambda: HTTP.get(f"{url}/ready").status_code == 200)
        assert post(url, Item(gray(1), "x")).status_code == 200


def test_the_client_goes_to_another_server_when_one_is_broken(quick):
    values = [10, 60, 110, 160, 210, 250, 30, 70]
    with served(Broken()) as first, served(FakeModel()) as second:
        client = RewardClient([first, second], items_per_request=1, connections=2)
        cards = client.score_batch([gray(value) for value in values], ["x"] * 8)
        assert [card.overall for card in cards] == pytest.approx([1 + 4 * v / 255 for v in values])
        with pytest.raises(ServerError) as caught:
            RewardClient(first, timeout=1.0).score_batch([gray(1)], ["x"], on_error="return")
        assert caught.value.code in ("no_worker", "not_ready")


class Shared(FakeModel):
    """Like a worker process: a clip that kills it takes the batch beside it along."""

    lives = 0

    def score_batch(self, videos, prompts, **options):
        life = self.lives
        if "poison" in prompts:
            time.sleep(0.05)
            self.lives += 1
        else:
            time.sleep(0.1)
        if self.lives != life:
            raise ServerError("the worker process died", code="worker_died")
        return super().score_batch(videos, prompts, **options)


def test_a_clip_is_not_blamed_for_the_one_beside_it():
    with served(Shared(), Settings(batch_window=0.0)) as url, ThreadPoolExecutor(2) as callers:
        good = callers.submit(post, url, Item(gray(1), "x"))
        wait_until(lambda: number(url, "qsave_batch_clips_count") == 1)
        bad = callers.submit(post, url, Item(gray(1), "poison"))
        assert good.result().status_code == 200
        assert bad.result().json()["results"][0]["error"]["code"] == "scoring_failed"


def test_a_server_that_was_started_anew_with_another_model_is_noticed():
    model = FakeModel()
    with served(model) as url:
        client = RewardClient(url)
        assert isinstance(client.score_batch([gray(1)], ["x"])[0], VideoScore)
        model.provenance = Provenance("fake", "9999", "1", model.provenance.frame_plan)
        with pytest.raises(ServerError, match="fake 0123, a server gave those of fake 9999") as caught:
            client.score_batch([gray(1)], ["x"], on_error="return")
        assert caught.value.code == "models"


def test_the_client_sends_as_much_as_the_server_takes():
    clip_bytes = gray(1).frames.nbytes
    with served(FakeModel(), Settings(max_body=3 * clip_bytes, max_queue=2)) as url:
        client = RewardClient(url, connections=1)
        values = [10, 60, 110, 160, 210, 250, 30]
        videos = [gray(value) for value in values]
        videos.insert(3, gray(1, side=64))  # four times as large
        cards = client.score_batch(videos, ["x"] * 8, on_error="return")
        too_large = cards.pop(3)
        assert type(too_large).__name__ == "VideoError" and too_large.code == "too_large"
        assert [card.overall for card in cards] == pytest.approx([1 + 4 * v / 255 for v in values])
        reply = post(url, *[Item(b"x", "x")] * 3)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_many_clips")


def test_a_prompt_that_is_too_long_or_broken_fails_its_own_clip_only():
    with served(FakeModel()) as url:
        prompts = ["x", "y" * (MAX_PROMPT + 1), "\ud800"]
        cards = RewardClient(url).score_batch([gray(255)] * 3, prompts, on_error="return")
        assert cards[0].overall == pytest.approx(5.0)
        assert [type(card).__name__ for card in cards[1:]] == ["ConfigError"] * 2
        assert cards[1].code == "long_prompt"
        paths = {"items": [{"path": "a.mp4", "prompt": prompts[1]}]}
        json_headers = {"Content-Type": "application/json"}
        reply = HTTP.post(f"{url}/v1/score", content=json.dumps(paths), headers=json_headers)
        assert reply.json()["results"][0]["error"]["code"] == "long_prompt"


def test_an_id_stands_for_all_bytes_of_its_request():
    with served(FakeModel()) as url:
        first, other = gray(10, side=128), gray(10, side=128, last=250)
        assert post(url, Item(first, "x"), request_id="a").status_code == 200
        assert post(url, Item(other, "x"), request_id="a").status_code == 409
        again = post(url, Item(first, "x"), request_id="a")
        assert again.json()["results"][0]["overall"] == pytest.approx(1 + 4 * 10 / 255)


def test_a_remembered_error_holds_nothing_of_its_request():
    app = create_app(FakeModel())
    with serving(app) as url:
        wait_until(lambda: app.state.service.ready)
        clip = Clip(np.zeros((2, 32, 32, 3), np.uint8), np.array([0.0, 1.0]), 2.0)
        post(url, Item(b"junk" * 99, "x"), Item(clip, "x"), Item(clip, " "), request_id="a")
        results = app.state.service.engine.known["a"].work.result()
        errors = [result for result in results if not isinstance(result, VideoScore)]
        assert len(errors) == 2
        for error in errors:
            assert error.__traceback__ is error.__context__ is error.__cause__ is None


def test_small_files_do_not_fill_the_memory_with_frames(tmp_path):
    path = tmp_path / "flat.mp4"
    write_clip(path, np.full((8, 128, 128, 3), 90, np.uint8), fps=8)
    frames, clips = 8 * 128 * 128 * 3, 24
    model, room = GatedModel(), 2 * frames
    with served(model, Settings(max_bytes=room)) as url, ThreadPoolExecutor(1) as caller:
        model.gate.clear()
        reply = caller.submit(post, url, *[Item(path.read_bytes(), "x")] * clips)
        wait_until(lambda: number(url, "qsave_decoded_bytes") > room)
        time.sleep(0.5)
        assert number(url, "qsave_decoded_bytes") <= room + intake.READERS * frames < clips * frames
        model.gate.set()
        assert all(row["error"] is None for row in reply.result().json()["results"])
        assert number(url, "qsave_decoded_bytes") == 0
