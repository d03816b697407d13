"""Frames through shared memory: exact, at most two ahead, given back; whatever is missing is an error."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import encode

from qsave_reward.decoding import worker
from qsave_reward.decoding.pipe import receive
from qsave_reward.decoding.slots import SLOTS, FrameWriter, open_memory, read_frame, set_size
from qsave_reward.errors import VideoError
from qsave_reward.video import Limits, read_clip


class Ends:
    """A writer in a thread, and the parent's ends of its pipes."""

    def __init__(self, write, *, frame_bytes: int) -> None:
        self.memory = open_memory()
        set_size(self.memory, frame_bytes)
        requests, self.answers = os.pipe()
        self.replies, replies = os.pipe()
        self.writer = FrameWriter(self.memory.fileno(), requests, replies)
        self.thread = threading.Thread(target=write, args=(self.writer,), daemon=True)
        self.thread.start()
        self.ends = [requests, self.answers, self.replies, replies]

    def close(self) -> None:
        self.thread.join(timeout=10)
        assert not self.thread.is_alive()
        self.memory.close()
        for fd in self.ends:
            os.close(fd)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=4))
def test_frames_arrive_as_they_were_also_when_the_writer_begins_anew(shapes):
    random = np.random.default_rng(0)
    sent = [random.integers(0, 256, (n, h, w, 3), dtype=np.uint8) for n, h, w in shapes]

    def write(writer):
        for frames in sent:
            for position, frame in enumerate(frames):
                writer(frame[:, ::-1], position, len(frames))
        writer.finish()

    ends = Ends(write, frame_bytes=max(frames[0].nbytes for frames in sent))
    for frames in sent:
        for position, frame in enumerate(frames):
            header = receive(ends.replies)
            assert (header["frame"], header["of"]) == (position, len(frames))
            found = np.empty((header["height"], header["width"], 3), np.uint8)
            read_frame(ends.memory, found, position)
            assert np.array_equal(found, frame[:, ::-1])
            os.write(ends.answers, b"\0")
    ends.close()


def test_the_writer_waits_for_a_parent_that_has_not_read():
    written = []

    def write(writer):
        for position in range(5):
            writer(np.full((8, 8, 3), position, np.uint8), position, 5)
            written.append(position)
        writer.finish()

    ends = Ends(write, frame_bytes=192)
    frame = np.empty((8, 8, 3), np.uint8)
    for position in range(5):
        assert receive(ends.replies)["frame"] == position
        ends.thread.join(timeout=0.05)
        assert len(written) <= position + SLOTS and ends.thread.is_alive()
        read_frame(ends.memory, frame, position)
        assert (frame == position).all()
        os.write(ends.answers, b"\0")
    ends.close()


def test_memory_that_was_taken_away_is_an_error():
    frame = np.empty((64, 64, 3), np.uint8)
    with open_memory() as memory:
        set_size(memory, frame.nbytes)
        read_frame(memory, frame, 1)
        for size in (2 * frame.nbytes - 1, 100, 0):
            os.ftruncate(memory.fileno(), size)
            with pytest.raises(ValueError, match="missing in shared memory"):
                read_frame(memory, frame, 1)


def test_a_clip_leaves_no_memory_and_a_stopped_decoder_no_descriptor(tmp_path):
    path = encode(tmp_path / "a.mp4", 20)
    long = encode(tmp_path / "long.mp4", 40, size=(720, 1280))
    worker._pool.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        read_clip(path)
        assert os.fstat(worker._pool.idle[-1].memory.fileno()).st_size == 0
        with pytest.raises(VideoError, match="not read within"):
            read_clip(long, limits=Limits(timeout=0.02))
        with pytest.raises(VideoError, match="no video track"):
            read_clip(path.read_bytes()[:1500])
    worker._pool.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_limits_that_are_no_limits(tmp_path):
    path = encode(tmp_path / "a.mp4", 20)
    expected = read_clip(path).frames
    for limits in (Limits(max_pixels=2**60), Limits(max_pixels=1e9), Limits(max_frame_bytes=2**60)):
        assert np.array_equal(read_clip(path, limits=limits).frames, expected)
