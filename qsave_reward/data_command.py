"""The `qsave data` commands, in the manner of `cli`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from qsave_reward.command_options import JsonFlag

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qsave_reward.data_check import DataCheck

SHOWN = 20
"""Problems listed for people; `--json` lists all."""

app = typer.Typer(name="data", help="Look after rated data.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look after rated data."""


@app.command()
def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="JSONL or Parquet files of records; each is a split.")
    ],
    as_json: JsonFlag = False,
    skip_clips: Annotated[
        bool, typer.Option("--skip-clips", help="See whether the clips exist; read none of them.")
    ] = False,
) -> None:
    """Find clips that are missing or cannot be read, wrong lines and scores, duplicates, shared prompts."""
    from rich.console import Console

    from qsave_reward.data_check import check_data, scan_files
    from qsave_reward.terminal import progress_bar

    scan = scan_files(files)
    with progress_bar(len(scan.videos), "reading clips") as advance:
        found = check_data(scan, open_videos=not skip_clips, progress=advance)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        Console().print(_view(found))
    if not found.ok:
        raise typer.Exit(1)


def _view(found: DataCheck) -> RenderableType:
    """Counts of each file, then the first problems and how many there are of each kind."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from qsave_reward.data_check import KINDS
    from qsave_reward.terminal import plain_text

    files = Table(box=None, pad_edge=False, header_style="dim")
    files.add_column("file", overflow="fold")
    for name in ("lines", "records", "prompts", "clips"):
        files.add_column(name, justify="right", no_wrap=True)
    for count in found.files:
        numbers = (count.lines, count.records, count.prompts, count.videos)
        files.add_row(plain_text(count.file), *map(str, numbers))
    if found.ok:
        return Group(files, Text(), Text("no problem found", "green"))
    problems = Table.grid(padding=(0, 2))
    problems.add_column(no_wrap=True, style="yellow")
    problems.add_column(overflow="fold")
    for problem in found.problems[:SHOWN]:
        place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        problems.add_row(problem.kind, plain_text(f"{place}: {problem.message}"))
    counts = Table.grid(padding=(0, 2))
    counts.add_column(justify="right", style="bold red")
    counts.add_column()
    for kind, n in found.counts.items():
        if n:
            counts.add_row(str(n), KINDS[kind])
    rest = len(found.problems) - SHOWN
    more = [Text(f"and {rest} more; --json lists all", "dim")] if rest > 0 else []
    return Group(files, Text(), problems, *more, Text(), counts)
