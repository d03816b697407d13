"""Shards: nothing is lost, doubled or mixed up; a shard counts for exactly what it was made from."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward import shards as module
from qsave_reward.errors import ConfigError
from qsave_reward.ray_cluster import Cluster, Share, share_out
from qsave_reward.scoring import Job
from qsave_reward.shards import plan_shards, read_shards, write_shard


def jobs_of(count, prompt="a"):
    return [Job(f"{i}.mp4", f"/no/such/{i}.mp4", f"{prompt} {i}") for i in range(count)]


def plan(folder, jobs, batch_size=2, **made_with):
    return plan_shards(jobs, folder, batch_size=batch_size, made_with=made_with)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 400), batch=st.integers(1, 40), largest=st.integers(1, 60), many=st.integers(1, 9)
)
def test_shards_hold_every_job_once_in_order_in_whole_batches(tmp_path_factory, count, batch, largest, many):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGEST", largest)
        patch.setattr(module, "MANY", many)
        jobs = jobs_of(count)
        made = plan(tmp_path_factory.mktemp("shards"), jobs, batch)
    assert [job for shard in made for job in shard.jobs] == jobs
    assert len({shard.path for shard in made}) == len(made)
    sizes = [len(shard.jobs) for shard in made]
    assert all(size % batch == 0 for size in sizes[:-1]) and len(set(sizes[:-1])) <= 1
    # Not larger than they need be: a shard is cut at `largest`, rounded up to whole batches.
    assert all(size < largest + batch for size in sizes)
    assert len(made) <= many or min(sizes[:-1], default=0) >= largest


def test_a_million_clips_make_some_thousand_files():
    assert module.LARGEST * module.MANY < 1_000_000
    wanted = -(-1_000_000 // module.LARGEST)
    assert 1_000 < wanted < 10_000


def test_lines_come_back_in_the_order_of_the_jobs(tmp_path):
    made = plan(tmp_path, jobs_of(5))
    for shard in reversed(made):
        assert not shard.done
        write_shard(shard, [json.dumps(job.prompt) for job in shard.jobs])
        assert shard.done
    assert [json.loads(line) for line in read_shards(made)] == [f"a {i}" for i in range(5)]


def test_a_shard_counts_as_long_as_nothing_it_depends_on_changes(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"one")
    jobs = [Job("clip.mp4", str(clip), "a"), *jobs_of(3)]

    def names(jobs, **made_with):
        return [shard.path.name for shard in plan(tmp_path / "shards", jobs, **made_with)]

    first = names(jobs, model="tiny")
    assert names(jobs, model="tiny") == first
    assert not set(names(jobs, model="other")) & set(first)
    # Appended clips leave the shards before them alone.
    assert names(jobs + jobs_of(2, "b"), model="tiny")[:2] == first
    for changed in (
        jobs[0]._replace(prompt="b"),
        jobs[0]._replace(name="./clip.mp4"),
        jobs[0]._replace(path=str(tmp_path / "other.mp4")),
    ):
        found = names([changed, *jobs[1:]], model="tiny")
        assert found[0] != first[0] and found[1] == first[1]
    os.utime(clip, ns=(1, 1))
    touched = names(jobs, model="tiny")
    assert touched[0] != first[0] and touched[1] == first[1]
    os.utime(clip, ns=(1, 1))
    clip.write_bytes(b"longer")
    os.utime(clip, ns=(1, 1))
    assert names(jobs, model="tiny")[0] not in (first[0], touched[0])


@pytest.mark.parametrize("lines", [["1"], ["1", "2", "3"], []])
def test_a_shard_with_a_wrong_number_of_lines_is_refused(tmp_path, lines):
    (shard,) = plan(tmp_path, jobs_of(2))
    with pytest.raises(ConfigError, match=f"expected 2 lines for 000000-.*, got {len(lines)}"):
        write_shard(shard, lines)
    assert not shard.done and not list(tmp_path.iterdir())
    shard.path.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(ConfigError, match=f"expected 2 lines in .*, got {len(lines)}; delete it"):
        list(read_shards([shard]))


def test_a_shard_that_vanished_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="delete it and run again"):
        list(read_shards(plan(tmp_path, jobs_of(1))))


@pytest.mark.parametrize(
    ("cluster", "workers", "device", "share"),
    [
        (Cluster(1, 2, 0, own=True), None, None, Share(1, 2, 0)),
        (Cluster(1, 2, 0, own=True), 2, None, Share(2, 1, 0)),
        (Cluster(1, 2, 0, own=True), 5, None, Share(5, 1, 0)),
        (Cluster(3, 16, 0, own=False), None, None, Share(3, 16, 0)),
        # Five on three nodes: one node has two, so that none gets more than half a node.
        (Cluster(3, 16, 0, own=False), 5, None, Share(5, 8, 0)),
        (Cluster(2, 64, 16, own=False), None, None, Share(16, 8, 1)),
        (Cluster(2, 64, 16, own=False), 4, None, Share(4, 32, 1)),
        (Cluster(2, 64, 16, own=False), None, "cpu", Share(2, 64, 0)),
    ],
)
def test_workers_fit_into_the_cluster(cluster, workers, device, share):
    assert share_out(cluster, workers, device) == share
