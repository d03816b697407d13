"""The page for people: what is behind the form, and gradio around it."""

import asyncio
import html
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel, spread
from served import HTTP, GatedModel, serving, wait_until

from qsave_reward.errors import AnswerError, ConfigError, ServerError, VideoError
from qsave_reward.scoring import Job, Scored
from qsave_reward.server.app import create_app
from qsave_reward.server.page import MAX_CLIPS, Upload, add_page, judge_uploads, results_page
from qsave_reward.server.settings import Settings
from qsave_reward.types import DIMENSIONS, Provenance, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip, write_clip

HOSTILE = "\"></iframe><script>alert(1)</script>'.mp4"
PLAN = FakeModel().frame_plan

# Gradio counts its events with outdated calls of pandas.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\..*")


def gray(value: int, frames: int = 8) -> Clip:
    pixels = np.full((frames, 32, 48, 3), value, np.uint8)
    return Clip(pixels, np.arange(frames) / 8.0, frames / 8.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A dark, a middle and a bright clip, and a file that is none."""
    folder = tmp_path_factory.mktemp("files")
    for name, value in (("dark", 20), ("middle", 120), ("bright", 235)):
        write_clip(folder / f"{name}.mp4", gray(value).frames, fps=8)
    (folder / "text.mp4").write_text("no video at all")
    return {path.stem: path for path in folder.iterdir()}


def expected(path: Path) -> float:
    """The score that `FakeModel` gives."""
    return 1 + 4 * float(read_clip(path, Sampling(max_frames=8)).frames.mean()) / 255


def judge(paths, prompt="a cat", *, explain=False, settings=None, model=None, ready=True):
    """`judge_uploads` on a server of its own."""
    app = create_app(model or FakeModel(), settings or Settings())

    async def run():
        async with app.router.lifespan_context(app):
            service = app.state.service
            while ready and not service.ready:
                await asyncio.sleep(0.01)
            uploads = [Upload(f"my {path.name}", str(path)) for path in paths]
            return await judge_uploads(service, uploads, prompt, explain=explain)

    return asyncio.run(run())


def card(mean: float) -> VideoScore:
    return VideoScore({name: spread(mean) for name in DIMENSIONS}, Provenance("fake", "0123", "1", {}))


def scored(name: str, result, clip: Clip | None = None) -> Scored:
    return Scored(Job(name, "/nowhere", "a cat"), result, clip)


def test_uploads_are_scored_in_order_and_fail_in_their_own_place(files):
    paths = [files["bright"], files["text"], files["dark"], Path("/nowhere/gone.mp4")]
    results = judge(paths)
    assert [one.job.name for one in results] == ["my bright.mp4", "my text.mp4", "my dark.mp4", "my gone.mp4"]
    for at in (0, 2):
        assert results[at].result.overall == pytest.approx(expected(paths[at]), abs=1e-9)
        assert results[at].result.defects is None and results[at].clip is not None
    assert [type(results[at].result) for at in (1, 3)] == [VideoError, VideoError]
    assert [results[at].result.code for at in (1, 3)] == ["not_a_video", "not_found"]
    assert "drop the file again" in str(results[3].result)


def test_reasons_are_written_when_asked_for(files):
    (one,) = judge([files["dark"]], explain=True)
    assert [defect.label for defect in one.result.defects] == ["exposure", "frozen"]
    assert one.result.overall == pytest.approx(expected(files["dark"]), abs=1e-9)


@pytest.mark.parametrize(
    ("count", "prompt", "options", "kind", "code"),
    [
        (0, "a cat", {}, ConfigError, "no_clip"),
        (MAX_CLIPS + 1, "a cat", {}, ConfigError, "too_many_clips"),
        (1, " \n", {}, ConfigError, "empty_prompt"),
        (1, "x" * 4097, {}, ConfigError, "long_prompt"),
        (2, "a cat", {"settings": Settings(max_queue=1)}, ServerError, "too_many_clips"),
    ],
)
def test_what_cannot_be_scored_at_all(files, count, prompt, options, kind, code):
    with pytest.raises(kind) as error:
        judge([files["dark"]] * count, prompt, **options)
    assert error.value.code == code


def test_nothing_is_scored_before_the_model_is_loaded(files):
    model = GatedModel()
    model.gate.clear()
    try:
        with pytest.raises(ServerError) as error:
            judge([files["dark"]], model=model, ready=False)
    finally:
        model.gate.set()
    assert error.value.code == "not_ready"


def test_the_server_s_limits_hold(files):
    (one,) = judge([files["dark"]], settings=Settings(max_pixels=32 * 48 - 1))
    assert one.result.code == "too_large"


def test_results_are_ranked_and_equal_values_share_a_rank():
    clip = gray(100)
    page = results_page(
        [
            scored("b.mp4", card(3.0), clip),
            scored("broken.mp4", AnswerError("no answer"), clip),
            scored("a.mp4", card(4.5), clip),
            scored("c.mp4", card(3.0), clip),
            scored("d.mp4", card(2.25), clip),
        ],
        PLAN,
    )
    rows = re.findall(r'<td class="rank num">(.*?)</td><td>(.*?)</td>', page)
    assert rows == [("1", "a.mp4"), ("2", "b.mp4"), ("2", "c.mp4"), ("4", "d.mp4"), ("–", "broken.mp4")]
    assert re.findall(r'<td class="num soft">(.*?)</td>', page) == ["", "1.50", "1.50", "2.25"]
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "broken.mp4"]
    assert re.findall(r'<div class="place">(.*?)</div>', page) == ["Best", "Rank 2", "Rank 2", "Rank 4"]
    assert "Not scored (bad_answer)." in page and page.count('class="strip"') == 4


def test_one_clip_is_not_ranked():
    page = results_page([scored("a.mp4", card(4.5), gray(100))], PLAN)
    assert "<b>4.50</b>" in page and 'class="strip"' in page
    assert "Rank" not in page and "candidates" not in page


def test_a_page_of_failures_says_so():
    page = results_page([scored("a.mp4", VideoError("no video", code="no_video"))], PLAN)
    assert "Not scored (no_video)." in page and "Scored by" not in page


def test_text_of_strangers_stays_text():
    page = results_page([scored(HOSTILE, card(2.0), gray(9)), scored("b", AnswerError(HOSTILE))], PLAN)
    assert "<script" not in page and html.escape("<script>alert(1)</script>") in page
    assert re.findall(r'(?:src|href|poster)="(?!data:)', page) == []


def test_without_gradio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"needs gradio: pip install 'qsave_reward\[ui\]'"):
        add_page(create_app(FakeModel()))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page around a scorer without weights, and the folder that uploads lie under."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    folder = tmp_path_factory.mktemp("page")
    app = create_app(FakeModel(), Settings(max_body=100_000))

    async def build():  # without a running loop gradio makes one, and does not close it
        add_page(app, trained_on="Trained on <b>squares</b> & nothing else.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "restored at the end")
        patch.setattr(tempfile, "tempdir", str(folder))
        asyncio.run(build())
        with serving(app) as url:
            wait_until(lambda: app.state.service.ready)
            yield url, folder
    assert list(folder.iterdir()) == []


def upload(url, *paths):
    """What the browser gets for files that it uploads, in the form in which it sends it on."""
    parts = [("files", (path.name, path.read_bytes())) for path in paths]
    reply = HTTP.post(f"{url}/ui/gradio_api/upload", files=parts)
    assert reply.status_code == 200, reply.text
    return [
        {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
        for path, file in zip(reply.json(), paths, strict=True)
    ]


def press(url, files, prompt="a cat", explain=False):
    """Press the button; the last message of the queue."""
    events = HTTP.get(f"{url}/ui/config").json()["dependencies"]
    (number,) = [event["id"] for event in events if len(event["inputs"]) == 3]
    job = {"data": [files, prompt, explain], "fn_index": number, "session_hash": "a-window"}
    reply = HTTP.post(f"{url}/ui/gradio_api/queue/join", json=job)
    if reply.status_code != 200:
        return reply.json()
    with HTTP.stream("GET", f"{url}/ui/gradio_api/queue/data?session_hash=a-window") as lines:
        for line in lines.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def document(message) -> str:
    """The page in the frame of an answer."""
    assert message["success"], message
    (text,) = re.findall(r'srcdoc="([^"]*)"', message["output"]["data"][0])
    return html.unescape(text)


def test_the_page_shows_the_scores_of_the_api(page, files):
    url, folder = page
    text = document(press(url, upload(url, files["dark"], files["bright"]), explain=True))
    for name in ("dark", "bright"):
        kind = {"Content-Type": "video/mp4"}
        query = {"prompt": "a cat"}
        reply = HTTP.post(f"{url}/v1/score", params=query, content=files[name].read_bytes(), headers=kind)
        assert f"<b>{reply.json()['results'][0]['overall']:.2f}</b>" in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["bright.mp4", "dark.mp4"]
    assert "exposure" in text and str(folder) not in text
    assert 'qsave_clips_total{outcome="scored"} 4.0' in HTTP.get(f"{url}/metrics").text


def test_wrong_input_is_answered_in_the_page(page, files):
    url, _ = page
    assert "Not scored (not_a_video)." in document(press(url, upload(url, files["text"])))
    assert "Not scored (no_clip)." in document(press(url, None))
    assert "Not scored (empty_prompt)." in document(press(url, upload(url, files["dark"]), prompt=None))


def test_gradio_reads_only_what_was_uploaded_and_fetches_nothing(page, files, monkeypatch):
    from gradio import processing_utils

    url, folder = page
    fetched = []
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", lambda *args: fetched.append(args))
    (uploaded,) = upload(url, files["dark"])
    inside = Path(uploaded["path"]).parent
    (inside / "link.mp4").symlink_to(files["dark"])
    before = sorted(folder.rglob("*"))
    paths = ["https://example.org/clip.mp4", "http://127.0.0.1/x", "/etc/hostname", f"{inside}/../../x", ""]
    for path in [str(files["dark"]), *paths, str(inside / "link.mp4"), None, 7, ["/etc/hostname"]]:
        for extra in ({"meta": {"_type": "gradio.FileData"}}, {}, {"is_stream": True}):
            file = {"path": path, "orig_name": "clip.mp4", **extra}
            for job in (([file], "a cat"), ([uploaded], file), ([uploaded, [{"x": file}]], "a cat")):
                assert press(url, *job)["error"]["code"] == "outside_uploads"
    assert fetched == [] and sorted(folder.rglob("*")) == before


def test_the_queue_cannot_be_passed_by(page, files):
    url, _ = page
    events = HTTP.get(f"{url}/ui/config").json()["dependencies"]
    assert len(events) == 2  # the button, the examples
    for event in events:
        job = {"data": [upload(url, files["dark"]), "a cat", False], "fn_index": event["id"]}
        reply = HTTP.post(f"{url}/ui/gradio_api/run/predict", json=job)
        assert reply.status_code == (404 if len(event["inputs"]) == 3 else 500)


def test_large_uploads_are_refused(page, tmp_path):
    url, folder = page
    before = sorted(folder.rglob("*"))
    (tmp_path / "large.mp4").write_bytes(b"x" * 100_001)
    with open(tmp_path / "large.mp4", "rb") as file:
        reply = HTTP.post(f"{url}/ui/gradio_api/upload", files=[("files", ("large.mp4", file))])
    assert reply.status_code == 413
    assert sorted(folder.rglob("*")) == before


def test_the_page_is_as_it_should_be(page):
    url, _ = page
    reply = HTTP.get(f"{url}/ui", follow_redirects=True)
    assert reply.status_code == 200
    assert (
        "Trained on &lt;b&gt;squares&lt;/b&gt; &amp; nothing else."
        in json.loads(re.search(r"window.gradio_config = (.*?);</script>", reply.text)[1])["components"][0][
            "props"
        ]["value"]
    )
    assert re.findall(r"""(?:src|href)=["']?https?://""", reply.text) == []
    config = HTTP.get(f"{url}/ui/config").json()
    assert config["analytics_enabled"] is False
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "http" not in policy and "*" not in policy
