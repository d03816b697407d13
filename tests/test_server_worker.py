"""The bundled model in a process of its own, behind the server: killed, stopped, orphaned, shut down."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from served import HTTP, served, wait_until

from qsave_reward.client import RewardClient
from qsave_reward.errors import ConfigError, ServerError, VideoError
from qsave_reward.server.worker import Worker
from qsave_reward.video import read_clip


def some_clips(count: int):
    rng = np.random.default_rng(0)
    return [read_clip(rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8), fps=8.0) for _ in range(count)]


@pytest.fixture(scope="module")
def worker():
    worker = Worker("tiny", device="cpu", threads=1)
    yield worker
    worker.close()


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def means(card):
    return [score.mean for score in card.scores.values()]


def test_the_same_scores_as_in_process(worker, tiny):
    clips, prompts = some_clips(5), ["a red circle moves left"] * 5
    expected = tiny.score_batch(clips, prompts)
    for mine, theirs in zip(worker.score_batch(clips, prompts), expected, strict=True):
        assert means(mine) == pytest.approx(means(theirs), abs=1e-4)
        assert mine.provenance == theirs.provenance and mine.warnings == theirs.warnings
    (explained,) = worker.explain_batch(clips[:1], prompts[:1])
    (told,) = tiny.explain_batch(clips[:1], prompts[:1])
    assert (explained.defects, explained.reasoning) == (told.defects, told.reasoning)
    assert worker.score_batch(clips[:1], [""], on_error="return")[0].code == "empty_prompt"
    with pytest.raises(ConfigError):
        worker.score_batch(clips[:1], [""])


def test_kill_minus_nine_loses_nothing(worker):
    clips = some_clips(24)
    expected = [means(card) for card in worker.score_batch(clips, ["a red circle"] * 24)]
    before = worker.restarts
    with served(worker) as url:
        stop = threading.Event()
        rounds: list[int] = []

        def killer() -> None:
            while worker.restarts < before + 2 and not stop.is_set():
                if (pid := worker.pid) is not None:
                    os.kill(pid, signal.SIGKILL)
                    wait_until(lambda pid=pid: gone(pid))
                    # A clip that meets both kills would rightly fail: first it has to have its score.
                    done = len(rounds)
                    wait_until(lambda done=done: len(rounds) > done, 60)
                time.sleep(0.3)

        murderer = threading.Thread(target=killer)
        murderer.start()
        client = RewardClient(url, items_per_request=2, connections=6)
        while murderer.is_alive():
            cards = client.score_batch(clips, ["a red circle"] * 24)
            rounds.append(len(cards))
            for card, means_before in zip(cards, expected, strict=True):
                assert means(card) == pytest.approx(means_before, abs=1e-4)
        stop.set()
        murderer.join()
        assert rounds and set(rounds) == {24} and worker.restarts == before + 2


def test_a_worker_that_hangs_is_killed_and_replaced(worker):
    clips = some_clips(1)
    worker.score_batch(clips, ["x"])
    pid, before = worker.pid, worker.restarts
    worker._timeout, patience = 1.0, worker._timeout
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ServerError) as caught:
        worker.score_batch(clips, ["x"])
    worker._timeout = patience
    assert caught.value.code == "worker_hung" and gone(pid)
    assert worker.score_batch(clips, ["x"]) and worker.restarts == before + 1


def test_a_worker_ends_with_its_parent():
    code = "import sys, time, numpy as np\nfrom qsave_reward.server.worker import Worker\n"
    code += "from qsave_reward.video import read_clip\nworker = Worker('tiny', device='cpu', threads=1)\n"
    code += "worker.score_batch([read_clip(np.zeros((2, 64, 64, 3), np.uint8), fps=8.0)], ['x'])\n"
    code += "print(worker.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.communicate()
    wait_until(lambda: gone(pid) or zombie(pid))


def zombie(pid: int) -> bool:
    """Ended, and adopted by a process that does not look after its children."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "Z"


def test_what_cannot_start(tmp_path):
    with pytest.raises(ConfigError):
        Worker("no-such-model")
    broken = tmp_path / "broken"
    broken.mkdir()
    from conftest import WEIGHTS

    (broken / "qsave.json").write_text((WEIGHTS / "qsave.json").read_text())
    worker = Worker(str(broken), device="cpu")
    with pytest.raises(ServerError) as caught:
        worker.score_batch(some_clips(1), ["x"])
    assert caught.value.code == "no_worker" and worker.pid is None
    worker.close()
    with pytest.raises(ServerError, match="closed"):
        worker.score_batch(some_clips(1), ["x"])


def serve(*options: str, **popen) -> subprocess.Popen:
    code = "import sys; from qsave_reward import cli; sys.argv[0] = 'qsave'; cli.main()"
    return subprocess.Popen([sys.executable, "-c", code, "serve", *options], text=True, **popen)


def test_the_command_drains_on_sigterm(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = tmp_path / "token"
    token.write_text("a-token-of-some-length\n")
    url = f"http://127.0.0.1:{port}"
    options = ("--device", "cpu", "--port", str(port), "--token-file", str(token))
    server = serve(*options, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: reached(f"{url}/ready") == 200, 90)
        client = RewardClient(url, token="a-token-of-some-length", items_per_request=64)
        client.model_card()
        cards: list = []
        work = threading.Thread(target=lambda: cards.extend(client.explain_batch(some_clips(48), ["x"] * 48)))
        work.start()
        header = {"Authorization": "Bearer a-token-of-some-length"}
        wait_until(lambda: "qsave_queue_clips 48.0" in HTTP.get(f"{url}/metrics", headers=header).text)
        server.send_signal(signal.SIGTERM)
        work.join(60)
        assert len(cards) == 48 and server.wait(30) in (0, -signal.SIGTERM)
        assert reached(f"{url}/health") is None
    finally:
        server.kill()
        server.wait()


def reached(url: str) -> int | None:
    import httpx

    try:
        return HTTP.get(url).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--host", "0.0.0.0"), "--token-file"),
        (("--host", "::"), "--token-file"),
        (("--host", "example.org"), "--token-file"),
        (("--token-file", "missing"), "cannot read"),
        (("--media-root", "missing"), "expected a folder"),
        (("--model", "no-such-model"), "unknown model"),
    ],
)
def test_what_the_command_refuses(options, message, tmp_path):
    done = serve(*options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (2, "") and message in err


def test_error_types_survive_the_way(worker):
    with served(worker) as url:
        client = RewardClient(url)
        (error,) = client.score_batch([b"junk"], ["x"], on_error="return")
        assert isinstance(error, VideoError)
