"""Measure a text-to-video pipeline, with or without a LoRA, on prompts it was not trained on.

    python recipes/text_to_video/evaluate.py --pipeline tiny --lora OUT/best --json
    python recipes/text_to_video/evaluate.py --run OUT --lora OUT/best      # as the run OUT evaluates

Prints the mean of every metric with a 95 % interval over prompts. `--save` keeps what `compare.py` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from evaluation import Evaluation, evaluate, finite, interval
from lora import load_lora
from options import parse_options
from pipeline_options import PipelineOptions
from pipelines import load_pipeline
from rewards import open_scoring
from rich.console import Console
from rich.table import Table
from sheets import save_sheet
from text_prompts import in_world, read_prompts
from tqdm import tqdm
from train_options import TrainOptions

from qsave_reward.config import expand_config
from qsave_reward.errors import ConfigError, QSaveError


@dataclass(kw_only=True)
class EvaluateOptions(PipelineOptions):
    """Options of an evaluation; those of sampling begin with the embedded generator's.

    Attributes:
        run: folder of a run of `train.py`: what is not given here is as in that run's evaluations (pipeline,
            sampling, prompts, rewards), but for the LoRA; empty: as below.
        device: of pipeline and reward; empty: a GPU if there is one.
        lora: folder of an exported LoRA; empty: the pipeline alone.
        prompts: a file with one prompt a line, or `world:train`, `world:test`.
        count: prompts.
        videos: for each prompt.
        sheet: PNG to draw some videos in; empty: none.
        save: file for every metric of every video, JSON; empty: none.
        json: print JSON instead of a table.
    """

    run: str = ""
    device: str = ""
    lora: str = ""
    prompts: str = "world:test"
    count: int = 32
    videos: int = 2
    sheet: str = ""
    save: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("count", "videos")


Options = TypeVar("Options", bound=EvaluateOptions)


def options_from(kind: type[Options], argv: Sequence[str] | None = None) -> Options:
    """As `parse_options`; what `--run` stands for comes before everything else.

    Raises:
        ConfigError: for a folder without a run in it, and as `parse_options`.
    """
    arguments = expand_config(list(sys.argv[1:] if argv is None else argv))
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--run", default="")
    folder = early.parse_known_args(arguments)[0].run
    return parse_options(kind, [*evaluation_of_run(Path(folder)), *arguments] if folder else arguments)


def evaluation_of_run(folder: Path) -> list[str]:
    """Arguments that evaluate as a run of `train.py` does."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"expected the folder of a run, with config.yaml in it, got {folder}")
    run = parse_options(TrainOptions, ["--config", str(folder / "config.yaml")])
    taken = {field.name: getattr(run, field.name) for field in fields(PipelineOptions)}
    taken |= {"prompts": run.eval_prompts, "count": run.eval_count, "videos": run.eval_videos}
    taken |= {"steps": run.eval_sampling().steps, "guidance": run.eval_sampling().guidance}
    return [word for name, value in taken.items() if value is not None for word in (f"--{name}", str(value))]


def run(options: EvaluateOptions) -> Evaluation:
    """Load everything and measure; why videos have no score goes to standard error."""
    prompts = read_prompts(options.prompts, options.count)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    scorings = {"reward": open_scoring(options, options.reward, device=device)}
    if options.held_out:
        scorings["held_out"] = open_scoring(options, options.held_out, device=device)
    sampling = options.sampling()
    pipeline = load_pipeline(options.pipeline, dtype=options.dtype, device=device, arguments=sampling.extra)
    print(
        f"{options.pipeline}: {len(prompts)} prompts of {options.prompts}, {options.videos} videos each, "
        f"{sampling.width}x{sampling.height}, {sampling.num_frames} frames at {sampling.fps:g} a second, "
        f"{sampling.steps} steps, guidance {sampling.guidance:g}; reward {options.reward}",
        file=sys.stderr,
    )
    if options.lora:
        load_lora(pipeline, options.lora)
    with tqdm(total=len(prompts), desc="prompts", file=sys.stderr) as bar:
        evaluation = evaluate(
            pipeline,
            prompts,
            scorings,
            sampling=sampling,
            videos=options.videos,
            seed=options.seed,
            gold=in_world(options.prompts),
            batch_size=options.batch_size,
            progress=bar.update,
        )
    for scoring in scorings.values():
        scoring.close()
    if evaluation.errors:
        print(
            f"{len(evaluation.errors)} videos without a score, first: {evaluation.errors[0]}", file=sys.stderr
        )
    for name in scorings:
        if np.isnan(evaluation.metrics[f"{name}.overall"]).all():
            raise QSaveError(f"{name} could not score any video: {evaluation.errors[0]}", code="no_scores")
    return evaluation


def summary(evaluation: Evaluation) -> dict[str, object]:
    """Means, intervals and counts, ready for JSON."""
    intervals = {name: interval(values) for name, values in evaluation.metrics.items()}
    return {
        **{name: finite(mean) for name, mean in evaluation.means().items()},
        "intervals": {name: [finite(end) for end in ends] for name, ends in intervals.items()},
        "prompts": len(evaluation.prompts),
        "videos": evaluation.metrics["reward.overall"].size,
        "failed": evaluation.failed(),
        "revisions": evaluation.revisions,
    }


def save(evaluation: Evaluation, options: EvaluateOptions) -> None:
    """Write every metric of every video, and what has to be the same in evaluations that are compared."""
    written = {
        "sampling": asdict(options.sampling()) | {"seed": options.seed},
        "revisions": evaluation.revisions,
        "prompts": evaluation.prompts,
        "metrics": {
            name: [[finite(float(value)) for value in row] for row in values]
            for name, values in evaluation.metrics.items()
        },
    }
    path = Path(options.save)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(written) + "\n")
    part.rename(path)


def main(argv: Sequence[str] | None = None) -> None:
    try:
        options = options_from(EvaluateOptions, argv)
        evaluation = run(options)
    except QSaveError as error:
        sys.exit(f"error: {error}")
    if options.sheet:
        save_sheet(evaluation, Path(options.sheet))
    if options.save:
        save(evaluation, options)
    result = summary(evaluation)
    if options.json:
        print(json.dumps(result))
        return
    table = Table("metric", "mean", "95 % interval", title=f"{options.pipeline} {options.lora}".strip())
    for name, mean in evaluation.means().items():
        low, high = interval(evaluation.metrics[name])
        table.add_row(name, f"{mean:.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)
    print(f"{result['prompts']} prompts, {result['videos']} videos, {result['failed']} without a score")


if __name__ == "__main__":
    main()
