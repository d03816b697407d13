"""The way to the page for people: who gets in, and with how much."""

import pytest
from fastapi import FastAPI, Request
from served import HTTP, serving
from starlette.responses import PlainTextResponse

from qsave_reward.server.entrance import Entrance, Gate
from qsave_reward.server.guard import Guard
from qsave_reward.server.meters import Meters

TOKEN = "correct horse; \"battery\" = 'staple'"  # what a cookie would not take as it is
OPEN = {"Cookie": f"qsave_token={TOKEN.encode().hex()}"}


@pytest.fixture
def door(tmp_path):
    """A guarded application with a page behind the entrance, and the folder of its uploads."""
    app = FastAPI()

    for path in ("/ui/", "/ui/gradio_api/upload", "/v1/score"):
        app.add_api_route(path, lambda: PlainTextResponse("inside"), methods=["GET", "POST"])

    @app.post("/ui/gradio_api/queue/join")
    async def echo(request: Request):
        return await request.json()

    app.add_middleware(Gate, uploads=str(tmp_path), room=1000)
    app.add_middleware(Guard, token=TOKEN, meters=Meters())
    app.add_middleware(Entrance, locked=True)
    with serving(app) as url:
        yield url, tmp_path
    HTTP.cookies.clear()


def sign_in(url, token):
    return HTTP.post(f"{url}/ui/token", data={"token": token})


def test_the_page_asks_for_the_token(door):
    url, _ = door
    closed = HTTP.get(f"{url}/ui/")
    assert closed.status_code == 401 and 'action="/ui/token"' in closed.text and "not this" not in closed.text
    assert "default-src 'self'" in closed.headers["content-security-policy"]
    assert HTTP.post(f"{url}/ui/gradio_api/upload").status_code == 401

    kept = sign_in(url, f" {TOKEN}\n")
    cookie = kept.headers["set-cookie"]
    assert (kept.status_code, kept.headers["location"]) == (303, "/ui/")
    assert TOKEN not in cookie and "HttpOnly" in cookie and "SameSite=lax" in cookie and "Path=/ui" in cookie
    assert HTTP.get(f"{url}/ui/").text == "inside"
    assert HTTP.post(f"{url}/ui/gradio_api/upload").text == "inside"


@pytest.mark.parametrize("token", ["", "x" * 40, TOKEN + "x", TOKEN[:-1], "é" * 20, "\r\nAuthorization: x"])
def test_a_wrong_token_opens_nothing(door, token):
    url, _ = door
    assert sign_in(url, token).status_code == 303
    closed = HTTP.get(f"{url}/ui/")
    assert closed.status_code == 401 and (not token or "not this server's token" in closed.text)
    assert HTTP.post(f"{url}/ui/gradio_api/upload").status_code == 401


def test_the_cookie_opens_the_page_only(door):
    url, _ = door
    assert HTTP.get(f"{url}/ui/", headers=OPEN).text == "inside"
    for path in ("/v1/score", "/metrics", "/ui/../v1/score", "/uix"):
        assert HTTP.get(f"{url}{path}", headers=OPEN).status_code == 401
    assert HTTP.get(f"{url}/ui/", headers={"Cookie": "qsave_token=no hex"}).status_code == 401
    both = {**OPEN, "Authorization": "Bearer wrong"}
    assert HTTP.get(f"{url}/ui/", headers=both).status_code == 401
    assert HTTP.get(f"{url}/v1/score", headers={"Authorization": f"Bearer {TOKEN}"}).text == "inside"


def test_requests_of_other_sites_are_refused(door):
    url, _ = door
    for origin in (
        "https://evil.example",
        "null",
        url.replace("127.0.0.1", "localhost"),
        f"{url}.evil.example",
    ):
        for method in ("GET", "POST", "OPTIONS"):
            reply = HTTP.request(method, f"{url}/ui/gradio_api/upload", headers={**OPEN, "Origin": origin})
            assert reply.status_code == 403 and "access-control-allow-origin" not in reply.headers
    own = HTTP.post(f"{url}/ui/gradio_api/upload", headers={**OPEN, "Origin": url})
    assert own.text == "inside"


def test_uploads_have_little_room(door):
    url, folder = door
    address = f"{url}/ui/gradio_api/upload"
    assert HTTP.post(address, content=b"x" * 1000, headers=OPEN).status_code == 200
    assert HTTP.post(address, content=b"x" * 1001, headers=OPEN).status_code == 413
    (folder / "old").mkdir()
    (folder / "old" / "clip.mp4").write_bytes(b"x" * 400)
    assert HTTP.post(address, content=b"x" * 601, headers=OPEN).status_code == 413
    assert HTTP.post(address, content=b"x" * 600, headers=OPEN).status_code == 200  # room was given back
    assert HTTP.post(address, content=iter([b"x"]), headers=OPEN).status_code == 411
    assert HTTP.post(f"{url}/ui/token", content=b"x" * 5000).status_code == 303  # of no concern to the room
    assert HTTP.post(f"{url}/ui/token", content=b"x" * (1 << 20 | 1)).status_code == 413


def test_nothing_is_read_before_the_token(door):
    url, _ = door
    press = f"{url}/ui/gradio_api/queue/join"
    assert HTTP.post(press, content=b"{").status_code == 401
    assert HTTP.post(press, content=b"{", headers=OPEN).status_code == 400
    assert HTTP.get(f"{url}/ui/no-such", headers=OPEN).status_code == 404


def test_a_press_of_the_button_may_name_uploads_only(door):
    url, folder = door
    (folder / "clip.mp4").write_bytes(b"x")
    (folder / "link.mp4").symlink_to("/etc/hostname")

    def press(value):
        reply = HTTP.post(f"{url}/ui/gradio_api/queue/join", json=value, headers=OPEN)
        return reply.status_code, reply.json()

    fine = {"data": [[{"path": f"{folder}/clip.mp4"}], "a prompt", True], "event": None}
    assert press(fine) == (200, fine)  # and what was checked is what arrives
    for path in (
        "/etc/hostname",
        f"{folder}/link.mp4",
        f"{folder}/../x",
        f"{folder}",
        f"{folder}x/y",
        "a\0b",
        1,
    ):
        for value in ({"path": path}, {"data": [{"deep": [{"path": path}]}]}, {"path": {"path": path}}):
            assert press(value)[0] == 403
    deep = b'{"data":' + b"[" * 5000 + b"]" * 5000 + b"}"
    reply = HTTP.post(f"{url}/ui/gradio_api/queue/join", content=deep, headers=OPEN)
    assert reply.status_code in (200, 400)
    twice = b'{"path": "/etc/hostname", "path": "' + str(folder / "clip.mp4").encode() + b'"}'
    assert HTTP.post(f"{url}/ui/gradio_api/queue/join", content=twice, headers=OPEN).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "file=https://example.org/clip.mp4"),
        ("GET", "file=/etc/hostname"),
        ("GET", "proxy=https://example.org/"),
        ("GET", "deep_link?session_hash=a-window"),
        ("GET", "monitoring/summary"),
        ("GET", "queue/data/../../gradio_api/file=/etc/hostname"),
        ("POST", "process_recording"),
        ("POST", "component_server"),
        ("POST", "run/answer"),
        ("POST", "call/answer"),
        ("POST", "vibe-edit"),
        ("POST", "upload/"),
        ("PUT", "upload"),
    ],
)
def test_the_rest_of_gradio_is_closed(door, method, path):
    url, _ = door
    reply = HTTP.request(method, f"{url}/ui/gradio_api/{path}", headers=OPEN)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "http")
