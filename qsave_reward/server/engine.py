"""From a request to a reply: read the clips, queue them, remember the answers of requests that have an id."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qsave_reward.errors import AnswerError, ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.results import result_to_dict
from qsave_reward.server.batching import Batcher, Ticket, too_late
from qsave_reward.server.intake import Intake
from qsave_reward.types import VideoScore
from qsave_reward.wire import Item, Request

STATUS = {"timeout": 504, "shutting_down": 503, "busy": 429, "too_many_clips": 413, "scoring_failed": 500}
"""HTTP status of a `ServerError` by its code; 503 for others."""


@dataclass(eq=False)
class _Known:
    """A request with an id: the work on it, and how many callers wait for it."""

    print: str
    work: asyncio.Task[list[VideoScore | QSaveError]]
    waiters: int = 0


class Engine:
    """Answers requests; one for each server."""

    def __init__(self, batcher: Batcher, intake: Intake) -> None:
        self.batcher = batcher
        self.intake = intake
        self.settings = batcher.settings
        self.known: OrderedDict[str, _Known] = OrderedDict()

    async def results(self, request: Request, fingerprint: str) -> list[VideoScore | QSaveError]:
        """One result for each item, in order.

        Being cancelled takes the request's clips out of the queue, unless another caller waits for the same
        `request_id`.

        Args:
            request: what is wanted.
            fingerprint: tells requests with the same id apart that are not the same.

        Raises:
            ServerError: (`code="busy"`) when the queue is full.
            ConfigError: (`code="request_id"`) for an id that another request has used.
        """
        name = request.request_id
        if name is None:
            return await self._work(request.items, request.mode)
        known = self.known.get(name)
        if known is None:
            known = self.known[name] = _Known(
                fingerprint, asyncio.create_task(self._work(request.items, request.mode))
            )
        elif known.print != fingerprint:
            raise ConfigError(f"request_id {name!r} was used for another request", code="request_id")
        known.waiters += 1
        try:
            results = await asyncio.shield(known.work)
        except BaseException:
            if known.waiters == 1:
                self._forget(name, known)
            raise
        finally:
            known.waiters -= 1
        if any(isinstance(result, ServerError) for result in results):
            self._forget(name, known)  # worth another try
        while len(self.known) > self.settings.remembered:
            self.known.popitem(last=False)
        return results

    def _forget(self, name: str, known: _Known) -> None:
        known.work.cancel()
        if self.known.get(name) is known:
            del self.known[name]

    async def _work(self, items: Sequence[Item], mode: Any) -> list[VideoScore | QSaveError]:
        self.batcher.reserve(len(items))
        try:
            deadline = time.monotonic() + self.settings.item_timeout
            return list(await asyncio.gather(*(self._one(item, mode, deadline) for item in items)))
        finally:
            self.batcher.release(len(items))

    async def _one(self, item: Item, mode: Any, deadline: float) -> VideoScore | QSaveError:
        result: VideoScore | QSaveError
        if isinstance(item.video, QSaveError):
            result = item.video
        elif not item.prompt.strip():
            result = ConfigError("expected a prompt, got an empty one", code="empty_prompt")
        else:
            try:
                result = await asyncio.wait_for(
                    self._judge(item, mode, deadline), max(0.0, deadline - time.monotonic())
                )
            except asyncio.TimeoutError:
                result = too_late()
        if isinstance(result, QSaveError):
            result.detach()  # results are remembered, bodies are not
        outcome = result.code if isinstance(result, QSaveError) else "scored"
        self.batcher.meters.clips.labels(outcome).inc()
        return result

    async def _judge(self, item: Item, mode: Any, deadline: float) -> VideoScore | QSaveError:
        async with self.intake.read(item) as clip:
            if isinstance(clip, QSaveError):
                return clip
            return await self.batcher.submit(Ticket(clip, item.prompt, mode, deadline))


def reply(
    request: Request, results: Sequence[VideoScore | QSaveError], provenance: Any, **more: Any
) -> tuple[int, bytes]:
    """Status and JSON body: 200 as soon as one item was scored, else the status of the first error.

    The JSON is ASCII: a name that the client gave may hold half of a character pair, which UTF-8 cannot.
    """
    rows = [result_to_dict(result, id=item.id) for item, result in zip(request.items, results, strict=True)]
    body = {"request_id": request.request_id, "results": rows, "provenance": asdict(provenance), **more}
    first = results[0]
    failed = all(isinstance(result, QSaveError) for result in results)
    status = status_of(first) if failed and isinstance(first, QSaveError) else 200
    return status, json.dumps(body, allow_nan=False).encode()


def status_of(error: QSaveError) -> int:
    """HTTP status of an error."""
    if isinstance(error, ServerError):
        return STATUS.get(error.code, 503)
    if isinstance(error, ConfigError) and error.code in ("bad_request", "request_id"):
        return 409 if error.code == "request_id" else 400
    return 422 if isinstance(error, VideoError | ConfigError | AnswerError) else 500
