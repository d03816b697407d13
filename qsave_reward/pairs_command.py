"""`qsave pairs`, in the manner of `cli`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from typing import Annotated, Any

import typer

from qsave_reward import command_options
from qsave_reward.command_options import Device, JsonFlag, Model, check_target

SHOWN = 10
"""Clips without a score that are named."""


class PairSet(str, Enum):
    """Public sets of pairs, in the forms that `preferences` reads."""

    videogen_rewardbench = "videogen-rewardbench"
    genai_bench = "genai-bench"


def pairs(
    name: Annotated[PairSet, typer.Argument(metavar="SET", help="A public set.")],
    source: Annotated[str, typer.Argument(metavar="PATH", help="The set's list of pairs.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="JSON file for the result.")],
    videos: Annotated[str, typer.Option(metavar="DIR", help="Folder of the clips.")] = ".",
    model: Model = "tiny",
    device: Device = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pairs.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips read and scored at a time.")] = 4,
    as_json: JsonFlag = False,
) -> None:
    """See how often a model prefers the clip that people preferred. Run again, it goes on."""
    from rich.console import Console

    from qsave_reward import preferences
    from qsave_reward.data import write_lines
    from qsave_reward.logged_scoring import score_with_log
    from qsave_reward.preference_accuracy import jobs_of, preference_accuracy
    from qsave_reward.terminal import progress_bar

    check_target(out)
    judged = getattr(preferences, f"read_{name.name}")(source, videos=videos)[:limit]
    jobs = jobs_of(judged)
    scorer = command_options.load_model(model, device)
    with progress_bar(len(jobs), "scoring") as advance:
        log = f"{out}.scores.jsonl"
        scores = score_with_log(scorer, jobs, log=log, batch_size=batch_size, progress=advance)
    found = preference_accuracy(judged, jobs, scores)
    written = {"set": name.value, "model": scorer.provenance.model, **found.to_dict()}
    written["provenance"] = asdict(scorer.provenance)
    write_lines(out, [json.dumps(written)])
    if as_json:
        typer.echo(json.dumps(written))
    else:
        Console().print(_table(found.results))
    for video, message in found.failures[:SHOWN]:
        typer.echo(f"{video}: {message}", err=True)
    if found.n_failed:
        typer.echo(f"{found.n_failed} of {found.n} pairs are left out: a clip has no score", err=True)
        raise typer.Exit(1)


def _table(results: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="dim")
    for column in ("", "pairs", "ties", "without ties", "95 %", "with ties", "margin"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in results.items():
        low_high = "" if row["ci95"] is None else "{:.3f} to {:.3f}".format(*row["ci95"])
        numbers = [row[key] for key in ("without_ties", "with_ties", "tie_margin")]
        without, with_ties, margin = ("-" if number is None else f"{number:.3f}" for number in numbers)
        counts = str(row["n_pairs"]), str(row["n_tied"])
        table.add_row(name.replace("_", " "), *counts, without, low_high, with_ties, margin)
    return table
