"""The server in front of a scorer without weights: forms of input, errors, limits, who may ask."""

import json
import logging
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel
from served import HTTP, GatedModel, served, wait_until

from qsave_reward.errors import ConfigError
from qsave_reward.results import result_from_dict
from qsave_reward.server.app import create_app
from qsave_reward.server.settings import Settings
from qsave_reward.types import VideoScore
from qsave_reward.video import Clip, read_clip, write_clip
from qsave_reward.wire import MEDIA_TYPE, Item, Request, WirePath, encode_request

TOKEN = "a-token-of-some-length"


def gray(value: int, frames: int = 4) -> Clip:
    pixels = np.full((frames, 32, 48, 3), value, np.uint8)
    return Clip(pixels, np.arange(frames) / 8.0, frames / 8.0)


def body_of(*items: Item, **options) -> bytes:
    return b"".join(bytes(part) for part in encode_request(Request(items, **options)))


def post(url, body, path="/v1/score", **headers):
    kind = headers.pop("kind", MEDIA_TYPE)
    return HTTP.post(url + path, content=body, headers={"Content-Type": kind, **headers})


def get(url, path, **headers):
    return HTTP.get(url + path, headers=headers)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """A media root with a clip, a text, and a link that leads out of it."""
    outside = tmp_path_factory.mktemp("outside")
    root = tmp_path_factory.mktemp("media")
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    for path in (root / "clip.mp4", outside / "private.mp4"):
        write_clip(path, frames, fps=8)
    (root / "note.mp4").write_text("no video at all")
    (root / "link.mp4").symlink_to(outside / "private.mp4")
    (root / "folder").symlink_to(outside)
    return root


@pytest.fixture(scope="module")
def server(media):
    with served(FakeModel(), Settings(media_root=str(media), max_body=4_000_000)) as url:
        yield url


def test_every_form_of_a_clip_gives_the_score_of_the_scorer(server, media):
    file = (media / "clip.mp4").read_bytes()
    (expected,) = FakeModel().score_batch([file], ["x"])
    sampled = read_clip(file)
    items = (Item(sampled, "x"), Item(file, "x"), Item(WirePath("clip.mp4"), "x", "p"))
    reply = post(server, body_of(*items))
    assert reply.status_code == 200
    results = [result_from_dict(row) for row in reply.json()["results"]]
    assert [row["id"] for row in reply.json()["results"]] == [None, None, "p"]
    for result in results:
        assert result.scores == expected.scores and result.provenance == expected.provenance
    alone = post(server, file, "/v1/score?prompt=x", kind="video/mp4").json()["results"]
    assert result_from_dict(alone[0]).scores == expected.scores
    paths = {"items": [{"path": "clip.mp4", "prompt": "x"}], "mode": "explained"}
    (row,) = post(server, json.dumps(paths), kind="application/json").json()["results"]
    assert result_from_dict(row).defects == FakeModel._defects()


def test_order_is_kept_and_errors_stand_in_their_place(server):
    values = [250, 10, 130, 70]
    items = [Item(gray(value), "x") for value in values]
    items.insert(1, Item(b"no video", "x"))
    items.insert(3, Item(gray(5), "   "))
    reply = post(server, body_of(*items, mode="direct"))
    assert reply.status_code == 200
    rows = reply.json()["results"]
    assert [row["overall"] for row in rows if row["overall"]] == pytest.approx(
        [1 + 4 * value / 255 for value in values]
    )
    assert (rows[1]["error"]["code"], rows[1]["error"]["type"]) == ("not_a_video", "VideoError")
    assert rows[3]["error"]["code"] == "empty_prompt"


def test_a_request_whose_every_clip_is_bad_is_a_4xx(server):
    reply = post(server, body_of(Item(b"no video", "x"), Item(gray(1), "")))
    assert reply.status_code == 422
    assert [row["error"]["code"] for row in reply.json()["results"]] == ["not_a_video", "empty_prompt"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../outside0/private.mp4", "outside_root"),
        ("link.mp4", "outside_root"),
        ("folder/private.mp4", "outside_root"),
        ("/etc/passwd", "outside_root"),
        ("clip.mp4\0.txt", "outside_root"),
        ("missing.mp4", "not_found"),
        ("x" * 3000, "not_a_file"),
        ("note.mp4", "not_a_video"),
        (".", "not_a_file"),
    ],
)
def test_paths_stay_under_the_root(server, media, name, code):
    reply = post(server, body_of(Item(WirePath(name), "x")))
    (row,) = reply.json()["results"]
    assert (reply.status_code, row["error"]["code"]) == (422, code)
    assert str(media) not in reply.text


