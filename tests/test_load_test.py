"""The load test: its mix, its judgement of replies and of the whole run, and every bad request once."""

import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_model import FakeModel
from hypothesis import given
from hypothesis import strategies as st
from served import served

from qsave_reward.server.settings import Settings
from qsave_reward.types import DIMENSIONS

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "serving"))

from load_bad import Bad, bad_requests, hard_requests, mix
from load_clients import Answer, GoodClient, Site, send_bad, send_hard
from load_good import FORMS, Job, chosen, difference, draw_job, expected_of, make_pool
from load_report import kinds, memory, picture, promises, quantiles, table
from load_server import Kill, Sample, kill_points, server_errors

TOKEN = "a-token-of-some-length"
MIB = 1 << 20


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 12), st.integers(0, 9))
def test_the_mix_has_every_kind_as_often_as_the_next(good, bad, number, seed):
    order = mix(good, bad, number, seed)
    counts = Counter(order)
    assert counts.pop(-1, 0) == good and sum(counts.values()) == bad
    assert max(counts.values(), default=0) - min((counts[k] for k in range(number)), default=0) <= 1
    assert order == mix(good, bad, number, seed)


@given(st.integers(0, 8), st.integers(10, 10_000), st.integers(0, 9))
def test_kills_come_in_order_and_while_there_is_load(kills, requests, seed):
    points = kill_points(kills, requests, seed)
    assert len(points) == kills and points == sorted(points)
    assert all(
        0.1 * requests - 1 <= count <= 0.9 * requests + 1 and 0 <= pause <= 3 for count, pause in points
    )


