"""What fills a batch, and what happens when the worker process does not start."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import WEIGHTS
from fake_model import FakeModel
from hypothesis import given
from hypothesis import strategies as st
from served import HTTP, GatedModel, served, wait_until

from qsave_reward.errors import ServerError
from qsave_reward.server import batching
from qsave_reward.server.batching import STARTS
from qsave_reward.server.load import FREE_PROMPT, Load
from qsave_reward.server.settings import Settings
from qsave_reward.server.worker import Worker
from qsave_reward.video import read_clip
from qsave_reward.wire import MEDIA_TYPE, Item, Request, encode_request

PACKED = {"Content-Type": MEDIA_TYPE}


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 900)), min_size=1, max_size=30))
def test_a_batch_stays_within_its_budget_with_its_padding(clips):
    load = Load(1000)
    taken = [(tokens, size) for tokens, size in clips if load.take(tokens, "x" * size)]
    longest = max(0, max(size for _, size in taken) - FREE_PROMPT)
    total = sum(tokens for tokens, _ in taken) + len(taken) * longest
    assert taken[0] == clips[0] and (total <= 1000 or len(taken) == 1)
    assert load.full == (total >= 1000)


def test_long_prompts_make_small_batches():
    model = FakeModel()
    with served(model, Settings(batch_window=0.3)) as url:
        model.batches.clear()
        clip = read_clip(np.zeros((2, 32, 32, 3), np.uint8), fps=8.0)
        for prompt, size in (("x" * FREE_PROMPT, 6), ("é" * 2000, 2)):
            body = b"".join(bytes(part) for part in encode_request(Request((Item(clip, prompt),) * 6)))
            assert HTTP.post(f"{url}/v1/score", content=body, headers=PACKED).status_code == 200
            assert max(count for _, count in model.batches) == size
            assert sum(count for _, count in model.batches) == 6
            model.batches.clear()


def one_clip(url: str) -> float:
    """Seconds of a request."""
    clip = read_clip(np.zeros((2, 32, 32, 3), np.uint8), fps=8.0)
    body = b"".join(bytes(part) for part in encode_request(Request((Item(clip, "x"),))))
    started = time.monotonic()
    assert HTTP.post(f"{url}/v1/score", content=body, headers=PACKED).status_code == 200
    return time.monotonic() - started


WINDOW = Settings(batch_window=1.0)


def begun(url: str) -> int:
    """Batches that have left the queue."""
    lines = HTTP.get(f"{url}/metrics").text.splitlines()
    return int(next(float(line.split()[1]) for line in lines if line.startswith("qsave_batch_clips_count")))


def test_a_lone_clip_does_not_wait_for_company():
    with served(FakeModel(), WINDOW) as url:
        assert max(one_clip(url) for _ in range(3)) < 0.9


def test_clips_that_come_while_a_replica_works_travel_together_when_it_is_done():
    model = GatedModel()
    with served(model, WINDOW) as url, ThreadPoolExecutor(3) as callers:
        model.batches.clear()
        model.gate.clear()
        first = callers.submit(one_clip, url)
        wait_until(lambda: begun(url) == 1)
        others = [callers.submit(one_clip, url) for _ in range(2)]
        wait_until(lambda: "qsave_queue_clips 3.0" in HTTP.get(f"{url}/metrics").text)
        assert begun(url) == 1
        model.gate.set()
        assert first.result() and max(other.result() for other in others) < 0.9
        assert model.batches == [("direct", 1), ("direct", 2)]


def test_after_the_window_a_second_batch_is_prepared_beside_the_first():
    model = GatedModel()
    with served(model, WINDOW) as url, ThreadPoolExecutor(3) as callers:
        model.batches.clear()
        model.gate.clear()
        clips = [callers.submit(one_clip, url)]
        wait_until(lambda: begun(url) == 1)
        started = time.monotonic()
        clips += [callers.submit(one_clip, url) for _ in range(2)]
        wait_until(lambda: begun(url) == 2)
        assert time.monotonic() - started > 0.9
        model.gate.set()
        assert all(clip.result() for clip in clips)
        assert sorted(model.batches) == [("direct", 1), ("direct", 2)]


def test_an_idle_replica_comes_first():
    stuck, idle = GatedModel(), GatedModel()
    with served([stuck, idle], WINDOW) as url, ThreadPoolExecutor(1) as callers:
        wait_until(lambda: stuck.batches and idle.batches)  # warm
        stuck.gate.clear()
        first = callers.submit(one_clip, url)
        wait_until(lambda: begun(url) == 1)
        assert max(one_clip(url) for _ in range(4)) < 0.9
        assert (len(stuck.batches), len(idle.batches)) == (1, 5)
        stuck.gate.set()
        assert first.result()


class Sleeper(FakeModel):
    """Its process does not start for some tries."""

    def __init__(self, tries: int) -> None:
        super().__init__()
        self.tries, self.restarts, self.asked = tries, 7, 0

    def score_batch(self, videos, prompts, **options):
        if prompts != ["warm-up"]:
            self.asked += 1
            if self.asked <= self.tries:
                raise ServerError("not yet", code="no_worker")
        return super().score_batch(videos, prompts, **options)


@pytest.mark.parametrize(("tries", "status"), [(STARTS - 1, 200), (STARTS, 503)])
def test_a_worker_that_does_not_start_is_no_fault_of_the_clips(monkeypatch, tries, status):
    monkeypatch.setattr(batching, "_START_PAUSE", 0.01)
    clip = read_clip(np.zeros((2, 32, 32, 3), np.uint8), fps=8.0)
    body = b"".join(bytes(part) for part in encode_request(Request((Item(clip, "x"),) * 2)))
    with served(Sleeper(tries), Settings(batch_window=0.3)) as url:
        reply = HTTP.post(f"{url}/v1/score", content=body, headers=PACKED)
        assert reply.status_code == status
        codes = [row["error"] and row["error"]["code"] for row in reply.json()["results"]]
        assert codes == [None if status == 200 else "no_worker"] * 2
        assert "qsave_worker_restarts 7.0" in HTTP.get(f"{url}/metrics").text
        assert HTTP.get(f"{url}/v1/score").headers["Allow"] == "POST"


def test_weights_that_were_replaced_are_not_loaded(tmp_path):
    copy = shutil.copytree(WEIGHTS, tmp_path / "model")
    worker = Worker(str(copy), device="cpu", threads=1)
    told = json.loads((copy / "qsave.json").read_text())
    (copy / "qsave.json").write_text(json.dumps({**told, "revision": "another"}))
    with pytest.raises(ServerError, match="replaced: expected .* got another") as caught:
        worker.score_batch([read_clip(np.zeros((2, 32, 32, 3), np.uint8), fps=8.0)], ["x"])
    assert caught.value.code == "no_worker" and worker.provenance.revision == told["revision"]
    worker.close()
