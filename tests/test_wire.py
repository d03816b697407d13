"""The body of a request, both ways; what a hostile one does."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.errors import AnswerError, ConfigError, QSaveError, ServerError, VideoError
from qsave_reward.results import result_from_dict, result_to_dict
from qsave_reward.types import DIMENSIONS, Defect, DimensionScore, Provenance, VideoScore
from qsave_reward.video import Clip
from qsave_reward.wire import MAX_HEADER, MAX_ITEMS, Item, Request, WirePath, decode_request, encode_request


def clip(frames=4, side=16, seed=0) -> Clip:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.05, 0.3, frames)) - 0.05
    pixels = rng.integers(0, 256, (frames, side, side + 16, 3), dtype=np.uint8)
    return Clip(pixels, times, float(times[-1]) + 0.1, ("a warning",))


def body_of(request: Request) -> bytearray:
    return bytearray(b"".join(bytes(part) for part in encode_request(request)))


def raw(header, data=b"") -> bytearray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return bytearray(len(text).to_bytes(4, "big") + text + data)


def test_what_is_sent_arrives():
    first, second = clip(), clip(7, 32, seed=1)
    sent = Request(
        (
            Item(first, "a red circle", "x"),
            Item(b"\0\1file", "zwei Fragen: é?"),
            Item(WirePath("a/b.mp4"), "three"),
            Item(second, "", "last"),
        ),
        mode="explained",
        request_id="77",
    )
    got = decode_request(body_of(sent))
    assert (got.mode, got.request_id) == ("explained", "77")
    assert [item.prompt for item in got.items] == ["a red circle", "zwei Fragen: é?", "three", ""]
    assert [item.id for item in got.items] == ["x", None, None, "last"]
    assert bytes(got.items[1].video) == b"\0\1file" and got.items[2].video == WirePath("a/b.mp4")
    for before, item in ((first, got.items[0]), (second, got.items[3])):
        assert isinstance(item.video, Clip)
        assert np.array_equal(item.video.frames, before.frames)
        assert np.array_equal(item.video.times, before.times)
        assert (item.video.duration, item.video.warnings) == (before.duration, before.warnings)


def test_a_frame_rate_instead_of_times():
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    header = {"items": [{"prompt": "x", "shape": [3, 16, 16, 3], "fps": 4}]}
    (item,) = decode_request(raw(header, frames.tobytes())).items
    assert item.video.times.tolist() == [0.0, 0.25, 0.5] and item.video.duration == 0.75


def test_frames_are_a_view_of_the_body():
    big = Clip(np.zeros((16, 512, 512, 3), np.uint8), np.arange(16) / 8.0, 2.0)
    body = body_of(Request((Item(big, "x"),)))
    tracemalloc.start()
    decode_request(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000 < len(body)


FRAMES = {"prompt": "x", "shape": [2, 16, 16, 3], "fps": 8}
SIZE = 2 * 16 * 16 * 3


@pytest.mark.parametrize(
    "body",
    [
        bytearray(),
        bytearray(b"\0\0"),
        bytearray(b"\xff\xff\xff\xff" + b"x" * 100),
        raw(b"not json"),
        raw(b"[" * 100_000),
        raw(b'{"items": [{"prompt": "x", "path": "a"}], "items": []}'),
        raw(b'{"items": [{"prompt": "x", "shape": [1, 16, 16, 3], "fps": NaN}]}', bytes(768)),
        raw([]),
        raw({"items": []}),
        raw({"items": "x"}),
        raw({"items": [{"prompt": "x", "path": "a"}] * (MAX_ITEMS + 1)}),
        raw({"items": [{"prompt": "x", "path": "a"}], "mode": "all"}),
        raw({"items": [{"prompt": "x", "path": "a"}], "mod": "direct"}),
        raw({"items": [{"prompt": "x", "path": "a"}], "request_id": 5}),
        raw({"items": [{"prompt": "x", "path": "a"}], "request_id": ""}),
        raw({"items": [{"prompt": 5, "path": "a"}]}),
        raw({"items": [{"path": "a"}]}),
        raw({"items": [{"prompt": "x", "path": ""}]}),
        raw({"items": [{"prompt": "x"}]}),
        raw({"items": [{"prompt": "x", "path": "a", "bytes": 0}]}),
        raw({"items": [{"prompt": "x", "path": "a", "code": "rm"}]}),
        raw({"items": [{"prompt": "x", "bytes": -1}]}),
        raw({"items": [{"prompt": "x", "bytes": True}]}, b"x"),
        raw({"items": [{"prompt": "x", "bytes": 1.0}]}, b"x"),
        raw({"items": [{"prompt": "x", "bytes": 10**30}]}),
        raw({"items": [{"prompt": "x", "bytes": 5}]}, b"1234"),
        raw({"items": [{"prompt": "x", "bytes": 3}]}, b"1234"),
        raw({"items": [{**FRAMES, "shape": [2, 16, 16]}]}, bytes(SIZE)),
        raw({"items": [{**FRAMES, "shape": [2, 16, 16, 4]}]}, bytes(SIZE)),
        raw({"items": [{**FRAMES, "shape": [-2, -16, 16, 3]}]}, bytes(SIZE)),
        raw({"items": [{**FRAMES, "shape": [2**31, 2**31, 2**31, 3]}]}, bytes(SIZE)),
        raw({"items": [FRAMES]}, bytes(SIZE - 1)),
        raw({"items": [FRAMES]}, bytes(SIZE + 1)),
    ],
)
def test_an_unreadable_body_is_a_bad_request(body):
    with pytest.raises(ConfigError) as caught:
        decode_request(body)
    assert caught.value.code == "bad_request"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"fps": 0}, "no_fps"),
        ({"prompt": "x" * 5000}, "long_prompt"),
        ({"prompt": "\ud800"}, "bad_config"),
        ({"warnings": [5]}, "bad_request"),
        ({"fps": None}, "bad_config"),
        ({"fps": "8"}, "bad_config"),
        ({"times": [0, 1]}, "no_fps"),
        ({"shape": [0, 16, 16, 3]}, "no_frames"),
        ({"shape": [6, 4, 16, 3], "fps": 8}, "too_small"),
        ({"shape": [513, 1, 1, 3]}, "too_many_frames"),
    ],
)
def test_a_wrong_clip_is_an_error_in_its_place(change, code):
    row = {**FRAMES, **change}
    size = int(np.prod(row["shape"]))
    header = {"items": [row, {"prompt": "y", "path": "a"}]}
    first, second = decode_request(raw(header, bytes(size))).items
    assert isinstance(first.video, QSaveError) and first.video.code == code
    assert second.video == WirePath("a")


@pytest.mark.parametrize("times", [[0.5, 0.1], [0, 0], [0], ["a", 1], [-1, 0], 5])
def test_wrong_times(times):
    row = {"prompt": "x", "shape": [2, 16, 16, 3], "times": times, "duration": 2.0}
    (item,) = decode_request(raw({"items": [row]}, bytes(SIZE))).items
    assert isinstance(item.video, VideoError | ConfigError)


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_else(data):
    for body in (bytearray(data), raw(data)):
        with pytest.raises(ConfigError):
            decode_request(body)


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_body_is_read_or_refused(data):
    body = body_of(Request((Item(clip(2), "abc", "i"), Item(b"xyz", "d"))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(body), 400) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "more"]))
        if kind == "flip":
            body[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del body[at : at + 3]
        else:
            body[at:at] = b"9"
    try:
        got = decode_request(body)
    except ConfigError as error:
        assert error.code == "bad_request"
    else:
        assert 1 <= len(got.items) <= 2


def test_what_cannot_be_sent():
    with pytest.raises(ConfigError, match="could not be read"):
        encode_request(Request((Item(VideoError("no"), "x"),)))
    with pytest.raises(ConfigError, match=str(MAX_HEADER)):
        encode_request(Request(tuple(Item(b"", "ü" * 4000) for _ in range(64))))


@pytest.mark.parametrize("kind", [VideoError, ConfigError, AnswerError, ServerError, QSaveError])
def test_errors_come_back_as_they_were(kind):
    row = json.loads(json.dumps(result_to_dict(kind("what it says", code="why"), id="7")))
    assert row["id"] == "7" and row["scores"] is None
    back = result_from_dict(row)
    assert type(back) is kind and (str(back), back.code) == ("what it says", "why")


def test_cards_come_back_as_they_were():
    scores = {name: DimensionScore.from_probs([0.1, 0.2, 0.3, 0.25, 0.15]) for name in DIMENSIONS}
    defects = (Defect("visual_quality", "blur", 0.3, 0.1, 0.7), Defect("dynamic_quality", "freeze", 1.0))
    plan = {"mode": "slowfast", "fps": None}
    for card in (
        VideoScore(scores, Provenance("m", "r", "1", plan), defects, "it is", ("w",)),
        VideoScore(scores, Provenance("m", "r", "1", plan)),
        VideoScore(scores, Provenance("m", "r", "1", plan), ()),
    ):
        assert result_from_dict(json.loads(json.dumps(result_to_dict(card)))) == card


@pytest.mark.parametrize(
    "row", [{}, {"error": None}, {"error": 5}, {"error": None, "scores": {}, "defects": []}]
)
def test_another_answer_is_a_server_error(row):
    with pytest.raises(ServerError) as caught:
        result_from_dict(row)
    assert caught.value.code == "bad_reply"
