"""`qsave calibrate`, in the manner of `cli`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from qsave_reward import command_options
from qsave_reward.command_options import Device, JsonFlag, Model, check_target
from qsave_reward.errors import ConfigError

if TYPE_CHECKING:
    from qsave_reward.calibration import Calibration
    from qsave_reward.evaluate import EvalData
    from qsave_reward.reward import PinnedScorer

Out = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="FILE.json or a folder; default: the folder of the weights, if yours."),
]


def calibrate(
    data: Annotated[str, typer.Option(help="world:SPLIT[:SEED] or a file of records, rated or not.")],
    model: Model = "tiny",
    limit: Annotated[int | None, typer.Option(min=1, help="Most clips; default 1000 of a world.")] = None,
    out: Out = None,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips scored at a time.")] = 16,
    as_json: JsonFlag = False,
) -> None:
    """Measure mean and spread of a model's scores on a reference set, for rewards in standard deviations."""
    from rich.console import Console

    from qsave_reward.evaluate import load_data
    from qsave_reward.terminal import calibration_table, progress_bar

    target = _target(model, out)
    loaded = load_data(data, limit=limit)
    scorer = command_options.load_model(model, device)
    with progress_bar(loaded.n, "scoring") as advance:
        calibration, failures = measure(scorer, loaded, batch_size=batch_size, progress=advance)
    calibration.save(target)
    load = '"checkpoint"' if out is None else f'Calibration.load("{target}")'
    typer.echo(f'wrote {target}; VideoReward.from_pretrained("{model}", normalise={load}) uses it', err=True)
    if as_json:
        failed = {"n_failed": sum(failures.values()), "failures": failures}
        typer.echo(json.dumps({**asdict(calibration), **failed, "file": target}))
    else:
        Console().print(calibration_table(calibration))
    if failures:
        typer.echo(f"left out: {_left_out(failures, loaded.n)}", err=True)
        raise typer.Exit(1)


def measure(
    scorer: PinnedScorer,
    data: EvalData,
    *,
    batch_size: int,
    progress: Callable[[int], object] = lambda done: None,
) -> tuple[Calibration, dict[str, int]]:
    """Score clips as `VideoReward` does and fit a calibration to the scores.

    Args:
        scorer: of the model.
        data: from `load_data`; ratings are not looked at.
        batch_size: clips handed to the scorer at a time.
        progress: called with the number of clips just finished.

    Returns:
        The calibration, and how many clips were left out because they have no score, by error code.

    Raises:
        ConfigError: fewer than two clips have scores, or a dimension hardly varies.
    """
    from qsave_reward.calibration import Calibration
    from qsave_reward.reward import VideoReward

    reward, raw, failures = VideoReward(scorer, on_error="mask"), [], Counter[str]()
    items = iter(data.items)
    while batch := list(islice(items, batch_size)):
        found = reward([video for _, video in batch], [record.prompt for record, _ in batch])
        raw += [row for row, error in zip(found.raw.tolist(), found.errors, strict=True) if error is None]
        failures.update(error.code for error in found.errors if error is not None)
        progress(len(batch))
    left_out = dict(sorted(failures.items()))
    if len(raw) < 2:
        problem = f"; without scores: {_left_out(left_out, data.n)}" if left_out else ""
        raise ConfigError(f"expected at least 2 clips with scores in {data.name!r}, got {len(raw)}{problem}")
    return Calibration.fit(raw, data=data.name, revision=scorer.provenance.revision), left_out


def _target(model: str, out: str | None) -> str:
    """The file to write, which can be written."""
    from qsave_reward.calibration import calibration_path
    from qsave_reward.checkpoint import BUNDLED

    if out is None and (model in BUNDLED or not os.path.isdir(model)):
        raise ConfigError(
            f"the weights of {model!r} lie in a folder that belongs to a package or to the hub's cache, and "
            "nothing is written there; give --out FILE.json"
        )
    target = str(calibration_path(model if out is None else out))
    check_target(target)
    return target


def _left_out(failures: Mapping[str, int], total: int) -> str:
    counts = ", ".join(f"{code} {count}" for code, count in failures.items())
    return f"{sum(failures.values())} of {total} clips ({counts})"
