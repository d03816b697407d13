"""The `qsave` command. With `--json` standard output is for machines; messages always go to standard error.

Exit code 0: all went well; 1: an item or a check failed; 2: the command itself was wrong; 130: Ctrl-C.
Everything heavy is imported by the command that needs it, so that `qsave --help` is quick.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from qsave_reward import (
    bench_command,
    calibrate_command,
    command_options,
    data_command,
    ntire_command,
    pairs_command,
    selection_command,
    serve_command,
)
from qsave_reward.command_options import Device, FrameSize, JsonFlag, Model, check_target, frame_size
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.ray_command import RayOut, Workers, score_with_ray

if TYPE_CHECKING:
    from rich.console import Console

    from qsave_reward.checkpoint_scorer import CheckpointScorer
    from qsave_reward.scoring import Scored

app = typer.Typer(
    name="qsave",
    help="Score AI-generated videos for visual quality, dynamic quality and text alignment, and say why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_command.app)
app.add_typer(bench_command.app)
app.command()(serve_command.serve)


class Decoder(str, Enum):
    """Video decoders of `read_clip`."""

    pyav = "pyav"
    decord = "decord"


class EvalMode(str, Enum):
    """How scores are read."""

    direct = "direct"
    reasoned = "reasoned"


class Split(str, Enum):
    """Parts of the world."""

    train = "train"
    val = "val"
    test = "test"


SCORING = ("model", "mode", "limit", "attribution_limit", "part", "device", "batch_size")
"""Options of `qsave eval` that mean nothing for --predictions."""


@app.command()
def score(
    context: typer.Context,
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE", help="Clips of one prompt.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The text the clips were generated from.")] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Instead: lines with 'video' (relative to FILE) and 'prompt'."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the reasons the model wrote.")] = False,
    scores_only: Annotated[bool, typer.Option("--scores-only", help="No defects, no reasons: fast.")] = False,
    as_json: JsonFlag = False,
    html: Annotated[str | None, typer.Option(metavar="OUT", help="Also write a report page.")] = None,
    model: Model = "tiny",
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips read and scored at a time.")] = 4,
    fps: Annotated[float | None, typer.Option(help="Frame rate, to overrule what the files say.")] = None,
    decoder: Annotated[Decoder, typer.Option(help="decord is for trusted files only.")] = Decoder.pyav,
    ray: RayOut = None,
    workers: Workers = None,
) -> None:
    """Score clips: a report card each, in the order given. A clip that fails does not stop the others."""
    if explain and scores_only:
        raise typer.BadParameter("--explain needs the reasons that --scores-only leaves out")
    if fps is not None and not 0 < fps <= 1000:
        raise typer.BadParameter(f"expected 0 < fps <= 1000, got {fps}", param_hint="--fps")
    requests = _requests(files or [], prompt, jsonl)
    if ray is not None or workers is not None:
        return score_with_ray(requests, context.params)
    if html is not None:
        check_target(html)
    from rich.console import Console

    from qsave_reward.report import Report
    from qsave_reward.scoring import Job, score_jobs
    from qsave_reward.slowfast import plan_chunks
    from qsave_reward.terminal import progress_bar

    scorer = command_options.load_model(model, device)
    report, console, failed = Report(), Console(), 0
    results = score_jobs(
        scorer,
        [Job(*request) for request in requests],
        batch_size=batch_size,
        explain=not scores_only,
        reading={"fps": fps, "decoder": decoder.value},
    )
    # JSON lines on a terminal show the progress themselves; a bar would run into them.
    counted = 0 if as_json and console.is_terminal else len(requests)
    with progress_bar(counted, "scoring", printing=None if as_json else console) as advance:
        for scored in results:
            _show(scored, scorer, console=console, as_json=as_json, reasoning=explain)
            failed += isinstance(scored.result, QSaveError)
            if html is not None:
                chunks = () if scored.clip is None else plan_chunks(scored.clip, scorer.frame_plan)
                report.add(scored, chunks)
            advance(1)
    if html is not None:
        report.write(html)
        typer.echo(f"wrote {html}", err=True)
    if failed:
        typer.echo(f"{failed} of {len(requests)} clips could not be scored", err=True)
        raise typer.Exit(1)


@app.command()
def world(
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for records.jsonl and the clips.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of clips.")],
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal clips.")] = 0,
    split: Annotated[Split, typer.Option(help="No prompt is in two of them.")] = Split.test,
    size: FrameSize = "128x128",
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 8.0,
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 16,
    films: Annotated[
        str | None, typer.Option(metavar="DIR", help="Real clips to use as backgrounds of half the scenes.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Render rated clips with known defects: H.264 files and records.jsonl."""
    height, width = frame_size(size)
    from qsave_reward.terminal import progress_bar
    from qsave_reward.world import WorldConfig, export_world

    config = WorldConfig(height=height, width=width, num_frames=frames, fps=fps, films=films)
    with progress_bar(n, "rendering") as advance:
        export_world(out, n, seed=seed, split=split.value, config=config, progress=lambda *_: advance(1))
    written = os.path.join(out, "records.jsonl")
    if as_json:
        made = {"records": written, "n": n, "seed": seed, "split": split.value, **asdict(config)}
        typer.echo(json.dumps(made))
    else:
        typer.echo(f"wrote {n} clips and {written}", err=True)


