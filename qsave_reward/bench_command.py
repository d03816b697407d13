"""The `qsave bench` commands: figures to compare, not tests."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from qsave_reward.command_options import Device, JsonFlag, Model, missing_extra

app = typer.Typer(name="bench", help="Measure speed on this machine.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure speed on this machine."""


@app.command()
def serve(
    model: Model = "tiny",
    device: Device = None,
    clients: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Medians are over so many rounds.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a measurement.")] = 20.0,
    size: Annotated[int, typer.Option(min=64, max=512, help="Height and width of the clips.")] = 256,
    as_json: JsonFlag = False,
) -> None:
    """Compare a server under load with the same model in process."""
    from rich.console import Console
    from rich.table import Table

    from qsave_reward.terminal import progress_bar

    try:
        from qsave_reward.server.bench import bench_serve
    except ImportError as error:
        raise missing_extra(error, "serve") from error
    with progress_bar(rounds, "measuring") as advance:
        found = bench_serve(
            model, device, clients=clients, rounds=rounds, seconds=seconds, size=size, progress=advance
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
