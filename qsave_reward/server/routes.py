"""The addresses of the server."""

from __future__ import annotations

import asyncio
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response, Security
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST

from qsave_reward import wire
from qsave_reward.errors import QSaveError
from qsave_reward.ranking import rank_cards
from qsave_reward.server import schema
from qsave_reward.server.bodies import Refusal
from qsave_reward.server.engine import reply
from qsave_reward.types import DIMENSIONS, VideoScore

if TYPE_CHECKING:
    from qsave_reward.server.app import Service

Mode = Annotated[wire.WireMode, Query(description="Of an encoded file: direct, reasoned or explained.")]
Prompt = Annotated[
    str, Query(max_length=wire.MAX_PROMPT, description="Of an encoded file: the text it was generated from.")
]
Weight = Annotated[float, Query(ge=0, le=1e6, description="Weight of this dimension in the ranking.")]


def add_routes(app: FastAPI, service: Service) -> None:
    """Give the application its addresses."""
    # For the OpenAPI page: `Guard` does the asking.
    locked = [Security(HTTPBearer(auto_error=False))] if service.settings.token else []

    @app.post("/v1/score", responses=schema.SCORE_REPLIES, openapi_extra=schema.BODY, dependencies=locked)
    async def score(request: Request, prompt: Prompt = "", mode: Mode = "direct") -> Response:
        """Score clips. Each result has scores or an error, in the order of the items.

        200 when at least one clip was scored, otherwise the status of the first error.
        """
        started = time.monotonic()
        async with service.bodies.read(request) as body:
            wanted = parse(request, body, prompt, mode)
            results = await answer(request, service, wanted, body)
            status, text = reply(wanted, results, service.provenance)
        service.meters.latency.observe(time.monotonic() - started)
        return _response(service, status, text)

    @app.post("/v1/rank", responses=schema.RANK_REPLIES, openapi_extra=schema.RANK_BODY, dependencies=locked)
    async def rank(
        request: Request,
        visual_quality: Weight = 1.0,
        dynamic_quality: Weight = 1.0,
        text_alignment: Weight = 1.0,
        tie_margin: Annotated[float, Query(ge=0, le=4, description="Values this close are tied.")] = 0.0,
    ) -> Response:
        """Rank the candidates of one prompt, best first; the results come along as from `/v1/score`."""
        weights = dict(zip(DIMENSIONS, (visual_quality, dynamic_quality, text_alignment), strict=True))
        if not any(weights.values()):
            raise Refusal(422, "bad_parameter", "expected at least one weight above 0")
        async with service.bodies.read(request) as body:
            wanted = parse(request, body, "", "direct")
            if len({item.prompt for item in wanted.items}) > 1:
                raise Refusal(422, "several_prompts", "expected one prompt for all candidates")
            results = await answer(request, service, wanted, body)
        ranking = rank_cards(results, weights=weights, tie_margin=tie_margin)
        status, text = reply(wanted, results, service.provenance, ranking=ranking.to_dict())
        return _response(service, status, text)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: schema.ERROR})
    async def ready() -> Response:
        """Whether scores can be had: 503 until every replica has scored a clip, and when no worker starts."""
        if service.ready:
            return JSONResponse({"status": "ready"})
        raise _not_ready()

    @app.get("/v1/model", responses={401: schema.ERROR}, dependencies=locked)
    async def model() -> dict[str, Any]:
        """Which model scores, and what it expects."""
        return schema.model_card(service.provenance, service.plan, service.settings)

    @app.get(
        "/metrics", responses=schema.METRICS_REPLIES, response_class=PlainTextResponse, dependencies=locked
    )
    async def metrics() -> Response:
        """The server's numbers, for Prometheus."""
        return Response(service.meters.text(), media_type=CONTENT_TYPE_LATEST)


def _response(service: Service, status: int, text: bytes) -> Response:
    headers = {"Retry-After": str(service.batcher.retry_after())} if status == 503 else {}
    return Response(text, status, headers, "application/json")


def parse(request: Request, body: memoryview, prompt: str, mode: wire.WireMode) -> wire.Request:
    """The request in a body, by its content type.

    Raises:
        ConfigError: a malformed body.
        Refusal: 415 for another content type, 400 for a file without bytes.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == wire.MEDIA_TYPE:
        return wire.decode_request(body)
    if kind == "application/json":
        if len(body) > wire.MAX_HEADER:
            raise Refusal(413, "body_too_large", f"expected JSON of at most {wire.MAX_HEADER} bytes")
        wanted = wire.request_from_header(wire.read_json(body))
        if not all(isinstance(item.video, wire.WirePath | QSaveError) for item in wanted.items):
            raise Refusal(400, "bad_request", f"JSON carries paths only; frames and files: {wire.MEDIA_TYPE}")
        return wanted
    if kind.startswith("video/") or kind in ("image/gif", "image/webp", "application/octet-stream"):
        return wire.Request((wire.Item(body, prompt),), mode)
    raise Refusal(
        415,
        "content_type",
        f"expected {wire.MEDIA_TYPE}, application/json (paths), or the type of a video file; got {kind!r}",
    )


async def answer(
    request: Request, service: Service, wanted: wire.Request, body: memoryview
) -> list[VideoScore | QSaveError]:
    """The results; given up when the client hangs up.

    Raises:
        Refusal: 503 when no replica is to be had; 499, which nobody reads, after the client has gone.
    """
    if not service.ready:
        raise _not_ready()
    named = wanted.request_id is not None
    fingerprint = f"{len(body)} {await asyncio.to_thread(zlib.crc32, body)}" if named else ""
    work = asyncio.create_task(service.engine.results(wanted, fingerprint))
    gone = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        service.meters.refused.labels("disconnected").inc(len(wanted.items))
        raise Refusal(499, "disconnected", "the client has gone")
    finally:
        for task in (work, gone):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task if not task.done() else None


def _not_ready() -> Refusal:
    return Refusal(503, "not_ready", "the model is being loaded, or does not load", retry_after=2)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