@app.command("eval")
def evaluate_scorer(
    context: typer.Context,
    data: Annotated[str | None, typer.Option(help="world:SPLIT[:SEED] or a file of records.")] = None,
    model: Model = "tiny",
    mode: Annotated[EvalMode, typer.Option(help="How scores are read.")] = EvalMode.direct,
    limit: Annotated[int | None, typer.Option(min=1, help="Most clips; default 1000 of a world.")] = None,
    attribution_limit: Annotated[
        int | None, typer.Option(min=0, help="In direct mode: let only the first N clips be explained.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Keep the result and predictions.")] = None,
    html: Annotated[str | None, typer.Option(metavar="OUT", help="Also write a page to look at.")] = None,
    part: Annotated[
        str, typer.Option(metavar="K/N", help="Every Nth clip from the Kth on: the share of one process.")
    ] = "1/1",
    predictions: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Instead of scoring: what --out kept; once for each part."),
    ] = None,
    device: Device = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips scored at a time.")] = 16,
    as_json: JsonFlag = False,
) -> None:
    """Compare scores with known scores and named defects with known defects."""
    if (data is None) == (not predictions):
        raise typer.BadParameter("expected either --data or --predictions")
    sources = {name: context.get_parameter_source(name) for name in SCORING}
    told = [name.replace("_", "-") for name, source in sources.items() if source and source.name != "DEFAULT"]
    if predictions and told:
        raise typer.BadParameter(f"--predictions are scored already; leave out --{', --'.join(told)}")
    if html is not None:
        check_target(html)
    from rich.console import Console

    from qsave_reward.data import make_folder
    from qsave_reward.evaluate import evaluate, load_data, load_evaluation, parse_part, write_page
    from qsave_reward.terminal import evaluation_table, progress_bar

    if data is None:
        evaluation = load_evaluation(predictions or [])
    else:
        loaded = load_data(data, limit=limit, part=parse_part(part))
        if out is not None:
            make_folder(out)
        scorer = command_options.load_model(model, device)
        with progress_bar(len(loaded.indices), "scoring") as advance:
            judge = partial(evaluate, batch_size=batch_size, attribution_limit=attribution_limit)
            evaluation = judge(scorer, loaded, mode=mode.value, progress=advance)
    if out is not None:
        evaluation.save(out)
        typer.echo(f"wrote {out}", err=True)
    if html is not None:
        write_page(evaluation, html)
        typer.echo(f"wrote {html}", err=True)
    if as_json:
        typer.echo(json.dumps(evaluation.to_dict()))
    else:
        Console().print(evaluation_table(evaluation.to_dict()))
    if evaluation.n_failed:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """Say what is installed and which devices there are, and try the decoder and the bundled model."""
    from rich.console import Console

    from qsave_reward.doctor import examine
    from qsave_reward.terminal import doctor_view

    found = examine()
    if as_json:
        typer.echo(json.dumps(found))
    else:
        Console().print(doctor_view(found))
    if not found["ok"]:
        raise typer.Exit(1)


app.command()(calibrate_command.calibrate)
app.command()(ntire_command.ntire)
app.command()(pairs_command.pairs)
app.command()(selection_command.rank)
app.command("filter")(selection_command.filter_set)


def main() -> None:
    """Entry point: expected errors become one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Before torch is imported: threads that spin while they wait for one another make scoring on a CPU a
    # hundred times as slow as soon as another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except QSaveError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _requests(files: Sequence[str], prompt: str | None, jsonl: str | None) -> list[tuple[str, str, str]]:
    """Name, path and prompt of each clip, from files with one prompt or from a JSONL file."""
    if (jsonl is None) == (not files):
        raise typer.BadParameter("expected either files or --jsonl")
    if jsonl is None:
        if prompt is None or not prompt.strip():
            raise typer.BadParameter("expected the text the clips were generated from", param_hint="--prompt")
        return [(name, name, prompt) for name in files]
    if prompt is not None:
        raise typer.BadParameter("the lines of --jsonl bring their own prompts", param_hint="--prompt")
    from qsave_reward.data import read_requests

    folder = os.path.dirname(jsonl)
    return [(name, os.path.join(folder, name), text) for name, text in read_requests(jsonl)]


def _show(
    scored: Scored, scorer: CheckpointScorer, *, console: Console, as_json: bool, reasoning: bool
) -> None:
    """One result on standard output, as a JSON line or as a card."""
    from qsave_reward.scoring import score_row
    from qsave_reward.terminal import score_card

    if as_json:
        typer.echo(json.dumps(score_row(scored, asdict(scorer.provenance), reasoning=reasoning)))
    else:
        console.print(score_card(scored, reasoning=reasoning))
