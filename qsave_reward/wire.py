"""What a reward client sends to a reward server. Never pickle, never a URL to fetch.

A request body (`application/x-qsave`) is a 4-byte big-endian length, a JSON header of that length, and the
raw bytes that the items of the header announce, one after another without gaps:

    {"mode": "direct", "request_id": "...", "items": [
        {"prompt": "...", "shape": [16, 256, 256, 3], "fps": 8.0},             uint8 RGB frames
        {"prompt": "...", "shape": [16, 256, 256, 3], "times": [...], "duration": 2.0},
        {"prompt": "...", "bytes": 200000},                                    an encoded file
        {"prompt": "...", "path": "batch7/0001.mp4"}                           a file under the server's root
    ]}

Every item may carry an `id`, which comes back with its result. Raw uint8 costs nothing to read: the frames of
the clip are a view of the body.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qsave_reward.errors import ConfigError, QSaveError, VideoError
from qsave_reward.fields import number, show, text
from qsave_reward.sampling import even_timeline
from qsave_reward.video import Clip

MEDIA_TYPE = "application/x-qsave"

WireMode = Literal["direct", "reasoned", "explained"]
"""The modes of `Scorer.score_batch`, and `"explained"`: direct scores with defects and reasons attached."""
MODES = ("direct", "reasoned", "explained")

MAX_HEADER = 1 << 20
"""Bytes of a request's JSON header; a client splits what needs more."""
MAX_PROMPT = 4096
"""Characters of a prompt."""
MAX_ITEMS = 64
"""Clips of one request."""
MAX_FRAMES = 512
"""Frames of one clip sent as frames."""
MAX_ID = 200

_FIELDS = {"id", "prompt", "shape", "fps", "times", "duration", "warnings", "bytes", "path"}


@dataclass(frozen=True)
class WirePath:
    """A file under the server's media root, as the client wrote it."""

    path: str


@dataclass(frozen=True, eq=False)
class Item:
    """One clip of a request.

    Attributes:
        video: frames with times (`Clip`), the bytes of an encoded file, a path under the server's root, or
            the error that came of reading the item.
        prompt: the text the clip was generated from; may be empty here, the scorer refuses that.
        id: the client's name for it.
    """

    video: Clip | bytes | bytearray | memoryview | WirePath | QSaveError
    prompt: str
    id: str | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """A request as both sides see it.

    Attributes:
        items: at least one, at most `MAX_ITEMS`.
        mode: what is wanted.
        request_id: the same id sent again is the same request: it is not scored twice.
    """

    items: tuple[Item, ...]
    mode: WireMode = "direct"
    request_id: str | None = None


def encode_request(request: Request) -> list[Any]:
    """The parts of a body, to be sent one after another; frames and files are not copied.

    Raises:
        ConfigError: an item that holds an error, or a header beyond `MAX_HEADER`.
    """
    rows: list[dict[str, Any]] = []
    parts: list[Any] = []
    for item in request.items:
        row: dict[str, Any] = {"prompt": item.prompt}
        if item.id is not None:
            row["id"] = item.id
        if isinstance(item.video, QSaveError):
            raise ConfigError("an item that could not be read cannot be sent")
        if isinstance(item.video, WirePath):
            row["path"] = item.video.path
        elif isinstance(item.video, Clip):
            clip = item.video
            row |= {"shape": clip.frames.shape, "times": clip.times.tolist(), "duration": clip.duration}
            row["warnings"] = clip.warnings
            parts.append(np.ascontiguousarray(clip.frames).reshape(-1).data)
        else:
            row["bytes"] = memoryview(item.video).nbytes
            parts.append(item.video)
        rows.append(row)
    header = {"mode": request.mode, "request_id": request.request_id, "items": rows}
    encoded = json.dumps(header, allow_nan=False).encode()
    if len(encoded) > MAX_HEADER:
        raise ConfigError(
            f"expected a header of at most {MAX_HEADER} bytes, got {len(encoded)}; send fewer clips"
        )
    return [len(encoded).to_bytes(4, "big") + encoded, *parts]


def decode_request(body: bytes | bytearray | memoryview) -> Request:
    """Read a body.

    A clip whose own description is wrong (a side of 3 pixels, times that run backwards, a prompt that is too
    long) becomes an item that holds its error; what makes the whole body unreadable is raised.

    Raises:
        ConfigError: (`code="bad_request"`) a header that is not what the module text says, or a body
            shorter or longer than its items say.
    """
    if len(body) < 4 or (length := int.from_bytes(body[:4], "big")) > min(MAX_HEADER, len(body) - 4):
        raise _bad(f"expected a 4-byte length and a JSON header of at most {MAX_HEADER} bytes")
    header = read_json(body[4 : 4 + length])
    request = request_from_header(header)
    start = 4 + length
    view = memoryview(body)
    items = []
    for row, item in zip(header["items"], request.items, strict=True):
        size = _announced(row)
        if start + size > len(body):
            raise _bad(f"the body ends after {len(body)} bytes; its items need at least {start + size}")
        if isinstance(item.video, QSaveError):
            pass
        elif "shape" in row:
            item = _with_frames(item, row, view[start : start + size])
        elif "bytes" in row:
            item = Item(view[start : start + size], item.prompt, item.id)
        items.append(item)
        start += size
    if start != len(body):
        raise _bad(f"the body has {len(body) - start} bytes more than its items")
    return Request(tuple(items), request.mode, request.request_id)


