"""Transparency that is stored beside the frames: WebM has it in the same packets, AVIF in another track."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError
from PIL import Image, features
from video_files import HEIGHT, WIDTH, numbered, numbers

from qsave_reward.decoding import libav
from qsave_reward.decoding.decode import decode
from qsave_reward.limits import Limits
from qsave_reward.video import Sampling, read_clip

COUNT = 10
CODECS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def see_through(number):
    """Frame with `number` whose upper 16 rows are transparent blue; uint8 [H, W, 4]."""
    picture = np.concatenate((numbered(number), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)), -1)
    picture[:16] = (0, 0, 255, 0)
    return picture


def film(codec, *, opaque=()):
    """Bytes of a WebM; frames in `opaque` lack the second stream."""
    first, second = io.BytesIO(), io.BytesIO()
    with av.open(first, "w", format="webm") as container:
        options = {"auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8", "threads": "1"}
        stream = container.add_stream(CODECS[codec], rate=8, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuva420p"
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(see_through(number), format="rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if not opaque:
        return first.getvalue()
    with av.open(io.BytesIO(first.getvalue())) as old, av.open(second, "w", format="webm") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        copy.metadata["alpha_mode"] = "1"
        for number, packet in enumerate(p for p in old.demux() if p.size):
            if number in opaque:
                plain = av.Packet(bytes(packet))
                plain.pts, plain.dts, plain.time_base = packet.pts, packet.dts, packet.time_base
                plain.is_keyframe = packet.is_keyframe
                packet = plain
            packet.stream = copy
            new.mux(packet)
    return second.getvalue()


def ignored(warnings):
    return any("transparent" in warning for warning in warnings)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("keep", [3, COUNT])
def test_webm_lies_over_white(codec, keep):
    clip = read_clip(film(codec), Sampling(keep))
    assert numbers(clip.frames) == np.linspace(0, COUNT - 1, keep).round().astype(int).tolist()
    assert clip.frames[:, :12].min() > 250 and clip.warnings == ()
    assert clip.duration == COUNT / 8


@pytest.mark.parametrize("codec", CODECS)
def test_webm_that_is_transparent_in_places_loses_no_frame(codec):
    clip = read_clip(film(codec, opaque=(4, 5)), Sampling(COUNT))
    assert numbers(clip.frames) == list(range(COUNT))
    assert ignored(clip.warnings) and clip.frames[:, :12, :, 0].max() < 60


def test_a_libav_without_libvpx_says_so(monkeypatch):
    def create(name, mode):
        raise UnknownCodecError(name)

    kept = []
    header = {"sampling": {"max_frames": 4}, "limits": {"timeout": Limits().timeout}, "decoder": "pyav"}
    monkeypatch.setattr(libav.av.CodecContext, "create", create)
    report = decode(bytearray(film("vp9")), {**header, "fps": None, "times": None}, lambda *f: kept.append(f))
    assert len(kept) == 4 and ignored(report["warnings"])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_avif_says_that_transparency_is_ignored(count, mode):
    data = io.BytesIO()
    images = [Image.fromarray(see_through(i)).convert(mode) for i in range(count)]
    images[0].save(data, "AVIF", save_all=True, append_images=images[1:], duration=[100] * count, speed=10)
    clip = read_clip(data.getvalue())
    assert numbers(clip.frames) == list(range(count))
    assert ignored(clip.warnings) is (mode == "RGBA")
    assert not any("tracks" in warning for warning in clip.warnings)
