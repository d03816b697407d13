"""What a Ray worker does with a shard, without Ray."""

import json
import sys
from functools import partial

import pytest
import ray_cases
from cli_cases import command
from ray_cases import clip_jobs, plain_lines

from qsave_reward.errors import ConfigError
from qsave_reward.ray_cluster import import_ray, ray_cluster
from qsave_reward.ray_scoring import score_on_ray
from qsave_reward.ray_worker import How, ShardScorer
from qsave_reward.scoring import Job


def shard_lines(load, jobs, how, *, folder="/"):
    found = ShardScorer(load, 1, how)({"shard": 7, "folder": str(folder), "jobs": json.dumps(jobs)})
    assert found.keys() == {"shard", "lines", "failed"} and found["shard"] == 7
    return found["lines"].split("\n"), found["failed"]


@pytest.mark.parametrize("how", [How(), How(reasoning=True, batch_size=3), How(explain=False, batch_size=1)])
def test_a_worker_gives_the_lines_of_the_command(tmp_path, monkeypatch, how):
    jobs = [job._replace(path=job.name) for job in clip_jobs(tmp_path, "abcd")]
    jobs += [Job("gone.mp4", "gone.mp4", "x"), Job("url", "http://127.0.0.1/x.mp4", "x")]
    jobs += [Job("0.mp4", str(tmp_path / "0.mp4"), " ")]
    lines, failed = shard_lines(ray_cases.fake, jobs, how, folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert (lines, failed) == (plain_lines(jobs, how), "")
    codes = [json.loads(line)["error"]["code"] for line in lines[4:]]
    assert codes == ["not_found", "url", "empty_prompt"]


def test_a_clip_that_the_model_chokes_on_is_an_error_in_its_place(tmp_path):
    jobs, how = clip_jobs(tmp_path, ["a", "bad", "b", "c", "bad"]), How(batch_size=2)
    lines, failed = shard_lines(partial(ray_cases.noting, str(tmp_path / "notes")), jobs, how)
    assert not failed
    choked = {"code": "scoring_failed", "message": "scoring this clip failed: the model choked"}
    assert [json.loads(line)["error"] for line in lines] == [None, choked, None, None, choked]
    expected = plain_lines(jobs, how)
    assert [lines[i] for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]


def test_a_model_that_chokes_on_everything_is_to_blame_itself(tmp_path):
    jobs = clip_jobs(tmp_path, ["a", "b", "bad", "bad"])
    load = partial(ray_cases.noting, str(tmp_path / "notes"))
    _, failed = shard_lines(load, jobs, How(batch_size=2))
    assert failed.startswith("none of 2 clips up to 3.mp4 can be scored: ") and "choked" in failed
    assert shard_lines(ray_cases.unloadable, jobs, How())[1].endswith("no such device")


def test_a_broken_model_is_noticed_with_single_clips_too(tmp_path):
    load = partial(ray_cases.noting, str(tmp_path / "notes"))
    few, how = clip_jobs(tmp_path, ["bad"] * 3 + ["a"] + ["bad"] * 3), How(batch_size=1)
    lines, failed = shard_lines(load, few, how)
    assert (
        not failed
        and [json.loads(line)["error"] is None for line in lines] == [False] * 3 + [True] + [False] * 3
    )
    assert "none of 4 clips up to 3.mp4" in shard_lines(load, clip_jobs(tmp_path, ["bad"] * 5), how)[1]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"explain": False, "reasoning": True}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(
        ConfigError, match="expected a batch size of at least 1, and reasons only with defects"
    ):
        How(**wrong)


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "kept")
    monkeypatch.setitem(sys.modules, "ray", None)
    for use in (import_ray, ray_cluster().__enter__):
        with pytest.raises(ConfigError, match=r"needs ray: pip install 'qsave_reward\[ray\]'"):
            use()
    with pytest.raises(ConfigError, match="needs ray"):
        score_on_ray(ray_cases.fake, clip_jobs(tmp_path, "a"), out=tmp_path / "out", how=How())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "for --ray, which is missing"),
        (["--ray", "OUT", "--html", "page.html"], "a page needs the clips"),
    ],
)
def test_options_of_score_that_do_not_go_together(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(monkeypatch, capsys)("score", "a.mp4", "--prompt", "a", *words)
    assert (code, out) == (2, "") and message in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-replicas", "2"], "--max-replicas needs --ray"),
        (["--ray", "--ui"], "--ray cannot have --ui"),
        (["--ray", "--port", "0"], "a port of your choice"),
        (["--ray", "--host", "0.0.0.0"], "lets others in: give --token-file"),
    ],
)
def test_options_of_serve_that_do_not_go_together(monkeypatch, capsys, words, message):
    code, out, err = command(monkeypatch, capsys)("serve", *words)
    assert (code, out) == (2, "") and message in " ".join(err.replace("│", " ").split())
