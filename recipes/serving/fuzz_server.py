"""Does any sequence of bytes make the reward server fail? Fuzzing of bodies, of a socket and of the schema.

    python recipes/serving/fuzz_server.py --bodies 50000 --out outputs/fuzz

Three parts: changed bodies straight into the application; changed requests, HTTP included, over a socket; and
schemathesis (`pip install schemathesis`) on the OpenAPI page. Behind the server is a scorer without weights,
or a real model with `--model`. What fails is kept under `--out` as the request itself, for `--replay FILE`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_bodies import Shot, mutated, valid_shots
from fuzz_replies import Reply, complaint
from fuzz_sockets import READERS, Outcome, run_schemathesis, send, serving, shoot_sockets

from qsave_reward.data import write_lines
from qsave_reward.errors import QSaveError
from qsave_reward.loading import load_scorer
from qsave_reward.server.app import create_app
from qsave_reward.server.settings import Settings
from qsave_reward.slowfast import FramePlan
from qsave_reward.terminal import progress_bar
from qsave_reward.types import DIMENSIONS, Defect, DimensionScore, Provenance, VideoScore
from qsave_reward.video import Clip, write_clip

AT_ONCE = 16
PATIENCE = 60.0
"""Seconds after which a request that was not answered has failed."""
BODY_SECONDS = 1.0
FILE_SHARE = 0.02
"""Share of requests with an encoded file: each costs a decoding, other requests next to nothing."""


class Brightness:
    """A scorer without weights that insists on what the server promises to scorers."""

    def __init__(self) -> None:
        self.frame_plan = FramePlan(max_frames=8, token_budget=96, max_slow_tokens=64, token_side=16)
        self.provenance = Provenance("brightness", "0", "1", asdict(self.frame_plan))

    def score_batch(
        self, videos: Sequence[Clip], prompts: Sequence[str], *, mode: str = "direct", on_error: str = "raise"
    ) -> list[VideoScore]:
        assert on_error == "return" and mode in ("direct", "reasoned")
        return [self._card(clip, prompt) for clip, prompt in zip(videos, prompts, strict=True)]

    def explain_batch(
        self, videos: Sequence[Clip], prompts: Sequence[str], *, on_error: str = "raise"
    ) -> list[VideoScore]:
        cards = self.score_batch(videos, prompts, on_error=on_error)
        return [replace(card, defects=(Defect("visual_quality", "blur", 0.5),)) for card in cards]

    def _card(self, clip: Clip, prompt: str) -> VideoScore:
        assert isinstance(clip, Clip) and 1 <= len(clip.frames) <= self.frame_plan.max_frames
        assert prompt.strip() and prompt.encode()
        light = float(clip.frames.mean()) / 255
        score = DimensionScore.from_probs([1 - light, 0.0, 0.0, 0.0, light])
        return VideoScore(dict.fromkeys(DIMENSIONS, score), self.provenance, warnings=clip.warnings)


async def ask(app: Any, shot: Shot) -> Reply:
    """The reply of an application to one request whose client waits."""
    path, _, query = shot.target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": shot.headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    parts = [shot.body[: len(shot.body) // 2], shot.body[len(shot.body) // 2 :]]
    status, answer = 0, bytearray()

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def reply(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        answer.extend(message.get("body", b""))

    await app(scope, receive, reply)
    return Reply(status, bytes(answer))


async def try_shot(app: Any, shot: Shot) -> Outcome:
    """Judge the reply to one request; a crash and silence are faults."""
    try:
        reply = await asyncio.wait_for(ask(app, shot), PATIENCE)
    except asyncio.TimeoutError:
        return Outcome(shot.to_bytes(), "no reply", f"no reply within {PATIENCE:g} s")
    except Exception as error:  # anything is a finding
        return Outcome(shot.to_bytes(), "crash", f"{type(error).__name__}: {error}")
    return Outcome(shot.to_bytes(), str(reply.status), complaint(reply))


def draw(shots: Sequence[Shot], file: bytes, rng: random.Random) -> Shot:
    """One changed request; few of them with an encoded file."""
    wanted = [shot for shot in shots if (file in shot.body) == (rng.random() < FILE_SHARE)] or shots
    return mutated(rng.choice(wanted), shots, rng)


async def shoot(
    app: Any, draws: Callable[[int], Shot], count: int, *, advance: Callable[[int], None]
) -> tuple[Counter[str], list[Outcome], list[str]]:
    """Send `count` requests into an application.

    Returns:
        how often each status came, the outcomes with a fault, and what was left behind when all were done.
    """
    words, faults = Counter[str](), []
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            outcome = await try_shot(app, draws(number))
            words[outcome.word] += 1
            if outcome.fault:
                faults.append(outcome)
            advance(1)

    service = app.state.service
    async with app.router.lifespan_context(app):
        while not service.ready:
            await asyncio.sleep(0.02)
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        left = leftovers(service)
    return words, faults, left


def leftovers(service: Any) -> list[str]:
    """What an idle server should not hold."""
    counts = {"bytes of requests": service.bodies.held, "places in the queue": service.batcher.promised}
    return [f"{count} {name} are still held" for name, count in counts.items() if count]


def keep(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write every request that led to a fault, and a list of the faults."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, outcome in enumerate(outcomes):
        name = f"{number:04d}.http"
        (folder / name).write_bytes(outcome.request)
        rows.append(json.dumps({"file": name, "reply": outcome.word, "fault": outcome.fault}))
    write_lines(folder / "faults.jsonl", rows)


def table(parts: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: a row for each part."""
    lines = ["| part | requests | a second | replies | faults |", "|---|---|---|---|---|"]
    for name, part in parts.items():
        replies = ", ".join(f"{word}: {count}" for word, count in sorted(part["replies"].items()))
        lines.append(f"| {name} | {part['requests']} | {part['pace']:.0f} | {replies} | {part['faults']} |")
    return lines


