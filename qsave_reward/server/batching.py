"""Clips wait in one queue; each replica takes as many as fill a forward pass.

A batch holds clips of one mode up to a budget of visual tokens; the longest of long prompts is counted for
each clip, since the others are padded to it. It leaves at once for a replica that does nothing; for one at
work, when the budget is full or when its first clip has waited for the window, whichever is earlier: a lone
clip waits for nobody, and under load the next batch fills while the replica works. A batch that fails is
halved until the clip to blame stands alone: the others get their scores. A replica whose worker does not
start rests for a while, and others take its batch.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from qsave_reward.errors import QSaveError, ServerError
from qsave_reward.server.load import Load, visual_tokens
from qsave_reward.server.meters import Meters
from qsave_reward.server.settings import Settings
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import VideoScore
from qsave_reward.video import Clip
from qsave_reward.wire import WireMode

_log = logging.getLogger(__name__)

BATCHES_AT_ONCE = 2
"""Batches a replica works on: one is prepared while the other is in its forward pass."""

STARTS = 3
"""How often a batch waits for a worker that does not start."""
_START_PAUSE = 1.0
REST = 10.0
"""Seconds for which a replica whose worker did not start gets no batch."""


@dataclass(eq=False)
class Ticket:
    """One clip on its way to a score."""

    clip: Clip
    prompt: str
    mode: WireMode
    deadline: float
    tokens: int = 0  # visual ones, known once it is in the queue
    arrived: float = field(default_factory=time.monotonic)
    result: asyncio.Future[VideoScore | QSaveError] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """The queue before the replicas. Everything but the scoring happens on the event loop."""

    def __init__(self, replicas: Sequence[Any], plan: FramePlan, settings: Settings, meters: Meters) -> None:
        self.replicas = replicas
        self.plan = plan
        self.settings = settings
        self.meters = meters
        self.waiting: deque[Ticket] = deque()
        self.promised = 0
        self.pace = 0.0  # clips scored a second, smoothed
        self._change = asyncio.Event()
        self._threads = ThreadPoolExecutor(len(replicas) * BATCHES_AT_ONCE, thread_name_prefix="score")
        self._busy = [0] * len(replicas)  # batches that each replica works on
        self._rests_until = [0.0] * len(replicas)
        self._slots = [asyncio.Semaphore(BATCHES_AT_ONCE) for _ in replicas]
        self._alone = [asyncio.Lock() for _ in replicas]
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to serve the queue; needs a running event loop."""
        self._tasks.add(asyncio.create_task(self._hand_out()))

    async def close(self) -> None:
        """Stop; what still waits gets a `ServerError`."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self.waiting:
            _settle(self.waiting.popleft(), ServerError("the server is shutting down", code="shutting_down"))
        self._threads.shutdown(wait=False, cancel_futures=True)

    def reserve(self, count: int) -> None:
        """Take `count` places in the queue, to be given back by `release`.

        Raises:
            ServerError: (`code="busy"`) when there are not that many now; (`too_many_clips`) when never.
        """
        if count > self.settings.max_queue:
            raise ServerError(
                f"expected at most {self.settings.max_queue} clips in a request, got {count}",
                code="too_many_clips",
            )
        if self.promised + count > self.settings.max_queue:
            self.meters.refused.labels("busy").inc(count)
            raise ServerError(
                f"{self.promised} of {self.settings.max_queue} places are taken; try again in "
                f"{self.retry_after()} s",
                code="busy",
            )
        self.promised += count
        self.meters.queue.set(self.promised)

    def release(self, count: int) -> None:
        self.promised -= count
        self.meters.queue.set(self.promised)

    def retry_after(self) -> int:
        """Seconds in which the clips at hand should be done, 1 to 60, by the measured pace."""
        return min(60, max(1, math.ceil(self.promised / self.pace))) if self.pace else 1

    def submit(self, ticket: Ticket) -> asyncio.Future[VideoScore | QSaveError]:
        """Put a clip into the queue. Cancelling the future takes it out."""
        ticket.tokens = visual_tokens(ticket.clip, self.plan)
        self.waiting.append(ticket)
        self._change.set()
        return ticket.result

    async def _hand_out(self) -> None:
        """Give batches to replicas, one at a time, so that no batch is split between two."""
        while True:
            wait = self._wait()
            if wait is None or wait > 0:
                self._change.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._change.wait(), wait)
            elif batch := self._take():
                replica = min(self._free(), key=self._busy.__getitem__)
                self._busy[replica] += 1
                task = asyncio.create_task(self._work(replica, batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _wait(self) -> float | None:
        """Seconds until the next batch leaves, if nothing changes; `None` when something has to change."""
        now = time.monotonic()
        if not self._prune():
            return None
        if not (free := self._free()):
            return min((until - now for until in self._rests_until if until > now), default=None)
        if any(self._busy[replica] == 0 for replica in free) or self._full():
            return 0.0
        return max(0.0, self.waiting[0].arrived + self.settings.batch_window - now)

    def _free(self) -> list[int]:
        """Replicas that may get a batch."""
        now = time.monotonic()
        states = enumerate(zip(self._busy, self._rests_until, strict=True))
        return [i for i, (busy, until) in states if busy < BATCHES_AT_ONCE and until <= now]

    @property
    def able(self) -> bool:
        """Whether any replica is to be had; otherwise no worker starts."""
        return min(self._rests_until) <= time.monotonic()

    async def _work(self, replica: int, batch: list[Ticket]) -> None:
        try:
            await self._score(replica, batch)
        finally:
            self._busy[replica] -= 1
            self._change.set()

    def _prune(self) -> bool:
        """Drop from the head of the queue what nobody waits for; whether something is left."""
        while self.waiting and self.waiting[0].result.done():
            self.waiting.popleft()
        return bool(self.waiting)

    def _full(self) -> bool:
        load = Load(self.settings.batch_tokens)
        return any(not load.take(ticket.tokens, ticket.prompt) or load.full for ticket in self.waiting)

    def _take(self) -> list[Ticket]:
        """The oldest clip and those of its mode behind it that fit beside it; the order of the rest stays."""
        batch: list[Ticket] = []
        left: deque[Ticket] = deque()
        load, now = Load(self.settings.batch_tokens), time.monotonic()
        while self.waiting:
            ticket = self.waiting.popleft()
            if ticket.result.done():
                continue
            if now > ticket.deadline:
                _settle(ticket, too_late())
                continue
            if batch and ticket.mode != batch[0].mode:
                left.append(ticket)
            elif load.take(ticket.tokens, ticket.prompt):
                batch.append(ticket)
            else:
                left.append(ticket)
                break
        left.extend(self.waiting)
        self.waiting = left
        return batch

    async def _score(self, replica: int, batch: list[Ticket]) -> None:
        self.meters.batch.observe(len(batch))
        self.meters.tokens.inc(sum(ticket.tokens for ticket in batch))
        started = time.monotonic()
        await self._try(replica, batch, retry=True)
        seconds = time.monotonic() - started
        self.meters.forward.observe(seconds)
        pace = len(batch) / max(seconds, 1e-6) * len(self.replicas)
        self.pace = pace if not self.pace else 0.8 * self.pace + 0.2 * pace

    async def _try(self, replica: int, batch: list[Ticket], *, retry: bool) -> None:
        batch = [ticket for ticket in batch if not ticket.result.done()]
        if not batch:
            return
        try:
            if retry:
                async with self._slots[replica]:
                    results = await self._judge(replica, batch)
            else:  # with the replica to itself: the other batch may be what brings the worker down
                async with self._alone[replica], self._slots[replica], self._slots[replica]:
                    results = await self._judge(replica, batch)
        except Exception as error:  # a fault of a library or a worker that died: not to be guessed at
            _log.warning("a batch of %d failed: %r", len(batch), error)
            self.meters.failed_batches.inc()
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._try(replica, batch[:middle], retry=True)
                await self._try(replica, batch[middle:], retry=True)
            elif retry:
                await self._try(replica, batch, retry=False)
            else:
                _log.error("a clip could not be scored", exc_info=error)
                _settle(batch[0], ServerError("scoring this clip failed twice", code="scoring_failed"))
            return
        if results is None:
            self.waiting.extendleft(reversed(batch))
            return
        for ticket, result in zip(batch, results, strict=True):
            _settle(ticket, result)

    async def _judge(self, replica: int, batch: list[Ticket]) -> Sequence[VideoScore | QSaveError] | None:
        """The results; a worker that does not start is no fault of the batch, which waits for another try.

        Returns:
            `None` when another replica is to score the batch.
        """
        loop = asyncio.get_running_loop()
        for _ in range(STARTS):
            try:
                return await loop.run_in_executor(self._threads, judge, self.replicas[replica], batch)
            except ServerError as error:
                if error.code != "no_worker":
                    raise
                _log.warning("a batch of %d waits: %s", len(batch), error)
            await asyncio.sleep(_START_PAUSE)
        self._rests_until[replica] = time.monotonic() + REST
        if self.able:
            return None
        return [ServerError("the worker process does not start", code="no_worker") for _ in batch]


def judge(scorer: Any, batch: Sequence[Ticket]) -> list[VideoScore | QSaveError]:
    """Score a batch of one mode."""
    clips, prompts = [ticket.clip for ticket in batch], [ticket.prompt for ticket in batch]
    mode = batch[0].mode
    if mode == "explained":
        explained: list[VideoScore | QSaveError] = scorer.explain_batch(clips, prompts, on_error="return")
        return explained
    scored: list[VideoScore | QSaveError] = scorer.score_batch(clips, prompts, mode=mode, on_error="return")
    return scored


def too_late() -> ServerError:
    """The error of a clip whose time is over."""
    return ServerError("the time for this clip was over before it was scored", code="timeout")


def _settle(ticket: Ticket, result: VideoScore | QSaveError) -> None:
    if not ticket.result.done():
        ticket.result.set_result(result)
