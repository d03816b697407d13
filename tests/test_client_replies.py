"""Whatever answers in the place of a reward server, the client raises errors of this package."""

import contextlib
import json
import socket
import threading

import numpy as np
import pytest

from qsave_reward.client import RewardClient
from qsave_reward.errors import ConfigError, ServerError
from qsave_reward.types import DIMENSIONS, VideoScore
from qsave_reward.video import read_clip

CARD = {"model": "m", "revision": "r", "prompt_version": "1", "frame_plan": {"max_frames": 8, "fps": None}}
ANSWER = {**CARD, "limits": {"max_body": 1 << 28, "max_queue": 512}}
SCORE = {"mean": 3.0, "std": 1.0, "probs": [0.2] * 5}
ROW = {
    "scores": dict.fromkeys(DIMENSIONS, SCORE),
    "defects": None,
    "reasoning": None,
    "warnings": [],
    "provenance": CARD,
    "error": None,
}


def reply(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def rows(*rows) -> bytes:
    return reply(json.dumps({"results": rows}).encode())


REPLIES = {
    "closed": (b"", "unreachable"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "unreachable"),
    "cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "unreachable"),
    "no chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "unreachable"),
    "not compressed": (reply(b"junk", "Content-Encoding: gzip"), "bad_reply"),
    "another place": (reply(b"", "Location: http://127.0.0.1:1/", status="307 T"), "bad_reply"),
    "nested": (reply(b"[" * 200_000), "bad_reply"),
    "no text": (reply(b"\xff\xfe\xff"), "bad_reply"),
    "a list": (reply(b"[]"), "bad_reply"),
    "a web page": (reply(b"<html>", status="500 X"), "bad_reply"),
    "an endless pause": (reply(b"{}", "Retry-After: " + "9" * 400, status="503 X"), "bad_reply"),
    "no results": (rows(), "bad_reply"),
    "a result that is none": (rows(None), "bad_reply"),
    "an error without words": (rows({**ROW, "error": {"type": ["a"]}}), "bad_reply"),
    "a score that is no number": (
        rows({**ROW, "scores": {**ROW["scores"], DIMENSIONS[0]: {**SCORE, "mean": float("nan")}}}),
        "bad_reply",
    ),
    "defects that are none": (rows({**ROW, "defects": [{"x": 1}]}), "bad_reply"),
}


@contextlib.contextmanager
def answering(card: bytes, scores: bytes):
    """Yields an address that answers every GET with `card` and every POST with `scores`."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
                first, *fields = iter(lines.readline, b"\r\n")
                lengths = [
                    line.split(b":")[1] for line in fields if line.lower().startswith(b"content-length")
                ]
                lines.read(int(lengths[0]) if lengths else 0)
                connection.sendall(scores if first.startswith(b"POST") else card)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture(scope="module")
def clip():
    return read_clip(np.zeros((4, 32, 32, 3), np.uint8), fps=8.0)


def test_a_right_reply_is_read(clip):
    with answering(reply(json.dumps(ANSWER).encode()), rows(ROW)) as url:
        (card,) = RewardClient(url).score_batch([clip], ["x"])
    assert isinstance(card, VideoScore) and card.overall == 3.0


@pytest.mark.parametrize("name", REPLIES)
def test_a_wrong_reply_is_a_typed_error(clip, name):
    data, code = REPLIES[name]
    with answering(reply(json.dumps(ANSWER).encode()), data) as url, pytest.raises(ServerError) as caught:
        RewardClient(url, timeout=0.2).score_batch([clip], ["x"])
    assert caught.value.code == code
    with answering(data, b"") as url, pytest.raises(ServerError):
        RewardClient(url, timeout=0.2).model_card()


@pytest.mark.parametrize("url", ["http://[::1", "http://\0", "http://\ud800", "ftp://127.0.0.1", ""])
def test_addresses_that_cannot_be(url):
    with pytest.raises(ConfigError):
        RewardClient(url)


@pytest.mark.parametrize("token", ["two\nlines", "é", "\ud800"])
def test_tokens_that_cannot_be_sent(token):
    with pytest.raises(ConfigError, match="token"):
        RewardClient("http://127.0.0.1:1", token=token)


def test_a_name_that_no_host_can_have(clip):
    with pytest.raises(ServerError):
        RewardClient("http://" + "x" * 300, timeout=0.2).score_batch([clip], ["x"])
