"""The client is a scorer like the one behind the server, whatever happens to the servers."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel
from fastapi import FastAPI, Response
from served import GatedModel, served, serving, wait_until

from qsave_reward.client import RewardClient
from qsave_reward.errors import ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.server.settings import Settings
from qsave_reward.types import VideoScore
from qsave_reward.video import read_clip, write_clip

TOKEN = "a-token-of-some-length"


def clips(values, frames=9):
    return [read_clip(np.full((frames, 32, 48, 3), value, np.uint8), fps=8.0) for value in values]


@pytest.fixture(scope="module")
def server():
    with served(FakeModel()) as url:
        yield url


@pytest.fixture(scope="module")
def client(server):
    return RewardClient(server, items_per_request=3)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("files") / "clip.mp4"
    write_clip(path, np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8), fps=8)
    return str(path)


def test_the_same_cards_as_the_scorer(client, file):
    videos = [*clips(range(0, 250, 20)), file, Path(file).read_bytes(), "missing.mp4", b"junk"]
    prompts = [f"prompt {k}" for k in range(len(videos))]
    expected = FakeModel().score_batch(videos, prompts, on_error="return")
    got = client.score_batch(videos, prompts, on_error="return")
    assert len(got) == len(videos) > 4 * client.items_per_request
    for mine, theirs in zip(got, expected, strict=True):
        if isinstance(theirs, VideoScore):
            assert mine == theirs
        else:
            assert type(mine) is type(theirs) and mine.code == theirs.code
    reasoned = client.score_batch(videos[:4], ["x", "y", "broken", "z"], mode="reasoned", on_error="return")
    assert [getattr(card, "code", "card") for card in reasoned] == ["card", "card", "bad_answer", "card"]
    assert client.explain_batch(videos[:1], ["x"])[0].reasoning
    assert client.provenance == FakeModel().provenance


def test_a_failure_is_raised_or_stands_in_its_place(client):
    videos = [*clips([10]), b"junk"]
    with pytest.raises(VideoError) as caught:
        client.score_batch(videos, ["x", "y"])
    assert caught.value.code == "not_a_video"
    empty = client.score_batch(clips([10, 20]), ["", "x"], on_error="return")
    assert empty[0].code == "empty_prompt" and isinstance(empty[1], VideoScore)
    assert client.score_batch([], []) == []
    urls = client.score_batch(["http://127.0.0.1/a.mp4"], ["x"], on_error="return")
    assert urls[0].code == "url"


def test_only_the_frames_the_model_wants_travel(server):
    client = RewardClient(server)
    many = read_clip(np.zeros((16, 32, 48, 3), np.uint8), fps=8.0)
    assert len(many.frames) == 16
    item = client._item(many, "x", client.model_card().sampling)
    assert len(item.video.frames) == 8  # FakeModel's frame plan


def test_wrong_arguments(client):
    for wrong in ("127.0.0.1:8000", [], ["ftp://x"]):
        with pytest.raises(ConfigError):
            RewardClient(wrong)
    for options in ({"items_per_request": 0}, {"items_per_request": 65}, {"connections": 0}, {"timeout": 0}):
        with pytest.raises(ConfigError):
            RewardClient("http://127.0.0.1:1", **options)
    with pytest.raises(ConfigError):
        client.score_batch(clips([1, 2]), ["x"])
    with pytest.raises(ConfigError):
        client.score_batch(clips([1]), ["x"], on_error="ignore")


def test_nobody_there_and_somebody_else_there():
    with pytest.raises(ServerError) as caught:
        RewardClient("http://127.0.0.1:9", timeout=0.5).score_batch(clips([1]), ["x"])
    assert caught.value.code == "unreachable"
    other = FastAPI()
    other.get("/v1/model")(lambda: {"hello": 1})
    with serving(other) as url, pytest.raises(ServerError, match="is it a reward server"):
        RewardClient(url).score_batch(clips([1]), ["x"])


def test_a_token_is_sent_and_a_wrong_one_is_an_error_at_once():
    with served(FakeModel(), Settings(token=TOKEN)) as url:
        assert RewardClient(url, token=TOKEN).score_batch(clips([1]), ["x"])
        started = time.monotonic()
        with pytest.raises(ServerError) as caught:
            RewardClient(url, token="wrong").score_batch(clips([1]), ["x"])
        assert caught.value.code == "unauthorized" and time.monotonic() - started < 3


def test_load_is_spread_and_order_kept():
    models = [GatedModel(), GatedModel()]
    with served(models[0]) as first, served(models[1]) as second:
        client = RewardClient([first, second], items_per_request=1, connections=4)
        values = list(range(0, 240, 6))
        cards = client.score_batch(clips(values), ["x"] * len(values))
        assert [card.overall for card in cards] == pytest.approx([1 + 4 * v / 255 for v in values])
        shares = [len(model.prompts) - 1 for model in models]  # one was the warm-up
        assert sum(shares) == len(values) and min(shares) >= len(values) // 4


def test_servers_of_different_models_are_refused():
    other = FakeModel()
    other.provenance = other.provenance.__class__("other", "9", "1", dict(other.provenance.frame_plan))
    with served(FakeModel()) as first, served(other) as second, pytest.raises(ServerError) as caught:
        RewardClient([first, second]).score_batch(clips([1]), ["x"])
    assert caught.value.code == "models"


def test_a_busy_server_is_asked_again_and_a_dead_one_left_alone():
    model = GatedModel()
    with served(model, Settings(max_queue=2)) as url:
        client = RewardClient(url, items_per_request=2, connections=4)
        values = [10, 60, 110, 160, 210, 250]
        model.gate.clear()
        threading.Timer(0.5, model.gate.set).start()
        cards = client.score_batch(clips(values), ["x"] * 6)
        assert [card.overall for card in cards] == pytest.approx([1 + 4 * v / 255 for v in values])
        assert model.prompts.count("x") == 6  # refused ones were not scored
    with served(FakeModel()) as first:
        with served(FakeModel()) as second:
            client = RewardClient([first, second], items_per_request=1)
            client.model_card()
        # The second one is gone now; its share goes to the first.
        assert len(client.score_batch(clips(range(0, 100, 10)), ["x"] * 10)) == 10


def test_the_deadline_ends_the_wait():
    model = GatedModel()
    with served(model) as url:
        client = RewardClient(url, timeout=1.0)
        client.model_card()
        model.gate.clear()
        started = time.monotonic()
        with pytest.raises(ServerError) as caught:
            client.score_batch(clips([1]), ["x"])
        assert caught.value.code == "unreachable" and time.monotonic() - started < 5
        model.gate.set()


def test_answers_that_make_no_sense_are_errors():
    answers: Counter[str] = Counter()
    other = FastAPI()
    other.get("/v1/model")(lambda: {"model": "m", "revision": "r", "prompt_version": "1"} | PLAN)

    @other.post("/v1/score")
    def score() -> Response:
        answers["asked"] += 1
        return Response([b"nonsense", b'{"results": []}', b'{"results": [{}]}'][answers["asked"] - 1])

    with serving(other) as url:
        client = RewardClient(url)
        for _ in range(3):
            with pytest.raises(ServerError) as caught:
                client.score_batch(clips([1]), ["x"])
            assert caught.value.code == "bad_reply"


PLAN = {
    "frame_plan": {"max_frames": 8, "fps": None},
    "limits": {"max_body": 1 << 28, "max_queue": 512},
}


def scores_in_child(client, connection):
    connection.send_bytes(str(client.score_batch(clips([100]), ["x"])[0].overall).encode())


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_may_use_it(server, method):
    client = RewardClient(server)
    (card,) = client.score_batch(clips([100]), ["x"])
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    child = context.Process(target=scores_in_child, args=(client, there))
    child.start()
    assert here.poll(60) and float(here.recv_bytes()) == card.overall
    child.join(30)
    assert child.exitcode == 0
    assert client.score_batch(clips([100]), ["x"])[0] == card


def test_a_copy_carries_no_connection(server):
    copy = pickle.loads(pickle.dumps(RewardClient(server, token=TOKEN, items_per_request=2)))
    assert (copy.urls, copy.token, copy.items_per_request) == ([server], TOKEN, 2)
    assert copy.score_batch(clips([3]), ["x"])


def test_the_client_needs_no_torch():
    code = "import sys; from qsave_reward.client import RewardClient; RewardClient('http://127.0.0.1:9');"
    code += "print('torch' in sys.modules or 'transformers' in sys.modules or 'fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout.strip()) == (0, "False")


def test_many_threads_share_one_client(server):
    client = RewardClient(server, items_per_request=2)
    wrong: list[QSaveError | float] = []

    def work(seed: int) -> None:
        values = np.random.default_rng(seed).integers(0, 256, 5).tolist()
        cards = client.score_batch(clips(values), ["x"] * 5)
        gaps = [abs(card.overall - 1 - 4 * v / 255) for card, v in zip(cards, values, strict=True)]
        wrong.extend(gap for gap in gaps if gap > 1e-9)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    wait_until(lambda: not any(thread.is_alive() for thread in threads))
    assert wrong == []
