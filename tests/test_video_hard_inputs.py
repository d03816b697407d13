"""What breaks decoders: `read_clip` gives the right frames or one typed error, and reaches nothing else."""

import io
import os
import socket
import struct

import av
import numpy as np
import pytest
from PIL import Image
from video_files import HEIGHT, WIDTH, audio, box, encode, numbered, numbers, replace_box

from qsave_reward.errors import VideoError
from qsave_reward.video import Sampling, read_clip

SLOW = {"preset": "medium"}


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("hard") / "sound.mp4", 40, options=SLOW)


def refused(video, **arguments) -> str:
    """The code of the error that reading `video` ends in."""
    with pytest.raises(VideoError) as caught:
        read_clip(video, **arguments)
    assert len(str(caught.value)) > 20
    return caught.value.code


# not a video


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"not a video at all",
        os.urandom(4096),
        b"\0\0\0\x18ftyp",
        b"\x00\x00\x01\x09",
        b"\x47" * 10,
    ],
    ids=["empty", "zero", "text", "noise", "header", "unit", "sync"],
)
def test_no_video_at_all(tmp_path, content):
    codes = {"not_a_video", "corrupt", "no_video", "no_frames"}
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert refused(path) in codes and refused(content) in codes


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "missing.mp4") == "not_found"
    assert refused(tmp_path) == "not_a_file"
    assert refused(tmp_path / "pipe") == "not_a_file"
    assert refused("/dev/zero") == "not_a_file"
    assert refused("a\0b") == "not_a_file"
    assert refused("https://example.org/clip.mp4") == "url"


def test_audio_only(tmp_path):
    assert refused(audio(tmp_path / "sound.mp4")) == "no_video"


# nothing else is opened


