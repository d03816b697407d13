"""Fuzzing from outside: whole HTTP requests over a socket, and schemathesis on the OpenAPI page."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fuzz_bodies import Shot, mutated
from fuzz_replies import Reply, complaint

from qsave_reward.errors import ServerError

READERS: tuple[Literal["h11", "httptools"], ...] = ("h11", "httptools")
"""Who may read HTTP for uvicorn; the second one only where it is installed."""
THREADS = 8
WAIT = 5.0
"""Seconds for a reply; more than the server waits for a body."""


@dataclass(frozen=True)
class Outcome:
    """What one request led to.

    Attributes:
        request: as it was sent.
        word: the status, `"no reply"` or `"closed"`.
        fault: what is wrong with it, or `None`.
    """

    request: bytes
    word: str
    fault: str | None


@contextmanager
def serving(app: Any, http: Literal["h11", "httptools"] = "h11") -> Iterator[int]:
    """Yields the port on loopback at which an application is served, once it can score.

    Args:
        app: from `create_app`.
        http: who reads HTTP for uvicorn.
    """
    options: dict[str, Any] = {"port": 0, "log_level": "critical", "timeout_graceful_shutdown": 5}
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", http=http, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 60
        while not (server.started and app.state.service.ready):
            if time.monotonic() > end:
                raise ServerError("the server did not start")
            time.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def damaged(shot: Shot, others: Sequence[Shot], rng: random.Random) -> tuple[bytes, bool]:
    """A request as bytes, and whether its head is still as it should be: the server owes a reply."""
    data = mutated(shot, others, rng).to_bytes()
    if rng.random() < 0.5:
        return data, True
    head = data.index(b"\r\n\r\n")
    place = rng.randrange(head + 4)
    choice = rng.randrange(4)
    if choice == 0:
        data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    elif choice == 1:
        data = data[:place] + data[place + rng.choice((1, 2, 9)) :]
    elif choice == 2:
        line = rng.choice((b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Content-Length: 3"))
        line = rng.choice((line, b"Upgrade: websocket\r\nConnection: Upgrade", b"X: " + b"y" * 100_000))
        first = data.index(b"\r\n") + 2
        data = data[:first] + line + b"\r\n" + data[first:]
    else:
        data = data[:place] + rng.randbytes(rng.choice((1, 4, 40))) + data[place:]
    return data, False


def send(port: int, request: bytes, *, owed: bool) -> Outcome:
    """Send one request and judge the reply."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        with contextlib.suppress(OSError):  # refused before all of it was sent; the reply may be there
            connection.sendall(request)
        try:
            response = http.client.HTTPResponse(connection, method="POST")
            response.begin()
            reply = Reply(response.status, response.read())
        except TimeoutError:
            return Outcome(request, "no reply", f"no reply within {WAIT:g} s" if owed else None)
        except (OSError, http.client.HTTPException) as error:
            return Outcome(request, "closed", f"closed without a reply: {error!r}" if owed else None)
    return Outcome(request, str(reply.status), complaint(reply))


def shoot_sockets(
    port: int, shots: Sequence[Shot], count: int, *, seed: int, advance: Callable[[int], None]
) -> list[Outcome]:
    """Send `count` damaged requests, several at a time; one outcome for each."""

    def one(number: int) -> Outcome:
        rng = random.Random(f"socket {seed} {number}")
        request, owed = damaged(rng.choice(shots), shots, rng)
        outcome = send(port, request, owed=owed)
        advance(1)
        return outcome

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(one, range(count)))


def run_schemathesis(port: int, out: Path, *, token: str, examples: int, seed: int) -> int | None:
    """Have schemathesis test every operation with all its checks.

    Writes `schemathesis.txt` and `schemathesis.xml` under `out`.

    Returns:
        its exit status, 0 when it found nothing; `None` when it is not installed.
    """
    if importlib.util.find_spec("schemathesis") is None:
        return None
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json"]
    command += ["--checks", "all", "--max-examples", str(examples), "--seed", str(seed), "--no-color"]
    # No schema can say which paths name a clip.
    command += ["--exclude-checks", "positive_data_acceptance", "--header", f"Authorization: Bearer {token}"]
    command += ["--continue-on-failure", "--report", "junit", "--report-junit-path", "schemathesis.xml"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    (out / "schemathesis.txt").write_text(done.stdout + done.stderr)
    return done.returncode
