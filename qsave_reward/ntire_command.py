"""`qsave ntire`, in the manner of `cli`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from qsave_reward import command_options
from qsave_reward.command_options import Device, JsonFlag, Model, check_target

SHOWN = 10
"""Videos without a score that are named."""


def ntire(
    data: Annotated[str, typer.Option(metavar="DIR", help="Folder with the list of videos.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="prediction.json to write.")],
    list_name: Annotated[
        str | None,
        typer.Option("--list", help="List in DIR; default: test_data.txt, or the only text file."),
    ] = None,
    videos: Annotated[str | None, typer.Option(help="Folder of the videos; default: DIR.")] = None,
    model: Model = "tiny",
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Videos read and scored at a time.")] = 4,
    as_json: JsonFlag = False,
) -> None:
    """Score the videos of NTIRE 2025 XGC Track 2 and write its submission. Run again, it goes on."""
    from qsave_reward.ntire import predict, read_list
    from qsave_reward.terminal import progress_bar

    check_target(out)
    records = read_list(data, list_name)
    scorer = command_options.load_model(model, device)
    with progress_bar(len(records), "scoring") as advance:
        found = predict(
            scorer,
            records,
            videos=videos or data,
            log=f"{out}.scores.jsonl",
            batch_size=batch_size,
            progress=advance,
        )
    found.write(out)
    failed = [(record.video, reason) for record, reason in zip(records, found.reasons, strict=True) if reason]
    agreement = found.agreement()
    if as_json:
        names = [{"video": video, "message": reason} for video, reason in failed]
        typer.echo(json.dumps({"file": out, "n": len(records), "failed": names, "agreement": agreement}))
    else:
        typer.echo(f"wrote {len(records) - len(failed)} scores to {out}")
        if agreement is not None:
            typer.echo(", ".join(f"{name} {value:.4f}" for name, value in agreement.items()))
    for video, reason in failed[:SHOWN]:
        typer.echo(f"{video}: {reason}", err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(records)} videos have no score and are left out", err=True)
        raise typer.Exit(1)
