"""One or several equal servers: pick the least busy one, try again, keep a deadline."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from qsave_reward.errors import ConfigError, ServerError
from qsave_reward.wire import MEDIA_TYPE

_RETRIED = (429, 500, 502, 503, 504)
"""Statuses worth another try. Scoring changes nothing, so that trying again is always safe."""
_UNABLE = 503
"""The server's own trouble, such as a worker that does not start, even if it is said of each clip."""
_LONGEST_PAUSE = 30.0
_BLOCK = 1 << 18


class ServerPool:
    """Connections to equal servers; for one process, any number of threads."""

    def __init__(self, urls: Sequence[str], *, token: str | None, connections: int) -> None:
        """Raises:
        ConfigError: an address or a token that cannot be sent.
        """
        for url in urls:
            try:
                httpx.URL(url)
            except httpx.InvalidURL as error:
                raise ConfigError(f"expected an address, got {url!r}: {error}") from error
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ConfigError("expected a token of printable ASCII characters")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=connections)
        self._http = httpx.Client(limits=limits, trust_env=False)
        self._token = token
        self._lock = threading.Lock()
        self._outstanding = dict.fromkeys(urls, 0)
        self._resting = dict.fromkeys(urls, 0.0)
        self._turns = itertools.count()

    def close(self) -> None:
        self._http.close()

    def ask(
        self, urls: Sequence[str], method: str, path: str, deadline: float, body: Sequence[Any] = ()
    ) -> dict[str, Any]:
        """The JSON answer of the server with the fewest requests of ours.

        Args:
            urls: those to choose from.
            method, path: as in HTTP.
            deadline: reading of `time.monotonic()` after which no other try is made.
            body: parts of a body, buffers.

        Raises:
            ServerError: the server refuses, or no try was answered in time.
        """
        while True:
            with self._lock:
                url = self._choose(urls)
                self._outstanding[url] += 1
            try:
                return self._send(url, method, path, deadline, body)
            except _TryAgain as again:
                with self._lock:
                    self._resting[url] = time.monotonic() + again.seconds
                    pause = max(0.0, min(self._resting[url] for url in urls) - time.monotonic())
                if time.monotonic() + pause >= deadline:
                    raise again.error from again
                time.sleep(pause)
            finally:
                with self._lock:
                    self._outstanding[url] -= 1

    def _choose(self, urls: Sequence[str]) -> str:
        now, turn = time.monotonic(), next(self._turns) % len(urls)
        order = [*urls[turn:], *urls[:turn]]
        return min(order, key=lambda url: (max(0.0, self._resting[url] - now), self._outstanding[url]))

    def _send(self, url: str, method: str, path: str, deadline: float, body: Sequence[Any]) -> dict[str, Any]:
        """One try at one server.

        Raises:
            _TryAgain: it was not reached, has no time, or none of its workers starts.
            ServerError: it refuses.
        """
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        if body:
            length = sum(memoryview(part).nbytes for part in body)
            headers |= {"Content-Type": MEDIA_TYPE, "Content-Length": str(length)}
        left = max(0.1, deadline - time.monotonic())
        try:
            content = _blocks(body) if body else None
            reply = self._http.request(method, url + path, headers=headers, content=content, timeout=left)
        except httpx.TransportError as error:
            message = f"{url} could not be reached: {type(error).__name__} {error}"
            raise _TryAgain(ServerError(message, code="unreachable"), random.uniform(0.1, 0.5)) from error
        except (httpx.HTTPError, UnicodeError) as error:  # compressed wrongly; a name that no host can have
            raise ServerError(f"{url}: {type(error).__name__} {error}", code="bad_reply") from error
        try:
            answer = reply.json()
        except (ValueError, RecursionError):
            answer = {}
        status = reply.status_code
        if isinstance(answer, dict) and (status == 200 or ("results" in answer and status != _UNABLE)):
            return answer  # errors of single clips are in it
        refusal = _refusal(url, status, answer)
        if status in _RETRIED:
            raise _TryAgain(refusal, _pause(reply.headers.get("retry-after", "")))
        raise refusal


class _TryAgain(Exception):
    """A failure that may pass: the error to raise if it does not, and how long to leave the server alone."""

    def __init__(self, error: ServerError, seconds: float) -> None:
        super().__init__(str(error))
        self.error, self.seconds = error, seconds


def _blocks(parts: Sequence[Any]) -> Iterator[Any]:
    """Parts of a body in blocks: what a socket does not take at once is copied by the library."""
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), _BLOCK):
            yield view[start : start + _BLOCK]


def _refusal(url: str, status: int, answer: Any) -> ServerError:
    rows = answer.get("results") if isinstance(answer, dict) else None
    first = rows[0] if isinstance(rows, list) and rows else answer
    error = first.get("error") if isinstance(first, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        return ServerError(f"{url} answers {status}: {error.get('message')}", code=error["code"])
    return ServerError(f"{url} answers {status}; is it a reward server?", code="bad_reply")


def _pause(retry_after: str) -> float:
    """Seconds to wait, spread so that many clients do not come back at once."""
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 1.0
    return min(seconds, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
