"""The decoder process: limits, hangs, crashes, forks, orphans; and the project's hard files, one by one."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_files import encode, numbers

from qsave_reward.decoding import worker
from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.video import Limits, Sampling, read_clip

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("worker") / "sound.mp4", 40)


@pytest.fixture(scope="module")
def long_path(tmp_path_factory):
    """A clip that takes the decoder half a second or so."""
    return encode(tmp_path_factory.mktemp("worker") / "long.mp4", 80, size=(1080, 1920))


def refused(video, **arguments) -> str:
    """The code of the error that reading `video` ends in."""
    with pytest.raises(VideoError) as caught:
        read_clip(video, **arguments)
    assert len(str(caught.value)) > 20
    return caught.value.code


def idle_pid() -> int:
    """The decoder process that the next read will use."""
    return worker._pool.idle[-1].process.pid


def exists(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


# limits


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_source_frames": 39}, "too_many_frames"),
        ({"max_seconds": 1.5}, "too_long"),
        ({"max_pixels": 64 * 159}, "too_large"),
        ({"max_bytes": 1000}, "too_large"),
        ({"max_frame_bytes": 15 * 64 * 160 * 3}, "too_large"),
    ],
)
def test_limits(clip_path, limits, code):
    assert refused(clip_path, limits=Limits(**limits)) == code
    assert refused(clip_path.read_bytes(), limits=Limits(**limits)) == code
    assert len(read_clip(clip_path).frames) == 16


def test_the_exact_limit_is_allowed(long_path):
    exact = Limits(max_pixels=1920 * 1080, max_frame_bytes=2 * 1920 * 1080 * 3)
    assert len(read_clip(long_path, Sampling(2), limits=exact).frames) == 2


def test_memory_is_bounded(tmp_path, clip_path):
    Image.new("RGB", (4096, 2304)).save(tmp_path / "a.png")
    video = encode(tmp_path / "a.mp4", 6, size=(2304, 4096), options={"bf": "3", "refs": "4"})
    worker._pool.close()  # a used decoder may find room in what it holds already
    for path in (tmp_path / "a.png", video):
        assert refused(path, limits=Limits(max_memory=230 << 20)) == "out_of_memory"
        assert len(read_clip(clip_path).frames) == 16
    assert read_clip(video).frames.shape == (6, 2304, 4096, 3)


def test_enormous_frames_cost_little(tmp_path):
    path = encode(tmp_path / "large.mp4", 1, size=(4096, 4096))
    worker._pool.close()  # peak memory is to be that of these files alone
    read_clip(encode(tmp_path / "small.mp4", 2))
    pid = idle_pid()
    assert refused(path) == "too_large"
    Image.new("P", (16, 16)).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"  # a canvas of 65535 x 65535
    assert refused(data) == "too_large"
    Image.new("L", (20000, 20000)).save(tmp_path / "a.png")
    assert refused(tmp_path / "a.png") == "too_large"
    status = Path(f"/proc/{pid}/status").read_text()
    assert (
        int(status.split("VmHWM:")[1].split()[0]) < 300_000
    )  # kB; a picture of 20000 x 20000 alone takes 400,000


def test_timeout_stops_the_decoder(long_path, clip_path):
    read_clip(clip_path)
    pid, start = idle_pid(), time.monotonic()
    assert refused(long_path, limits=Limits(timeout=0.1)) == "timeout"
    assert time.monotonic() - start < 5 and not exists(pid)
    assert len(read_clip(clip_path).frames) == 16


# the process


def test_a_decoder_that_hangs_is_replaced(clip_path):
    read_clip(clip_path)
    pid = idle_pid()
    os.kill(pid, signal.SIGSTOP)
    assert refused(clip_path, limits=Limits(timeout=0.3)) == "timeout"
    assert not exists(pid)
    assert numbers(read_clip(clip_path, Sampling(2)).frames) == [0, 39] and idle_pid() != pid


def test_a_decoder_that_hangs_on_large_input_is_replaced(clip_path):
    read_clip(clip_path)
    os.kill(idle_pid(), signal.SIGSTOP)
    assert refused(clip_path.read_bytes() + bytes(8 << 20), limits=Limits(timeout=0.3)) == "timeout"


def test_a_decoder_killed_between_two_clips_is_replaced(clip_path):
    read_clip(clip_path)
    pid = idle_pid()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    assert len(read_clip(clip_path).frames) == 16 and not exists(pid)


def test_a_decoder_killed_at_work_is_an_error(long_path, clip_path):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(refused(long_path)))
    thread.start()
    assert wait_until(lambda: worker._pool.busy)
    pid = worker._pool.busy[0].process.pid
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert codes == ["decoder_crashed"] and not exists(pid)
    assert len(read_clip(clip_path).frames) == 16


def test_decoders_are_recycled(clip_path, monkeypatch):
    read_clip(clip_path)
    pid = idle_pid()
    monkeypatch.setattr(worker, "_RECYCLE_AFTER", 1)
    read_clip(clip_path)
    assert not exists(pid)


def test_only_a_few_decoders_are_started(clip_path):
    threads = [threading.Thread(target=read_clip, args=(clip_path,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worker._pool.idle) <= worker._WORKERS and not worker._pool.busy


def run(script: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would: no `__main__` guard, the package not installed but on the path."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    return subprocess.run(
        [sys.executable, "-W", "error", str(path), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_plain_script_works_and_leaves_nothing_behind(tmp_path, clip_path):
    script = """
        import sys
        from qsave_reward.video import read_clip
        from qsave_reward.decoding import worker
        assert read_clip(sys.argv[1]).frames.shape == (16, 64, 160, 3)
        assert not {"torch", "av", "PIL"} & set(sys.modules)
        print(worker._pool.idle[0].process.pid)
    """
    done = run(script, clip_path, folder=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert not exists(int(done.stdout))


def test_the_decoder_process_loads_no_torch():
    code = "import sys, qsave_reward.decoding.decode as _; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_decoder_ends_when_its_parent_is_killed(tmp_path, clip_path):
    script = """
        import os, signal, sys
        from qsave_reward.video import read_clip
        from qsave_reward.decoding import worker
        read_clip(sys.argv[1])
        print(worker._pool.idle[0].process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(script, clip_path, folder=tmp_path)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    # Where nobody reaps orphans the ended process remains as a zombie.
    assert wait_until(lambda: not exists(pid) or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")


def test_a_forked_child_has_decoders_of_its_own(tmp_path, clip_path):
    script = """
        import os, sys
        from qsave_reward.video import Sampling, read_clip
        from qsave_reward.decoding import worker

        def pid():
            return worker._pool.idle[-1].process.pid

        read_clip(sys.argv[1])
        before = pid()
        child = os.fork()
        if child == 0:
            assert not worker._pool.idle
            for _ in range(20):
                assert len(read_clip(sys.argv[1], Sampling(3)).frames) == 3
            assert pid() != before
            sys.exit(0)
        for _ in range(20):
            assert len(read_clip(sys.argv[1], Sampling(5)).frames) == 5
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pid() == before and len(read_clip(sys.argv[1]).frames) == 16
    """
    done = run(script, clip_path, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_decord_that_is_not_installed(clip_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        read_clip(clip_path, decoder="decord")


# the project's hard files


def _hard_inputs():
    listing = SHARED / "hard_inputs.jsonl"
    return [json.loads(line) for line in listing.read_text().splitlines()] if listing.is_file() else []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the project's hard inputs are not beside the repository")
@pytest.mark.parametrize("record", _hard_inputs(), ids=lambda record: record["id"])
def test_hard_inputs(record):
    start = time.monotonic()
    try:
        clip = read_clip(SHARED / record["file"])
    except VideoError as e:
        assert len(str(e)) > 40 and e.code not in {"decoder_crashed", "timeout", "out_of_memory"}
        small = record["width"] is not None and min(record["width"], record["height"]) < 16
        long = record["frames"] is not None and record["frames"] > 7200
        assert record["decodes"] != "all" or small or long
    else:
        size = {record["width"], record["height"]}
        assert record["width"] is None or set(clip.frames.shape[1:3]) == size
        assert clip.warnings or record["decodes"] == "all" or record["frames"] is None
        if record["decodes"] == "all":
            assert len(clip.frames) == min(16, record["frames"])
            assert np.isfinite(clip.duration)
    finally:
        assert time.monotonic() - start < 10
    for idle in worker._pool.idle:
        status = Path(f"/proc/{idle.process.pid}/status").read_text()
        assert int(status.split("VmHWM:")[1].split()[0]) < 1_000_000
