"""From an item of a request to a clip in memory: frames are there, files are decoded in worker processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from qsave_reward.errors import ConfigError, QSaveError, VideoError
from qsave_reward.fields import show
from qsave_reward.limits import Limits
from qsave_reward.server.meters import Meters
from qsave_reward.server.settings import Settings
from qsave_reward.slowfast import FramePlan
from qsave_reward.video import Clip, Sampling, read_clip
from qsave_reward.wire import Item, WirePath

READERS = max(2, min(8, os.cpu_count() or 1))
"""Files read at a time."""


class Intake:
    """Reads the clips of requests beside the scoring."""

    def __init__(self, plan: FramePlan, settings: Settings, meters: Meters) -> None:
        self.sampling = Sampling(max_frames=plan.max_frames, fps=plan.fps)
        self.limits = Limits(max_pixels=settings.max_pixels, max_bytes=settings.max_body)
        self.root = None if settings.media_root is None else os.path.realpath(settings.media_root)
        self.meters = meters
        self.most_decoded, self.decoded = settings.max_bytes, 0
        self._scored = asyncio.Event()
        self._turns = asyncio.Semaphore(READERS)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="read")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def read(self, item: Item) -> AsyncIterator[Clip | QSaveError]:
        """The clip of one item, sampled as the model wants it, or what is wrong with it.

        Frames decoded from a file, which may be thousands of times as large, are counted until the block is
        left. No file is decoded while they are more than `max_bytes`.
        """
        video = item.video
        if isinstance(video, QSaveError):
            yield video
        elif isinstance(video, Clip):  # few frames and no decoding: not worth a thread
            yield self._from_frames(video)
        else:
            async with self._turns:
                clip = await self._decode(video)
            held = 0 if isinstance(clip, QSaveError) else clip.frames.nbytes
            self._count(held)
            try:
                yield clip
            finally:
                self._count(-held)

    async def _decode(self, video: WirePath | bytes | bytearray | memoryview) -> Clip | QSaveError:
        while self.decoded > self.most_decoded:
            self._scored.clear()
            await self._scored.wait()
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        clip = await loop.run_in_executor(self._threads, self._from_file, video)
        self.meters.reading.observe(time.monotonic() - started)
        return clip

    def _count(self, held: int) -> None:
        self.decoded += held
        self.meters.decoded.set(self.decoded)
        self._scored.set()

    def _from_frames(self, clip: Clip) -> Clip | QSaveError:
        height, width = clip.frames.shape[1:3]
        if height * width > self.limits.max_pixels:
            return VideoError(
                f"expected at most {self.limits.max_pixels} pixels a frame, got {width}x{height}",
                code="too_large",
            )
        return read_clip(clip, self.sampling)

    def _from_file(self, video: WirePath | bytes | bytearray | memoryview) -> Clip | QSaveError:
        try:
            if not isinstance(video, WirePath):
                return read_clip(video, self.sampling, limits=self.limits)
            path = self._under_root(video.path)
            try:
                return read_clip(path, self.sampling, limits=self.limits)
            except VideoError as error:
                # The caller knows the file by its own name; where the root lies is not its business.
                return VideoError(str(error).replace(path, video.path), code=error.code)
        except QSaveError as error:
            return error

    def _under_root(self, name: str) -> str:
        if self.root is None:
            raise ConfigError(
                "this server reads no files of its own; send the bytes or the frames", code="no_media_root"
            )
        if "\0" not in name and not os.path.isabs(name):
            path = os.path.realpath(os.path.join(self.root, name))
            if os.path.commonpath([path, self.root]) == self.root:
                return path
        raise VideoError(f"{show(name)}: expected a path inside the media root", code="outside_root")
