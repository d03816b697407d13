"""The fuzzer of the server: what it changes, what it calls a fault, and that the server has none to find."""

import asyncio
import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import QSaveError
from qsave_reward.server.app import create_app
from qsave_reward.server.settings import Settings
from qsave_reward.video import write_clip
from qsave_reward.wire import MEDIA_TYPE, decode_request

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "serving"))

import fuzz_server
import fuzz_sockets
from fuzz_bodies import VALUES, Shot, join, mutated, split, valid_shots
from fuzz_replies import UNREADABLE, Reply, complaint
from fuzz_server import Brightness, keep, shoot, table, try_shot
from fuzz_sockets import Outcome, damaged, run_schemathesis, send, serving, shoot_sockets


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    picture = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write_clip(root / "clip.mp4", picture, fps=8)
    return root


@pytest.fixture(scope="module")
def shots(root):
    return valid_shots((root / "clip.mp4").read_bytes())


def app_for(scorer, root, **options):
    return create_app(scorer, Settings(media_root=str(root), batch_window=0.0, body_timeout=0.5, **options))


def fire(app, draws, count):
    return asyncio.run(shoot(app, draws, count, advance=lambda done: None))


def test_the_valid_requests_are_valid(root, shots):
    words, faults, left = fire(app_for(Brightness(), root), lambda number: shots[number], len(shots))
    assert (words, faults, left) == (Counter({"200": len(shots)}), [], [])
    assert {shot.target.split("?")[0] for shot in shots} == {"/v1/score", "/v1/rank"}
    assert {shot.kind for shot in shots} == {MEDIA_TYPE, "application/json", "video/mp4"}


def test_changes_are_repeatable_and_of_many_kinds(shots):
    changed = [mutated(shots[k % len(shots)], shots, random.Random(k)) for k in range(500)]
    assert changed == [mutated(shots[k % len(shots)], shots, random.Random(k)) for k in range(500)]
    assert len({shot.body for shot in changed}) > 300
    assert {shot.length is None for shot in changed} == {True, False}
    readable = 0
    for shot in changed:
        try:
            decode_request(shot.body)
            readable += 1
        except QSaveError:
            continue
    assert 50 < readable < 450  # neither all past the first check nor none


def test_a_header_is_edited_inside_a_sound_body(shots):
    header, payload = split(shots[0].body)
    assert join(header, payload) == shots[0].body
    assert [row["prompt"] for row in header["items"]] == ["a red circle"] * 2
    json.loads(join({"a": list(VALUES)}, b"")[4:])  # every value can be written


def test_a_shot_is_the_http_request_that_it_says():
    shot = Shot("/v1/score?mode=direct", "video/mp4", b"abc", "5")
    lines = shot.to_bytes().split(b"\r\n")
    assert lines[0] == b"POST /v1/score?mode=direct HTTP/1.1" and b"content-length: 5" in lines
    assert lines[-2:] == [b"", b"abc"]


def row(**changes):
    score = {"mean": 3.0, "std": 1.0, "probs": [0.2] * 5}
    scores = dict.fromkeys(("visual_quality", "dynamic_quality", "text_alignment"), score)
    return {"id": None, "scores": scores, "error": None, **changes}


ERROR = {"code": "no_video", "message": "there is none"}
FAILED = row(scores=None, error=ERROR)
RANKING = {"order": [0], "failed": [1], "winner": 0}


def test_right_replies_are_not_complained_of():
    for status, body in [
        (200, {"results": [row(), FAILED]}),
        (422, {"results": [FAILED]}),
        (400, {"error": ERROR}),
        (503, {"error": ERROR}),
        (200, {"results": [row(), FAILED], "ranking": RANKING}),
    ]:
        assert complaint(Reply(status, json.dumps(body).encode())) is None
    assert complaint(Reply(400, UNREADABLE)) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"error": ERROR}),
        (502, {"error": ERROR}),
        (301, {"error": ERROR}),
        (400, {"error": "no code"}),
        (400, {"error": {"code": "", "message": "x"}}),
        (400, {"detail": "of FastAPI"}),
        (400, []),
        (200, {"error": ERROR}),
        (200, {"results": []}),
        (200, {"results": [FAILED]}),
        (422, {"results": [row()]}),
        (200, {"results": [row(error=ERROR)]}),
        (200, {"results": [row(), row(scores=None)]}),
        (200, {"results": [row(), row(scores=None, error={"code": "x"})]}),
        (200, {"results": [row(scores={"visual_quality": {}})]}),
        (
            200,
            {"results": [row(scores={**row()["scores"], "text_alignment": {"mean": 6, "probs": [0.2] * 5}})]},
        ),
        (
            200,
            {"results": [row(scores={**row()["scores"], "text_alignment": {"mean": 3, "probs": [0.1] * 5}})]},
        ),
        (200, {"results": [row(), FAILED], "ranking": {**RANKING, "order": [1]}}),
        (200, {"results": [row(), FAILED], "ranking": {**RANKING, "winner": None}}),
        (200, {"results": [row(), FAILED], "ranking": {**RANKING, "failed": []}}),
    ],
)
def test_wrong_replies_are_complained_of(status, body):
    assert complaint(Reply(status, json.dumps(body).encode()))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["results", "scores", "error", "code", "message", "ranking", "probs", "x"]), x
            )
        ),
        max_leaves=12,
    )
)
def test_no_other_json_passes_for_scores(value):
    assert complaint(Reply(200, json.dumps(value).encode()))
    assert complaint(Reply(200, b"\xff" + json.dumps(value).encode()))