@pytest.fixture
def listener():
    """A server on loopback; fails the test when anything connects to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


SCRIPTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{target}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "smil": '<smil><body><video src="{target}"/></body></smil>',
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_playlists_are_never_followed(tmp_path, clip_path, listener, kind):
    canary = tmp_path / "canary.mp4"
    canary.write_bytes(clip_path.read_bytes())
    for target in (f"http://127.0.0.1:{listener}/clip.mp4", "canary.mp4", canary.as_uri()):
        script = SCRIPTS[kind].format(target=target)
        (tmp_path / "script.mp4").write_text(script)
        assert refused(tmp_path / "script.mp4") == "not_a_video"
        assert refused(script.encode()) == "not_a_video"


@pytest.mark.parametrize("kind", [b"url ", b"alis"])
def test_external_data_references_are_not_opened(tmp_path, clip_path, listener, kind):
    data = clip_path.read_bytes()
    for target in (f"http://127.0.0.1:{listener}/clip.mp4", clip_path.as_uri(), clip_path.name):
        text = target.encode() + b"\0"
        if kind == b"alis":  # a Macintosh alias record that ends in a relative path
            fixed = bytes(130) + struct.pack(">hh", 1, 1) + bytes(16)
            text = fixed + struct.pack(">hH", 2, len(target)) + target.encode() + struct.pack(">hH", -1, 0)
        entry = struct.pack(">I", 12 + len(text)) + kind + b"\0" * 4 + text
        reference = struct.pack(">I", 16 + len(entry)) + b"dref" + struct.pack(">II", 0, 1) + entry
        path = tmp_path / "external.mp4"
        changed = replace_box(data, [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"], reference)
        start, end = box(changed, b"mdat")
        path.write_bytes(changed[: start + 8] + b"\0" * (end - start - 8) + changed[end:])
        assert refused(path) in {"no_frames", "corrupt", "external_data"}


# damage


@pytest.fixture(scope="module")
def rich_path(tmp_path_factory):
    """A clip with so much texture that its frames are some kilobytes each, its index before the data."""
    path = tmp_path_factory.mktemp("hard") / "rich.mp4"
    height, width = 256, 448
    noise = np.random.default_rng(0).integers(0, 20, (height + 60, width, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"threads": "1", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(60):
            picture = numbered(number, height=height, width=width) + noise[number : number + height]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("share", [0.1, 0.4, 0.75, 0.97])
def test_truncated(rich_path, share):
    data = rich_path.read_bytes()
    cut_off = data[: int(share * len(data))]
    if share < 0.5:
        assert refused(cut_off) == "corrupt"
        return
    clip = read_clip(cut_off, Sampling(64))
    assert f"only {len(clip.frames)} of 60 frames" in clip.warnings[-1]
    assert numbers(clip.frames) == (clip.times * 25).round().astype(int).tolist()
    assert len(clip.frames) > 60 * share - 12


def test_most_bit_errors_are_noticed(rich_path):
    """The rest is a valid stream of another video. With slice threads libav would miss more than half."""
    data = rich_path.read_bytes()
    sound = read_clip(data, Sampling(64)).frames.astype(int)
    start, end = box(data, b"mdat")
    random = np.random.default_rng(0)
    outcomes = []
    for _ in range(20):
        broken = bytearray(data)
        broken[int(random.integers(start + 8, end))] ^= 1 << int(random.integers(8))
        try:
            clip = read_clip(broken, Sampling(64))
        except VideoError as e:
            outcomes.append(e.code)
            continue
        place = (clip.times * 25).round().astype(int)
        worst = np.abs(clip.frames - sound[place]).mean(axis=(1, 2, 3)).max()
        outcomes.append("wrong" if worst > 1 else "damaged" if clip.warnings else "sound")
    assert set(outcomes) <= {"corrupt", "damaged", "sound", "wrong"}
    assert outcomes.count("wrong") <= 4 and outcomes.count("damaged") >= 4


def test_frames_of_two_sizes(tmp_path):
    parts = [encode(tmp_path / f"{h}.h264", 10, size=(h, WIDTH), container_format="h264") for h in (64, 96)]
    (tmp_path / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert refused(tmp_path / "both.h264") == "frame_sizes"


# times


def test_raw_stream_has_no_times(tmp_path):
    clip = read_clip(encode(tmp_path / "a.h264", 30, container_format="h264", options=SLOW), Sampling(5))
    assert numbers(clip.frames) == [0, 7, 14, 22, 29] and clip.duration == 30 / 8
    assert "8 fps assumed" in clip.warnings[0]


def test_avi_stores_times_of_decoding(tmp_path):
    clip = read_clip(encode(tmp_path / "a.avi", 30, options=SLOW), Sampling(30))
    assert numbers(clip.frames) == list(range(30)) and clip.duration == pytest.approx(30 / 25)


def test_edit_list_that_shows_a_tenth(tmp_path, clip_path):
    data = bytearray(clip_path.read_bytes())
    start, _ = box(bytes(data), b"moov", b"trak", b"edts", b"elst")
    (scale,) = struct.unpack_from(">I", data, box(bytes(data), b"moov", b"mvhd")[0] + 20)
    (media_scale,) = struct.unpack_from(
        ">I", data, box(bytes(data), b"moov", b"trak", b"mdia", b"mdhd")[0] + 20
    )
    (media_time,) = struct.unpack_from(">i", data, start + 20)
    struct.pack_into(">Ii", data, start + 16, round(0.16 * scale), media_time + round(0.8 * media_scale))
    clip = read_clip(data)
    assert numbers(clip.frames) == [20, 21, 22, 23] and clip.warnings == ()


@pytest.mark.parametrize(
    ("delay", "duration"), [(0, 12 / 8), (None, 12 / 8), (10, 12 / 8), (50, 0.6), (1000, 12)]
)
def test_gif_delays(delay, duration):
    images = [Image.fromarray(numbered(i)) for i in range(12)]
    data = io.BytesIO()
    given = {} if delay is None else {"duration": delay}
    images[0].save(data, "GIF", save_all=True, append_images=images[1:], **given)
    clip = read_clip(data.getvalue(), Sampling(64))
    assert numbers(clip.frames) == list(range(12)) and clip.duration == pytest.approx(duration)
    assert bool(clip.warnings) == (duration == 12 / 8)
    assert read_clip(data.getvalue(), fps=24).duration == 0.5


def test_animated_webp_with_uneven_delays_and_alpha():
    noise = np.random.default_rng(0).integers(0, 20, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:8] = 0
    images = [Image.fromarray(np.concatenate((numbered(i) + noise, alpha), -1)) for i in range(6)]
    data = io.BytesIO()
    delays = [100, 50, 300, 100, 100, 200]
    images[0].save(data, "WEBP", save_all=True, append_images=images[1:], duration=delays, lossless=True)
    clip = read_clip(data.getvalue())
    assert numbers(clip.frames) == list(range(6)) and (clip.frames[:, :8] == 255).all()
    np.testing.assert_allclose(clip.times, [0, 0.1, 0.15, 0.45, 0.55, 0.65])
    assert clip.duration == pytest.approx(0.85)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_still_images_are_clips_of_one_frame(kind):
    data = io.BytesIO()
    Image.fromarray(numbered(5)).save(data, kind)
    clip = read_clip(data.getvalue())
    assert numbers(clip.frames) == [5] and any("single frame" in warning for warning in clip.warnings)
    assert refused(data.getvalue()[: len(data.getvalue()) // 3]) in {"corrupt", "no_frames"}


# pixels


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_rotation_is_applied(tmp_path, angle):
    upright = read_clip(encode(tmp_path / "a.mp4", 3)).frames
    turned = read_clip(encode(tmp_path / "b.mp4", 3, rotation=angle)).frames
    assert np.array_equal(turned, np.rot90(upright, angle // 90, axes=(1, 2)))


@pytest.mark.parametrize(
    ("matrix", "undo"),
    [((-1, 0, 0, 1), np.s_[:, :, ::-1]), ((1, 0, 0, -1), np.s_[:, ::-1]), ((0.7, 0.7, -0.7, 0.7), None)],
    ids=["mirrored", "flipped", "nonsense"],
)
def test_other_display_matrices(clip_path, matrix, undo):
    data = bytearray(clip_path.read_bytes())
    start, _ = box(bytes(data), b"moov", b"trak", b"tkhd")
    for offset, value in zip((48, 52, 60, 64), matrix, strict=True):
        struct.pack_into(">i", data, start + offset, round(value * 65536))
    clip, plain = read_clip(data), read_clip(clip_path)
    assert np.array_equal(clip.frames, plain.frames if undo is None else plain.frames[undo])
    assert bool(clip.warnings) == (undo is None)


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "gray", "yuv444p", "yuv422p"])
def test_pixel_formats(tmp_path, pix_fmt):
    assert numbers(read_clip(encode(tmp_path / "a.mp4", 12, pix_fmt=pix_fmt)).frames) == list(range(12))
