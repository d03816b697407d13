"""`qsave rank` and `qsave filter`, in the manner of `cli`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsave_reward import command_options
from qsave_reward.command_options import Device, JsonFlag, Model
from qsave_reward.errors import QSaveError
from qsave_reward.ray_command import FilterRay, Workers, filter_with_ray, workers_alone

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qsave_reward.filtering import Summary
    from qsave_reward.types import VideoScore

BatchSize = Annotated[int, typer.Option(min=1, help="Clips read and scored at a time.")]
Weight = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIMENSION=X",
        help="Share of a dimension in the value; repeat for others, the rest counts nothing. Default: equal.",
    ),
]

Source = Annotated[
    str,
    typer.Argument(metavar="IN", help="Lines with 'video' and 'prompt', or a folder (NAME.mp4, NAME.txt)."),
]
Rule = Annotated[
    str | None,
    typer.Option(metavar="RULE", help="top:0.25, top:100, above:3.2, best-per-prompt[:K]; default: all."),
]
Floors = Annotated[
    list[str] | None,
    typer.Option("--min", metavar="NAME=X", help="Floor of a dimension or of overall; repeat for others."),
]


def rank(
    groups: Annotated[
        str, typer.Argument(metavar="FILE", help="Lines with 'prompt' and 'videos' (relative to FILE).")
    ],
    as_json: JsonFlag = False,
    weight: Weight = None,
    tie_margin: Annotated[float, typer.Option(help="Values no further apart are tied.")] = 0.0,
    model: Model = "tiny",
    device: Device = None,
    batch_size: BatchSize = 4,
) -> None:
    """Rank the candidates of each prompt, best first. One that fails is listed apart."""
    from rich.console import Console

    from qsave_reward.clip_list import read_groups
    from qsave_reward.ranking import check_tie_margin, full_weights, rank_cards
    from qsave_reward.scoring import Job, score_jobs
    from qsave_reward.terminal import progress_bar

    weights = _numbers(weight, "--weight")
    full_weights(weights)
    check_tie_margin(tie_margin)
    listed, folder = read_groups(groups), os.path.realpath(os.path.dirname(groups))
    jobs = [Job(name, os.path.join(folder, name), group.prompt) for group in listed for name in group.videos]
    scorer = command_options.load_model(model, device)
    results = score_jobs(scorer, jobs, batch_size=batch_size, explain=False, reading={})
    console, failed = Console(), 0
    counted = 0 if as_json and console.is_terminal else len(jobs)
    with progress_bar(counted, "scoring", printing=None if as_json else console) as advance:
        for group in listed:
            cards = []
            for scored in islice(results, len(group.videos)):
                cards.append(scored.result)
                advance(1)
            ranking = rank_cards(cards, weights=weights, tie_margin=tie_margin)
            failed += len(ranking.failed)
            found = ranking.to_dict()
            winner = None if ranking.winner is None else group.videos[ranking.winner]
            row = {"id": group.id, "prompt": group.prompt, "videos": list(group.videos), **found}
            row |= {"winner": winner, **_of_cards(cards), "provenance": asdict(scorer.provenance)}
            if as_json:
                typer.echo(json.dumps(row))
            else:
                console.print(_group_view(row))
    if failed:
        typer.echo(f"{failed} of {len(jobs)} clips could not be scored", err=True)
        raise typer.Exit(1)


def filter_set(
    source: Source,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write to; a killed run goes on there.")],
    keep: Rule = None,
    floor: Floors = None,
    weight: Weight = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Also write pairs for DPO.")] = False,
    tie_margin: Annotated[
        float | None, typer.Option(help="With --pairs: clips no further apart make none; default 0.")
    ] = None,
    as_json: JsonFlag = False,
    model: Model = "tiny",
    device: Device = None,
    batch_size: BatchSize = 4,
    ray: FilterRay = False,
    workers: Workers = None,
) -> None:
    """Keep the good clips of a set: floors first, then the rule. Never scores a clip twice."""
    if keep is None and not floor:
        raise typer.BadParameter("expected --keep, --min or both: what is a good clip?")
    if tie_margin is not None and not pairs:
        raise typer.BadParameter("a tie margin is for --pairs, which is missing", param_hint="--tie-margin")
    if workers is not None and not ray:
        raise workers_alone()
    from qsave_reward.clip_list import read_clip_list
    from qsave_reward.filtering import filter_clips
    from qsave_reward.selection import Selection, parse_keep
    from qsave_reward.terminal import progress_bar

    selection = Selection(
        keep=None if keep is None else parse_keep(keep),
        floors=_numbers(floor, "--min") or {},
        weights=_numbers(weight, "--weight"),
        tie_margin=tie_margin or 0.0,
    )
    clips = read_clip_list(source)
    if ray:
        scorer, bulk = filter_with_ray(model, device=device, out=out, batch_size=batch_size, workers=workers)
    else:
        scorer, bulk = command_options.load_model(model, device), None
    # What Ray has to say goes to standard error too.
    with redirect_stdout(sys.stderr), progress_bar(clips.count, "scoring") as advance:
        summary = filter_clips(
            scorer,
            clips,
            out=out,
            selection=selection,
            pairs=pairs,
            batch_size=batch_size,
            bulk=bulk,
            progress=advance,
        )
    _show_summary(summary, out, as_json=as_json)
    if summary.rejected["unreadable"]:
        typer.echo(f"{summary.rejected['unreadable']} of {summary.n} clips could not be scored", err=True)
        raise typer.Exit(1)


def _show_summary(summary: Summary, out: str, *, as_json: bool) -> None:
    from rich.console import Console

    pairs = [] if summary.pairs is None else ["pairs.jsonl"]
    files = ["kept.jsonl", "rejected.jsonl", *pairs, "scores.jsonl", "summary.json"]
    if as_json:
        written = {name.partition(".")[0]: os.path.join(out, name) for name in files}
        typer.echo(json.dumps({**summary.to_dict(), "files": written}))
    else:
        Console().print(_summary_view(summary, out, files))


def _numbers(settings: Sequence[str] | None, option: str) -> dict[str, float] | None:
    """NAME=NUMBER words as a mapping; `None` for none."""
    found: dict[str, float] = {}
    for setting in settings or ():
        name, _, number = setting.partition("=")
        try:
            value = float(number)
        except ValueError as error:
            message = f"expected NAME=NUMBER such as visual_quality=2.5, got {setting!r}"
            raise typer.BadParameter(message, param_hint=option) from error
        if name in found:
            raise typer.BadParameter(f"{name} was given twice", param_hint=option)
        found[name] = value
    return found or None


def _of_cards(cards: Sequence[VideoScore | QSaveError]) -> dict[str, list[Any]]:
    """Scores, warnings and error of each candidate."""
    rows: dict[str, list[Any]] = {"scores": [], "warnings": [], "errors": []}
    for card in cards:
        failed = isinstance(card, QSaveError)
        found = card.to_dict()
        rows["scores"].append(None if failed else found["scores"])
        rows["warnings"].append([] if failed else list(found["warnings"]))
        rows["errors"].append(found if failed else None)
    return rows


def _group_view(row: Mapping[str, Any]) -> RenderableType:
    """One prompt: its candidates from best to worst, then those that failed."""
    from rich.console import Group
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    from qsave_reward.terminal import plain_text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("clip", overflow="fold")
    for name in ("value", "visual", "dynamic", "text", "ahead by"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place, (i, ahead) in enumerate(zip(row["order"], [*row["margins"], None], strict=False), start=1):
        scores = [f"{score['mean']:.2f}" for score in row["scores"][i].values()]
        table.add_row(
            str(place),
            plain_text(row["videos"][i], "bold" if place == 1 else ""),
            Text(f"{row['values'][i]:.2f}", "bold"),
            *scores,
            "" if ahead is None else f"{ahead:.3f}",
            Text("tied" if i in row["tied"] else "", "yellow"),
        )
    warnings = list(dict.fromkeys(warning for some in row["warnings"] for warning in some))
    failed = [
        Text.assemble(
            plain_text(row["videos"][i]),
            ("  not scored, ", "bold red"),
            plain_text(row["errors"][i]["message"]),
        )
        for i in row["failed"]
    ]
    title = row["prompt"] if row["id"] is None else f"{row['id']}: {row['prompt']}"
    notes = [Text.assemble(("! ", "bold yellow"), plain_text(warning, "yellow")) for warning in warnings]
    return Group(Rule(style="dim"), plain_text(title, "dim"), table, *failed, *notes, Text())


def _summary_view(summary: Summary, out: str, files: Sequence[str]) -> RenderableType:
    """How many were kept, why the others were not, and where it is written."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from qsave_reward.selection import REASONS
    from qsave_reward.terminal import plain_text

    kept = [Text.assemble("kept ", (f"{summary.kept} of {summary.n}", "bold"), " clips")]
    if summary.lowest_kept is not None:
        kept[0].append(f", values from {summary.lowest_kept:.2f} up")
    if summary.pairs is not None:
        kept.append(Text(f"{summary.pairs} pairs"))
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(style="dim")
    for code, count in summary.rejected.items():
        if count:
            table.add_row(str(count), REASONS[code])
    for code, count in summary.failures.items():
        table.add_row("", f"{count} {code}")
    return Group(*kept, table, plain_text(f"wrote {', '.join(files)} in {out}"))
