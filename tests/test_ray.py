"""Scoring, filtering and serving on a Ray cluster of two small nodes on this machine."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray_cases
from cli_cases import command
from fake_model import Company, FakeModel
from filter_cases import written
from list_files import lines
from ray_cases import clip_jobs, plain_lines

from qsave_reward.client import RewardClient
from qsave_reward.clip_list import read_clip_list
from qsave_reward.errors import ServerError
from qsave_reward.filtering import filter_clips
from qsave_reward.ray_cluster import import_ray
from qsave_reward.ray_scoring import score_on_ray
from qsave_reward.ray_worker import How
from qsave_reward.scoring import Job
from qsave_reward.selection import Selection, parse_keep
from qsave_reward.video import read_clip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's, of its own parts
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray"),
]
HERE = str(Path(__file__).parent)
TOKEN = "0123456789abcdef"
SERVE = f"""
from functools import partial
import ray_cases
from qsave_reward.server.ray_app import Address, serve_on_ray
from qsave_reward.server.settings import Settings
address = Address("127.0.0.1", PORT)
serve_on_ray(ray_cases.fake, Settings(token={TOKEN!r}), address, replicas=2, announce=print)
"""


FILTER = """
import sys
import ray_cases
from qsave_reward import cli, ray_scoring
ray_scoring.load_worker = ray_cases.slow_worker
sys.argv[0] = "qsave"
cli.main()
"""


def ray_processes():
    """Ids of processes of Ray, and their names."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if command[0].startswith(b"ray::") or command[0].endswith((b"/raylet", b"/gcs_server")):
                found[int(folder.name)] = command[0].decode()
    return found


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one CPU each; this process is in the cluster too."""
    before = ray_processes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
            patch.setenv(name, "x")
            patch.delenv(name)  # so that what the package sets is gone afterwards
        ray = import_ray()
        small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        nodes = import_ray("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=small)
        try:
            nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
            ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()
    wait_for(lambda: not set(ray_processes()) - set(before))


def read(path):
    return Path(path).read_text().splitlines()


def test_a_run_gives_the_lines_of_one_process_and_a_rerun_what_is_missing(cluster, tmp_path, monkeypatch):
    jobs = clip_jobs(tmp_path, ["a", "b", "c", "deadly", "e", "bad", "g", "h"])
    jobs += [Job("gone.mp4", "gone.mp4", "x"), Job("url", "http://127.0.0.1/x.mp4", "x")]
    jobs += [Job("0.mp4", "0.mp4", " ")]
    monkeypatch.chdir(tmp_path)
    notes, how, counts = tmp_path / "notes", How(reasoning=True, batch_size=2), []
    score = partial(
        score_on_ray, partial(ray_cases.noting, str(notes)), jobs, out=tmp_path / "out", how=how, workers=2
    )
    run = score(progress=counts.append)
    expected = plain_lines(jobs, how)
    choked = {"code": "scoring_failed", "message": "scoring this clip failed: the model choked"}
    found = read(run.path)
    assert json.loads(found[5])["error"] == choked
    assert [line for i, line in enumerate(found) if i != 5] == expected[:5] + expected[6:]
    assert (run.clips, run.failed, run.reused, sum(counts)) == (11, 4, 0, 11)
    # Three processes: two workers, and one in the place of the one that died.
    assert len({line.split()[0] for line in read(notes)}) == 3

    second = sorted((tmp_path / "out" / "shards").iterdir())[1]
    kept = {path: path.stat().st_mtime_ns for path in second.parent.iterdir() if path != second}
    second.unlink()
    notes.write_text("deadly\n")
    assert score().reused == 9
    assert [line.split()[-1] for line in read(notes)[1:]] == ["c", "deadly"]
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert read(run.path) == found

    Path(run.path).unlink()
    monkeypatch.setattr("qsave_reward.ray_scoring.ray_cluster", None)  # a complete run needs no cluster
    assert score().reused == 11 and read(run.path) == found


def test_a_run_that_breaks_off_says_why(cluster, tmp_path):
    with pytest.raises(ServerError, match="broke off: .*no such device; run it again") as caught:
        score_on_ray(ray_cases.unloadable, clip_jobs(tmp_path, "ab"), out=tmp_path, how=How(), workers=1)
    assert caught.value.code == "ray"
    assert not (tmp_path / "results.jsonl").exists()


def test_a_filter_killed_on_ray_ends_as_in_one_process_and_scores_no_logged_clip_twice(
    cluster, tmp_path, monkeypatch, capsys
):
    clip_jobs(tmp_path, "abc")
    names = ["0.mp4", "1.mp4", "none.mp4", "2.mp4"]
    listed = [{"video": names[i % 4], "prompt": f"prompt {i}"} for i in range(50)]
    lines(tmp_path / "in.jsonl", listed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qsave_reward.ray_scoring.load_worker", ray_cases.slow_worker)
    notes = str(tmp_path / "notes")
    words = ["filter", "in.jsonl", "--keep", "top:0.3", "--pairs", "--batch-size", "3", "--model", notes]
    on_ray = [*words, "--out", "out", "--ray", "--workers", "2"]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": HERE}
    run = subprocess.Popen([sys.executable, "-c", FILTER, *on_ray], env=environment, stderr=subprocess.PIPE)
    log = tmp_path / "out" / "scores.jsonl"
    try:
        wait_for(lambda: log.exists() and len(log.read_bytes().splitlines()) > 8)
    finally:
        run.kill()
        said = run.communicate()[1].decode()
    assert run.returncode == -signal.SIGKILL and said == "starting on Ray; what is done is kept in out\n"
    logged = [json.loads(line)["prompt"] for line in read(log)]
    assert 8 < len(logged) < 50 and not written(tmp_path / "out")

    qsave = command(monkeypatch, capsys)
    code, out, err = qsave(*on_ray, "--json")
    assert (code, json.loads(out)["n"]) == (1, 50)
    assert err.endswith("12 of 50 clips could not be scored\n")
    scored = Counter(read(notes))
    readable = {row["prompt"] for row in listed if row["video"] != "none.mp4"}
    assert set(scored) == readable and all(scored[prompt] == 1 for prompt in logged if prompt in readable)

    calm = partial(filter_clips, Company(), read_clip_list("in.jsonl"), batch_size=3, pairs=True)
    calm(out="calm", selection=Selection(parse_keep("top:0.3")))
    assert written(tmp_path / "out") == written(tmp_path / "calm") and len(written(tmp_path / "out")) == 4
    assert sorted(read(log)) == sorted(read("calm/scores.jsonl"))

    monkeypatch.setattr("qsave_reward.ray_scoring.ray_cluster", None)  # nothing is left for a cluster
    assert qsave(*on_ray)[0] == 1 and Counter(read(notes)) == scored


def test_served_on_every_node_restarted_and_ended_by_a_signal(cluster):
    ray = import_ray()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, allowed = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {TOKEN}"}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE.replace("PORT", str(port))],
        env={**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": HERE, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout.readline() == "starting 2 on Ray\n"
        assert server.stdout.readline() == f"ready on {url}; Ctrl-C ends it\n"
        assert httpx.get(f"{url}/ready").status_code == 200
        assert httpx.get(f"{url}/v1/model").status_code == 401
        assert httpx.get(f"{url}/v1/model", headers=allowed).json()["model"] == "fake"
        clips = [read_clip(np.full((8, 32, 48, 3), 9 * i, np.uint8), fps=8) for i in range(24)]
        client = RewardClient(url, token=TOKEN, items_per_request=2)
        expected = FakeModel().score_batch(clips, ["a"] * 24)
        assert client.score_batch(clips, ["a"] * 24) == expected

        replicas = [pid for pid, name in ray_processes().items() if name.startswith("ray::ServeReplica")]
        assert len(replicas) == 2
        os.kill(replicas[0], signal.SIGKILL)
        assert client.score_batch(clips, ["a"] * 24) == expected
        names = lambda: [n for p, n in ray_processes().items() if p not in replicas]  # noqa: E731
        wait_for(lambda: any(name.startswith("ray::ServeReplica") for name in names()))

        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
        assert (server.returncode, errors) == (0, "")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/ready", timeout=5).raise_for_status()
    finally:
        server.kill()
        server.wait()
        import_ray("ray.serve").shutdown()
        assert ray.is_initialized()
