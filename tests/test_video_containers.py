"""Files that break off, in every container that says how much it holds; and whole ones that seem to."""

import io
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from video_files import HEIGHT, WIDTH, numbered, numbers

from qsave_reward.errors import VideoError
from qsave_reward.video import Sampling, read_clip

RATE, COUNT = 25, 50
B_FRAMES = {"preset": "veryfast", "crf": "12", "x264-params": "bframes=3:b-adapt=0"}
QUICK = {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "4M"}
RECIPES = {
    "vp9.webm": ("libvpx-vp9", QUICK, None),
    "vp8.webm": ("libvpx", QUICK, None),
    "hidden.webm": (
        "libvpx",
        {**QUICK, "deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"},
        None,
    ),
    "h264.mkv": ("libx264", B_FRAMES, None),
    "h264.flv": ("libx264", B_FRAMES, None),
    "mpeg4.avi": ("mpeg4", {"bf": "2", "b": "4M"}, None),
    "h264.avi": ("libx264", B_FRAMES, None),
    "mjpeg.avi": ("mjpeg", {"qmin": "2", "qmax": "2"}, None),
    "vp9.ivf": ("libvpx-vp9", QUICK, None),
    "sound.webm": ("libvpx", QUICK, "libopus"),
    "sound.mkv": ("libx264", B_FRAMES, "aac"),
    "sound.flv": ("libx264", B_FRAMES, "aac"),
    "sound.avi": ("mpeg4", {"bf": "2", "b": "4M"}, "libmp3lame"),
}


class Pipe(io.BytesIO):
    """What was written cannot be corrected."""

    def seekable(self):
        return False

    seek = None


def film(name, *, shown=range(COUNT), seconds=5.0, target=None, tags=None):
    """Bytes of a film of noise, so that frames are some kilobytes each; by its recipe with sound that lasts
    `seconds`. Only the frames in `shown` are written."""
    codec, options, sound = RECIPES[name]
    buffer = io.BytesIO() if target is None else target
    random = np.random.default_rng(0)
    kind = {"mkv": "matroska"}.get(name.split(".")[1], name.split(".")[1])
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=RATE, options={"threads": "1", **options})
        stream.height, stream.width = HEIGHT, WIDTH
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.metadata.update(tags or {})
        tone = container.add_stream(sound, rate=48000) if sound else None
        packets = []
        for number in shown:
            picture = numbered(number) + random.integers(0, 24, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if tone is not None:
            for start in range(0, int(48000 * seconds), 960):
                hiss = random.uniform(-0.3, 0.3, (1, 960)).astype(np.float32)
                block = av.AudioFrame.from_ndarray(hiss, "fltp", "mono")
                block.sample_rate, block.pts = 48000, start
                packets += tone.encode(block)
            packets += tone.encode(None)
        known = [packet for packet in packets if packet.dts is not None]
        for packet in sorted(known, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def films():
    made: dict[str, bytes] = {}

    def get(name: str) -> bytes:
        if name not in made:
            made[name] = film(name)
        return made[name]

    return get


def damage(data):
    clip = read_clip(data, Sampling(COUNT))
    return clip, [warning for warning in clip.warnings if "damaged" in warning or "breaks off" in warning]


def promised(warning):
    return int(warning.split("about ")[1].split()[0])


SILENT = [name for name in RECIPES if not name.startswith("sound")]


@pytest.mark.parametrize("name", RECIPES)
def test_whole_files_are_whole(films, name):
    clip, found = damage(films(name))
    assert found == [] and numbers(clip.frames) == list(range(COUNT))


@pytest.mark.parametrize("name", SILENT)
@pytest.mark.parametrize("share", [0.75, 0.93])
def test_the_sound_beginning_is_returned_with_a_warning(films, name, share):
    data = films(name)
    clip, found = damage(data[: int(share * len(data))])
    read = len(clip.frames)
    assert found and abs(promised(found[-1]) - COUNT) <= 4 and f"only {read} of about" in found[-1]
    assert numbers(clip.frames) == (clip.times * RATE).round().astype(int).tolist()
    assert COUNT * share - 8 < read < COUNT


@pytest.mark.parametrize("name", SILENT)
def test_less_than_half_is_refused(films, name):
    data = films(name)
    with pytest.raises(VideoError, match="only the first [0-9]+ of about [45]") as caught:
        read_clip(data[: int(0.3 * len(data))])
    assert caught.value.code == "corrupt"


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("sound")])
def test_sound_that_goes_on_is_no_film_that_is_missing(films, name):
    data = films(name)
    clip, found = damage(data[: int(0.97 * len(data))])  # about 4.5 of 5 seconds; the film takes 2
    assert found == [] and numbers(clip.frames) == list(range(COUNT))


@pytest.mark.parametrize("name", ["sound.webm", "sound.mkv", "sound.flv", "sound.avi"])
def test_film_that_goes_on_after_the_sound_is_missing(name):
    data = film(name, seconds=0.5)
    clip, found = damage(data[: int(0.75 * len(data))])
    assert found and len(clip.frames) < COUNT
    if name == "sound.flv":  # says nothing about the film alone
        assert re.search(r"breaks off at 1\.[3-8] of 2\.[01] s", found[0])
    else:
        assert abs(promised(found[-1]) - COUNT) <= 4


@pytest.mark.parametrize("name", ["vp8.webm", "h264.mkv", "h264.flv", "mpeg4.avi", "vp9.ivf"])
def test_what_is_written_to_a_pipe_says_nothing(name):
    """Nobody goes back to correct the header; a duration there is that of the film it was made from."""
    data = film(name, target=Pipe(), tags={"DURATION": "00:01:00.000000000"})
    clip, found = damage(data)
    assert found == [] and numbers(clip.frames) == list(range(COUNT))


@pytest.mark.parametrize("name", ["mpeg4.avi", "vp9.ivf", "vp9.webm", "h264.mkv", "h264.flv"])
def test_frames_that_were_dropped_are_not_missing(name):
    shown = [*range(0, 40, 7), 49]
    clip, found = damage(film(name, shown=shown))
    assert found == [] and numbers(clip.frames) == shown


def test_an_index_that_is_cut_off_costs_no_frame():
    """An AVI counts dropped frames, too."""
    shown = range(0, COUNT, 7)
    data = film("mjpeg.avi", shown=shown)
    at = data.rindex(b"idx1")
    clip, found = damage(data[: at + 20])
    assert found == [] and numbers(clip.frames) == list(shown)
