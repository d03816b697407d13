"""`create_app`: from a scorer to a reward server.

    app = create_app(RewardModel.from_pretrained("tiny"))

Tested in process; `qsave serve` gives it one worker process for each GPU.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from qsave_reward.errors import ConfigError, QSaveError, ServerError
from qsave_reward.server.batching import Batcher, Ticket, judge
from qsave_reward.server.bodies import Bodies, Refusal
from qsave_reward.server.engine import Engine, status_of
from qsave_reward.server.guard import Guard
from qsave_reward.server.intake import Intake
from qsave_reward.server.meters import Meters
from qsave_reward.server.routes import add_routes
from qsave_reward.server.settings import Settings
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import Provenance, VideoScore
from qsave_reward.video import Clip

_log = logging.getLogger(__name__)
_WARM_UP_PAUSE = 2.0
_SETTINGS = Settings()


class Service:
    """What the routes share: queue, readers, numbers, and whether the first score has been given."""

    def __init__(self, replicas: Sequence[Any], settings: Settings) -> None:
        self.settings = settings
        self.replicas = replicas
        self.provenance: Provenance = replicas[0].provenance
        self.plan: FramePlan = replicas[0].frame_plan
        self.meters = Meters()
        self.meters.restarts.set_function(lambda: sum(getattr(one, "restarts", 0) for one in replicas))
        self.bodies = Bodies(settings, self.meters)
        self.batcher = Batcher(replicas, self.plan, settings, self.meters)
        self.intake = Intake(self.plan, settings, self.meters)
        self.engine = Engine(self.batcher, self.intake)
        self.warm = False
        self.meters.ready.set_function(lambda: float(self.ready))

    @property
    def ready(self) -> bool:
        """Whether scores can be had."""
        return self.warm and self.batcher.able

    async def warm_up(self) -> None:
        """Have every replica score a clip, again and again until all have; then the server is warm."""
        waiting = list(self.replicas)
        while waiting:
            tries = await asyncio.gather(
                *(asyncio.to_thread(first_score, replica, self.plan) for replica in waiting),
                return_exceptions=True,
            )
            for error in tries:
                if isinstance(error, BaseException):
                    _log.warning("warm-up failed: %r", error)
            waiting = [r for r, done in zip(waiting, tries, strict=True) if isinstance(done, BaseException)]
            if waiting:
                await asyncio.sleep(_WARM_UP_PAUSE)
        self.warm = True
        _log.info("ready: model %s, revision %s", self.provenance.model, self.provenance.revision)

    async def close(self) -> None:
        self.warm = False
        await self.batcher.close()
        self.intake.close()


def first_score(replica: Any, plan: FramePlan) -> None:
    """Score a gray clip.

    Raises:
        ServerError: when the scorer answers with an error.
    """
    count = plan.max_frames
    clip = Clip(np.full((count, 64, 64, 3), 128, np.uint8), np.arange(count) / 8.0, count / 8.0)
    (result,) = judge(replica, [Ticket(clip, "warm-up", "direct", 0.0, result=None)])  # type: ignore[arg-type]
    if not isinstance(result, VideoScore):
        raise ServerError(f"the warm-up clip was not scored: {result}")


def create_app(scorers: Any, settings: Settings = _SETTINGS) -> FastAPI:
    """A reward server as an ASGI application.

    Args:
        scorers: a scorer with `provenance` and `frame_plan`, such as a `RewardModel`, or a list of equal
            ones; each gets batches of its own, from two threads.
        settings: limits.

    Raises:
        ConfigError: no scorer, or scorers of different models.
    """
    replicas = list(scorers) if isinstance(scorers, list | tuple) else [scorers]
    if not replicas or any(replica.provenance != replicas[0].provenance for replica in replicas):
        raise ConfigError("expected at least one scorer, and all of one model")
    service = Service(replicas, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        warming = asyncio.create_task(service.warm_up())
        try:
            yield
        finally:
            warming.cancel()
            with suppress(asyncio.CancelledError):
                await warming
            await service.close()

    # The stock page for people, /docs, would load its scripts from elsewhere.
    app = FastAPIOffline(
        title="qsave_reward",
        version=version("qsave_reward"),
        description="Scores of AI-generated video: visual quality, dynamic quality, text alignment.",
        lifespan=lifespan,
    )
    app.state.service = service
    add_routes(app, service)
    app.add_exception_handler(QSaveError, _error_reply)
    app.add_exception_handler(RequestValidationError, _invalid_reply)
    app.add_exception_handler(HTTPException, _http_reply)
    app.add_exception_handler(Exception, _fault_reply)
    app.add_middleware(Guard, token=settings.token, meters=service.meters)
    return app


def error_response(status: int, code: str, message: str, *, retry_after: int | None = None) -> Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def _error_reply(request: Request, error: Any) -> Response:
    if isinstance(error, Refusal):
        return error_response(error.status, error.code, str(error), retry_after=error.retry_after)
    status = status_of(error)
    wait = request.app.state.service.batcher.retry_after() if status in (429, 503) else None
    return error_response(status, error.code, str(error), retry_after=wait)


def _invalid_reply(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return error_response(422, "bad_parameter", f"{where}: {first['msg']}")


def _http_reply(request: Request, error: Any) -> Response:
    reply = error_response(error.status_code, "http", str(error.detail))
    reply.headers.update(error.headers or {})  # such as Allow of a 405
    return reply


def _fault_reply(request: Request, error: Exception) -> Response:
    # The server logs the traceback; the caller gets no word of it.
    return error_response(500, "fault", "the server made a mistake; its log says more")
