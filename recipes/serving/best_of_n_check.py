"""How much better is the best of N clips? The true quality of the clip that a reward model picks.

    export OMP_WAIT_POLICY=PASSIVE
    python recipes/serving/best_of_n_check.py --model tiny --prompts 100 --out outputs/best_of_n

Each prompt of the world is rendered several times (`--candidates`) by one simulated generator, with other
defects each time, so that the true quality of each candidate is known. The model scores them in direct
mode. For N from 1 to all of them, the table says how good, in truth, the clip with the highest overall
score is among N candidates of a prompt: the mean over all choices of N, then over the prompts. `random`
takes any of the N, `oracle` the one that is best in truth.

The folder `--out` gets `result.json`, `plot.svg` and `index.html`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from best_of_n_plot import draw, page
from numpy.typing import NDArray

from qsave_reward.command_options import load_model
from qsave_reward.data import make_folder, write_lines
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.metrics import bootstrap_ci
from qsave_reward.terminal import progress_bar
from qsave_reward.types import DIMENSIONS, Provenance, Scorer
from qsave_reward.video import read_clip
from qsave_reward.world import WorldPlan, render_plan, world_plan
from qsave_reward.world.raters import latent_quality, rate
from qsave_reward.world.stream import GENERATORS, draw_defects

Floats = NDArray[np.float64]

QUALITIES = ("overall", *DIMENSIONS)
"""The mean of the dimensions and each of them; all of the clip that is picked by its overall score."""
SEED = 0
"""Of the world and of the resampling."""


@dataclass(frozen=True)
class Curve:
    """A mean over prompts for N = 1, 2, ..., and the middle 95 % over resamples of the prompts."""

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What picking brings in one quality.

    Attributes:
        model, oracle, random: true quality, 1 to 5, of the picked clip.
        gain: model minus random, prompt by prompt.
        share: gain of the model as a share of the oracle's, among all candidates; at most 1 for `overall`.
        share_ci95: low and high end.
    """

    model: Curve
    oracle: Curve
    random: Curve
    gain: Curve
    share: float
    share_ci95: tuple[float, float]


def candidates(index: int, number: int) -> list[WorldPlan]:
    """Scene and prompt of an item of the test split, `number` times by the item's generator.

    Defects, and what is random in them, are drawn anew for each; the first is not the item itself.
    """
    plan = world_plan("test", index, seed=SEED)
    plans = []
    for k in range(number):
        entropy = (*plan.entropy, k)
        rng = np.random.default_rng((*entropy, 0))
        shown, defects = draw_defects(rng, plan.scene, GENERATORS[plan.generator], plan.config)
        latent = latent_quality(defects, plan.config.num_frames / plan.config.fps)
        drawn = {"shown": shown, "defects": defects, "latent": latent, "entropy": entropy}
        opinion = rate(latent, plan.config.raters, rng)
        plans.append(replace(plan, name=f"{plan.name}/{k}", opinion=opinion, **drawn))
    return plans


def measure(scorer: Scorer, prompts: int, number: int) -> tuple[list[str], Floats, Floats]:
    """Render and score.

    Returns:
        the prompts; truth and scores of their candidates, each float64 [prompts, number, 3], 1 to 5.
    """
    texts, truth, scores = [], [], []
    with progress_bar(prompts, "scoring") as advance:
        for index in range(prompts):
            plans = candidates(index, number)
            items = [render_plan(plan) for plan in plans]
            clips = [read_clip(item.frames, times=item.times.tolist()) for item in items]
            cards = scorer.score_batch(clips, [plan.prompt for plan in plans])
            texts.append(plans[0].prompt)
            truth.append([[plan.latent[name] for name in DIMENSIONS] for plan in plans])
            scores.append([[card.scores[name].mean for name in DIMENSIONS] for card in cards])
            advance(1)
    return texts, np.array(truth), np.array(scores)


def picked(truth: Floats, values: Floats) -> Floats:
    """Truth of the candidate with the highest value among N, as a mean over all choices of N candidates.

    With the M candidates from best to worst, the one in place r (from 0) is picked in C(M-1-r, N-1) of the
    C(M, N) choices: the N-1 others are all behind it. Of equal values the first counts as higher.

    Args:
        truth: float64 [P, M, Q].
        values: float64 [P, M].

    Returns:
        float64 [P, M, Q], for N = 1 to M.
    """
    number = values.shape[1]
    chances = [
        [comb(number - 1 - r, n - 1) / comb(number, n) for r in range(number)] for n in _counts(number)
    ]
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(truth, order[:, :, None], axis=1)
    return np.einsum("nr,prq->pnq", np.array(chances), ranked)