def test_quantiles_are_those_of_the_times():
    found = quantiles([k / 100 for k in range(101)])
    assert found == pytest.approx({"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0})
    assert quantiles([]) == {}


def steady(growth: int = 0) -> list[Sample]:
    """A hundred looks at a server that grows by so many bytes with each answer after the half."""
    return [
        Sample(k / 2, 10 * k, 100 * MIB + growth * max(0, 10 * k - 500), 300 * MIB, 40, 0) for k in range(101)
    ]


def test_growth_is_that_of_the_second_half():
    assert memory(steady())["growth"] == 0
    found = memory(steady(growth=MIB // 10))
    assert found["bytes_per_request"] == pytest.approx(MIB // 10)
    # Medians at 550 and 950 answers.
    assert found["growth"] == pytest.approx(145 / 105 - 1, abs=1e-4)
    assert (found["start"], found["peak"]) == (100 * MIB, 100 * MIB + 500 * (MIB // 10))
    early = [replace(one, rss=one.rss + MIB * min(one.done, 400)) for one in steady()]
    assert memory(early)["growth"] == 0 and memory(early)["half"] == 500 * MIB
    spike = [replace(one, rss=one.rss * (5 if one.done == 990 else 1)) for one in steady()]
    assert memory(spike)["growth"] == 0 and memory(spike)["peak"] == 500 * MIB


def good(**changes) -> Answer:
    return replace(Answer("frames", True, 200, "", 1.0, 0.5, 2), **changes)


def bad(**changes) -> Answer:
    return replace(Answer("no JSON", False, 400, "bad_request", 2.0, 0.1), **changes)


@pytest.fixture
def result():
    answers = [good(), good(), bad(), bad(kind="leaves in mid-body", status=0, code="")]
    found = {
        "memory": memory(steady()),
        "descriptors": {"start": 40, "end": 44},
        "zombies": 0,
        "held": {"clips": 0.0, "bytes": 0.0},
        "clips_scored": 5,
        "errors_counted": {},
        "tracebacks": 0,
        "kills": [{}],
        "kills_wanted": 1,
        "restarts": 1.0,
        "left": [],
        "latency": quantiles([0.5]),
        "kinds": kinds(answers),
    }
    return found, answers


def broken(result, answers, planned=4):
    return [one.text.split(":")[0] for one in promises(result, answers, planned) if not one.kept]


def test_a_run_without_fault_keeps_every_promise(result):
    assert broken(*result) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"memory": memory(steady(MIB // 10))}, "memory is flat in the second half"),
        ({"descriptors": {"start": 40, "end": 400}}, "no descriptor leaks"),
        ({"zombies": 1}, "no zombies"),
        ({"held": {"clips": 0.0, "bytes": 5.0}}, "nothing is held when all is done"),
        ({"clips_scored": 6}, "no clip scored twice"),
        ({"clips_scored": 3}, "no clip scored twice"),
        ({"errors_counted": {"/v1/score 500": 1}}, "no 5xx"),
        ({"tracebacks": 1}, "no traceback in the log"),
        ({"kills": []}, "the worker was replaced after each kill"),
        ({"restarts": 0.0}, "the worker was replaced after each kill"),
        ({"left": ["77 sleeping worker"]}, "no process left after SIGTERM"),
    ],
)
def test_each_broken_promise_is_told(result, change, text):
    assert broken(result[0] | change, result[1]) == [text]


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (good(clips=0, problem="other scores"), ["good requests"]),
        (bad(problem="expected status 400, got 200"), ["bad requests"]),
        (bad(status=500, problem="status 500"), ["bad requests", "no 5xx"]),
    ],
)
def test_each_wrong_answer_is_told(result, answer, texts):
    assert broken(result[0], [*result[1], answer], 5) == texts
    assert broken(result[0], result[1], 5) == ["every request was sent"]


def test_the_table_and_the_picture_show_everything(result):
    found, answers = result
    lines = table(found, promises(found, [*answers, bad(problem="x")], 4))
    assert sum("**NO**" in line for line in lines) == 2
    assert "| frames | 2 | 200: 2 |  | 0 |" in lines
    assert "| bad: no JSON | 1 | 400: 1 | bad_request: 1 | 0 |" in lines
    assert "| bad: leaves in mid-body | 1 | none: 1 |  | 0 |" in lines
    drawn = ElementTree.fromstring(picture(steady(), answers, [Kill(3.0, 60, 9.0)]))
    names = Counter(part.tag.rsplit("}", 1)[1] for part in drawn.iter())
    assert names["circle"] == 2 and names["polyline"] == 1
    dashed = [part for part in drawn.iter() if part.get("class") == "kill"]
    assert len(dashed) == 2 and float(dashed[0].get("x1")) == pytest.approx(70 + 730 * 3 / 50)


def test_errors_of_the_server_are_counted_but_for_the_time_of_loading():
    found = {'qsave_replies_total{path="/ready",status="503"}': 9.0, "qsave_queue_clips": 500.0}
    found |= {f'qsave_replies_total{{path="/v1/score",status="{status}"}}': 2.0 for status in (200, 499, 503)}
    assert server_errors(found) == {"/v1/score 503": 2}


# against a real server


@pytest.fixture(scope="module")
def pool_and_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("load") / "media"
    root.mkdir()
    return make_pool(FakeModel(), root, 5), root


@pytest.fixture(scope="module")
def site(pool_and_root):
    _, root = pool_and_root
    (root.parent / "secret.mp4").write_bytes(b"not for everyone")
    (root / "link.mp4").symlink_to(root.parent / "secret.mp4")
    with served(FakeModel(), Settings(token=TOKEN, media_root=str(root), body_timeout=0.4)) as url:
        yield Site(int(url.rsplit(":", 1)[1]), TOKEN, time.monotonic())


def test_every_form_is_answered_with_the_known_scores(pool_and_root, site):
    pool, _ = pool_and_root
    client = GoodClient(site, pool)
    for number, form in enumerate(FORMS):
        job = Job(f"form {number}", form, (0, 3, 3) if form != "video/mp4" else (3,), twice=form == "frames")
        answer = client.send(job)
        assert (answer.status, answer.problem, answer.clips) == (200, None, len(job.picks)), form
        scores = tuple(value + 0.01 for value in pool[3].frames_means)
        off = [replace(known, frames_means=scores, file_means=scores) for known in pool]
        liar = GoodClient(site, off)
        seen = liar.send(replace(job, name=f"off {number}", picks=(3,)))
        assert "expected the scores" in seen.problem
        liar.close()
    client.close()
    assert "no reply" in GoodClient(replace(site, port=1), pool).send(job).problem
    refused = GoodClient(replace(site, token="wrong"), pool)
    assert "status 401" in refused.send(job).problem
    refused.close()


def test_jobs_are_drawn_alike_and_of_every_form():
    jobs = [draw_job(random.Random(f"0 {number}"), number, 5) for number in range(400)]
    assert {job.form for job in jobs} == set(FORMS) and len({job.name for job in jobs}) == 400
    assert {len(job.picks) for job in jobs} == {1, 2, 3, 4} and 5 < sum(job.twice for job in jobs) < 60
    assert jobs[7] == draw_job(random.Random("0 7"), 7, 5)


def test_a_ranking_has_one_prompt(pool_and_root):
    pool, _ = pool_and_root
    job = Job("r", "rank", (1, 2, 3))
    assert [(known.prompt, name) for known, name in chosen(job, pool)] == [
        (pool[1].prompt, f"r/{place}") for place in range(3)
    ]


def test_differences_are_told(pool_and_root):
    pool, _ = pool_and_root
    expected = expected_of(Job("d", "frames", (1, 2)), pool)
    rows = [
        {
            "id": name,
            "error": None,
            "scores": {d: {"mean": m} for d, m in zip(DIMENSIONS, scores, strict=True)},
        }
        for name, scores in expected
    ]
    assert difference({"results": rows}, expected) is None
    assert "expected 2 results" in difference({"results": rows[:1]}, expected)
    assert "expected 2 results" in difference({}, expected)
    assert "expected the result of" in difference({"results": rows[::-1]}, expected)
    failed = {"id": "d/1", "error": {"code": "timeout", "message": "late"}, "scores": None}
    assert difference({"results": [rows[0], failed]}, expected) == "timeout: late"


def test_every_bad_request_gets_what_is_owed(pool_and_root, site):
    pool, _ = pool_and_root
    requests = bad_requests(pool[0].clip, TOKEN, "link.mp4")
    assert len({one.name for one in requests}) == len(requests) >= 35
    answers = {one.name: send_bad(one, site) for one in requests}
    assert {name: one.problem for name, one in answers.items() if one.problem} == {}
    assert answers["slow sender"].seconds < 5 and not any(one.good for one in answers.values())


def test_a_reply_that_is_not_owed_is_a_problem(pool_and_root, site):
    pool, _ = pool_and_root
    (bad_json,) = (one for one in bad_requests(pool[0].clip, TOKEN, "x") if one.name == "no JSON")
    assert "expected status 422" in send_bad(replace(bad_json, status=422), site).problem
    assert "expected the code other" in send_bad(replace(bad_json, code="other"), site).problem
    assert "status 0" in send_bad(Bad("closes", b"GET", None, None), hanging_up(site)).problem


def hanging_up(site: Site) -> Site:
    """A site that hangs up at once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.close()
        listener.close()

    threading.Thread(target=hang_up).start()
    return replace(site, port=listener.getsockname()[1])


def test_hard_files_are_compared_with_what_happens_in_process(pool_and_root, site):
    pool, _ = pool_and_root
    sound, broken_file = hard_requests({"a": pool[0].file, "b": b"junk"}, TOKEN).values()
    scores = FakeModel().score_batch([pool[0].file], ["a clip"])[0].scores
    owed = tuple(scores[name].mean for name in DIMENSIONS)
    assert send_hard(sound, site, owed).problem is None and send_hard(sound, site, owed).clips == 1
    assert "expected the scores" in send_hard(sound, site, (1.0, 1.0, 1.0)).problem
    assert "expected corrupt" in send_hard(sound, site, "corrupt").problem
    assert send_hard(broken_file, site, "not_a_video").problem is None
    assert "expected (" in send_hard(broken_file, site, owed).problem
    assert send_hard(broken_file, site, "not_a_video").code == "not_a_video"


def test_a_pool_has_files_that_say_what_their_frames_say(pool_and_root):
    pool, root = pool_and_root
    for known in pool:
        assert (root / known.path).read_bytes() == known.file and len(known.clip.frames) == 8
        np.testing.assert_allclose(known.frames_means, known.file_means, atol=0.2)
    assert len({known.prompt for known in pool}) == 5 and json.dumps([known.prompt for known in pool])
