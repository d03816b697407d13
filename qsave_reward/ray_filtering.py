"""The scores of `filter_clips` from a Ray cluster.

    bulk = partial(score_in_bulk, load=partial(load_worker, "tiny"), batch_size=4, log="best/ray.log")
    filter_clips(load_worker("tiny", 1), clips, out="best", selection=best, batch_size=4, bulk=bulk)

The score log is what a run leaves for the next one: it takes the scores of a shard when the shard is done, in
any order of shards. Paths and prompts go out to the nodes and scores come back; frames stay where they are
read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from qsave_reward.errors import QSaveError, ServerError
from qsave_reward.fields import show
from qsave_reward.filtering import Done
from qsave_reward.ray_scoring import score_parts
from qsave_reward.ray_worker import How
from qsave_reward.results import result_from_dict
from qsave_reward.scoring import Job
from qsave_reward.shards import cut_jobs, refuse_blind
from qsave_reward.tables import FilePath
from qsave_reward.types import VideoScore


def score_in_bulk(
    jobs: Sequence[Job],
    done: Done,
    *,
    load: Callable[[int], Any],
    batch_size: int,
    log: FilePath,
    device: str | None = None,
    workers: int | None = None,
) -> None:
    """Score jobs on the Ray cluster at hand (see `ray_cluster`); a `Bulk` once the options are given.

    Args:
        jobs: any number; a relative path counts from here.
        done: gets the results of each shard.
        load, log, device, workers: as for `ray_scoring.score_parts`.
        batch_size: clips read and scored together, that of `filter_clips`.

    Raises:
        ConfigError: Ray is missing.
        ServerError: the cluster cannot be reached (`no_cluster`); the run broke off, or a node has other
            weights, another version of the package, or does not see a file that is here (`ray`).
    """
    expected = json.loads(json.dumps(asdict(load(1).provenance)))
    parts = cut_jobs(jobs, batch_size=batch_size)
    starts = [0, *accumulate(map(len, parts))]

    def finished(number: int, lines: Sequence[str]) -> None:
        refuse_blind(parts[number], lines)
        done(starts[number], [_result(json.loads(line), expected) for line in lines])

    score_parts(
        parts,
        finished,
        load=load,
        how=How(explain=False, batch_size=batch_size),
        log=log,
        device=device,
        workers=workers,
    )


def _result(row: Mapping[str, Any], expected: Mapping[str, Any]) -> VideoScore | QSaveError:
    """What a line says.

    Raises:
        ServerError: (`code="ray"`) it is of another model.
    """
    if (found := row["provenance"]) != expected:
        name = next(name for name in expected if found[name] != expected[name])
        raise ServerError(
            f"expected scores with {name} {show(expected[name])}, a node gave {show(found[name])}; "
            "all nodes need the same weights and the same version of this package",
            code="ray",
        )
    if (error := row["error"]) is not None:
        return QSaveError(error["message"], code=error["code"])
    return result_from_dict({**row, "reasoning": None})
