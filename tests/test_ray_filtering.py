"""A filter whose clips are scored in bulk, without Ray, and what is refused before anything is written."""

import json
import os
import shutil
import sys
from functools import partial

import pytest
import ray_cases
from cli_cases import command
from fake_model import Company, FakeModel
from filter_cases import rows, run, write_set, written
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_cases import clip_jobs

from qsave_reward import ray_filtering
from qsave_reward.errors import QSaveError, ServerError, VideoError
from qsave_reward.ray_filtering import score_in_bulk
from qsave_reward.ray_worker import ShardScorer
from qsave_reward.scoring import score_jobs
from qsave_reward.types import VideoScore

SIZES = (1, 2, 3, 9)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A set of clips, and what a filter in one process makes of it with each batch size."""
    folder = write_set(tmp_path_factory.mktemp("set"))
    for size in SIZES:
        run(folder / "in.jsonl", folder / f"calm{size}", model=Company(), pairs=True, batch_size=size)
    return folder


def by_hand(batch_size, *, batches=1, order=(0,), stops_after=None):
    """A `Bulk` that hands over parts of some batches in another order, and may break off."""

    def bulk(jobs, done):
        assert jobs
        scored = score_jobs(Company(), jobs, batch_size=batch_size, explain=False, reading={})
        results, size = [one.result for one in scored], batch_size * batches
        parts = sorted(range(0, len(jobs), size), key=lambda start: order[start % len(order)])
        for count, start in enumerate(parts):
            if count == stops_after:
                raise ServerError("the cluster is gone")
            done(start, results[start : start + size])

    return bulk


@settings(max_examples=20, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    batches=st.integers(1, 3),
    order=st.permutations(range(7)),
    stops_after=st.none() | st.integers(0, 3),
)
def test_in_bulk_it_writes_what_one_by_one_does(clips, size, batches, order, stops_after):
    out, calm, counts = clips / "out", clips / f"calm{size}", []
    shutil.rmtree(out, ignore_errors=True)
    score = partial(
        run, clips / "in.jsonl", out, pairs=True, batch_size=size, progress=counts.append, model=FakeModel()
    )
    try:
        _, handed = score(bulk=by_hand(size, batches=batches, order=order, stops_after=stops_after))
    except ServerError:
        # What was handed over is kept, and is not asked for again.
        known = sum(counts)
        assert stops_after <= known == len(rows(out / "scores.jsonl")) < 7 and not written(out)
        counts.clear()
        _, handed = score(bulk=by_hand(size, order=order))
        assert counts[0] == known
    assert (handed, sum(counts)) == (0, 7)
    assert written(out) == written(calm) and len(written(out)) == 4
    log, calm_log = ((folder / "scores.jsonl").read_text().splitlines() for folder in (out, calm))
    assert sorted(log) == sorted(calm_log)
    score(bulk=None)  # everything is known, so that nobody is asked
    assert written(out) == written(calm)


def test_a_clip_that_changed_meanwhile_is_scored_by_the_model(clips):
    out = clips / "changed"

    def bulk(jobs, done):
        by_hand(2)(jobs, done)
        os.utime(clips / "clips" / "1.mp4", ns=(1, 1))  # clips 0 and 5 of the list

    _, handed = run(clips / "in.jsonl", out, model=FakeModel(), batch_size=2, bulk=bulk)
    assert handed == 2
    assert [row["position"] for row in rows(out / "scores.jsonl")] == [0, 1, 2, 3, 4, 5, 6, 0, 5]


class Elsewhere(FakeModel):
    """As on a node with another version of the package."""

    def __init__(self) -> None:
        super().__init__()
        self.provenance = FakeModel().provenance.__class__("fake", "0123", "2", self.provenance.frame_plan)


def in_this_process(node):
    """`score_parts` with a worker that was loaded by `node`, last part first."""

    def score_parts(parts, finished, *, load, how, log, device, workers):
        scorer = ShardScorer(node, 1, how)
        for number in reversed(range(len(parts))):
            row = scorer({"shard": number, "folder": "/", "jobs": json.dumps(parts[number])})
            assert not row["failed"]
            finished(number, row["lines"].split("\n"))

    return score_parts


def test_lines_of_workers_become_results_in_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_filtering, "score_parts", in_this_process(ray_cases.fake))
    jobs = clip_jobs(tmp_path, "abcde")
    jobs[3] = jobs[3]._replace(path="/no/such.mp4")
    found = {}
    score = partial(score_in_bulk, load=ray_cases.fake, batch_size=2, log=tmp_path / "ray.log")
    score(jobs, lambda start, results: found.update(enumerate(results, start)))
    scored = score_jobs(FakeModel(), jobs, batch_size=2, explain=False, reading={})
    for i, expected in enumerate(one.result for one in scored):
        if i == 3:
            assert type(found[i]) is QSaveError and found[i].to_dict() == expected.to_dict()
        else:
            assert isinstance(found[i], VideoScore) and found[i].to_dict() == expected.to_dict()
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_a_node_that_does_not_see_the_files_breaks_the_run_off(tmp_path, monkeypatch):
    jobs = clip_jobs(tmp_path, "abc")

    def blind(scorer, folder, batch):
        return [VideoError("expected a file", code="not_found") for _ in batch]

    monkeypatch.setattr(ray_filtering, "score_parts", in_this_process(ray_cases.fake))
    monkeypatch.setattr(ShardScorer, "_try", blind)
    score = partial(score_in_bulk, load=ray_cases.fake, batch_size=2, log="ray.log")
    with pytest.raises(ServerError, match=r"a node does not see .*\.mp4, which is here") as caught:
        score(jobs, lambda start, results: pytest.fail("it was taken"))
    assert caught.value.code == "ray"
    gone, found = [job._replace(path="/no/such.mp4") for job in jobs], []
    score(gone, lambda start, results: found.extend(results))
    assert [one.code for one in found] == ["not_found"] * 3


def test_scores_of_another_model_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_filtering, "score_parts", in_this_process(lambda threads: Elsewhere()))
    with pytest.raises(ServerError, match="prompt_version '1', a node gave '2'; all nodes need") as caught:
        score_in_bulk(
            clip_jobs(tmp_path, "a"),
            lambda start, results: pytest.fail("it was taken"),
            load=ray_cases.fake,
            batch_size=2,
            log="ray.log",
        )
    assert caught.value.code == "ray"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "2"], "a number of workers is for --ray, which is missing"),
        (["--ray", "--workers", "0"], "--workers"),
        (["--ray"], "this needs ray: pip install 'qsave_reward[ray]'"),
    ],
)
def test_wrong_use_and_a_missing_extra_write_nothing(clips, monkeypatch, capsys, tmp_path, words, message):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "kept")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    source = str(clips / "in.jsonl")
    code, out, err = command(monkeypatch, capsys)("filter", source, "--out", "o", "--keep", "top:1", *words)
    assert (code, out) == (2, "") and message in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
