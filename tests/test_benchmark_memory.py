"""`qsave bench memory`: memory that stays, memory that grows, and what is said about them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_cases import command
from fake_model import FakeModel

from qsave_reward import command_options
from qsave_reward.errors import ConfigError
from qsave_reward.model import RewardModel
from qsave_reward.speed import memory, process_memory
from qsave_reward.speed.memory import Reading, bench_memory, growth
from qsave_reward.speed.mixture import mixed
from qsave_reward.speed.process_memory import resident_mb
from qsave_reward.speed.workload import Workload
from qsave_reward.video import Clip

linux = pytest.mark.skipif(resident_mb() is None, reason="needs /proc")


class Steady(FakeModel):
    """Scores without weights, on the CPU."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.model = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)
        self.batch_size = batch_size
        self.seen: list[tuple[tuple[int, ...], bytes]] = []

    def score_batch(self, videos, prompts, **options):
        self.seen += [(clip.frames.shape, clip.frames[0, 0, 0].tobytes()) for clip in videos]
        return super().score_batch(videos, prompts, **options)


class Leaking(Steady):
    """Keeps something of every batch: in all as much as a fifth of what this process has."""

    def __init__(self, clips: int) -> None:
        super().__init__()
        self.kept: list[np.ndarray] = []
        self.share = int(1e6 * (resident_mb() or 0) / 5 / clips)

    def score_batch(self, videos, prompts, **options):
        self.kept.append(np.ones(self.share * len(videos), dtype=np.uint8))
        return super().score_batch(videos, prompts, **options)


@linux
def test_memory_that_is_held_is_seen() -> None:
    before = resident_mb()
    block = np.ones(100_000_000, dtype=np.uint8)
    assert resident_mb() - before == pytest.approx(100, abs=10)
    del block
    assert resident_mb("VmHWM") > before + 90


def test_growth_by_hand() -> None:
    readings = [Reading(50, 100, 200), Reading(100, 102, 208), Reading(150, 104, 206)]
    found = growth(readings)
    assert (found.growth_mb, found.growth_percent, found.flat) == (8, 4.0, True)
    assert found.slope_mb_per_100_clips == pytest.approx(4.0) and found.readings == tuple(readings)
    assert growth([Reading(50, 1, 200), Reading(100, 1, 210)]).flat  # 5 percent: the most
    assert not growth([Reading(50, 1, 200), Reading(100, 1, 210.1)]).flat
    shrunk = growth([Reading(50, 9, 200), Reading(100, 7, 190)])
    assert (shrunk.growth_mb, shrunk.flat) == (-10, True)
    assert shrunk.slope_mb_per_100_clips == pytest.approx(-4.0)


@pytest.fixture
def one_clip(monkeypatch):
    """The same small clip over and over: rendering leaves some memory behind before it settles."""
    rendered = mixed([0])
    (clip,), (prompt,) = rendered.clips, rendered.prompts
    small = Clip(clip.frames[:2].copy(), clip.times[:2], clip.duration)
    monkeypatch.setattr(
        memory, "mixed", lambda numbers, period: Workload([small] * len(numbers), [prompt] * len(numbers))
    )


@linux
def test_a_scorer_that_keeps_nothing_is_flat(one_clip) -> None:
    found = bench_memory(Steady(), clips=60, every=20)
    assert found.flat and found.resident.flat and found.cuda is None
    assert abs(found.resident.growth_percent) < 1


@linux
def test_shapes_recur_up_to_each_reading() -> None:
    scorer, done = Steady(), []
    found = bench_memory(scorer, clips=27, every=10, progress=done.append)
    assert [reading.clips for reading in found.resident.readings] == [10, 20, 27]
    assert all(100 < one.now_mb <= one.peak_mb + 50 for one in found.resident.readings)
    # Ten clips are batches of 4, 4 and 2; the shapes recur, the content does not.
    assert done == [4, 4, 2, 4, 4, 2, 4, 3]
    assert [count for _, count in scorer.batches] == done
    shapes, contents = zip(*scorer.seen, strict=True)
    assert shapes[:10] == shapes[10:20] and shapes[20:] == shapes[:7] and len(set(shapes[:10])) > 5
    assert contents[:10] != contents[10:20]


@linux
def test_another_malloc_has_no_number_that_is_0(monkeypatch) -> None:
    """Where jemalloc stands in for glibc's malloc, glibc has handed out nothing."""
    idle = SimpleNamespace(mallinfo2=lambda: process_memory._Mallinfo())
    monkeypatch.setattr(process_memory.ctypes, "CDLL", lambda name: idle)
    assert process_memory.allocated_mb() is None
    found = bench_memory(Steady(), clips=20, every=10)
    assert found.allocated is None and found.resident.flat


@pytest.mark.skipif(process_memory.allocated_mb() is None, reason="needs glibc 2.33")
def test_what_is_held_is_told_apart_from_what_is_kept_for_later(one_clip) -> None:
    before = process_memory.allocated_mb()
    block = np.ones(100_000_000, dtype=np.uint8)
    assert process_memory.allocated_mb() - before == pytest.approx(100, abs=5)
    del block
    assert process_memory.allocated_mb() - before == pytest.approx(0, abs=5)
    kept = bench_memory(Leaking(60), clips=60, every=20).allocated
    assert kept.growth_mb > 10 and not kept.flat
    assert bench_memory(Steady(), clips=60, every=20).allocated.growth_mb < 1


