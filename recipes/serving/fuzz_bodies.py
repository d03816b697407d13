"""Requests that are almost right: valid ones, and what bit flips, cuts, splices and edits make of them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsave_reward.video import Clip
from qsave_reward.wire import MEDIA_TYPE, Item, Request, WirePath, encode_request

MAX_PAYLOAD = 1 << 20
"""Bytes up to which the payload is made to fit an edited header."""

DEEP = b"[" * 3000

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        [],
        {},
        "",
        " ",
        ".",
        "clip.mp4",
        "../clip.mp4",
        "/dev/zero",
        "http://127.0.0.1/a.mp4",
    ),
    *(0, -1, 1, 2, 3, 4, 8, 15, 16, 17, 512, 513, 4096, 2**31, 2**40, 2**40 + 1, 2**63, 10**30, 10**400),
    *(0.0, -0.0, 0.5, 3.0, 5e-324, 1e-300, 1e300, 1.7e308, math.nan, math.inf, -math.inf),
    *("\0", "\ud800", "\udfff\ud800", "‮", "\r\n", "<|image_pad|>", "<|im_end|>", "{{x}}", "%s%n", "é" * 300),
    *(
        "x" * 201,
        "x" * 4096,
        "x" * 4097,
        "direct",
        "reasoned",
        "explained",
        [1, 2, 3],
        [[[[]]]],
        {"path": "a"},
    ),
    *([0, 64, 64, 3], [1, 16, 16, 3], [1, 2**40, 2**40, 3], [0, 2**40, 2**40, 3], [1, 16, 5000, 3]),
    *([513, 16, 16, 3], [2, 16, 16, 3.0], [2, 16, 16, True]),
    *(
        [0.0, 1e-320],
        [0, 1e308],
        [0, -1],
        [1e308, 1.7e308],
        ["0", "1"],
        [math.nan, 0],
        ["x"] * 1000,
        ["\ud800"],
    ),
)
"""What an edit puts in the place of a value."""

KEYS = (
    "id",
    "prompt",
    "shape",
    "fps",
    "times",
    "duration",
    "warnings",
    "bytes",
    "path",
    "mode",
    "request_id",
)

TOKENS = (
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b"\\u0000", b'{"a":1,"a":2}', b"\xff\xfe"),
    *(
        b"\xef\xbb\xbf",
        b"\0",
        b"\xc0\x80",
        b'"items":[],',
        b"//",
        DEEP,
        b'{"a":' * 3000,
        b"]" * 40,
        b'"',
        b"-",
    ),
)
"""What is put into the text of a header."""


@dataclass(frozen=True)
class Shot:
    """One request.

    Attributes:
        target: path and query.
        kind: content type.
        body: bytes.
        length: what Content-Length says instead of the truth.
    """

    target: str
    kind: str
    body: bytes
    length: str | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        length = str(len(self.body)) if self.length is None else self.length
        fields = {"host": "fuzz", "content-type": self.kind, "content-length": length, "connection": "close"}
        return [(name.encode(), value.encode("latin-1", "replace")) for name, value in fields.items()]

    def to_bytes(self) -> bytes:
        """The request as it goes over a socket."""
        lines = [f"POST {self.target} HTTP/1.1".encode(), *(b": ".join(pair) for pair in self.headers)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


def valid_shots(file: bytes) -> list[Shot]:
    """Requests of every form; `file` is an encoded clip that the server can read and that is `clip.mp4`."""

    def clip(frames: int, height: int = 16, width: int = 16) -> Clip:
        pixels = np.arange(frames * height * width * 3, dtype=np.uint32).astype(np.uint8)
        return Clip(
            pixels.reshape(frames, height, width, 3), np.arange(frames) / 8.0, frames / 8.0, ("note",)
        )

    def packed(*items: Item, **options: Any) -> bytes:
        return b"".join(bytes(part) for part in encode_request(Request(items, **options)))

    several = packed(Item(clip(1), "a red circle", "a"), Item(clip(4, 16, 24), "a red circle", "b"))
    reasoned = packed(Item(clip(3), "x", "1"), mode="reasoned", request_id="r")
    explained = packed(Item(WirePath("clip.mp4"), "x"), Item(clip(2), "x"), mode="explained")
    row = {"prompt": "x", "shape": [2, 16, 16, 3], "fps": 8.0}
    plain = join({"items": [row]}, bytes(2 * 16 * 16 * 3))
    paths = json.dumps({"items": [{"path": "clip.mp4", "prompt": "x", "id": "p"}], "mode": "direct"}).encode()
    shots = [Shot("/v1/score", MEDIA_TYPE, body) for body in (several, reasoned, explained, plain)]
    shots += [Shot("/v1/rank", MEDIA_TYPE, body) for body in (several, reasoned, plain)]
    shots += [Shot(target, "application/json", paths) for target in ("/v1/score", "/v1/rank?tie_margin=0.5")]
    shots += [Shot("/v1/score", MEDIA_TYPE, packed(Item(file, "x"), Item(clip(1), "x")))]
    shots += [Shot("/v1/score?prompt=x&mode=reasoned", "video/mp4", file)]
    return shots


def split(body: bytes) -> tuple[Any, bytes]:
    """Header and payload of a valid packed body."""
    length = int.from_bytes(body[:4], "big")
    return json.loads(body[4 : 4 + length]), body[4 + length :]


def join(header: Any, payload: bytes) -> bytes:
    """A packed body; the header may hold what JSON does not."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "big") + text + payload


def mutated(shot: Shot, others: Sequence[Shot], rng: random.Random) -> Shot:
    """One to three changes; every third time one edit only, which often gets past all checks."""
    if rng.random() < 1 / 3:
        return _header(shot, others, rng, gentle=True)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change: Callable[[Shot, Sequence[Shot], random.Random], Shot]
        (change,) = rng.choices((_bytes, _header, _text, _around), (3, 6, 2, 1))
        shot = change(shot, others, rng)
    return shot


