"""Frames that no other frame needs: found as libav finds them, and not decoded unless they are kept."""

import av
import pytest
from video_files import cut, encode

from qsave_reward.decoding import decode as decoding
from qsave_reward.decoding.disposable import is_disposable, length_bytes
from qsave_reward.speed.decoders import in_process
from qsave_reward.video import Sampling

PYRAMID = "keyint=20:bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"
FLAT = "keyint=20:open-gop=1:bframes=2:b-adapt=0:b-pyramid=none:scenecut=0"


def h264(path, parameters, frames=50):
    return encode(path, frames, options={"preset": "medium", "x264-params": parameters})


def stamps(path, *, skip):
    """Time stamps of the frames that libav puts out when it leaves out what `skip` says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = skip
        return {frame.pts for frame in container.decode(stream)}


def disposable(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        size = length_bytes(stream)
        return {p.pts for p in container.demux(stream) if p.size and size and is_disposable(p, size)}


@pytest.mark.parametrize("parameters", [PYRAMID, FLAT, "bframes=0", "keyint=1", PYRAMID + ":slices=4:aud=1"])
def test_they_are_those_that_libav_can_do_without(tmp_path, parameters):
    path = h264(tmp_path / "a.mp4", parameters)
    everything = stamps(path, skip="DEFAULT")
    assert len(everything) == 50
    assert disposable(path) == everything - stamps(path, skip="NONREF")
    copy = cut(path, tmp_path / "a.mkv", 0.0)
    assert len(disposable(copy)) == len(disposable(path))
    assert bool(disposable(path)) is ("bframes=3" in parameters or "bframes=2" in parameters)


def test_nothing_is_said_of_other_forms(tmp_path):
    hevc = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3"}
    paths = [
        encode(tmp_path / "a.ts", 20, options={"preset": "medium"}),
        encode(tmp_path / "a.mp4", 20, codec="libx265", options=hevc),
        encode(tmp_path / "a.mpg", 20, codec="mpeg2video"),
    ]
    assert [disposable(path) for path in paths] == [set(), set(), set()]


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\1", b"\0\0\0\2\1", b"\0\0\0\1\x01\0", b"\xff" * 9])
def test_broken_packets_are_decoded(data):
    assert not is_disposable(av.Packet(data), 4)
    assert is_disposable(av.Packet(b"\0\0\0\1\x01"), 4) and not is_disposable(av.Packet(b"\0\0\0\1\x21"), 4)


@pytest.mark.parametrize("keep", [1, 4, 7, 40, 50])
def test_only_kept_frames_and_those_they_need_are_decoded(tmp_path, monkeypatch, keep):
    path = h264(tmp_path / "a.mp4", PYRAMID)
    decoded = []
    plain = decoding.sound_frames

    def counted(*arguments, **options):
        for place, frame in plain(*arguments, **options):
            decoded.append(frame.pts)
            yield place, frame

    monkeypatch.setattr(decoding, "sound_frames", counted)
    kept = in_process(str(path), Sampling(keep))
    assert len(kept) == keep
    with av.open(str(path)) as container:
        shown = [frame.pts for frame in container.decode(video=0)]
    unneeded = disposable(path)
    wanted = {shown[round(k * 49 / max(keep - 1, 1))] for k in range(keep)}
    assert decoded == [pts for pts in shown if pts not in unneeded or pts in wanted][: len(decoded)]
    assert wanted <= set(decoded)
