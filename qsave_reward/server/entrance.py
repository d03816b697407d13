"""The way to the page at `/ui`: asks a browser for the token, and lets in nothing that other sites send.

A browser cannot send a bearer token by itself. The token that a person types into the form is kept in a
cookie, which scripts cannot read and which does not travel with requests of other sites; here it becomes the
header that `Guard` compares. `Guard` stays the only judge: what it turns away gets the form.
"""

from __future__ import annotations

import os
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qsave_reward.report import fill_template

PATH = "/ui"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy: no other address is asked for anything. Gradio evaluates scripts of its own."""

_COOKIE = "qsave_token"
_MAX_FORM = 4096


class Entrance:
    """ASGI middleware around `Guard`; concerns the page only."""

    def __init__(self, app: ASGIApp, *, locked: bool, uploads: str, room: int) -> None:
        """Args:
        locked: whether the server has a token.
        uploads: folder of uploaded files.
        room: bytes that they may take, those on their way included.
        """
        self.app = app
        self.locked = locked
        self.uploads = uploads
        self.room = room
        self.coming = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{PATH}/"):
            await self.app(scope, receive, send)
            return

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        request = Request(scope, receive)
        length = _length(request)
        answer = self._refusal(request, length)
        if answer is None and self.locked and (request.method, scope["path"]) == ("POST", f"{PATH}/token"):
            answer = await _keep_token(request)
        if answer is not None:
            await answer(scope, receive, strict)
            return
        self.coming += length or 0
        try:
            await self.app(_with_token(request), receive, self._asking(request, strict))
        finally:
            self.coming -= length or 0

    def _refusal(self, request: Request, length: int | None) -> Response | None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return _error(403, "foreign_origin", "expected a request of the page itself")
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        if length is None:
            return _error(411, "length_required", "expected a Content-Length")
        if self.coming + _size(self.uploads) + length > self.room:
            return _error(413, "no_room", "the uploads at hand take all room; try again later")
        return None

    def _asking(self, request: Request, send: Send) -> Send:
        """`send`, but with the form in place of the refusal to open the page."""
        if not self.locked or request.method != "GET" or request.url.path.rstrip("/") != PATH:
            return send
        asked = False

        async def ask(message: Message) -> None:
            nonlocal asked
            if message["type"] == "http.response.start" and message["status"] == 401:
                asked = True
                form = fill_template("ui_token.html.j2", wrong=_COOKIE in request.cookies)
                await HTMLResponse(form, 401)(request.scope, request.receive, send)
            elif not asked:
                await send(message)

        return ask


async def _keep_token(request: Request) -> Response:
    """Put the token of the form into the cookie, right or wrong."""
    if (_length(request) or 0) > _MAX_FORM:
        return _error(413, "body_too_large", f"expected at most {_MAX_FORM} bytes")
    fields = parse_qs((await request.body()).decode(errors="replace"))
    token = fields.get("token", [""])[0].strip()
    answer = RedirectResponse(f"{PATH}/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(_COOKIE, token.encode().hex(), path=PATH, httponly=True, samesite="lax", secure=secure)
    return answer


def _with_token(request: Request) -> Scope:
    """The request with the cookie's token as its bearer token, unless it brings one."""
    try:
        token = bytes.fromhex(request.cookies.get(_COOKIE, ""))
    except ValueError:
        token = b""
    if not token or "authorization" in request.headers:
        return request.scope
    headers = [*request.scope["headers"], (b"authorization", b"Bearer " + token)]
    return {**request.scope, "headers": headers}


def _length(request: Request) -> int | None:
    given = request.headers.get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() else None


def _size(folder: str) -> int:
    """Bytes of the files under a folder; they may vanish meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except OSError:
                continue
    return total


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
