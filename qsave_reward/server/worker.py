"""A model in a process of its own: what crashes, hangs or leaks there does not take the server down.

`Worker` is a scorer. Its process is started with the first batch and started anew when it has died or missed
its deadline. Frames cross over a pipe, which needs no shared memory (containers have little) and leaves none
behind. The process ends when its parent is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import numpy as np

from qsave_reward.checkpoint import find_checkpoint, read_metadata
from qsave_reward.decoding.pipe import PIPE_BYTES, fill, receive, send, write
from qsave_reward.errors import ConfigError, QSaveError, ServerError
from qsave_reward.results import result_from_dict, result_to_dict
from qsave_reward.types import Mode, OnError, VideoScore
from qsave_reward.video import Clip

_LOAD_SECONDS = 1800.0
_CLIPS_AT_ONCE = 1 << 16
"""Batch size of the model: the server decides how large a batch is."""
_BATCHES_AT_ONCE = 2

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from qsave_reward.server.worker import main; main(json.loads(sys.argv[2]))"
)


class Worker:
    """A scorer whose model lives in another process.

    Attributes:
        provenance, frame_plan: as of the `RewardModel`; known before the weights are loaded, and the same for
            every process: weights that were replaced meanwhile are not loaded.
        restarts: how often a dead process was replaced.
    """

    def __init__(
        self, name: str, *, device: str | None = None, threads: int | None = None, timeout: float = 120.0
    ) -> None:
        """Args:
            name: the model, as for `load_scorer`.
            device: default: the first GPU if there is one, else the CPU.
            threads: CPU threads of torch; default: torch's own choice.
            timeout: seconds after which a batch is given up and the process is killed.

        Raises:
            ConfigError: no such model.
        """
        metadata = read_metadata(find_checkpoint(name))
        self.provenance = metadata.provenance(name)
        self.frame_plan = metadata.frame_plan
        self.restarts = 0
        revision = metadata.revision
        self._options = {"name": name, "revision": revision, "device": device, "threads": threads}
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the process is up and has loaded the model."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Process id, while there is one."""
        return self._process.pid if self._process is not None and self._process.alive else None

    def score_batch(
        self,
        videos: Sequence[Clip],
        prompts: Sequence[str],
        *,
        mode: Mode = "direct",
        on_error: OnError = "raise",
    ) -> list[VideoScore | QSaveError]:
        """As `Scorer.score_batch`, for clips in memory.

        Raises:
            ServerError: the process died (`worker_died`), hung (`worker_hung`) or does not start.
        """
        return self._ask(videos, prompts, mode, on_error)

    def explain_batch(
        self, videos: Sequence[Clip], prompts: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[VideoScore | QSaveError]:
        """As `RewardModel.explain_batch`, for clips in memory."""
        return self._ask(videos, prompts, "explained", on_error)

    def close(self) -> None:
        """End the process; nothing can be scored afterwards."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _ask(
        self, videos: Sequence[Clip], prompts: Sequence[str], mode: str, on_error: OnError
    ) -> list[VideoScore | QSaveError]:
        results = self._running().ask(videos, prompts, mode, self._timeout)
        failed = next((result for result in results if isinstance(result, QSaveError)), None)
        if failed is not None and on_error == "raise":
            raise failed
        return results

    def _running(self) -> _Process:
        """The process, started if there is none; others wait meanwhile."""
        with self._lock:
            if self._closed:
                raise ServerError("this worker was closed", code="shutting_down")
            if self._process is None or not self._process.alive:
                if self._process is not None:
                    self.restarts += 1
                self._process = _Process(self._options)
            return self._process


class _Process:
    """One life of a worker process, and the answers it owes."""

    def __init__(self, options: dict[str, Any]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        search = json.dumps([root, *(os.path.abspath(entry) for entry in sys.path)])
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START, search, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is the parent's to handle
            # Threads that spin while they wait starve one another where cores are shared.
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        )
        assert self._child.stdin is not None and self._child.stdout is not None
        self.pid = self._child.pid
        self._requests, self._replies = self._child.stdin.fileno(), self._child.stdout.fileno()
        os.set_blocking(self._requests, False)
        # A larger pipe is only faster; the system may refuse it.
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._requests, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._writing = threading.Lock()
        self._owed: dict[int, Future[list[dict[str, Any]]]] = {}
        self._numbers = itertools.count()
        self.alive = False
        os.set_blocking(self._replies, False)
        try:
            hello = receive(self._replies, deadline=time.monotonic() + _LOAD_SECONDS)
        except BaseException as error:
            self._end()
            if not isinstance(error, EOFError | TimeoutError | ValueError):
                raise
            raise ServerError("the worker did not start; its log says why", code="no_worker") from error
        if "failed" in hello:
            self._end()
            raise ServerError(f"the worker could not load the model: {hello['failed']}", code="no_worker")
        os.set_blocking(self._replies, True)
        self.alive = True
        threading.Thread(target=self._collect, name=f"worker-{self.pid}", daemon=True).start()

    def ask(
        self, clips: Sequence[Clip], prompts: Sequence[str], mode: str, timeout: float
    ) -> list[VideoScore | QSaveError]:
        """Send a batch and wait for its results."""
        number, owed = next(self._numbers), Future[list[dict[str, Any]]]()
        self._owed[number] = owed
        rows = [
            {"shape": clip.frames.shape, "times": clip.times.tolist(), "duration": clip.duration}
            | {"warnings": clip.warnings, "prompt": prompt}
            for clip, prompt in zip(clips, prompts, strict=True)
        ]
        deadline = time.monotonic() + timeout
        try:
            with self._writing:
                if not self.alive:  # the number of its pipe may mean another file by now
                    raise ServerError("the worker process died", code="worker_died")
                send(self._requests, {"id": number, "mode": mode, "clips": rows}, deadline=deadline)
                for clip in clips:
                    write(self._requests, np.ascontiguousarray(clip.frames), deadline)
            answer = owed.result(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, FutureTimeout) as error:
            self.kill()
            raise ServerError(
                f"no answer within {timeout:g} s; the worker was killed", code="worker_hung"
            ) from error
        except OSError as error:
            raise ServerError("the worker process died", code="worker_died") from error
        finally:
            self._owed.pop(number, None)
        return [result_from_dict(row) for row in answer]

    def _collect(self) -> None:
        """Hand every answer to the one who waits for it, until the process ends."""
        with contextlib.suppress(EOFError, ValueError, OSError):
            while True:
                reply = receive(self._replies)
                owed = self._owed.get(reply["id"])
                if owed is None or owed.done():
                    continue
                if "failed" in reply:
                    owed.set_exception(ServerError(reply["failed"], code="worker_failed"))
                else:
                    owed.set_result(reply["results"])
        self._end()
        for owed in list(self._owed.values()):
            with contextlib.suppress(Exception):  # it may just have been answered
                owed.set_exception(ServerError("the worker process died", code="worker_died"))

    def kill(self) -> None:
        """End the process; whoever reads from it or writes to it is told by the pipes."""
        self.alive = False
        self._child.kill()
        self._child.wait()

    def _end(self) -> None:
        """Kill, and close the pipes, which nobody but the calling thread may be reading."""
        self.kill()
        assert self._child.stdin is not None and self._child.stdout is not None
        with self._writing:
            self._child.stdin.close()
        self._child.stdout.close()


def main(options: dict[str, Any]) -> None:
    """Body of the worker process: answer batches until the input ends."""
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a library prints must not run into the protocol

    import torch
    from transformers.utils import logging

    from qsave_reward.loading import load_scorer

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    try:
        model = load_scorer(options["name"], device=options["device"], batch_size=_CLIPS_AT_ONCE)
        if (found := model.metadata.revision) != (wanted := options["revision"]):
            raise ConfigError(f"its weights were replaced: expected {wanted}, got {found}; start anew")
    except QSaveError as error:
        send(replies, {"failed": str(error)})
        return
    send(replies, {"ready": True})
    writing = threading.Lock()
    with ThreadPoolExecutor(_BATCHES_AT_ONCE) as threads:
        while True:
            try:
                header = receive(requests)
                clips = [_receive_clip(requests, row) for row in header["clips"]]
            except EOFError:
                os._exit(0)  # the parent is gone or wants no more; nobody reads what is still computed
            threads.submit(_answer, model, header, clips, lambda reply: _reply(replies, reply, writing))


def _receive_clip(pipe: int, row: dict[str, Any]) -> Clip:
    frames = np.empty(row["shape"], np.uint8)
    fill(pipe, frames, None)
    return Clip(frames, np.array(row["times"], np.float64), row["duration"], tuple(row["warnings"]))


def _answer(model: Any, header: dict[str, Any], clips: list[Clip], reply: Callable[[Any], None]) -> None:
    prompts = [row["prompt"] for row in header["clips"]]
    try:
        if header["mode"] == "explained":
            results = model.explain_batch(clips, prompts, on_error="return")
        else:
            results = model.score_batch(clips, prompts, mode=header["mode"], on_error="return")
    except Exception as error:
        if "CUDA error" in str(error):
            os._exit(3)  # no further call on this device would work; the parent starts a new process
        reply({"id": header["id"], "failed": f"{type(error).__name__}: {error}"})
    else:
        reply({"id": header["id"], "results": [result_to_dict(result) for result in results]})


def _reply(pipe: int, message: dict[str, Any], writing: threading.Lock) -> None:
    with writing:
        send(pipe, message)