class Broken(Brightness):
    """Knows its work, but for prompts that it cannot stand."""

    def _card(self, clip, prompt):
        if prompt == "x":
            raise RuntimeError("a fault of a library")
        return super()._card(clip, prompt)


def test_faults_are_found_and_kept(root, shots, tmp_path, caplog):
    app = app_for(Broken(), root)
    words, faults, left = fire(app, lambda number: shots[number], 4)
    assert words["500"] == 3 and words["200"] == 1 and left == []
    assert {outcome.fault for outcome in faults} == {"status 500"}
    keep(faults, tmp_path / "bodies")
    rows = [json.loads(line) for line in (tmp_path / "bodies" / "faults.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == ["0000.http", "0001.http", "0002.http"]
    kept = {(tmp_path / "bodies" / row["file"]).read_bytes() for row in rows}
    assert kept == {outcome.request for outcome in faults} <= {shot.to_bytes() for shot in shots}
    with serving(app_for(Broken(), root)) as port:
        again = send(port, faults[0].request, owed=True)
    assert (again.word, again.fault) == ("500", "status 500")


def test_a_crash_and_silence_are_faults(shots, monkeypatch):
    async def crash(scope, receive, reply):
        raise ValueError("no")

    async def silence(scope, receive, reply):
        await asyncio.sleep(60)

    monkeypatch.setattr(fuzz_server, "PATIENCE", 0.05)
    crashed = asyncio.run(try_shot(crash, shots[0]))
    silent = asyncio.run(try_shot(silence, shots[0]))
    assert (crashed.word, crashed.fault) == ("crash", "ValueError: no")
    assert silent.word == "no reply" and silent.fault


def test_the_server_stands_a_thousand_bodies(root, shots):
    file = (root / "clip.mp4").read_bytes()

    def draws(number):
        return fuzz_server.draw(shots, file, random.Random(f"test {number}"))

    words, faults, left = fire(app_for(Brightness(), root, max_body=8 << 20), draws, 1000)
    assert ([outcome.fault for outcome in faults], left) == ([], [])
    assert words["200"] > 50 and words["400"] > 200 and {"411", "413", "415", "422"} <= set(words)


@pytest.mark.parametrize(
    "body",
    [
        # Sides beyond what an array can have, and no frame.
        join({"items": [{"prompt": "x", "shape": [0, 2**40, 2**40, 3], "fps": 8.0}]}, b""),
        # Half of a character pair in a name that comes back.
        join({"items": [{"prompt": "x", "id": "\ud800", "shape": [1, 16, 16, 3], "fps": 8}]}, bytes(768)),
        join(
            {"request_id": "\udfff", "items": [{"prompt": "x", "shape": [1, 16, 16, 3], "fps": 8}]},
            bytes(768),
        ),
        # A rate at which the second frame never comes.
        join({"items": [{"prompt": "x", "shape": [2, 16, 16, 3], "fps": 5e-324}]}, bytes(1536)),
    ],
)
@pytest.mark.parametrize("target", ["/v1/score", "/v1/rank"])
def test_what_was_found_once_stays_mended(root, body, target):
    words, faults, _ = fire(app_for(Brightness(), root), lambda _: Shot(target, MEDIA_TYPE, body), 1)
    assert (sum(words.values()), faults) == (1, [])
    long = Shot(target, MEDIA_TYPE, body, "9" * 5000)
    assert fire(app_for(Brightness(), root), lambda _: long, 1)[0] == Counter({"413": 1})


def test_sockets_are_fuzzed_and_faults_told(root, shots, monkeypatch):
    monkeypatch.setattr(fuzz_sockets, "WAIT", 1.5)
    with serving(app_for(Brightness(), root)) as port:
        outcomes = shoot_sockets(port, shots, 60, seed=1, advance=lambda done: None)
        assert [outcome.fault for outcome in outcomes if outcome.fault] == []
        assert len({outcome.word for outcome in outcomes}) > 2
        assert send(port, shots[0].to_bytes(), owed=True) == Outcome(shots[0].to_bytes(), "200", None)
    heads = [damaged(shots[0], shots, random.Random(k)) for k in range(40)]
    assert {owed for _, owed in heads} == {True, False}
    assert all(request.startswith(b"POST /v1/") for request, owed in heads if owed)


def test_the_table_tells_the_replies():
    part = {"requests": 3, "pace": 600.0, "replies": {"400": 1, "200": 2}, "faults": 0}
    assert table({"bodies": part})[2:] == ["| bodies | 3 | 600 | 200: 2, 400: 1 | 0 |"]


def test_the_openapi_page_says_what_needs_the_token(root):
    locked = create_app(Brightness(), Settings(token="a-token-of-some-length")).openapi()
    needs = {path for path, item in locked["paths"].items() for one in item.values() if one.get("security")}
    assert needs == {"/v1/score", "/v1/rank", "/v1/model", "/metrics"}
    assert locked["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    open_page = app_for(Brightness(), root).openapi()
    assert "security" not in json.dumps(open_page)
    assert list(open_page["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(root, tmp_path):
    pytest.importorskip("schemathesis", reason="pip install schemathesis")
    token = "a-token-of-some-length"
    with serving(app_for(Brightness(), root, token=token)) as port:
        assert run_schemathesis(port, tmp_path, token=token, examples=10, seed=0) == 0
    assert "seed" in (tmp_path / "schemathesis.txt").read_text().lower()