def _bytes(shot: Shot, others: Sequence[Shot], rng: random.Random) -> Shot:
    """Flip, cut, repeat, splice, or write another length."""
    body = bytearray(shot.body)
    place = rng.randrange(len(body) + 1)
    early = rng.randrange(min(len(body), 400) + 1)  # where the header is
    choice = rng.randrange(6)
    if choice == 0:
        for _ in range(rng.choice((1, 2, 8, 64))):
            if body:
                body[min(rng.choice((place, early)), len(body) - 1)] ^= 1 << rng.randrange(8)
    elif choice == 1:
        del body[rng.choice((place, early)) :]
    elif choice == 2:
        end = min(len(body), early + rng.choice((1, 4, 50)))
        body[early:early] = body[early:end] * rng.choice((1, 2, 20))
    elif choice == 3:
        other = rng.choice(others).body
        body[place:] = other[rng.randrange(len(other) + 1) :]
    elif choice == 4:
        length = rng.choice(
            (0, 1, 3, len(body), len(body) - 4, 1 << 20, (1 << 20) + 1, 1 << 31, (1 << 32) - 1)
        )
        body[:4] = (max(0, length) & 0xFFFFFFFF).to_bytes(4, "big")
    else:
        del body[early : early + rng.choice((1, 3, 4, 30))]
    return replace(shot, body=bytes(body))


def _header(shot: Shot, others: Sequence[Shot], rng: random.Random, *, gentle: bool = False) -> Shot:
    """Another value, key or element somewhere in the JSON; mostly with a payload of the announced size."""
    if shot.kind.startswith("video"):
        return _bytes(shot, others, rng)
    packed = shot.kind == MEDIA_TYPE
    try:
        header, payload = split(shot.body) if packed else (json.loads(shot.body), b"")
    except (ValueError, RecursionError):
        return _bytes(shot, others, rng)
    root = {"": header}
    holder, key = rng.choice(_places(root))
    choice = 0 if gentle else rng.randrange(6)
    if choice <= 2:  # of its own type it gets past the first checks
        alike = [value for value in VALUES if type(value) is type(holder[key])]
        holder[key] = rng.choice(alike or VALUES)
    elif choice == 3 or holder is root:
        holder[key] = rng.choice(VALUES)
    elif choice == 4:
        del holder[key]
    elif isinstance(holder, dict):
        holder[rng.choice(KEYS)] = rng.choice(VALUES)
    else:
        holder.extend([holder[key]] * rng.choice((1, 3, 70)))
    if not packed:
        return replace(shot, body=json.dumps(root[""]).encode())
    if rng.random() < 0.8:
        payload = _fitting(root[""], payload)
    return replace(shot, body=join(root[""], payload))


def _places(root: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Every place of a JSON value as its container and its key there."""
    places, waiting = [], [root]
    while waiting and len(places) < 2000:
        holder: Any = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return places


def _fitting(header: Any, payload: bytes) -> bytes:
    """The payload with the number of bytes that the items announce, as far as that can be told."""
    total = 0
    try:
        for row in header["items"]:
            total += int(row["bytes"]) if "bytes" in row else math.prod(map(int, row.get("shape", [0])))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return payload
    return payload[:total].ljust(total, b"\x7f") if 0 <= total <= MAX_PAYLOAD else payload


def _text(shot: Shot, others: Sequence[Shot], rng: random.Random) -> Shot:
    """A token that does not belong there, with the length of the header kept right."""
    if shot.kind == MEDIA_TYPE and len(shot.body) > 4:
        length = min(int.from_bytes(shot.body[:4], "big"), len(shot.body) - 4)
        text, payload = shot.body[4 : 4 + length], shot.body[4 + length :]
    else:
        text, payload = shot.body, b""
    place = rng.randrange(len(text) + 1)
    text = text[:place] + rng.choice(TOKENS) + text[place + rng.choice((0, 1, 5)) :]
    if rng.random() < 0.1:
        text = text.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-16-be")))
    front = len(text).to_bytes(4, "big") if shot.kind == MEDIA_TYPE else b""
    return replace(shot, body=front + text + payload)


def _around(shot: Shot, others: Sequence[Shot], rng: random.Random) -> Shot:
    """Another address, query, content type or length."""
    queries = ("mode=all", "prompt=" + "x" * 5000, "tie_margin=nan", "tie_margin=-1", "visual_quality=inf")
    queries += ("visual_quality=0&dynamic_quality=0&text_alignment=0", "text_alignment=1e6", "prompt=%ff%00")
    queries += ("mode=reasoned&mode=direct", "tie_margin=4&unknown=1", "prompt=%ed%a0%80", "&&&===%")
    choice = rng.randrange(4)
    if choice == 0:
        path = rng.choice(("/v1/score", "/v1/rank"))
        return replace(shot, target=f"{path}?{rng.choice(queries)}")
    if choice == 1:
        other = rng.choice(others)
        return replace(shot, target=other.target)
    if choice == 2:
        kinds = (MEDIA_TYPE, "application/json", "application/json; charset=utf-16", "video/", "VIDEO/MP4")
        kinds += ("image/gif", "", "text/html", "application/x-qsave;;", "x" * 300, "multipart/form-data")
        return replace(shot, kind=rng.choice(kinds))
    lengths = ("0", "-1", "", "abc", "1e3", "٣", "9" * 5000, "99999999999", "10, 10", str(len(shot.body) + 7))
    return replace(shot, length=rng.choice((*lengths, str(max(0, len(shot.body) - 1)))))
