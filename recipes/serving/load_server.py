"""The server under load as a process: start, watch, kill its worker, stop, and count what is left of it."""

from __future__ import annotations

import random
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from qsave_reward.errors import ServerError

START_SECONDS = 600.0
STOP_SECONDS = 180.0
INTERVAL = 0.5
"""Seconds between two looks at the server."""


@dataclass(frozen=True)
class Sample:
    """One look at the server.

    Attributes:
        at: seconds since the beginning of the load.
        done: requests answered by then.
        rss: bytes of the front process.
        tree: bytes of it and all its children.
        descriptors: open ones of the front process.
        zombies: children that have ended and were not waited for.
    """

    at: float
    done: int
    rss: int
    tree: int
    descriptors: int
    zombies: int


@dataclass(frozen=True)
class Kill:
    """One kill -9 of the worker: when, after how many answers, and how many seconds after its start."""

    at: float
    done: int
    age: float


@contextmanager
def running(model: str, token: str, root: Path, log: Path) -> Iterator[tuple[psutil.Popen, int]]:
    """`qsave serve` with a token and a media root; yields its process and port once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token_file = root.parent / "token"
    token_file.write_text(token)
    command = [sys.executable, "-c", "from qsave_reward.cli import main; main()", "serve", "--model", model]
    command += ["--device", "cpu", "--port", str(port), "--token-file", str(token_file)]
    command += ["--media-root", str(root)]
    with log.open("wb") as lines, psutil.Popen(command, stdout=lines, stderr=lines) as server:
        try:
            end = time.monotonic() + START_SECONDS
            while not _ready(port):
                if server.poll() is not None or time.monotonic() > end:
                    raise ServerError(f"the server did not start; {log} says why", code="no_worker")
                time.sleep(0.2)
            yield server, port
        finally:
            with suppress(psutil.NoSuchProcess):
                server.kill()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def metrics(port: int, token: str) -> dict[str, float]:
    """What the server says of itself, by the name of the series with its labels."""
    headers = {"Authorization": f"Bearer {token}"}
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers, trust_env=False, timeout=30).text
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


def server_errors(found: dict[str, float]) -> dict[str, int]:
    """Replies with a status of 500 and above that the server counted, by path and status; `/ready` says 503
    until the model is loaded."""
    pattern = re.compile(r'qsave_replies_total\{path="([^"]*)",status="(5\d\d)"\}')
    rows = ((pattern.fullmatch(name), value) for name, value in found.items())
    return {
        f"{match[1]} {match[2]}": int(value)
        for match, value in rows
        if match and value and match[1] != "/ready"
    }


def look(server: psutil.Process, at: float, done: int) -> Sample:
    """One sample."""
    rss = tree = server.memory_info().rss
    zombies = 0
    for child in server.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            zombies += child.status() == psutil.STATUS_ZOMBIE
            tree += child.memory_info().rss
    return Sample(at, done, rss, tree, server.num_fds(), zombies)


def watch(
    server: psutil.Process,
    samples: list[Sample],
    began: float,
    *,
    done: Callable[[], int],
    stop: threading.Event,
) -> None:
    """Append a sample every `INTERVAL` seconds until told to stop or the server is gone."""
    with suppress(psutil.NoSuchProcess):
        while not stop.wait(INTERVAL):
            samples.append(look(server, time.monotonic() - began, done()))


def kill_points(kills: int, requests: int, seed: int) -> list[tuple[int, float]]:
    """When to kill: after so many answers (from 10 % to 90 %), and so many seconds later."""
    rng = random.Random(f"kills {seed}")
    return sorted((round(requests * rng.uniform(0.1, 0.9)), rng.uniform(0, 3)) for _ in range(kills))


def murder(
    server: psutil.Process,
    points: list[tuple[int, float]],
    kills: list[Kill],
    began: float,
    *,
    done: Callable[[], int],
    stop: threading.Event,
) -> None:
    """Kill the worker process at each of the points, in whatever it does then."""
    for count, pause in points:
        while done() < count and not stop.is_set():
            time.sleep(0.01)
        if stop.wait(pause):
            return
        while not stop.is_set():
            worker = _worker(server)
            if worker is not None:
                with suppress(psutil.NoSuchProcess):
                    age = time.time() - worker.create_time()
                    worker.kill()
                    kills.append(Kill(time.monotonic() - began, done(), age))
                break
            time.sleep(0.01)


def _worker(server: psutil.Process) -> psutil.Process | None:
    """The process that holds the model, dead ones left out."""
    for child in server.children():
        with suppress(psutil.Error):
            if "qsave_reward.server.worker" in " ".join(child.cmdline()):
                return child
    return None


def stop_server(server: psutil.Popen) -> tuple[float, list[str]]:
    """SIGTERM; seconds until it was gone, and those of its processes that were still there then."""
    family = [server, *server.children(recursive=True)]
    names = {one.pid: " ".join(one.cmdline()[-2:])[:60] for one in family if one.is_running()}
    began = time.monotonic()
    server.terminate()
    with suppress(psutil.TimeoutExpired):
        server.wait(STOP_SECONDS)
    seconds = time.monotonic() - began
    _, left = psutil.wait_procs(family, timeout=10)
    return seconds, [f"{one.pid} {one.status()} {names.get(one.pid)}" for one in left]
