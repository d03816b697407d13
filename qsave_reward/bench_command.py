"""The `qsave bench` commands: figures to compare, not tests."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsave_reward import command_options
from qsave_reward.command_options import (
    Device,
    FrameSize,
    JsonFlag,
    Model,
    check_target,
    frame_size,
    missing_extra,
)
from qsave_reward.errors import ConfigError
from qsave_reward.speed.rows import decode_rows, drift_rows, memory_rows, score_rows, train_rows

if TYPE_CHECKING:
    from qsave_reward.model import RewardModel

Rounds = Annotated[int, typer.Option(min=1, help="Medians are over so many rounds.")]

app = typer.Typer(name="bench", help="Measure speed on this machine.", no_args_is_help=True)


class Precision(str, Enum):
    """Number types of a model."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@app.callback()
def bench() -> None:
    """Measure speed on this machine."""


@app.command()
def serve(
    model: Model = "tiny",
    device: Device = None,
    clients: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 64,
    rounds: Rounds = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a measurement.")] = 20.0,
    size: FrameSize = "256x256",
    as_json: JsonFlag = False,
) -> None:
    """Compare a server under load with the same model in process."""
    shape = frame_size(size)
    from rich.console import Console
    from rich.table import Table

    from qsave_reward.terminal import progress_bar

    try:
        from qsave_reward.server.bench import bench_serve
    except ImportError as error:
        raise missing_extra(error, "serve") from error
    with progress_bar(rounds, "measuring") as advance:
        found = bench_serve(
            model, device, clients=clients, rounds=rounds, seconds=seconds, size=shape, progress=advance
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    table = Table("", "median", *(f"round {k + 1}" for k in range(rounds)))
    middle = {**found.ratios, "overhead_ms": found.overhead_ms}
    for name in found.rounds[0]:
        of_all = f"{middle[name]:.3g}" if name in middle else ""
        table.add_row(name, of_all, *(f"{one[name]:.3g}" for one in found.rounds))
    Console().print(table)


@app.command()
def score(
    model: Model = "tiny",
    device: Device = None,
    dtype: Annotated[Precision | None, typer.Option(help="Default: that of `qsave score`.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Rendered clips to score.")] = 32,
    frames: Annotated[int, typer.Option(min=1, max=512, help="Frames of a clip.")] = 16,
    size: FrameSize = "256x256",
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in one forward pass.")] = 8,
    rounds: Rounds = 3,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also time up to 512 clips, 4 x tokens.")
    ] = False,
    plot: Annotated[str | None, typer.Option(metavar="OUT", help="Draw --scaling: .svg or .png.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare scoring with simpler ways to score, and with the bare network."""
    if plot is not None and not scaling:
        raise typer.BadParameter("--plot draws what --scaling measures; add it")
    work: Any = {"clips": clips, "frames": frames, "size": frame_size(size), "rounds": rounds}
    from qsave_reward.speed.plot import check_plot, write_plot
    from qsave_reward.speed.scaling import bench_scaling
    from qsave_reward.speed.score import bench_score
    from qsave_reward.terminal import progress_bar

    if plot is not None:
        check_target(plot)
        try:
            check_plot(plot)
        except ImportError as error:
            raise missing_extra(error, "t2v") from error
    scorer = _load(model, device, dtype=dtype, batch_size=batch_size)
    with progress_bar(rounds * (2 if scaling else 1), "measuring") as advance:
        found = bench_score(scorer, progress=advance, **work).to_dict()
        grown = bench_scaling(scorer, progress=advance, **work) if scaling else None
    if grown is not None:
        found["scaling"] = grown.to_dict()
        if plot is not None:
            write_plot(grown, plot)
            typer.echo(f"wrote {plot}", err=True)
    _show(found, score_rows(found), as_json=as_json)


@app.command()
def decode(rounds: Rounds = 5, as_json: JsonFlag = False) -> None:
    """Compare the reading of 16 frames of a file with other decoders."""
    from qsave_reward.speed.decode import bench_decode
    from qsave_reward.speed.films import FILMS
    from qsave_reward.terminal import progress_bar

    with progress_bar(rounds * len(FILMS), "measuring") as advance:
        found = bench_decode(FILMS, rounds=rounds, progress=advance).to_dict()
    _show(found, decode_rows(found), as_json=as_json)
    if not found["exact"]:
        typer.echo("read_clip did not return the frames of a sequential decode", err=True)
        raise typer.Exit(1)


@app.command()
def drift(
    model: Model = "tiny",
    device: Device = None,
    clips: Annotated[int, typer.Option(min=2, help="Rendered clips of many shapes.")] = 64,
    batch_size: Annotated[int, typer.Option(min=2, help="Most clips in one forward pass.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the clips and the shuffles.")] = 0,
    rounds: Rounds = 3,
    as_json: JsonFlag = False,
) -> None:
    """Measure how far scores move with the batch, and in other number types."""
    from qsave_reward.speed.drift import bench_drift
    from qsave_reward.speed.invariance import batch_sizes
    from qsave_reward.terminal import progress_bar

    if clips < batch_size:
        raise typer.BadParameter(f"--clips {clips} do not fill a batch of --batch-size {batch_size}")
    scorer = command_options.load_model(model, device)
    scorer.batch_size = batch_size
    with progress_bar(sum(batch_sizes(batch_size)) + rounds, "measuring") as advance:
        found = bench_drift(scorer, clips=clips, seed=seed, rounds=rounds, progress=advance).to_dict()
    _show(found, drift_rows(found), as_json=as_json)
    if not found["invariance"]["holds"]:
        typer.echo("a score in float32 depends on the clips it was scored with", err=True)
        raise typer.Exit(1)


@app.command()
def memory(
    model: Model = "tiny",
    device: Device = None,
    clips: Annotated[
        int, typer.Option(min=2, help="Rendered clips to score, one batch after another.")
    ] = 1000,
    every: Annotated[int, typer.Option(min=1, help="Clips from one reading to the next.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Measure whether memory grows while clip after clip is scored."""
    from qsave_reward.speed.memory import bench_memory
    from qsave_reward.terminal import progress_bar

    if clips <= every:
        raise typer.BadParameter(f"--clips {clips} end with the first reading, --every {every}")
    scorer = command_options.load_model(model, device)
    with progress_bar(clips, "scoring") as advance:
        found = bench_memory(scorer, clips=clips, every=every, progress=advance).to_dict()
    _show(found, memory_rows(found), as_json=as_json)
    if not found["flat"]:
        typer.echo("memory grew while clips were scored", err=True)
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[str, typer.Option(metavar="FILE", help="YAML file of recipes/reward/sft.py.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[-- --OPTION VALUE ...]", help="Options of the recipe.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to measure.")] = 20,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Measure steps of the supervised recipe, which runs as a process of its own and saves nothing."""
    from qsave_reward.speed.train import bench_train
    from qsave_reward.terminal import progress_bar

    with progress_bar(warmup + steps + 1, "training") as advance:
        found = bench_train(config, overrides or (), steps=steps, warmup=warmup, progress=advance).to_dict()
    _show(found, train_rows(found), as_json=as_json)


def _load(model: str, device: str | None, *, dtype: Precision | None, batch_size: int) -> RewardModel:
    import torch

    from qsave_reward.model import RewardModel

    scorer = command_options.load_model(model, device)
    if not isinstance(scorer, RewardModel):
        raise ConfigError(f"expected a model that writes reasons, for the peer style; {model!r} does not")
    if dtype is not None and scorer.model.dtype != (wanted := getattr(torch, dtype.value)):
        scorer = RewardModel.from_pretrained(model, device=scorer.model.device, dtype=wanted)
    scorer.batch_size = batch_size
    return scorer


def _show(found: dict[str, Any], rows: list[tuple[str, str]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table)
