"""The clients of a load test: send one request as its kind demands, and judge what comes back."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from load_bad import Bad
from load_good import Job, Known, difference, expected_of, request_of

PATIENCE = 300.0
"""Seconds for a reply; the server gives up a clip after 120 s."""
IDLE = 3.0
"""Seconds for which a connection is kept without a request; the server closes it after 5."""
BLOCK, PAUSE = 200, 0.5
"""What a slow sender sends at a time, and the seconds between."""
LATE = "timeout"
"""Code of a file that was not read in time, which on a busy machine is a right answer for any file."""


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes:
        kind: form of a good request, name of a bad one.
        good: which of the two it was.
        status: of the reply; 0 for none.
        code: of the error, or empty.
        at, seconds: when it was sent, since the beginning, and how long it took.
        clips: how many were scored.
        problem: which promise was broken, or `None`.
    """

    kind: str
    good: bool
    status: int
    code: str
    at: float
    seconds: float
    clips: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Site:
    """Where the server is and when the load began (`time.monotonic()`)."""

    port: int
    token: str
    began: float

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


class GoodClient:
    """One connection that is kept open, as good clients do."""

    def __init__(self, site: Site, pool: Sequence[Known]) -> None:
        self.site, self.pool = site, pool
        self._http = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)
        self._used = 0.0

    def close(self) -> None:
        self._http.close()

    def send(self, job: Job) -> Answer:
        """Send a request, a second time if the job says so, and compare the scores."""
        started = time.monotonic()
        try:
            status, body = self._ask(job)
            again = self._ask(job) if job.twice else (status, body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return self._answer(job, started, 0, "", f"no reply: {error!r}")
        answer = _read(body)
        expected = expected_of(job, self.pool)
        problem = difference(answer, expected) if status == 200 else f"status {status}: {body[:200]!r}"
        if not problem and again != (status, body):
            problem = f"another answer to the same request: {again[1][:200]!r}"
        return self._answer(job, started, status, _code(answer), problem)

    def _ask(self, job: Job) -> tuple[int, bytes]:
        if time.monotonic() - self._used > IDLE:
            self.close()  # the next request opens another one
        target, kind, parts = request_of(job, self.pool)
        headers = {"Content-Type": kind, "Authorization": f"Bearer {self.site.token}"}
        self._http.request("POST", target, b"".join(parts), headers)
        reply = self._http.getresponse()
        status, body = reply.status, reply.read()
        self._used = time.monotonic()
        return status, body

    def _answer(self, job: Job, started: float, status: int, code: str, problem: str | None) -> Answer:
        seconds = (time.monotonic() - started) / (1 + job.twice)
        clips = len(job.picks) if status == 200 else 0
        return Answer(job.form, True, status, code, started - self.site.began, seconds, clips, problem)


def send_bad(bad: Bad, site: Site) -> Answer:
    """Send a bad request and compare status and code with what is owed."""
    if bad.before:
        _raw_exchange(Bad("before", bad.before, 200, None), site)
    started = time.monotonic()
    status, body = _raw_exchange(bad, site)
    answer, problem = _read(body), None
    code, waits = _code(answer), bad.way in ("send", "slowly")
    if waits and (status == 0 or status >= 500):
        problem = f"status {status}: {body[:200]!r}"
    elif bad.status is not None and status != bad.status:
        problem = f"expected status {bad.status}, got {status}: {body[:200]!r}"
    elif bad.code is not None and code != bad.code:
        problem = f"expected the code {bad.code}, got {code!r}"
    elif waits and status >= 400 and not code and body != b"Invalid HTTP request received.":
        problem = f"an error without a code: {body[:200]!r}"
    seconds = time.monotonic() - started
    clips = _scored(answer)
    return Answer(bad.name, False, status, code, started - site.began, seconds, clips, problem)


def send_hard(bad: Bad, site: Site, owed: tuple[float, ...] | str) -> Answer:
    """Send a hard file; `owed` are its scores in process, or the code of the error."""
    started = time.monotonic()
    status, body = _raw_exchange(bad, site)
    answer = _read(body)
    code, problem = _code(answer), None
    if status == 200 and not isinstance(owed, str):
        problem = difference(answer, [(None, owed)])
    elif not (status == 422 and code in (owed, LATE)):
        problem = f"expected {owed}, got status {status} {code}: {body[:200]!r}"
    seconds = time.monotonic() - started
    return Answer(bad.name, False, status, code, started - site.began, seconds, _scored(answer), problem)


def _raw_exchange(bad: Bad, site: Site) -> tuple[int, bytes]:
    """Status and body of the reply to a request that is sent in its way; status 0 for no reply."""
    with site.connect() as connection:
        if bad.way == "leave in mid-body":
            connection.sendall(bad.request[: len(bad.request) // 2])
            return 0, b""
        if bad.way == "leave while waiting":
            connection.sendall(bad.request)
            time.sleep(0.005)
            return 0, b""
        with contextlib.suppress(OSError):  # refused before all was sent
            if bad.way == "slowly":
                _dribble(connection, bad.request)
            else:
                connection.sendall(bad.request)
        try:
            reply = http.client.HTTPResponse(connection, method="POST")
            reply.begin()
            return reply.status, reply.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def _dribble(connection: socket.socket, request: bytes) -> None:
    """Send a little at a time until the server has answered."""
    for start in range(0, len(request), BLOCK):
        connection.sendall(request[start : start + BLOCK])
        connection.settimeout(PAUSE)
        try:
            if connection.recv(1, socket.MSG_PEEK):
                return
        except TimeoutError:
            continue
        finally:
            connection.settimeout(PATIENCE)


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _code(answer: Mapping[str, Any]) -> str:
    """Code of the error of a request, or of its first clip."""
    error = answer.get("error") or next((row["error"] for row in answer.get("results", [])), None)
    return str(error["code"]) if error else ""


def _scored(answer: Mapping[str, Any]) -> int:
    return sum(row["error"] is None for row in answer.get("results", []))
