"""Measure a text-to-video pipeline, with or without a LoRA, on prompts it was not trained on.

    python recipes/text_to_video/evaluate.py --pipeline tiny --lora OUT/best --json

Prints the mean of every metric with a 95 % interval over prompts. With several videos for a prompt it also
prints the best of n by reward, by the gold judge (the most that choosing could give) and by chance.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evaluation import Evaluation, evaluate, interval
from lora import load_lora
from options import parse_options
from pipelines import load_pipeline
from rewards import Scoring, open_reward
from rich.console import Console
from rich.table import Table
from rollout import SamplingOptions
from sheets import save_sheet
from text_prompts import in_world, read_prompts
from tqdm import tqdm
from train_options import json_mapping

from qsave_reward.errors import ConfigError, QSaveError


@dataclass
class EvaluateOptions:
    """Options of an evaluation; what is not said is as in `TrainOptions`.

    Attributes:
        lora: folder of an exported LoRA; empty: the pipeline alone.
        count: prompts.
        videos: for each prompt.
        sheet: PNG to draw some videos in; empty: none.
        json: print JSON instead of a table.
    """

    pipeline: str = "tiny"
    dtype: str = "float32"
    device: str = "cpu"
    lora: str = ""
    prompts: str = "world:test"
    count: int = 32
    videos: int = 2
    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 8.0
    steps: int = 8
    guidance: float = 1.0
    extra: str = '{"max_sequence_length": 32}'
    reward: str = "tiny"
    held_out: str = ""
    batch_size: int = 8
    sheet: str = ""
    seed: int = 0
    json: bool = False

    def __post_init__(self) -> None:
        if min(self.count, self.videos, self.batch_size, self.steps) < 1:
            raise ConfigError("count, videos, batch_size and steps must be at least 1")

    def sampling(self) -> SamplingOptions:
        """How the pipeline is called."""
        return SamplingOptions(
            height=self.height,
            width=self.width,
            num_frames=self.num_frames,
            fps=self.fps,
            steps=self.steps,
            guidance=self.guidance,
            extra=json_mapping("extra", self.extra),
        )


def run(options: EvaluateOptions) -> Evaluation:
    """Load everything and measure."""
    prompts = read_prompts(options.prompts, options.count)
    scorings = {"reward": Scoring(open_reward(options.reward, device=options.device), fps=options.fps)}
    if options.held_out:
        scorings["held_out"] = Scoring(open_reward(options.held_out, device=options.device), fps=options.fps)
    pipeline = load_pipeline(options.pipeline, dtype=options.dtype, device=options.device)
    if options.lora:
        load_lora(pipeline, options.lora)
    with tqdm(total=len(prompts), desc="prompts", file=sys.stderr) as bar:
        evaluation = evaluate(
            pipeline,
            prompts,
            scorings,
            sampling=options.sampling(),
            videos=options.videos,
            seed=options.seed,
            gold=in_world(options.prompts),
            batch_size=options.batch_size,
            progress=bar.update,
        )
    for scoring in scorings.values():
        scoring.close()
    return evaluation


def summary(evaluation: Evaluation) -> dict[str, object]:
    """Means, intervals and counts, ready for JSON."""
    means = evaluation.means()
    return {
        **means,
        "intervals": {name: interval(values) for name, values in evaluation.metrics.items()},
        "prompts": len(evaluation.prompts),
        "videos": evaluation.metrics["reward.overall"].size,
        "failed": evaluation.failed(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    try:
        options = parse_options(EvaluateOptions, argv)
        evaluation = run(options)
    except QSaveError as error:
        sys.exit(f"error: {error}")
    if options.sheet:
        save_sheet(evaluation, Path(options.sheet))
    result = summary(evaluation)
    if options.json:
        print(json.dumps(result))
        return
    table = Table("metric", "mean", "95 % interval", title=f"{options.pipeline} {options.lora}".strip())
    for name, values in evaluation.metrics.items():
        low, high = interval(values)
        table.add_row(name, f"{np.nanmean(values):.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)
    print(f"{result['prompts']} prompts, {result['videos']} videos, {result['failed']} without a score")


if __name__ == "__main__":
    main()
