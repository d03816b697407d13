"""Frames on their way from the decoder to its parent: two slots of shared memory that take turns.

A pipe would copy each frame twice, in many small pieces that both processes have to be awake for. The memory
is a file without a name that both have open; the parent sets its size and only reads from it, so that
whatever the decoder does to it, a read comes back short or with other pixels and nothing worse.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.decoding.pipe import fill, send

SLOTS = 2


def open_memory() -> IO[bytes]:
    """An empty file without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("frames"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def set_size(memory: IO[bytes], frame_bytes: int) -> None:
    """Make room for frames of at most so many bytes; 0 gives the memory back."""
    os.ftruncate(memory.fileno(), SLOTS * _slot_bytes(frame_bytes))


def read_frame(memory: IO[bytes], frame: NDArray[np.uint8], position: int) -> None:
    """Copy the kept frame number `position` into `frame`. Raises ValueError when it is not there."""
    view = frame.data.cast("B")
    start = position % SLOTS * _slot_bytes(frame.nbytes)
    if os.preadv(memory.fileno(), [view], start) != frame.nbytes:
        raise ValueError("a frame is missing in shared memory")


def _slot_bytes(frame_bytes: int) -> int:
    return -(-frame_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def _map(memory: int, slot_bytes: int) -> NDArray[np.uint8]:
    try:
        mapped = mmap.mmap(memory, SLOTS * slot_bytes)
    except OSError as e:
        raise MemoryError from e
    return np.frombuffer(mapped, np.uint8).reshape(SLOTS, slot_bytes)


class FrameWriter:
    """The decoder's side, an `Emit`: puts frames into the slots, waiting for the parent to have read one.

    The parent answers each message about a frame with one byte.
    """

    def __init__(self, memory: int, requests: int, replies: int) -> None:
        self.memory, self.requests, self.replies = memory, requests, replies
        self.slots: NDArray[np.uint8] | None = None
        self.unread = 0

    def __call__(self, picture: NDArray[np.uint8], position: int, count: int) -> None:
        if position == 0:
            self.finish()
            self.slots = _map(self.memory, _slot_bytes(picture.nbytes))
        if self.unread == SLOTS:
            self._hear()
        assert self.slots is not None
        self.slots[position % SLOTS, : picture.nbytes] = picture.reshape(-1)
        height, width = picture.shape[:2]
        header: dict[str, Any] = {"frame": position, "of": count, "height": height, "width": width}
        send(self.replies, header)
        self.unread += 1

    def finish(self) -> None:
        """Wait until the parent has read all frames, and let go of the memory."""
        while self.unread:
            self._hear()
        self.slots = None

    def _hear(self) -> None:
        fill(self.requests, bytearray(1), None)
        self.unread -= 1
