"""What `--ray` does for `qsave score`, `qsave filter` and `qsave serve`, in the manner of `cli`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qsave_reward.filtering import Bulk
    from qsave_reward.ray_scoring import RayRun
    from qsave_reward.server.settings import Settings

RayOut = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="DIR",
        help="Score on a Ray cluster, for long lists; DIR gets the results, and a rerun goes on from them.",
    ),
]
FilterRay = Annotated[
    bool, typer.Option("--ray", help="Score on a Ray cluster, for long lists; the rest is as without it.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="With --ray: models at a time; default: one for each GPU, else for each node."),
]
RayFlag = Annotated[
    bool, typer.Option("--ray", help="As a Ray Serve application, with replicas over the nodes of a cluster.")
]
MaxReplicas = Annotated[
    int | None, typer.Option(min=1, help="With --ray: how many replicas there may become under load.")
]


def score_with_ray(requests: Sequence[tuple[str, str, str]], options: Mapping[str, Any]) -> None:
    """`qsave score --ray`: all results at the end, in the order given.

    Args:
        requests: name, path and prompt of each clip.
        options: of the command, by name.
    """
    out, device = options["ray"], options["device"]
    if out is None:
        raise workers_alone()
    if options["html"] is not None:
        message = "a page needs the clips themselves, which --ray leaves on their nodes"
        raise typer.BadParameter(message, param_hint="--html")
    from qsave_reward.ray_scoring import load_worker, score_on_ray
    from qsave_reward.ray_worker import How
    from qsave_reward.scoring import Job
    from qsave_reward.terminal import progress_bar

    how = How(
        explain=not options["scores_only"],
        reasoning=options["explain"],
        batch_size=options["batch_size"],
        fps=options["fps"],
        decoder=options["decoder"].value,
    )
    typer.echo(f"starting on Ray; what is done is kept in {out}", err=True)
    # What Ray has to say goes to standard error too.
    with redirect_stdout(sys.stderr), progress_bar(len(requests), "scoring") as advance:
        run = score_on_ray(
            partial(load_worker, _anywhere(options["model"]), device=device),
            [Job(*request) for request in requests],
            out=out,
            how=how,
            device=device,
            workers=options["workers"],
            progress=advance,
        )
    _show(run, as_json=options["as_json"])


def filter_with_ray(
    model: str, *, device: str | None, out: str, batch_size: int, workers: int | None
) -> tuple[Any, Bulk]:
    """What `qsave filter --ray` scores with: a scorer for what is left over, and the cluster.

    Raises:
        ConfigError: Ray is missing; no such model.
    """
    from qsave_reward.ray_cluster import import_ray
    from qsave_reward.ray_filtering import score_in_bulk
    from qsave_reward.ray_scoring import load_worker

    import_ray()  # it is missing: say so before the folder is made
    scorer = load_worker(model, 1, device=device)
    bulk = partial(
        score_in_bulk,
        load=partial(load_worker, _anywhere(model), device=device),
        batch_size=batch_size,
        log=os.path.join(out, "ray.log"),
        device=device,
        workers=workers,
    )
    typer.echo(f"starting on Ray; what is done is kept in {out}", err=True)
    return scorer, bulk


def workers_alone() -> typer.BadParameter:
    """The error of `--workers` without `--ray`."""
    message = "a number of workers is for --ray, which is missing"
    return typer.BadParameter(message, param_hint="--workers")


def serve_with_ray(settings: Settings, options: Mapping[str, Any]) -> None:
    """`qsave serve --ray`: until a signal comes.

    Args:
        settings: of the server.
        options: of the command, by name.
    """
    model, device = options["model"], options["device"]
    if options["ui"] or not options["ray"]:
        raise typer.BadParameter("--max-replicas needs --ray, and --ray cannot have --ui")
    if options["port"] == 0:
        raise typer.BadParameter("--ray needs a port of your choice", param_hint="--port")
    from qsave_reward.ray_scoring import load_worker
    from qsave_reward.server.ray_app import Address, serve_on_ray

    if settings.media_root is not None:
        settings = replace(settings, media_root=os.path.abspath(settings.media_root))
    load = partial(load_worker, _anywhere(model), device=device, timeout=settings.item_timeout)
    load(1)  # no such model: say so before Ray is started
    with redirect_stdout(sys.stderr):
        serve_on_ray(
            load,
            settings,
            Address(options["host"], options["port"]),
            device=device,
            replicas=options["replicas"],
            max_replicas=options["max_replicas"],
            announce=lambda line: typer.echo(f"{model}: {line}", err=True),
        )


def _anywhere(model: str) -> str:
    """A model by a name that means the same in every folder."""
    return os.path.realpath(model) if os.path.isdir(model) else model


def _show(run: RayRun, *, as_json: bool) -> None:
    if as_json:
        with open(run.path, encoding="utf-8") as file:
            for line in file:
                typer.echo(line, nl=False)
    known = f", {run.reused} of them in an earlier run" if run.reused else ""
    typer.echo(f"scored {run.clips - run.failed} of {run.clips} clips{known}; wrote {run.path}", err=True)
    if run.failed:
        typer.echo(f"{run.failed} of {run.clips} clips could not be scored", err=True)
        raise typer.Exit(1)