@linux
def test_a_leak_is_not_flat(one_clip) -> None:
    found = bench_memory(Leaking(60), clips=60, every=20)
    assert not found.flat and not found.resident.flat
    assert found.resident.growth_percent > 8 and found.resident.slope_mb_per_100_clips > 10
    nows = [reading.now_mb for reading in found.resident.readings]
    assert nows == sorted(nows)


def test_rendering_is_not_counted(monkeypatch) -> None:
    """Only the scoring of each batch lies between the start of a peak and its end."""
    log = []
    real = memory.mixed
    monkeypatch.setattr(memory, "mixed", lambda *a, **k: (log.append("render"), real(*a, **k))[1])

    def peak(device, work):
        log.append("begin")
        work()
        log.append("end")
        return 10.0 * len(log)

    monkeypatch.setattr(memory, "peak_mb", peak)
    monkeypatch.setattr(memory, "resident_mb", lambda: 5.0)
    scorer = Steady(batch_size=2)
    score = scorer.score_batch
    monkeypatch.setattr(scorer, "score_batch", lambda *a, **k: (log.append("score"), score(*a, **k))[1])
    found = bench_memory(scorer, clips=6, every=3)
    assert log == ["render", "begin", "score", "end"] * 4
    # The largest peak of a reading's batches.
    assert [one.peak_mb for one in found.resident.readings] == [80.0, 160.0]
    assert [one.now_mb for one in found.resident.readings] == [5.0, 5.0]


def test_both_kinds_of_memory_on_cuda(monkeypatch) -> None:
    """The device leaks, the process does not."""
    allocated = 0.0

    def peak(device, work):
        nonlocal allocated
        work()
        if device.type == "cpu":
            return 300.0
        allocated += 10.0
        return allocated

    monkeypatch.setattr(memory, "peak_mb", peak)
    monkeypatch.setattr(memory, "resident_mb", lambda: 290.0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1e6 * allocated)
    scorer = Steady(batch_size=1)
    scorer.model.device = torch.device("cuda:0")
    found = bench_memory(scorer, clips=4, every=2)
    assert found.resident.flat and not found.cuda.flat and not found.flat
    assert [(one.now_mb, one.peak_mb) for one in found.cuda.readings] == [(20, 20), (40, 40)]
    assert (found.cuda.growth_mb, found.cuda.growth_percent) == (20, 100)
    assert found.cuda.slope_mb_per_100_clips == pytest.approx(1000)


@pytest.mark.parametrize(("clips", "every"), [(50, 50), (5, 9)])
def test_clips_for_one_reading_only(clips, every) -> None:
    with pytest.raises(
        ConfigError, match=f"more clips than the {every} up to the first reading, got {clips}"
    ):
        bench_memory(Steady(), clips=clips, every=every)


def test_a_system_that_does_not_tell(monkeypatch) -> None:
    monkeypatch.setattr(process_memory, "Path", lambda _: SimpleNamespace(read_text=_missing))
    assert resident_mb() is None
    with pytest.raises(ConfigError, match="run this on Linux"):
        bench_memory(Steady(), clips=2, every=1)


def _missing() -> str:
    raise FileNotFoundError("/proc/self/status")


@linux
def test_the_command_on_the_model(monkeypatch, capsys, tiny) -> None:
    copy = RewardModel(tiny.model, tiny.processor, tiny.metadata, name="tiny", batch_size=2)
    monkeypatch.setattr(command_options, "load_model", lambda name, device: copy)
    code, out, _ = command(monkeypatch, capsys)("bench", "memory", "--clips", "6", "--every", "2", "--json")
    found = json.loads(out)
    assert code == (0 if found["flat"] else 1)  # six clips are too few to promise it
    assert found["flat"] == (found["resident"]["growth_percent"] <= found["tolerance_percent"] == 5)
    assert set(found["resident"]) == {
        *("growth_mb", "growth_percent", "slope_mb_per_100_clips", "flat", "readings")
    }
    assert [set(one) for one in found["resident"]["readings"]] == [{"clips", "now_mb", "peak_mb"}] * 3
    assert found["cuda"] is None and (found["clips"], found["every"], found["batch_size"]) == (6, 2, 2)
    assert (found["model"], found["dtype"], found["machine"]["device"]) == ("tiny", "float32", "cpu")


@linux
def test_a_leak_is_exit_code_1(monkeypatch, capsys, one_clip) -> None:
    scorers = {"steady": Steady(), "leaking": Leaking(40)}
    monkeypatch.setattr(command_options, "load_model", lambda name, device: scorers[name])
    run = command(monkeypatch, capsys)
    code, out, err = run("bench", "memory", "--model", "leaking", "--clips", "40", "--every", "10")
    assert code == 1 and "memory grew" in err and "false" in out and "resident after 40" in out
    code, out, err = run("bench", "memory", "--model", "steady", "--clips", "40", "--every", "20")
    assert code == 0 and err == "" and "true (peak within 5 %)" in out
    code, _, err = run("bench", "memory", "--clips", "50")
    assert code == 2 and "end with the first reading" in err
    assert run("bench", "memory", "--every", "0")[0] == 2
