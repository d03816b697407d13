"""Request bodies, bounded: each one in size and time, all together in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
from starlette.requests import ClientDisconnect, Request

from qsave_reward.errors import QSaveError
from qsave_reward.server.meters import Meters
from qsave_reward.server.settings import Settings


class Refusal(QSaveError):
    """A request that is answered with an HTTP status of its own before anything is scored."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.retry_after = retry_after


class Bodies:
    """Reads bodies and counts the bytes at hand."""

    def __init__(self, settings: Settings, meters: Meters) -> None:
        self.settings = settings
        self.meters = meters
        self.held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[memoryview]:
        """The body of a request; its bytes count as held until the block is left.

        Raises:
            Refusal: 411 without a length, 413 beyond `max_body`, 429 beyond `max_bytes`, 408 when it does not
                arrive in time, 400 when it ends early.
        """
        length = self._length(request)
        self._hold(length)
        try:
            body = _Body(length)
            try:
                await asyncio.wait_for(body.fill(request), self.settings.body_timeout)
            except asyncio.TimeoutError:
                raise Refusal(
                    408,
                    "slow_body",
                    f"expected {length} bytes within {self.settings.body_timeout:g} s, got {body.arrived}",
                ) from None
            if body.arrived != length:
                raise Refusal(400, "short_body", f"expected {length} bytes, got {body.arrived}")
            yield body.data
        finally:
            self._hold(-length)

    def _length(self, request: Request) -> int:
        given = request.headers.get("content-length", "")
        if not (given.isascii() and given.isdigit()):
            raise Refusal(411, "length_required", "expected a Content-Length; chunked bodies are not taken")
        # Python refuses to read a number of thousands of digits.
        if len(given) > 18 or (length := int(given)) > self.settings.max_body:
            raise Refusal(
                413, "body_too_large", f"expected at most {self.settings.max_body} bytes, got {given[:18]}"
            )
        if self.held + length > self.settings.max_bytes:
            raise Refusal(429, "busy", f"{self.held} bytes of requests are at hand; try again", retry_after=1)
        return length

    def _hold(self, count: int) -> None:
        self.held += count
        self.meters.held.set(self.held)


class _Body:
    """Memory for a body whose length is known, filled as it arrives."""

    def __init__(self, length: int) -> None:
        # Pages that nothing was written to are not there: a large length alone takes no memory.
        self.data = np.empty(length, np.uint8).data
        self.arrived = 0

    async def fill(self, request: Request) -> None:
        """Until the body ends, the client leaves, or more has come than was announced."""
        with suppress(ClientDisconnect):  # what came of the body is too short, which is then said
            async for block in request.stream():
                start, self.arrived = self.arrived, self.arrived + len(block)
                if self.arrived > len(self.data):
                    return
                self.data[start : self.arrived] = block