def test_without_a_root_there_are_no_paths():
    with served(FakeModel()) as url:
        (row,) = post(url, body_of(Item(WirePath("clip.mp4"), "x"))).json()["results"]
        assert row["error"]["code"] == "no_media_root"


def test_malformed_requests_are_typed(server):
    cases = [
        (b"", MEDIA_TYPE, 400),
        (b"\0\0\0\2{}", MEDIA_TYPE, 400),
        (b"\xff" * 3000, MEDIA_TYPE, 400),
        (body_of(Item(gray(1), "x"))[:-1], MEDIA_TYPE, 400),
        (b"{}", "application/json", 400),
        (b'{"items": [{"prompt": "x", "bytes": 0}]}', "application/json", 400),
        (b'{"items": [{"prompt": "x", "path": "a"}]' + b" " * (1 << 20) + b"}", "application/json", 413),
        (b"x", "text/plain", 415),
        (b"x", "application/x-www-form-urlencoded", 415),
        (bytes(4_000_001), MEDIA_TYPE, 413),
        (b"", "video/mp4", 422),
    ]
    for body, kind, status in cases:
        reply = post(server, body, kind=kind)
        assert reply.status_code == status, (body[:20], kind, reply.text)
        row = reply.json()
        error = row["error"] if "error" in row else row["results"][0]["error"]
        assert error["code"] and error["message"]
    assert post(server, b"x", "/v1/score?mode=all", kind="video/mp4").status_code == 422
    assert get(server, "/v1/score").status_code == 405
    assert get(server, "/nowhere").json()["error"]["code"] == "http"

    def blocks():
        yield b"abc"

    assert post(server, blocks()).status_code == 411


