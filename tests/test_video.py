"""`read_clip` on sound files, `write_clip`, and the project's real clips."""

import json
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import cut, encode, numbered, numbers, sequential

from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.sampling import pick_frames
from qsave_reward.video import Sampling, read_clip, write_clip

SHARED = Path(__file__).parents[2] / "shared" / "data"
FRAMES = np.stack([numbered(i) for i in range(24)])
OPEN_GOP = "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0"
B_FRAMES = "keyint=20:min-keyint=20:bframes=3:b-adapt=0:scenecut=0"


def refusal(video, **arguments) -> VideoError:
    with pytest.raises(VideoError) as caught:
        read_clip(video, **arguments)
    assert len(str(caught.value)) > 20
    return caught.value


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One small file for each way of storing time."""
    folder = tmp_path_factory.mktemp("files")
    slow = {"preset": "medium"}
    plain = encode(folder / "b_frames.mp4", 60, options={**slow, "x264-params": B_FRAMES})
    opened = encode(folder / "open_gop.mp4", 60, options={**slow, "x264-params": OPEN_GOP})
    growing = [7 * i * i for i in range(20)]
    return {
        "b_frames": plain,
        "open_gop": opened,
        "hevc": encode(
            folder / "hevc.mp4",
            40,
            codec="libx265",
            options={"preset": "ultrafast", "x265-params": "log-level=none:keyint=10:bframes=3"},
        ),
        "vfr_mp4": encode(folder / "vfr.mp4", 20, stamps=growing),
        "vfr_webm": encode(
            folder / "vfr.webm", 20, codec="libvpx-vp9", stamps=growing, options={"cpu-used": "8"}
        ),
        "cut_at_key": cut(plain, folder / "cut_at_key.mp4", 0.8),
        "cut_inside": cut(plain, folder / "cut_inside.mp4", 0.5),
        "cut_late": cut(plain, folder / "cut_late.mp4", 1.04),
        "cut_open_gop": cut(opened, folder / "cut_open.mp4", 0.7),
        "mkv": cut(plain, folder / "copy.mkv", 0.0),
        "ts": encode(folder / "a.ts", 40, options=slow),
        "flv": encode(folder / "a.flv", 40, options=slow),
        "mpg": encode(folder / "a.mpg", 40, codec="mpeg2video"),
        "ivf": encode(folder / "a.ivf", 20, codec="libvpx-vp9", options={"cpu-used": "8"}),
    }


KINDS = (
    "b_frames open_gop hevc vfr_mp4 vfr_webm cut_at_key cut_inside cut_late cut_open_gop mkv ts flv mpg ivf"
)


@pytest.mark.parametrize("kind", KINDS.split())
def test_frames_and_times_equal_a_plain_decode(files, kind):
    reference = sequential(files[kind])
    clip = read_clip(files[kind], Sampling(7))
    times = np.array([time for time, _ in reference])
    index = pick_frames(times, Sampling(7))
    assert clip.warnings == ()
    assert numbers(clip.frames) == [numbers(reference[i][1][None])[0] for i in index]
    assert np.array_equal(clip.frames, np.stack([reference[i][1] for i in index]))
    np.testing.assert_allclose(clip.times, times[index], atol=1e-6)
    assert clip.duration == pytest.approx(times[-1] + np.median(np.diff(times)))


def test_a_cut_clip_begins_where_it_was_cut(files):
    assert numbers(read_clip(files["cut_inside"], Sampling(2)).frames) == [13, 59]


def test_bytes_and_path_agree(files):
    by_path = read_clip(files["b_frames"])
    by_bytes = read_clip(memoryview(files["b_frames"].read_bytes()))
    assert np.array_equal(by_path.frames, by_bytes.frames) and np.array_equal(by_path.times, by_bytes.times)
    assert np.array_equal(by_path.frames, read_clip(str(files["b_frames"])).frames)
    spread = np.frombuffer(files["b_frames"].read_bytes(), np.uint8).repeat(2)
    assert np.array_equal(by_path.frames, read_clip(memoryview(spread)[::2]).frames)


def test_numbers_of_other_libraries(files):
    sampling = Sampling(np.int64(3), fps=np.float32(50))
    clip = read_clip(files["vfr_mp4"], sampling, fps=Fraction(24000, 1001))
    assert len(clip.frames) == 3 and clip.times[-1] == pytest.approx(19 * 1001 / 24000)


def test_the_caller_may_overrule_the_file(files):
    clip = read_clip(files["vfr_mp4"], fps=10)
    assert clip.duration == 2.0 and clip.times[1] == pytest.approx(0.1)
    given = [0.5 * i for i in range(20)]
    assert read_clip(files["vfr_mp4"], Sampling(20), times=given).times.tolist() == given
    assert refusal(files["vfr_mp4"], times=given[:5]).code == "bad_times"


def test_threads_share_the_workers(files):
    results: dict[int, list[int]] = {}

    def read(slot):
        results[slot] = numbers(read_clip(files["b_frames"], Sampling(7)).frames)

    threads = [threading.Thread(target=read, args=(slot,)) for slot in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(results.values()) == [[0, 10, 20, 29, 39, 49, 59]] * 6


def test_decord_on_request(files):
    pytest.importorskip("decord")
    plain, by_decord = (read_clip(files["b_frames"], decoder=d) for d in ("pyav", "decord"))
    assert np.array_equal(plain.frames, by_decord.frames) and np.array_equal(plain.times, by_decord.times)
    assert refusal(files["cut_inside"], decoder="decord").code == "decord_failed"


@pytest.mark.parametrize("size", [(64, 160), (65, 161), (64, 161)])
def test_what_is_written_can_be_read(tmp_path, size):
    height, width = size
    frames = np.stack([numbered(i, height=height, width=width) for i in range(10)])
    frames[:, :20, :40] = (200, 30, 30)
    write_clip(tmp_path / "clip.mp4", frames, fps=23.976)
    clip = read_clip(tmp_path / "clip.mp4")
    assert clip.frames.shape == frames.shape and numbers(clip.frames) == list(range(10))
    assert np.abs(clip.frames[:, 4:12, 8:32].astype(int) - (200, 30, 30)).max() < 12
    assert clip.times[1] == pytest.approx(1001 / 24000, abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_writing_is_deterministic_and_all_or_nothing(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, FRAMES, fps=8, crf=30)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with pytest.raises(VideoError):
        write_clip(tmp_path / "c.mp4", FRAMES / 100, fps=8)
    with pytest.raises(OSError):
        write_clip(tmp_path / "missing" / "c.mp4", FRAMES, fps=8)
    with pytest.raises(ConfigError):
        write_clip(tmp_path / "c.mp4", FRAMES, fps=8, crf=99)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


# the real clips of the project


def _records(name):
    listing = SHARED / f"{name}.jsonl"
    return [json.loads(line) for line in listing.read_text().splitlines()] if listing.is_file() else []


@pytest.mark.skipif(not SHARED.is_dir(), reason="the project's real clips are not beside the repository")
@pytest.mark.parametrize("record", _records("clips") + _records("fetv"), ids=lambda record: record["id"])
def test_real_clips(record):
    clip = read_clip(SHARED / record["file"])
    with av.open(str(SHARED / record["file"])) as container:
        video = container.streams.video[0]
        assert clip.frames.shape[1:] == (video.height, video.width, 3)
    if record.get("fps"):
        assert clip.times[-1] == pytest.approx((record["frames"] - 1) / record["fps"], abs=0.02)
        assert clip.duration == pytest.approx(record["frames"] / record["fps"], abs=0.06)
    elif "frames" in record:
        assert clip.duration == record["frames"] / 8 and "8 fps assumed" in clip.warnings[0]


def test_a_path_names_the_file_that_the_system_would_open(tmp_path, monkeypatch):
    for name, level in (("near", 50), ("far", 200)):
        (tmp_path / name / "inner").mkdir(parents=True)
        write_clip(tmp_path / name / "a.mp4", np.full((2, 32, 32, 3), level, np.uint8), fps=8)
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "inner")
    monkeypatch.chdir(tmp_path / "near")
    for path in ("link/../a.mp4", Path("link/../a.mp4"), str(tmp_path / "near/link/../a.mp4")):
        assert abs(float(read_clip(path).frames.mean()) - 200) < 5
    for path in ("a.mp4", "inner/../a.mp4", "./inner/.././a.mp4"):
        assert abs(float(read_clip(path).frames.mean()) - 50) < 5
    for path in ("none/../a.mp4", "a.mp4/", "a.mp4/../a.mp4"):
        assert refusal(path).code == "not_found"
    assert refusal("").code == "not_a_file"
