"""Who may speak to the server: a bearer token, compared in constant time before a body is read."""

from __future__ import annotations

import hmac
import json
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from qsave_reward.server.meters import Meters

OPEN = ("/health", "/ready")
"""Paths that need no token: those a load balancer asks for."""


class Guard:
    """ASGI middleware: 401 without the token; counts every reply."""

    def __init__(self, app: ASGIApp, *, token: str | None, meters: Meters) -> None:
        self.app = app
        self.token = None if token is None else f"Bearer {token}".encode()
        self.meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                # A path of the client's choice must not make a new time series.
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self.meters.replies.labels(path, message["status"]).inc()
            await send(message)

        if scope["path"] in OPEN or self._known(scope):
            await self.app(scope, receive, counted)
            return
        body = json.dumps(
            {"error": {"code": "unauthorized", "message": "expected Authorization: Bearer TOKEN"}}
        ).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"www-authenticate", b"Bearer"),
            (b"connection", b"close"),  # the body that follows is not read
        ]
        await counted({"type": "http.response.start", "status": 401, "headers": headers})
        await counted({"type": "http.response.body", "body": body})

    def _known(self, scope: Scope) -> bool:
        if self.token is None:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self.token)