def read_json(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """A JSON object; no key twice, no NaN.

    Raises:
        ConfigError: (`code="bad_request"`)
    """
    try:
        value = json.loads(bytes(data), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _bad(f"expected a JSON object: {show(str(error))}") from error
    if not isinstance(value, dict):
        raise _bad(f"expected a JSON object, got {show(value)}")
    return value


def request_from_header(header: Mapping[str, Any]) -> Request:
    """The request a header describes; the clips of frames and encoded files are still empty.

    Raises:
        ConfigError: (`code="bad_request"`)
    """
    if unknown := sorted(set(header) - {"mode", "request_id", "items"}):
        raise _bad(f"unknown field {show(unknown[0])}; expected items, mode, request_id")
    mode = header.get("mode", "direct")
    if mode not in MODES:
        raise _bad(f"mode: expected one of {', '.join(MODES)}, got {show(mode)}")
    rows = header.get("items")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ITEMS:
        raise _bad(f"items: expected a list of 1 to {MAX_ITEMS} objects, got {show(rows)}")
    return Request(tuple(_item(row) for row in rows), mode, _name(header, "request_id"))


def _item(row: Any) -> Item:
    """What an item says of itself, with an empty video where bytes are still to come."""
    if not isinstance(row, dict) or set(row) - _FIELDS:
        raise _bad(f"item: expected an object with fields of {', '.join(sorted(_FIELDS))}, got {show(row)}")
    if sum(kind in row for kind in ("shape", "bytes", "path")) != 1:
        raise _bad(f"item: expected exactly one of shape, bytes and path, got {show(row)}")
    if not isinstance(given := row.get("prompt"), str):
        raise _bad(f"item: prompt: expected text, got {show(given)}")
    name = _name(row, "id")
    if len(given) > MAX_PROMPT:
        message = f"expected a prompt of at most {MAX_PROMPT} characters, got {len(given)}"
        return Item(ConfigError(message, code="long_prompt"), "", name)
    try:
        prompt = text(row, "prompt", empty=True)
    except ConfigError as error:
        return Item(error, "", name)
    try:
        path = WirePath(text(row, "path")) if "path" in row else None
    except ConfigError as error:
        raise _bad(f"item: {error}") from error
    return Item(path or b"", prompt, name)


def _announced(row: Mapping[str, Any]) -> int:
    """Bytes that belong to an item."""
    if "bytes" in row:
        return _count(row["bytes"], "bytes")
    if "shape" not in row:
        return 0
    shape = row["shape"]
    if not isinstance(shape, list) or len(shape) != 4 or shape[3] != 3:
        raise _bad(f"shape: expected [frames, height, width, 3], got {show(shape)}")
    return math.prod(_count(side, "shape") for side in shape)


def _with_frames(item: Item, row: Mapping[str, Any], data: memoryview) -> Item:
    shape = row["shape"]
    try:
        if shape[0] > MAX_FRAMES:
            raise VideoError(f"expected at most {MAX_FRAMES} frames, got {shape[0]}", code="too_many_frames")
        if 0 in shape:  # the other sides may be beyond what an array can have
            code = "too_small" if shape[0] else "no_frames"
            raise VideoError(f"expected at least one frame with pixels, got shape {shape}", code=code)
        times, duration = _clock(row, shape[0])
        frames = np.frombuffer(data, dtype=np.uint8).reshape(shape)
        clip = Clip(frames, times, duration, _warnings(row))
    except (VideoError, ConfigError) as error:
        return Item(error, item.prompt, item.id)
    return Item(clip, item.prompt, item.id)


def _clock(row: Mapping[str, Any], count: int) -> tuple[np.ndarray[Any, Any], float]:
    """Times and duration, from either form."""
    if ("fps" in row) == ("times" in row):
        raise VideoError("frames need either fps or times with duration", code="no_fps")
    if "fps" in row:
        fps = number(row["fps"], "fps")
        if not 0 < fps <= 1000:
            raise VideoError(f"fps: expected a number above 0 and up to 1000, got {fps}", code="no_fps")
        with np.errstate(over="ignore"):  # endless times are refused as such
            clock = even_timeline(count, fps)
        return clock.times, clock.duration
    given = row["times"]
    if not isinstance(given, list) or len(given) != count:
        raise VideoError(f"times: expected a list of {count} numbers, got {show(given)}", code="bad_times")
    times = np.array([number(value, "times") for value in given], dtype=np.float64)
    return times, number(row.get("duration"), "duration")


def _warnings(row: Mapping[str, Any]) -> tuple[str, ...]:
    given = row.get("warnings", [])
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise _bad(f"warnings: expected a list of texts, got {show(given)}")
    return tuple(given)


def _count(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**40:
        raise _bad(f"{field}: expected whole numbers from 0, got {show(value)}")
    return value


def _name(row: Mapping[str, Any], field: str) -> str | None:
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID:
        raise _bad(f"{field}: expected a text of 1 to {MAX_ID} characters, got {show(value)}")
    return value


def _bad(message: str) -> ConfigError:
    return ConfigError(message, code="bad_request")


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key is there twice")
    return row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
