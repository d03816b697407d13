"""What the server costs: the same clips through it and in process, in turns, in one run.

Times differ from minute to minute on a shared machine, so each round measures both sides and gives ratios;
the medians over the rounds are reported.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import numpy as np

from qsave_reward.client import RewardClient
from qsave_reward.errors import ServerError
from qsave_reward.model import RewardModel
from qsave_reward.server.load import visual_tokens
from qsave_reward.server.settings import Settings
from qsave_reward.video import Clip, Sampling, read_clip
from qsave_reward.world import WorldConfig, world_item

_START_SECONDS = 1800.0
_CLIPS = 32


@dataclass(frozen=True)
class ServeBench:
    """Result of `bench_serve`; times in seconds unless a name says otherwise.

    Attributes:
        ratios: `throughput_vs_inprocess`: clips a second of all clients together through the server, over
            `score_batch` in process at the batch size of the server's full batch. `p99_vs_batch`: 99th
            percentile of a request's time, over the time of one full batch in process.
        overhead_ms: one client alone: median time of a request, minus that of `score` in process.
        rounds: the figures of each round.
        batch_size: clips of a full batch.
        clients: requests at a time.
        seconds: length of each throughput measurement.
        shape: frames, height and width of a clip.
        model, revision, machine: what ran where.
    """

    ratios: dict[str, float]
    overhead_ms: float
    rounds: list[dict[str, float]]
    batch_size: int
    clients: int
    seconds: float
    shape: tuple[int, int, int]
    model: str
    revision: str
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def bench_serve(
    model: str,
    device: str | None,
    *,
    clients: int = 64,
    rounds: int = 3,
    seconds: float = 20.0,
    size: tuple[int, int] = (256, 256),
    progress: Callable[[int], None] = lambda done: None,
) -> ServeBench:
    """Measure a server of one worker against the same model in process.

    Args:
        model, device: as for `RewardModel.from_pretrained`.
        clients: requests at a time, one clip each.
        rounds: how often everything is measured.
        seconds: length of each of a round's two throughput measurements.
        size: height and width of the clips in pixels, 16 frames each.
        progress: called with 1 after each round.

    Raises:
        ServerError: the server did not start.
    """
    config = WorldConfig(height=size[0], width=size[1], num_frames=16)
    items = [world_item("val", i, config=config) for i in range(_CLIPS)]
    # In one piece of memory, as clips from files are; a view would be put in order for every request.
    clips = [read_clip(item.frames, Sampling(16), times=item.times.tolist()) for item in items]
    prompts = [item.record.prompt for item in items]
    with _server(model, device) as url:
        # Here after the server: what it needs must not be taken by this process's copy.
        scorer = RewardModel.from_pretrained(model, device=device, batch_size=1 << 16)
        full = max(1, Settings().batch_tokens // visual_tokens(clips[0], scorer.frame_plan))
        client = RewardClient(url, connections=clients)
        found = []
        for _ in range(rounds):
            found.append(_round(scorer, client, clips, prompts, full=full, clients=clients, seconds=seconds))
            progress(1)
    middle = {name: float(np.median([one[name] for one in found])) for name in found[0]}
    return ServeBench(
        ratios={name: middle[name] for name in ("throughput_vs_inprocess", "p99_vs_batch")},
        overhead_ms=middle["overhead_ms"],
        rounds=found,
        batch_size=full,
        clients=clients,
        seconds=seconds,
        shape=(16, *size),
        model=model,
        revision=scorer.provenance.revision,
        machine={"system": platform.platform(), "cores": os.cpu_count(), "device": str(scorer.model.device)},
    )


def _round(
    scorer: Any,
    client: RewardClient,
    clips: Sequence[Clip],
    prompts: Sequence[str],
    *,
    full: int,
    clients: int,
    seconds: float,
) -> dict[str, float]:
    batch = [clips[i % len(clips)] for i in range(full)]
    texts = [prompts[i % len(prompts)] for i in range(full)]
    whole = _repeat(lambda: scorer.score_batch(batch, texts), seconds)
    waits = _crowd(client, clips, prompts, clients=clients, seconds=seconds)
    pace = len(waits) / seconds
    alone = _repeat(lambda: client.score_batch(clips[:1], prompts[:1]), seconds / 4)
    single = _repeat(lambda: scorer.score_batch(clips[:1], prompts[:1]), seconds / 4)
    p99 = float(np.quantile(waits, 0.99))
    in_process = full * len(whole) / sum(whole)
    return {
        "throughput_vs_inprocess": pace / in_process,
        "p99_vs_batch": p99 / float(np.median(whole)),
        "overhead_ms": 1e3 * float(np.median(alone) - np.median(single)),
        "clips_per_second": pace,
        "clips_per_second_in_process": in_process,
        "batch_seconds": float(np.median(whole)),
        "p50_seconds": float(np.median(waits)),
        "p99_seconds": p99,
        "one_clip_ms": 1e3 * float(np.median(alone)),
        "one_clip_in_process_ms": 1e3 * float(np.median(single)),
    }


def _repeat(work: Callable[[], Any], seconds: float) -> list[float]:
    """Times of one call after another, after one that does not count; at least three."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def _crowd(
    client: RewardClient, clips: Sequence[Clip], prompts: Sequence[str], *, clients: int, seconds: float
) -> list[float]:
    """Times of requests that ended within `seconds`; every client sends the next when the last is answered.

    Raises:
        QSaveError: whatever a client got.
    """
    waits: list[float] = []
    failures: list[BaseException] = []
    begin = time.perf_counter() + seconds / 4  # the first quarter, in which the queue fills, does not count
    end = begin + seconds

    def work(number: int) -> None:
        try:
            while (started := time.perf_counter()) < end:
                number += 1
                client.score_batch([clips[number % len(clips)]], [prompts[number % len(prompts)]])
                done = time.perf_counter()
                if begin <= done <= end:
                    waits.append(done - started)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return waits


@contextmanager
def _server(model: str, device: str | None) -> Iterator[str]:
    """`qsave serve` as users start it; yields its address once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from qsave_reward.cli import main; main()", "serve", "--model", model]
    command += ["--port", str(port), "--replicas", "1", *(["--device", device] if device else [])]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + _START_SECONDS
            while not _ready(url):
                if server.poll() is not None or time.monotonic() > end:
                    raise ServerError(f"qsave serve --model {model} did not start", code="no_worker")
                time.sleep(0.2)
            yield url
        finally:
            server.send_signal(signal.SIGTERM)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
