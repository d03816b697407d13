"""The decoder process: both ends of the pipe.

A worker decodes one clip at a time and lives on for the next one. It is started with `subprocess`, so that
scripts without a `__main__` guard work and no lock or thread of the caller is inherited. A worker that misses
the deadline or dies is killed and replaced; one whose parent is gone reads the end of its input and leaves.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.decoding.pipe import PIPE_BYTES, fill, receive, send, write
from qsave_reward.decoding.slots import FrameWriter, open_memory, read_frame, set_size
from qsave_reward.errors import VideoError

_WORKERS = max(2, min(8, os.cpu_count() or 1))
_START_SECONDS = 60.0
_RECYCLE_AFTER = 2000  # clips; the media libraries leak a few kilobytes a clip
_LARGEST_FRAME = 1 << 40  # bytes; limits may be as large as to say that there is none
_LONGEST_TIMER = 1e9  # seconds
_GRACE = 5.0  # seconds after the deadline at which a worker whose parent is gone ends itself

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from qsave_reward.decoding.worker import main; main(int(sys.argv[2]))"
)


class _Worker:
    """The parent's handle on one decoder process."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        search = [root, *(os.path.abspath(entry) for entry in sys.path)]
        self.clips = 0
        self.memory = open_memory()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _START, json.dumps(search), str(self.memory.fileno())],
            pass_fds=[self.memory.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is the parent's to handle
            # One BLAS thread and few malloc arenas: both reserve address space, which is limited.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests, self.replies = self.process.stdin, self.process.stdout
        for pipe in (self.requests, self.replies):
            os.set_blocking(pipe.fileno(), False)
            # Larger pipes are only faster; the system may refuse them.
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            receive(self.replies.fileno(), deadline=time.monotonic() + _START_SECONDS)
        except BaseException as e:
            self.kill()
            if not isinstance(e, EOFError | TimeoutError):
                raise
            raise VideoError(
                f"the decoder process did not start; try: {sys.executable} -c 'import av, numpy, PIL.Image'",
                code="decoder_crashed",
            ) from e

    def decode(self, header: dict[str, Any], data: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Send one request and collect the answer; raises whatever the pipe raises."""
        self.clips += 1
        limits = header["limits"]
        deadline = time.monotonic() + limits["timeout"]
        # No frame is larger than what all may take, nor than what the decoder may hold.
        largest = min(3 * limits["max_pixels"], limits["max_frame_bytes"], limits["max_memory"])
        set_size(self.memory, min(largest, _LARGEST_FRAME))
        send(self.requests.fileno(), header, data, deadline=deadline)
        source = self.replies.fileno()
        frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
        expected = 0
        while "frame" in (reply := receive(source, deadline=deadline)):
            if reply["frame"] == 0:
                shape = (int(reply["of"]), int(reply["height"]), int(reply["width"]), 3)
                # The worker has read hostile bytes, so its numbers are checked like any input.
                if min(shape) < 1 or np.prod(shape, dtype=float) > limits["max_frame_bytes"]:
                    raise ValueError(f"frames of shape {shape}")
                frames, expected = np.empty(shape, dtype=np.uint8), 0
            if reply["frame"] != expected or expected >= len(frames):
                raise ValueError("frames out of order")
            read_frame(self.memory, frames[expected], expected)
            write(self.requests.fileno(), b"\0", deadline)
            expected += 1
        if "report" in reply and (expected == 0 or expected != len(frames)):
            raise ValueError("frames missing")
        set_size(self.memory, 0)
        return frames, reply

    def close(self) -> None:
        """Let the process leave by itself; kill it if it does not."""
        self.requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1.0)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Close this process's ends of the pipes, and the memory, without touching the worker."""
        self.requests.close()
        self.replies.close()
        self.memory.close()


class _Pool:
    """Idle workers, and a bound on how many there are."""

    def __init__(self) -> None:
        self.slots = threading.BoundedSemaphore(_WORKERS)
        self.idle: list[_Worker] = []
        self.busy: list[_Worker] = []

    def run(self, header: dict[str, Any], data: Any) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        with self.slots:
            worker = self._take()
            self.busy.append(worker)
            try:
                answer = worker.decode(header, data)
            except BaseException:
                worker.kill()  # nobody knows what is still in its pipes
                raise
            finally:
                self.busy.remove(worker)
            if worker.clips >= _RECYCLE_AFTER:
                worker.close()
            else:
                self.idle.append(worker)
            return answer

    def _take(self) -> _Worker:
        while True:
            try:
                worker = self.idle.pop()
            except IndexError:
                return _Worker()
            if worker.process.poll() is None:
                return worker
            worker.forget()

    def close(self) -> None:
        while self.idle:
            self.idle.pop().close()


_pool = _Pool()


def _leave_to_parent() -> None:
    """In a forked child: start afresh, and let go of the parent's workers without stopping them."""
    global _pool
    inherited, _pool = _pool, _Pool()
    for worker in inherited.idle + inherited.busy:
        worker.forget()
        worker.process.returncode = 0  # not this process's child: nothing to wait for


def _shut_down() -> None:
    _pool.close()


os.register_at_fork(after_in_child=_leave_to_parent)
atexit.register(_shut_down)


def decode(
    source: str | bytes | bytearray | memoryview, request: dict[str, Any], *, limits: dict[str, Any]
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Decode one encoded clip in a worker process. Safe to call from several threads.

    Args:
        source: absolute path, or the bytes of a file.
        request: `sampling`, `fps`, `times`, `decoder`, as JSON values.
        limits: the fields of `Limits`.

    Returns:
        uint8 [n, H, W, 3] and the report: `times` (seconds), `duration`, `warnings`.

    Raises:
        VideoError: whatever the worker reports, or `timeout`, `decoder_crashed`, `too_large`.
    """
    path = source if isinstance(source, str) else None
    data = memoryview(b"" if isinstance(source, str) else source)
    size = data.nbytes
    if size > limits["max_bytes"]:
        raise VideoError(
            f"expected at most {limits['max_bytes']} bytes, got {size}; raise Limits.max_bytes",
            code="too_large",
        )
    if not data.c_contiguous:  # a slice with a step; the pipe takes bytes that lie side by side
        data = memoryview(data.tobytes())
    header = {**request, "path": path, "size": size, "limits": limits}
    try:
        frames, reply = _pool.run(header, data)
        if "error" in reply:
            raise VideoError(
                f"{path or 'clip'}: {reply['error']['message']}", code=str(reply["error"]["code"])
            )
        return frames, dict(reply["report"])
    except TimeoutError as e:
        raise VideoError(
            f"{path or 'clip'}: not read within {limits['timeout']:g} s; the decoder was stopped. Raise "
            "Limits.timeout if the clip is sound and long",
            code="timeout",
        ) from e
    except (EOFError, BrokenPipeError, ConnectionResetError, ValueError, KeyError, TypeError) as e:
        raise VideoError(
            f"{path or 'clip'}: the decoder process died or broke its protocol ({type(e).__name__} {e}); "
            "the file is damaged or needs more than Limits.max_memory",
            code="decoder_crashed",
        ) from e


def _limit_memory(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
    # macOS knows the limit and refuses to set it; the other limits still hold there.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def main(memory: int) -> None:
    """Body of the worker process: answer requests until the input ends.

    Args:
        memory: descriptor of what frames go through, see `slots`.
    """
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):  # a library that prints must not write into the protocol
        os.dup2(nothing, fd)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    from qsave_reward.decoding import decode as decoders  # heavy, and wanted in this process only

    gc.freeze()  # keeps the many collections in `decode` short
    send(replies, {"ready": True})
    emit = FrameWriter(memory, requests, replies)
    while True:
        try:
            header = receive(requests)
            limits = header["limits"]
            # The kernel ends the process even inside native code, should the parent not be there to do it.
            signal.setitimer(signal.ITIMER_REAL, min(limits["timeout"] + _GRACE, _LONGEST_TIMER))
            _limit_memory(limits["max_memory"])
            data = bytearray(header["size"])
            fill(requests, data, None)
        except EOFError:
            return

        try:
            reply = {
                "report": decoders.decode(data if header["path"] is None else header["path"], header, emit)
            }
        except VideoError as e:
            reply = {"error": e.to_dict()}
        except MemoryError:
            message = (
                f"needs more than {limits['max_memory']} bytes of memory; damaged, or large: then raise "
                "Limits.max_memory"
            )
            reply = {"error": {"code": "out_of_memory", "message": message}}
        except Exception as e:  # a fault of ours or of a library must reach the caller as text
            reply = {"error": {"code": "decoder_crashed", "message": f"unexpected {type(e).__name__}: {e}"}}
        emit.finish()
        send(replies, reply)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
