"""A real server on loopback around any scorer, in a thread of the test."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import uvicorn
from fake_model import FakeModel

from qsave_reward.server.app import create_app
from qsave_reward.server.settings import Settings

HTTP = httpx.Client(trust_env=False, timeout=30)
atexit.register(HTTP.close)


class GatedModel(FakeModel):
    """Scores only while its gate is open; a prompt with "poison" raises."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.prompts: list[str] = []

    def score_batch(self, videos, prompts, **options):
        assert self.gate.wait(30)
        self.prompts += prompts
        if any("poison" in prompt for prompt in prompts):
            raise RuntimeError("a secret of the library")
        return super().score_batch(videos, prompts, **options)


@contextlib.contextmanager
def served(scorer: Any, settings: Settings | None = None, *, ready: bool = True) -> Iterator[str]:
    """Yields the address of a reward server."""
    with serving(create_app(scorer, settings or Settings())) as url:
        if ready:
            # A worker imports torch and transformers first, which takes half a minute on a busy machine.
            wait_until(lambda: HTTP.get(f"{url}/ready").status_code == 200, seconds=120.0)
        yield url


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Yields the address at which an application is served."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="error", lifespan="on", timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def wait_until(condition, seconds: float = 20.0) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
