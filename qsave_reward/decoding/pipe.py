"""Messages between a process and its decoder, over two pipes.

A message is a 4-byte big-endian length and a JSON header of that length; behind a request come the bytes of
the file, if it has no path:

    parent  {"path": ... | null, "size": bytes of the file, "sampling", "fps", "times", "decoder", "limits"}
    worker  {"frame": k, "of": n, "height": h, "width": w} for k = 0..n-1, when the frame is in its slot (see
            `slots`); the parent answers with one byte when it has read it. k = 0 may come again when the
            worker has to begin anew
    worker  {"report": {"times", "duration", "warnings"}}  or  {"error": {"code", "message"}}

A deadline is a reading of `time.monotonic()`; with one, the descriptor must not block.
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

PIPE_BYTES = 1 << 20
_MAX_HEADER = 16 << 20
_LONGEST_POLL = 2.0**31 - 1  # milliseconds


def _wait(fd: int, event: int, deadline: float | None) -> None:
    if deadline is None:
        return
    poll = select.poll()
    poll.register(fd, event)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poll.poll(min(remaining * 1000, _LONGEST_POLL)):
        raise TimeoutError


def write(fd: int, data: Any, deadline: float | None) -> None:
    view = memoryview(data).cast("B")
    while view:
        _wait(fd, select.POLLOUT, deadline)
        view = view[os.write(fd, view[:PIPE_BYTES]) :]


def fill(fd: int, buffer: Any, deadline: float | None) -> None:
    view = memoryview(buffer).cast("B")
    while view:
        _wait(fd, select.POLLIN, deadline)
        count = os.readv(fd, [view])
        if count == 0:
            raise EOFError
        view = view[count:]


def send(fd: int, header: dict[str, Any], data: Any = b"", *, deadline: float | None = None) -> None:
    text = json.dumps(header, default=lambda scalar: scalar.item()).encode()  # NumPy's numbers
    write(fd, len(text).to_bytes(4, "big") + text, deadline)
    write(fd, data, deadline)


def receive(fd: int, *, deadline: float | None = None) -> dict[str, Any]:
    prefix = bytearray(4)
    fill(fd, prefix, deadline)
    length = int.from_bytes(prefix, "big")
    if length > _MAX_HEADER:
        raise ValueError(f"header of {length} bytes")
    text = bytearray(length)
    fill(fd, text, deadline)
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("header is not an object")
    return header
