"""Bad requests of every kind, and what is owed to each: a typed refusal, or nothing to who hangs up."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qsave_reward.video import Clip
from qsave_reward.wire import MAX_HEADER, MAX_ITEMS, MEDIA_TYPE, Item, Request, WirePath, encode_request

Way = Literal["send", "slowly", "leave in mid-body", "leave while waiting"]


@dataclass(frozen=True)
class Bad:
    """One kind of bad request.

    Attributes:
        name: what is wrong with it.
        request: all of it, HTTP head included.
        status, code: of the reply that is owed; `None` when nobody waits for it.
        way: how it is sent.
        before: a good request that is sent first.
    """

    name: str
    request: bytes
    status: int | None
    code: str | None
    way: Way = "send"
    before: bytes = b""


def http(
    body: bytes,
    *,
    token: str,
    target: str = "/v1/score",
    kind: str = MEDIA_TYPE,
    length: int | None = None,
    extra: str = "",
) -> bytes:
    """A POST request as bytes; `extra` takes the place of Content-Length."""
    size = extra or f"Content-Length: {len(body) if length is None else length}\r\n"
    head = f"POST {target} HTTP/1.1\r\nHost: load\r\nContent-Type: {kind}\r\nConnection: close\r\n{size}"
    return f"{head}Authorization: Bearer {token}\r\n\r\n".encode() + body


def packed(items: Sequence[Item], **options: Any) -> bytes:
    return b"".join(bytes(part) for part in encode_request(Request(tuple(items), **options)))


def _raw(header: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(header)) + header + payload


def bad_requests(clip: Clip, token: str, secret: str) -> list[Bad]:
    """One request of every kind but hard files.

    Args:
        clip: a good one.
        token: the right one.
        secret: a file outside the media root that exists.
    """
    good = packed([Item(clip, "a red circle")])
    return [
        *_bodies(clip, good, lambda body, **options: http(body, token=token, **options)),
        *_paths(secret, lambda body, **options: http(body, token=token, **options)),
        *_strangers(good, token),
        *_habits(clip, good, token),
    ]


def _bodies(clip: Clip, good: bytes, post: Callable[..., bytes]) -> list[Bad]:
    """Bodies that say what cannot be."""

    def shape(shape: Any, payload: int) -> bytes:
        row = {"prompt": "x", "shape": shape, "fps": 8.0}
        return post(_raw(json.dumps({"items": [row]}).encode(), bytes(payload)))

    nan = b'{"items": [{"prompt": "x", "shape": [1, 16, 16, 3], "fps": NaN}]}'
    double = b'{"items": [{"prompt": "x", "prompt": "y", "shape": [1, 16, 16, 3], "fps": 8}]}'
    many = [Item(clip, "x")] * (MAX_ITEMS + 1)
    small = Item(Clip(np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1), 0.125), "x")
    wrong = [
        ("shape: four channels", shape([8, 64, 64, 4], 8 * 64 * 64 * 4), 400, "bad_request"),
        ("shape: three axes", shape([64, 64, 3], 64 * 64 * 3), 400, "bad_request"),
        ("shape: below zero", shape([-8, 64, 64, 3], 0), 400, "bad_request"),
        ("shape: no frames", shape([0, 2**40, 2**40, 3], 0), 422, "no_frames"),
        ("shape: too small", shape([8, 8, 8, 3], 8 * 8 * 8 * 3), 422, "too_small"),
        ("shape: too many frames", shape([600, 16, 16, 3], 600 * 16 * 16 * 3), 422, "too_many_frames"),
        ("body cut off", post(good[:-1000]), 400, "bad_request"),
        ("body with more than its items", post(good + b"more"), 400, "bad_request"),
        ("JSON header beyond its limit", post(_raw(b" " * (MAX_HEADER + 1))), 400, "bad_request"),
        ("length of the header too large", post(b"\xff" * 5000), 400, "bad_request"),
        ("NaN in JSON", post(_raw(nan, bytes(768))), 400, "bad_request"),
        ("key twice in JSON", post(_raw(double, bytes(768))), 400, "bad_request"),
        ("nested JSON", post(_raw(b"[" * 100_000)), 400, "bad_request"),
        ("no JSON", post(b"{", kind="application/json"), 400, "bad_request"),
        ("more items than allowed", post(packed(many)), 400, "bad_request"),
        ("no prompt", post(packed([Item(clip, "  ")])), 422, "empty_prompt"),
        ("prompt too long", post(packed([Item(clip, "x" * 5000)])), 422, "long_prompt"),
        ("no video", post(packed([Item(b"no video at all", "x")])), 422, "not_a_video"),
        ("several prompts to rank", post(packed([small, Item(clip, "y")]), target="/v1/rank"), 422, None),
        ("unknown mode", post(good, target="/v1/score?mode=all"), 422, "bad_parameter"),
        ("unknown content type", post(good, kind="text/html"), 415, "content_type"),
    ]
    return [Bad(*row) for row in wrong]


def _paths(secret: str, post: Callable[..., bytes]) -> list[Bad]:
    names = {"/etc/passwd": "outside_root", "../" * 20 + "etc/passwd": "outside_root", secret: "outside_root"}
    names |= {"missing.mp4": "not_found", "http://127.0.0.1/clip.mp4": "not_found", ".": "not_a_file"}
    return [
        Bad(f"path {name if name != secret else 'to another file'}", post(packed([item])), 422, code)
        for name, code in names.items()
        for item in [Item(WirePath(name), "x")]
    ]


def _strangers(good: bytes, token: str) -> list[Bad]:
    huge = "X-Filler: " + "y" * 200_000 + f"\r\nContent-Length: {len(good)}\r\n"
    return [
        Bad("wrong token", http(good, token=token[:-1]), 401, "unauthorized"),
        Bad("unknown address", http(good, token=token, target="/v2/score"), 404, "http"),
        Bad("wrong method", http(b"", token=token, target="/v1/model"), 405, "http"),
        Bad("HTTP header of 200 kB", http(good, token=token, extra=huge), None, None),
        Bad("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01" + bytes(200), 400, None),
    ]


def _habits(clip: Clip, good: bytes, token: str) -> list[Bad]:
    """Clients that behave badly."""
    chunks = f"{len(good):x}\r\n".encode() + good + b"\r\n0\r\n\r\n"
    chunked = http(chunks, token=token, extra="Transfer-Encoding: chunked\r\n")
    large = http(b"", token=token, length=300 << 20)
    whole = http(good, token=token)
    taken = [
        http(packed([Item(clip, prompt)], request_id="taken"), token=token)
        for prompt in ("a clip", "another")
    ]
    return [
        Bad("id of another request", taken[1], 409, "request_id", before=taken[0]),
        Bad("chunked", chunked, 411, "length_required"),
        Bad("Content-Length too large", large, 413, "body_too_large"),
        Bad("slow sender", whole, 408, "slow_body", "slowly"),
        Bad("leaves in mid-body", whole, None, None, "leave in mid-body"),
        Bad("leaves while waiting", whole, None, None, "leave while waiting"),
    ]


def hard_requests(files: Mapping[str, bytes], token: str) -> dict[str, Bad]:
    """A request for each hard file; what is owed is found out elsewhere."""
    return {
        name: Bad("hard file", http(packed([Item(data, "a clip")]), token=token), None, None)
        for name, data in files.items()
    }


def mix(good: int, bad: int, kinds: int, seed: int) -> list[int]:
    """Order of a load: -1 for a good request, else the kind of a bad one; every kind as often as the next.

    Args:
        good, bad: how many there are.
        kinds: number of kinds; with fewer bad requests than kinds, some are left out.
        seed: of the order.
    """
    rng = random.Random(seed)
    rounds = [rng.sample(range(kinds), kinds) for _ in range(bad // kinds + 1)] if kinds else []
    order = [-1] * good + [kind for one in rounds for kind in one][:bad]
    rng.shuffle(order)
    return order
