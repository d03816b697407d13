"""Does the reward server keep its promises under load, abuse and kill -9?

    python recipes/serving/load_test.py --requests 10000 --bad-share 0.05 --kills 5 --out outputs/load

Starts `qsave serve` with a token and a media root and sends it good requests of every form, whose scores are
known from this process, and among them bad ones of every kind (`--hard-inputs FOLDER` adds files that break
decoders). Meanwhile the worker process is killed again and again, and the server is watched. Writes
`load.json`, `load.md`, `load.svg` and the server's log; exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load_bad import Bad, bad_requests, hard_requests, mix
from load_clients import Answer, GoodClient, Site, send_bad, send_hard
from load_good import Known, draw_job, make_pool, means
from load_report import kinds, memory, picture, promises, quantiles, table
from load_server import (
    Kill,
    Sample,
    kill_points,
    look,
    metrics,
    murder,
    running,
    server_errors,
    stop_server,
    watch,
)

from qsave_reward.checkpoint_scorer import CheckpointScorer
from qsave_reward.data import write_lines
from qsave_reward.errors import QSaveError, VideoError
from qsave_reward.loading import load_scorer
from qsave_reward.terminal import progress_bar

POOL = 24
CALM_SECONDS = 60.0
"""How long the server may take to finish what clients left behind."""


@dataclass(frozen=True, eq=False)
class Load:
    """What is sent: good requests for clips of the pool, and the kinds of bad ones.

    Attributes:
        order: as from `mix`.
        hard: names of the hard files among the bad ones, with what is owed.
    """

    pool: list[Known]
    bad: list[tuple[str, Bad]]
    hard: Mapping[str, tuple[float, ...] | str]
    order: list[int]
    seed: int


def owed_in_process(model: CheckpointScorer, data: bytes) -> tuple[float, ...] | str:
    """Scores of a file, or the code of the error that reading it ends in."""
    try:
        clip = model.read(data)
    except VideoError as error:
        return error.code
    return means(model.score_batch([clip], ["a clip"])[0])


def prepare(args: argparse.Namespace, root: Path, token: str) -> Load:
    """Everything that is sent, with its answers, from the model in this process."""
    model = load_scorer(args.model, device="cpu")
    pool = make_pool(model, root, POOL)
    secret = root.parent / "secret.mp4"
    secret.write_bytes(pool[0].file)
    (root / "link.mp4").symlink_to(secret)
    bad = [("", one) for one in bad_requests(pool[0].clip, token, "link.mp4")]
    hard: dict[str, tuple[float, ...] | str] = {}
    if args.hard_inputs:
        files = {path.name: path.read_bytes() for path in sorted(args.hard_inputs.iterdir())}
        with progress_bar(len(files), "hard files in process") as advance:
            for name, data in files.items():
                hard[name] = owed_in_process(model, data)
                advance(1)
        bad += list(hard_requests(files, token).items())
    count = round(args.requests * args.bad_share)
    return Load(pool, bad, hard, mix(args.requests - count, count, len(bad), args.seed), args.seed)


def send_all(load: Load, site: Site, clients: int, answers: list[Answer]) -> None:
    """Send the whole load from `clients` threads, each with a connection of its own."""
    todo: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for number, kind in enumerate(load.order):
        todo.put((number, kind))

    def work() -> None:
        client = GoodClient(site, load.pool)
        while True:
            try:
                number, kind = todo.get_nowait()
            except queue.Empty:
                break
            answers.append(one(client, number, kind))
            advance(1)
        client.close()

    def one(client: GoodClient, number: int, kind: int) -> Answer:
        if kind < 0:
            return client.send(draw_job(random.Random(f"{load.seed} {number}"), number, len(load.pool)))
        name, bad = load.bad[kind]
        try:
            return send_hard(bad, site, load.hard[name]) if name else send_bad(bad, site)
        except OSError as error:
            return Answer(bad.name, False, 0, "", 0.0, 0.0, 0, f"no connection: {error!r}")

    with progress_bar(len(load.order), "requests") as advance:
        threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def calm_down(port: int, token: str) -> tuple[dict[str, float], dict[str, float]]:
    """The server's numbers once it holds nothing, or at the end of its time; and what it holds then."""
    end = time.monotonic() + CALM_SECONDS
    while True:
        found = metrics(port, token)
        held = {"clips": found["qsave_queue_clips"], "bytes": found["qsave_held_bytes"]}
        if not any(held.values()) or time.monotonic() > end:
            return found, held
        time.sleep(0.5)


def run_load(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[Answer], str]:
    """The whole test; what was found, every answer, and the picture."""
    token, root = secrets.token_hex(16), folder / "media"
    root.mkdir()
    load = prepare(args, root, token)
    answers: list[Answer] = []
    samples: list[Sample] = []
    kills: list[Kill] = []
    log = args.out / "server.log"
    with running(args.model, token, root, log) as (server, port):
        first, began, stop = look(server, 0.0, 0), time.monotonic(), threading.Event()
        samples.append(first)
        points = kill_points(args.kills, args.requests, args.seed)
        shared: dict[str, Any] = {"done": lambda: len(answers), "stop": stop}
        helpers = [threading.Thread(target=watch, args=(server, samples, began), kwargs=shared)]
        helpers.append(threading.Thread(target=murder, args=(server, points, kills, began), kwargs=shared))
        for helper in helpers:
            helper.start()
        send_all(load, Site(port, token, began), args.clients, answers)
        seconds = time.monotonic() - began
        stop.set()
        for helper in helpers:
            helper.join()
        found, held = calm_down(port, token)
        last = look(server, time.monotonic() - began, len(answers))
        stopping, left = stop_server(server)
    text = log.read_text(errors="replace")
    result = {
        "requests": len(answers),
        "seconds": seconds,
        "clients": args.clients,
        "memory": memory(samples),
        "descriptors": {"start": first.descriptors, "end": last.descriptors},
        "zombies": last.zombies,
        "held": held,
        "clips_scored": int(found.get('qsave_clips_total{outcome="scored"}', 0)),
        "errors_counted": server_errors(found),
        "tracebacks": text.count("Traceback (most recent call last)"),
        "kills": [asdict(kill) for kill in kills],
        "kills_wanted": args.kills,
        "restarts": found["qsave_worker_restarts"],
        "seconds_to_stop": stopping,
        "left": left,
        "latency": quantiles([one.seconds for one in answers if one.good]),
        "kinds": kinds(answers),
        "hard": dict(load.hard),
        "problems": [f"{one.kind}: {one.problem}" for one in answers if one.problem][:200],
        "samples": [asdict(sample) for sample in samples],
    }
    return result, answers, picture(samples, answers, kills)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--bad-share", type=float, default=0.05)
    parser.add_argument("--kills", type=int, default=5, help="kill -9 of the worker")
    parser.add_argument("--clients", type=int, default=32, help="requests at a time")
    parser.add_argument("--hard-inputs", type=Path, metavar="FOLDER", help="files that break decoders")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("outputs/load"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        result, answers, drawn = run_load(args, Path(folder))
    found = promises(result, answers, args.requests)
    result["promises"] = [asdict(promise) for promise in found]
    lines = table(result, found)
    write_lines(args.out / "load.json", [json.dumps(result, indent=1)])
    write_lines(args.out / "load.md", lines)
    write_lines(args.out / "load.svg", [drawn])
    print("\n".join([*lines, "", *result["problems"][:20]]))
    sys.exit(0 if all(promise.kept for promise in found) else 1)


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
