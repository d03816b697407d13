"""Score long lists of clips on a Ray cluster, shard by shard; a run that was stopped goes on where it was.

    run = score_on_ray(partial(load_worker, "tiny"), jobs, out="scored", how=How(batch_size=4), workers=2)

The folder `out` gets

    shards/         results of finished shards (see `shards`)
    results.jsonl   all of them in the order of the jobs, as `qsave score --json` prints them; written last
    ray.log         what Ray itself had to say

The nodes need this package and the clips at the same paths. Paths and prompts go out to them and lines come
back; frames stay where they are read.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from qsave_reward.data import write_lines
from qsave_reward.errors import ServerError
from qsave_reward.ray_cluster import WORKER_ENV, Share, import_ray, ray_cluster, ray_stderr, share_out
from qsave_reward.ray_worker import How, ShardScorer
from qsave_reward.scoring import Job
from qsave_reward.server.worker import Worker
from qsave_reward.shards import plan_shards, read_shards, refuse_blind, write_shard
from qsave_reward.tables import FilePath

BATCH_SECONDS = 600.0
"""Time in which a batch has to be scored; then its clips are tried one by one."""


class RayRun(NamedTuple):
    """What a run did.

    Attributes:
        path: the file with all results.
        clips: lines in it.
        failed: clips that could not be scored; their lines say why.
        reused: clips whose results an earlier run had left.
    """

    path: str
    clips: int
    failed: int
    reused: int


def load_worker(
    model: str, threads: int, *, device: str | None = None, timeout: float = BATCH_SECONDS
) -> Worker:
    """A scorer with a process of its own, which loads the weights with the first batch.

    Args:
        model: as for `RewardModel.from_pretrained`; a directory needs its full path.
        threads: CPU threads.
        device: default: the GPU that Ray assigns, or the CPU.
        timeout: seconds after which a batch is given up.
    """
    return Worker(model, device=device, threads=threads, timeout=timeout)


def score_on_ray(
    load: Callable[[int], Any],
    jobs: Sequence[Job],
    *,
    out: FilePath,
    how: How,
    device: str | None = None,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> RayRun:
    """Score jobs on the Ray cluster at hand (see `ray_cluster`), except those whose shards are done.

    Args:
        load: gives a scorer, with `provenance` and `frame_plan`, from its number of CPU threads. It is called
            once here, for the provenance, and once in every worker.
        jobs: any number; a relative path counts from here.
        out: folder of the results, made if it is missing.
        how: options of scoring. Other options, another model or a changed clip make other shards.
        device: of the models; any but `None` keeps Ray from assigning GPUs.
        workers: models at a time; default: one for each GPU, or for each node of a cluster without any.
        progress: called with the number of clips done since the last call.

    Raises:
        ConfigError: Ray is missing, or `out` cannot be written.
        ServerError: the cluster cannot be reached (`no_cluster`), or the run broke off (`ray`). Finished
            shards stay: the same call goes on with the others.
    """
    provenance = asdict(load(1).provenance)
    made_with = {"how": asdict(how), "provenance": provenance}
    shards = plan_shards(jobs, os.path.join(out, "shards"), batch_size=how.batch_size, made_with=made_with)
    missing = [shard for shard in shards if not shard.done]
    reused = len(jobs) - sum(len(shard.jobs) for shard in missing)
    advance = progress or (lambda _: None)
    if reused:
        advance(reused)

    def finished(number: int, lines: Sequence[str]) -> None:
        refuse_blind(missing[number].jobs, lines)
        write_shard(missing[number], lines)
        advance(len(lines))

    if missing:
        score_parts(
            [shard.jobs for shard in missing],
            finished,
            load=load,
            how=how,
            log=os.path.join(out, "ray.log"),
            device=device,
            workers=workers,
        )
    path, failed = os.path.join(out, "results.jsonl"), 0

    def counted() -> Iterator[str]:
        nonlocal failed
        for line in read_shards(shards):
            failed += json.loads(line)["error"] is not None
            yield line

    write_lines(path, counted())
    return RayRun(path, len(jobs), failed, reused)


def score_parts(
    parts: Sequence[Sequence[Job]],
    finished: Callable[[int, list[str]], object],
    *,
    load: Callable[[int], Any],
    how: How,
    log: FilePath,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Score lists of jobs on the Ray cluster at hand, each as a whole by one worker.

    Args:
        parts: the lists; each of them keeps a worker busy for a while.
        finished: called here, one call at a time, with the place of a list in `parts` and its lines, in the
            order in which lists are done.
        load, how, device, workers: as for `score_on_ray`.
        log: file that gets what Ray itself has to say.

    Raises:
        ConfigError: Ray is missing.
        ServerError: as `score_on_ray`.
    """
    with ray_stderr(os.fspath(log)), ray_cluster() as cluster:
        for number, lines in _scored(parts, load, how, share_out(cluster, workers, device)):
            finished(number, lines)


def _scored(
    parts: Sequence[Sequence[Job]], load: Callable[[int], Any], how: How, share: Share
) -> Iterator[tuple[int, list[str]]]:
    """Places of lists with their lines, as they are finished.

    Raises:
        ServerError: (`code="ray"`) the run broke off.
    """
    ray, data = import_ray(), import_ray("ray.data")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what matters of it is in the error
    folder = os.getcwd()
    rows = [{"shard": i, "folder": folder, "jobs": json.dumps(part)} for i, part in enumerate(parts)]
    dataset = data.from_items(rows, override_num_blocks=len(rows)).map(
        ShardScorer,
        fn_constructor_args=(load, share.cpus, how),
        compute=data.ActorPoolStrategy(size=min(share.workers, len(rows))),
        num_cpus=None if share.gpus else share.cpus,
        num_gpus=share.gpus or None,
        runtime_env={"env_vars": WORKER_ENV},
    )
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    try:
        for row in dataset.iter_rows():
            if row["failed"]:
                raise _broken_off(row["failed"])
            yield row["shard"], row["lines"].split("\n")
    except ray.exceptions.RayError as error:
        # Messages of Ray end with the cause.
        raise _broken_off(str(error).strip().rpartition("\n")[2] or type(error).__name__) from error


def _broken_off(reason: str) -> ServerError:
    message = f"the run on Ray broke off: {reason}; run it again to go on with what is left"
    return ServerError(message, code="ray")