def test_a_slow_and_a_short_body(media):
    with served(FakeModel(), Settings(body_timeout=0.3)) as url:
        head = (
            f"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 100\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as slow:
            slow.sendall(head.encode() + b"abc")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as short:
            short.sendall(head.encode() + b"abc")
        assert post(url, body_of(Item(gray(9), "x"))).status_code == 200
        text = get(url, "/metrics").text
        assert "qsave_held_bytes 0.0" in text


def test_the_token_is_asked_for_before_anything_is_read():
    with served(FakeModel(), Settings(token=TOKEN)) as url:
        body = body_of(Item(gray(9), "x"))
        for headers in ({}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}):
            for path in ("/v1/score", "/v1/rank"):
                assert post(url, body, path, **headers).status_code == 401
            for path in ("/v1/model", "/metrics", "/docs", "/openapi.json", "/nowhere"):
                reply = get(url, path, **headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")
        assert get(url, "/health").status_code == get(url, "/ready").status_code == 200
        assert post(url, body, Authorization=f"Bearer {TOKEN}").status_code == 200
        huge = "POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as caller:
            caller.sendall(huge.encode())
            assert caller.recv(1000).startswith(b"HTTP/1.1 401")


def test_ready_only_after_a_first_score():
    model = GatedModel()
    model.gate.clear()
    with served(model, ready=False) as url:
        assert get(url, "/health").status_code == 200
        assert get(url, "/v1/model").json()["revision"] == "0123"
        refused = post(url, body_of(Item(gray(1), "x")))
        assert (get(url, "/ready").status_code, refused.status_code) == (503, 503)
        assert refused.json()["error"]["code"] == "not_ready" and int(refused.headers["Retry-After"]) >= 1
        model.gate.set()
        wait_until(lambda: get(url, "/ready").status_code == 200)
        assert post(url, body_of(Item(gray(1), "x"))).status_code == 200


def test_a_full_queue_is_429_and_what_waits_is_answered():
    model = GatedModel()
    with served(model, Settings(max_queue=3)) as url:
        model.gate.clear()
        replies = []
        body = body_of(Item(gray(200), "x"), Item(gray(100), "x"))
        first = threading.Thread(target=lambda: replies.append(post(url, body)))
        first.start()
        wait_until(lambda: "qsave_queue_clips 2.0" in get(url, "/metrics").text)
        refused = post(url, body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        model.gate.set()
        first.join(20)
        assert replies[0].status_code == 200
        assert post(url, body).status_code == 200  # the places are free again
        assert post(url, body_of(*[Item(gray(1), "x")] * 4)).status_code == 413  # larger than the queue


def test_a_poisoned_batch_costs_only_the_culprit(caplog):
    model = GatedModel()
    with served(model) as url, caplog.at_level(logging.CRITICAL):
        items = [Item(gray(50 * k), "poison" if k == 3 else f"clip {k}") for k in range(6)]
        reply = post(url, body_of(*items))
        rows = reply.json()["results"]
        assert reply.status_code == 200
        assert [row["error"] and row["error"]["code"] for row in rows] == [None] * 3 + ["scoring_failed"] + [
            None
        ] * 2
        assert rows[4]["overall"] == pytest.approx(1 + 4 * 200 / 255)
        alone = post(url, body_of(Item(gray(1), "poison")))
        assert alone.status_code == 500 and "secret" not in alone.text + reply.text


def test_the_same_request_id_is_scored_once():
    model = GatedModel()
    with served(model) as url:
        body = body_of(Item(gray(80), "once"), request_id="r1")
        first, second = post(url, body), post(url, body)
        assert first.json() == second.json() and model.prompts.count("once") == 1
        other = post(url, body_of(Item(gray(81), "once"), request_id="r1"))
        assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id")
        model.gate.clear()
        replies = []
        body = body_of(Item(gray(80), "twice at a time"), request_id="r2")
        callers = [threading.Thread(target=lambda: replies.append(post(url, body))) for _ in range(2)]
        for caller in callers:
            caller.start()
        wait_until(lambda: "qsave_queue_clips 1.0" in get(url, "/metrics").text)
        model.gate.set()
        for caller in callers:
            caller.join(20)
        assert replies[0].json() == replies[1].json() and model.prompts.count("twice at a time") == 1


def test_a_failure_of_the_server_is_not_remembered():
    model = GatedModel()
    with served(model) as url:
        body = body_of(Item(gray(80), "poison"), request_id="r1")
        assert [post(url, body).status_code for _ in range(2)] == [500, 500]
        assert len(model.prompts) > 3  # warm-up, and two tries for each request


def test_a_clip_is_given_up_when_its_time_is_over():
    model = GatedModel()
    with served(model, Settings(item_timeout=0.4)) as url:
        model.gate.clear()
        reply = post(url, body_of(Item(gray(1), "x")))
        assert (reply.status_code, reply.json()["results"][0]["error"]["code"]) == (504, "timeout")
        model.gate.set()
        assert post(url, body_of(Item(gray(1), "x"))).status_code == 200


def test_a_client_that_hangs_up_takes_its_clips_along():
    model = GatedModel()
    with served(model, Settings(batch_tokens=1)) as url:
        model.gate.clear()
        busy = [
            threading.Thread(target=post, args=(url, body_of(Item(gray(k), f"busy {k}")))) for k in range(2)
        ]
        for caller in busy:  # both of the replica's threads are taken
            caller.start()
        wait_until(lambda: "qsave_queue_clips 2.0" in get(url, "/metrics").text)
        body = body_of(Item(gray(1), "gone"), request_id="g")
        head = "POST /v1/score HTTP/1.1\r\nHost: x\r\n"
        head += f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as caller:
            caller.sendall(head.encode() + body)
            wait_until(lambda: "qsave_queue_clips 3.0" in get(url, "/metrics").text)
        wait_until(lambda: "qsave_queue_clips 2.0" in get(url, "/metrics").text)
        model.gate.set()
        for caller in busy:
            caller.join(20)
        assert post(url, body_of(Item(gray(1), "after"))).status_code == 200
        assert "gone" not in model.prompts and {"busy 0", "busy 1", "after"} <= set(model.prompts)
        assert post(url, body).status_code == 200 and "gone" in model.prompts  # the id may be used again


def test_batches_are_as_large_as_the_budget_and_of_one_mode():
    model = GatedModel()
    tokens = 2 * 6  # two chunks of 2x3 tokens of 16 pixels
    with served(model, Settings(batch_tokens=3 * tokens, batch_window=0.2)) as url:
        model.batches.clear()
        reply = post(url, body_of(*[Item(gray(10 * k), "x") for k in range(7)]))
        assert reply.status_code == 200
        assert sorted(size for _, size in model.batches) == [1, 3, 3]
        model.batches.clear()
        model.gate.clear()
        callers = []
        for taken, mode in enumerate(("direct", "direct", "direct", "reasoned", "direct"), 1):
            caller = threading.Thread(target=post, args=(url, body_of(Item(gray(9), "x"), mode=mode)))
            caller.start()
            callers.append(caller)
            # The first two, each a batch of its own, take both of the replica's threads.
            text = f"qsave_batch_clips_count {3 + min(taken, 2)}.0"
            wait_until(lambda text=text: text in get(url, "/metrics").text)
        wait_until(lambda: "qsave_queue_clips 5.0" in get(url, "/metrics").text)
        model.gate.set()
        for caller in callers:
            caller.join(20)
        assert sorted(model.batches) == [("direct", 1), ("direct", 1), ("direct", 2), ("reasoned", 1)]


def test_rank(server):
    reply = post(server, body_of(*[Item(gray(v), "x", str(v)) for v in (40, 200, 90)]), "/v1/rank")
    ranking = reply.json()["ranking"]
    assert reply.status_code == 200 and ranking["order"] == [1, 2, 0] and ranking["winner"] == 1
    assert [row["id"] for row in reply.json()["results"]] == ["40", "200", "90"]
    several = post(server, body_of(Item(gray(1), "x"), Item(gray(1), "y")), "/v1/rank")
    assert several.status_code == 422
    nothing = "/v1/rank?visual_quality=0&dynamic_quality=0&text_alignment=0"
    assert post(server, body_of(Item(gray(1), "x")), nothing).status_code == 422
    assert post(server, body_of(Item(gray(1), "x")), "/v1/rank?tie_margin=-1").status_code == 422


def test_what_the_server_says_of_itself(server):
    card = get(server, "/v1/model").json()
    assert (card["model"], card["revision"], card["prompt_version"]) == ("fake", "0123", "1")
    assert card["frame_plan"]["max_frames"] == 8 and card["score_range"] == [1, 5] and card["media_root"]
    page = get(server, "/openapi.json").json()
    assert set(page["paths"]) >= {"/v1/score", "/v1/rank", "/health", "/ready", "/v1/model", "/metrics"}
    assert MEDIA_TYPE in page["paths"]["/v1/score"]["post"]["requestBody"]["content"]
    post(server, body_of(Item(gray(1), "x"), Item(b"", "x")))
    text = get(server, "/metrics").text
    for line in ("qsave_ready 1.0", 'qsave_clips_total{outcome="scored"}', "qsave_batch_clips_count"):
        assert line in text
    assert 'qsave_replies_total{path="/v1/score",status="200"}' in text


def test_settings_and_scorers_are_checked():
    for wrong in (
        {"max_queue": 0},
        {"batch_window": 2.0},
        {"item_timeout": float("inf")},
        {"token": "short"},
    ):
        with pytest.raises(ConfigError):
            Settings(**wrong)
    other = FakeModel()
    other.provenance = other.provenance.__class__("other", "9", "1", {})
    for scorers in ([], [FakeModel(), other]):
        with pytest.raises(ConfigError):
            create_app(scorers)


def test_results_are_what_the_client_reads(server):
    (row,) = post(server, body_of(Item(gray(100), "x"), mode="explained")).json()["results"]
    card = result_from_dict(row)
    assert isinstance(card, VideoScore) and card.reasoning and card.defects
    assert os.getcwd() not in json.dumps(row)