def outcomes(truth: Floats, scores: Floats) -> dict[str, Outcome]:
    """An `Outcome` for each of `QUALITIES` from what `measure` returns.

    Raises:
        ConfigError: `code="undefined"` when no prompt has candidates that differ.
    """
    qualities = np.concatenate([truth.mean(axis=2, keepdims=True), truth], axis=2)
    model = picked(qualities, scores.mean(axis=2))
    oracle = picked(qualities, qualities[:, :, 0])
    random = np.broadcast_to(qualities.mean(axis=1, keepdims=True), model.shape)
    found = {}
    for at, name in enumerate(QUALITIES):
        lines = [line[:, :, at] for line in (model, oracle, random, model - random)]
        gains = (model - random)[:, -1, at], (oracle - random)[:, -1, at]
        share, interval = _share(*gains), bootstrap_ci(_share, *gains, seed=SEED)
        found[name] = Outcome(*map(_curve, lines), share, interval)
    return found


def _counts(number: int) -> range:
    return range(1, number + 1)


def _share(gain: Floats, possible: Floats) -> float:
    """The sum of the gains as a share of the sum of those of the oracle."""
    total = float(possible.sum())
    if total == 0:
        raise ConfigError(
            "no prompt has candidates that differ in truth; take more prompts", code="undefined"
        )
    return float(gain.sum()) / total


def _curve(values: Floats) -> Curve:
    """From float64 [P, M]."""
    intervals = [bootstrap_ci(lambda column: float(column.mean()), column, seed=SEED) for column in values.T]
    low, high = zip(*intervals, strict=True)
    return Curve(tuple(values.mean(axis=0).tolist()), low, high)


def table(found: dict[str, Outcome]) -> list[str]:
    """Markdown: the overall quality for each N, then each quality among all candidates."""
    overall, number = found["overall"], len(found["overall"].model.mean)
    lines = ["| N | random | model | oracle | gain of the model |", "|---|---|---|---|---|"]
    for n in range(number):
        cells = (overall.random.mean[n], _cell(overall.model, n), _cell(overall.oracle, n))
        lines.append(
            f"| {n + 1} | {cells[0]:.3f} | {cells[1]} | {cells[2]} | {_cell(overall.gain, n, '+')} |"
        )
    lines += [
        "",
        f"| N = {number} | random | model | oracle | gain of the model | share of the oracle's gain |",
    ]
    lines.append("|---" * 6 + "|")
    for name, outcome in found.items():
        means = [line.mean[-1] for line in (outcome.random, outcome.model, outcome.oracle)]
        share = f"{outcome.share:.2f} [{outcome.share_ci95[0]:.2f}, {outcome.share_ci95[1]:.2f}]"
        row = [
            name.replace("_", " "),
            *(f"{mean:.3f}" for mean in means),
            _cell(outcome.gain, -1, "+"),
            share,
        ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _cell(curve: Curve, n: int, sign: str = "") -> str:
    mean, low, high = (f"{round(line[n], 3) + 0.0:{sign}.3f}" for line in (curve.mean, curve.low, curve.high))
    return f"{mean} [{low}, {high}]"


def result(
    provenance: Provenance, texts: Sequence[str], truth: Floats, scores: Floats, *, found: dict[str, Outcome]
) -> dict[str, Any]:
    """The numbers with what they belong to, and those of every candidate."""
    prompts, number = scores.shape[:2]
    rows = [
        {"prompt": text, "truth": true, "scores": said}
        for text, true, said in zip(texts, truth.tolist(), scores.tolist(), strict=True)
    ]
    head = {"provenance": asdict(provenance), "world": {"split": "test", "seed": SEED}}
    counts = {"prompts": prompts, "candidates": number}
    outcome = {name: asdict(one) for name, one in found.items()}
    return {**head, **counts, "outcomes": outcome, "dimensions": DIMENSIONS, "clips": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=8, help="clips of each prompt")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--device", default=None)
    args = parser.parse_args()
    if args.prompts < 2 or args.candidates < 2:
        raise ConfigError(
            f"expected 2 prompts and 2 candidates at least, got {args.prompts}, {args.candidates}"
        )
    make_folder(args.out)
    model = load_model(args.model, args.device)
    texts, truth, scores = measure(model, args.prompts, args.candidates)
    found = outcomes(truth, scores)
    told = result(model.provenance, texts, truth, scores, found=found)
    write_lines(args.out / "result.json", [json.dumps(told, indent=1)])
    write_lines(args.out / "plot.svg", [draw(told["outcomes"])])
    write_lines(args.out / "index.html", [page(told)])
    revision = model.provenance.revision
    print(f"{args.model}, revision {revision}: {args.prompts} prompts, {args.candidates} clips each\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
