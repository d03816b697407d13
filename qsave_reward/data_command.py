"""The `qsave data` commands, in the manner of `cli`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from qsave_reward.command_options import JsonFlag, check_target
from qsave_reward.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qsave_reward.data_check import DataCheck

SHOWN = 20
"""Problems listed for people; `--json` lists all."""


class PublicSet(str, Enum):
    """Public sets of rated clips, in the forms that `benchmarks` reads."""

    videofeedback = "videofeedback"
    videofeedback2 = "videofeedback2"
    t2vqa_db = "t2vqa-db"
    qeval_video = "qeval-video"
    fetv = "fetv"


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


@app.command()
def split(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL or Parquet file of rated clips.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for one JSONL file for each part.")],
    share: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHARE", help="Once for each part; default: train=0.8 val=0.1 test=0.1."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal parts.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Divide rated clips so that no prompt is in two parts."""
    from qsave_reward.data import SHARES
    from qsave_reward.data_split import split_file

    parts = split_file(file, out, SHARES if share is None else _shares(share), seed=seed)
    if as_json:
        typer.echo(json.dumps([asdict(part) for part in parts]))
        return
    for part in parts:
        typer.echo(f"wrote {part.file}: {part.clips} clips of {part.prompts} prompts")


@app.command()
def convert(
    name: Annotated[PublicSet, typer.Argument(metavar="SET", help="A public set.")],
    source: Annotated[str, typer.Argument(metavar="PATH", help="The set's list, or its folder of ratings.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="Records to write, .jsonl or .parquet.")],
    videos: Annotated[str, typer.Option(metavar="DIR", help="Folder of the clips.")] = ".",
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="FETV only: fetv_data.json, the prompts.")
    ] = None,
) -> None:
    """Turn a public set, as its authors give it out, into records that all commands here read."""
    from dataclasses import replace

    from qsave_reward import benchmarks
    from qsave_reward.data import write_records
    from qsave_reward.paths import rebased_path

    check_target(out)
    if (name is PublicSet.fetv) != (prompts is not None):
        raise ConfigError("--prompts belongs to fetv, whose ratings do not hold them, and to no other set")
    if prompts is not None:
        records = benchmarks.read_fetv(source, prompts)
        records = [replace(record, video=os.path.join(videos, record.video)) for record in records]
    else:
        read = getattr(benchmarks, f"read_{name.name}")
        records = read(source, videos=videos)
    folder = os.path.dirname(os.path.realpath(out))
    write_records(
        out, [replace(record, video=rebased_path(record.video, os.getcwd(), folder)) for record in records]
    )
    typer.echo(f"wrote {len(records)} records to {out}")


def _shares(written: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for one in written:
        name, _, share = one.partition("=")
        try:
            if name in shares:
                raise ValueError
            shares[name] = float(share)
        except ValueError as error:
            raise ConfigError(
                f"expected --share NAME=SHARE, each name once, such as train=0.9, got {one!r}"
            ) from error
    return shares


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
