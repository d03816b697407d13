"""The page for people in a real browser, around the bundled model: `qsave serve --ui`.

Needs gradio, playwright (the Python package only) and a Chromium of the system.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from served import HTTP, wait_until

EXAMPLES = Path(__file__).parent.parent / "qsave_reward" / "examples"
PROMPT = "a large red star loops around"
TOKEN = "a-token-of-some-length"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`qsave serve --ui` with a token; stopped at the end, when nothing of it may be left."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    folder = tmp_path_factory.mktemp("server")
    (folder / "token").write_text(TOKEN)
    (folder / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", "from qsave_reward.cli import main; main()", "serve", "--ui"]
    command += ["--device", "cpu", "--port", port, "--token-file", str(folder / "token")]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or _is_ready(url), 120)
        assert process.poll() is None, (folder / "log").read_text()
        yield url
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    assert list((folder / "tmp").glob("qsave-ui-*")) == []
    assert "Traceback" not in (folder / "log").read_text()


def _is_ready(url: str) -> bool:
    try:
        return HTTP.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(server, browser):
    """The page after the token was typed in; at the end no request may have gone elsewhere."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.goto(f"{server}/ui")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    page.get_by_role("button", name="Score").wait_for()
    yield page
    context.close()
    addresses = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert addresses == {urlsplit(server).netloc}
    assert faults == []


def score(page, *paths: Path, prompt: str = PROMPT):
    """Upload the files, press the button, and give the document with the results."""
    page.locator("input[type=file]").set_input_files([str(path) for path in paths])
    page.get_by_label("Prompt").fill(prompt)
    page.locator(".file-preview tr").nth(len(paths) - 1).wait_for()
    page.get_by_role("button", name="Score").click()
    page.locator("iframe.qsave-result").wait_for(timeout=60_000)
    return page.frame_locator("iframe.qsave-result")


def from_api(server: str, path: Path) -> dict:
    """What `/v1/score` says."""
    headers = {"Content-Type": "video/mp4", "Authorization": f"Bearer {TOKEN}"}
    query = {"prompt": PROMPT, "mode": "explained"}
    reply = HTTP.post(f"{server}/v1/score", params=query, content=path.read_bytes(), headers=headers)
    assert reply.status_code == 200
    return reply.json()["results"][0]


def test_one_clip(server, page):
    results = score(page, EXAMPLES / "flicker.mp4")
    told = from_api(server, EXAMPLES / "flicker.mp4")
    results.locator(".overall").wait_for()
    assert results.locator(".overall b").inner_text() == f"{told['overall']:.2f}"
    shown = results.locator(".score .value").all_inner_texts()
    assert shown == [f"{row['mean']:.2f} ± {row['std']:.2f}" for row in told["scores"].values()]
    assert results.locator(".lane .text b").all_inner_texts() == [row["label"] for row in told["defects"]]
    assert results.locator(".reasoning").inner_text() == told["reasoning"].strip()
    assert results.locator(".strip img").count() == 8
    assert "was trained on" in page.locator(".qsave-note").inner_text()

    video = results.locator("video")
    assert video.evaluate("video => video.play().then(() => video.error)") is None
    frame = page.locator("iframe.qsave-result")
    assert frame.evaluate("frame => frame.contentDocument.scripts.length") == 0
    inner = frame.evaluate("frame => frame.contentDocument.documentElement.scrollHeight")
    assert frame.bounding_box()["height"] == pytest.approx(inner, abs=2)


def test_a_bundled_example_and_a_second_press(page):
    page.get_by_role("button", name="flicker").click()
    page.locator(".file-preview tr").wait_for()
    assert page.get_by_label("Prompt").input_value() == PROMPT
    results = page.frame_locator("iframe.qsave-result")
    for prompt in (PROMPT, "a blue square"):
        page.get_by_label("Prompt").fill(prompt)
        page.get_by_role("button", name="Score").click()
        results.get_by_text(f"“{prompt}”").wait_for(timeout=60_000)


def test_a_bad_file(page, tmp_path):
    (tmp_path / "<b>bad.mp4").write_bytes(b"no video at all")
    results = score(page, tmp_path / "<b>bad.mp4")
    assert "Not scored (not_a_video)." in results.locator(".error").inner_text()
    assert "bad.mp4" in results.locator("h2").inner_text()
    assert "Traceback" not in results.locator("body").inner_text()


def test_candidates_side_by_side(server, page, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    names = ["flicker.mp4", "clean.mp4"]
    results = score(page, *(EXAMPLES / name for name in names), tmp_path / "bad.mp4")
    overall = {name: from_api(server, EXAMPLES / name)["overall"] for name in names}
    best_first = sorted(names, key=lambda name: -overall[name])
    results.locator(".overview").wait_for()
    assert results.locator(".overview tbody .rank").all_inner_texts() == ["1", "2", "–"]
    clips = results.locator(".overview tbody td:nth-child(2)").all_inner_texts()
    assert clips == [*best_first, "bad.mp4"]
    shown = results.locator(".card .overall b").all_inner_texts()
    assert shown == [f"{overall[name]:.2f}" for name in best_first]
    boxes = [results.locator(".card").nth(at).bounding_box() for at in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]


def test_a_wrong_token(server, browser):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{server}/ui/")
        page.get_by_label("Token").fill("not-the-token-at-all")
        page.get_by_role("button", name="Open").click()
        page.get_by_text("That is not this server's token.").wait_for()
        assert page.get_by_role("button", name="Score").count() == 0