def measure(args: argparse.Namespace, scorer: Any) -> dict[str, Any]:
    """Run all parts; the result is what is written."""
    parts: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        picture = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
        write_clip(Path(root) / "clip.mp4", picture, fps=8)
        file = (Path(root) / "clip.mp4").read_bytes()
        shots = valid_shots(file)
        settings = Settings(media_root=root, batch_window=0.0, body_timeout=BODY_SECONDS, max_body=8 << 20)

        def record(name: str, words: Counter[str], faults: list[Outcome], began: float) -> None:
            seconds = time.monotonic() - began
            count = sum(words.values())
            parts[name] = {"requests": count, "pace": count / seconds, "replies": dict(words)}
            parts[name]["faults"] = len(faults)
            problems.extend(f"{name}: {outcome.fault}" for outcome in faults[:20])
            keep(faults, args.out / name)

        def draws(number: int) -> Shot:
            return draw(shots, file, random.Random(f"body {args.seed} {number}"))

        with progress_bar(args.bodies, "bodies") as advance:
            began = time.monotonic()
            app = create_app(scorer, settings)
            words, faults, left = asyncio.run(shoot(app, draws, args.bodies, advance=advance))
            record("bodies", words, faults, began)
            problems += left
        readers = [name for name in READERS if importlib.util.find_spec(name)]
        for reader in readers:
            app, count = create_app(scorer, settings), args.sockets // len(readers)
            with serving(app, reader) as port, progress_bar(count, f"sockets, {reader}") as advance:
                began = time.monotonic()
                outcomes = shoot_sockets(port, shots, count, seed=args.seed, advance=advance)
                faults = [outcome for outcome in outcomes if outcome.fault]
                words = Counter(outcome.word for outcome in outcomes)
                record(f"sockets-{reader}", words, faults, began)
                time.sleep(2 * BODY_SECONDS)
                problems += leftovers(app.state.service)
        status = None
        if args.examples:
            token = "a-token-for-the-schema"
            with serving(create_app(scorer, replace(settings, token=token))) as port:
                status = run_schemathesis(port, args.out, token=token, examples=args.examples, seed=args.seed)
            if status:
                problems.append("schemathesis found something: see schemathesis.txt")
    return {"seed": args.seed, "parts": parts, "schemathesis": status, "problems": problems}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bodies", type=int, default=50_000, help="into the application")
    parser.add_argument("--sockets", type=int, default=1000, help="over a socket")
    parser.add_argument("--examples", type=int, default=100, help="of schemathesis for an operation; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default=None, help="a real model instead of the scorer without weights")
    parser.add_argument("--out", type=Path, default=Path("outputs/fuzz"))
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="send one kept request and show the reply"
    )
    args = parser.parse_args()
    scorer = load_scorer(args.model) if args.model else Brightness()
    if args.replay:
        with serving(create_app(scorer, Settings(body_timeout=BODY_SECONDS))) as port:
            outcome = send(port, args.replay.read_bytes(), owed=True)
        sys.exit(f"{outcome.word}: {outcome.fault or 'no fault'}")
    args.out.mkdir(parents=True, exist_ok=True)
    result = measure(args, scorer)
    write_lines(args.out / "fuzz.json", [json.dumps(result, indent=1)])
    lines = table(result["parts"])
    named = {None: "not run", 0: "nothing found"}.get(result["schemathesis"], "failed")
    print("\n".join([*lines, "", f"schemathesis: {named}", *result["problems"]]))
    sys.exit(1 if result["problems"] else 0)


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
