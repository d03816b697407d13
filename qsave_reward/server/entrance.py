"""The way to the page at `/ui`: who may come in (`Entrance`, around `Guard`), with what (`Gate`, inside it).

Gradio trusts its callers: it fetches addresses that they name, copies files of the server that they name, and
runs tools on what they send. Here only the few requests that the page itself makes get through.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qsave_reward.errors import QSaveError
from qsave_reward.report import fill_template
from qsave_reward.server.app import error_response
from qsave_reward.server.bodies import Refusal
from qsave_reward.wire import read_json

PATH = "/ui"

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy: no other address is asked for anything. Gradio evaluates scripts of its own."""

_READ = re.compile(
    r"/?|/config|/theme\.css|/(assets|static)/.+|/gradio_api/(info|queue/data|startup-events|upload_progress)"
)
_UPLOAD = "/gradio_api/upload"
_PRESS = ("/gradio_api/queue/join", "/gradio_api/run/predict")
_MAX_BODY = 1 << 20
"""Bytes of what is no upload: the form with the token, a press of the button with its prompt."""

_COOKIE = "qsave_token"


class Entrance:
    """ASGI middleware around `Guard`: asks a browser for the token and turns other sites away.

    A browser cannot send a bearer token by itself. The token that a person types into the form is kept in a
    cookie, which scripts cannot read and which does not travel with requests of other sites; here it becomes
    the header that `Guard` compares. `Guard` stays the only judge: what it turns away gets the form.
    """

    def __init__(self, app: ASGIApp, *, locked: bool) -> None:
        """`locked`: whether the server has a token."""
        self.app = app
        self.locked = locked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _path_below(scope)
        if path is None:
            await self.app(scope, receive, send)
            return

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        request = Request(scope, receive)
        try:
            _check_origin(request)
            if self.locked and (request.method, path) == ("POST", "/token"):
                await (await _keep_token(request))(scope, receive, strict)
                return
        except Refusal as refusal:
            await _refuse(refusal)(scope, receive, strict)
            return
        asks = self.locked and request.method == "GET" and path in ("", "/")
        await self.app(_with_token(request), receive, _asking(request, strict) if asks else strict)


class Gate:
    """ASGI middleware inside `Guard`: lets through what the page needs and no more."""

    def __init__(self, app: ASGIApp, *, uploads: str, room: int) -> None:
        """`uploads`: folder of uploaded files; `room`: bytes they may take, those on their way included."""
        self.app = app
        self.uploads = os.path.realpath(uploads)
        self.room = room
        self.coming = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # `Guard` does not look at these, and nothing here needs them
            await send({"type": "websocket.close"})
            return
        path = _path_below(scope)
        if path is None:
            await self.app(scope, receive, send)
            return
        request, length = Request(scope, receive), 0
        try:
            if (request.method, path) == ("POST", _UPLOAD):
                length = _length(request, max(0, self.room - self.coming - _size(self.uploads)))
            elif request.method == "POST" and path in _PRESS:
                _length(request, _MAX_BODY)
                receive = _replay(self._only_uploads(read_json(await request.body())))
            elif request.method not in ("GET", "HEAD") or not _READ.fullmatch(path):
                raise Refusal(404, "http", "the page has no such address")
        except QSaveError as error:
            refusal = error if isinstance(error, Refusal) else Refusal(400, error.code, str(error))
            await _refuse(refusal)(scope, receive, send)
            return
        self.coming += length
        try:
            await self.app(scope, receive, send)
        finally:
            self.coming -= length

    def _only_uploads(self, value: Any) -> Any:
        """The value itself.

        Raises:
            Refusal: 403 when anything in it names a file that was not uploaded, or an address.
        """
        parts = [value]
        while parts:
            part = parts.pop()
            if isinstance(part, dict):
                if "path" in part and not self._is_upload(part["path"]):
                    raise Refusal(403, "outside_uploads", "expected an upload; other files are never read")
                parts += part.values()
            elif isinstance(part, list):
                parts += part
        return value

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path:
            return False
        return os.path.realpath(path).startswith(self.uploads + os.sep)


def _path_below(scope: Scope) -> str | None:
    """What follows `PATH` in the path of a request of the page, `None` for all else."""
    if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{PATH}/"):
        return None
    path: str = scope["path"][len(PATH) :]
    return path


def _check_origin(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refusal(403, "foreign_origin", "expected a request of the page itself")


def _length(request: Request, most: int) -> int:
    """Bytes that a body says it has."""
    given = request.headers.get("content-length", "")
    if not (given.isascii() and given.isdigit()):
        raise Refusal(411, "length_required", "expected a Content-Length")
    if int(given) > most:
        raise Refusal(413, "body_too_large", f"expected at most {most} bytes now, got {given}")
    return int(given)


async def _keep_token(request: Request) -> Response:
    """Put the token of the form into the cookie, right or wrong."""
    _length(request, _MAX_BODY)
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


def _asking(request: Request, send: Send) -> Send:
    """`send`, but with the form in place of a refusal."""
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


def _replay(value: Any) -> Receive:
    """A body that was read, to be read again in exactly the form in which it was checked."""
    messages: list[Message] = [{"type": "http.request", "body": json.dumps(value).encode()}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


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


def _refuse(refusal: Refusal) -> Response:
    return error_response(refusal.status, refusal.code, str(refusal))
