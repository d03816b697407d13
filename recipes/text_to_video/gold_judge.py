"""A judge of generated clips of the world by classical computer vision, for prompts with a single object.

    python recipes/text_to_video/gold_judge.py --limit 300

It shares no code with the reward model and learns nothing from it, so that it can tell whether a generator
tuned with that model got better or only found its weak spots. It looks at the frames and the prompt, finds
the object that stands out, and measures (each 0..1) what `GoldScores` lists.

The command prints how far the judge can be trusted: on clean clips of the world, with prompts that say
something else, against the true quality of clips with defects, and on clips that are blurred, faded or empty.
Its constants were set on the val split; the table is from the test split. What it does not see: the
background, the size of the object, and much of ghosting; and often a white object on a cream background.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from gold_forms import fit_motions, parse_prompt, shape_matches, shape_score, steadiness
from gold_objects import CLEAR, Floats, Frames, Sighting, check_frames, edges, find_object
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.metrics import srcc
from qsave_reward.terminal import progress_bar
from qsave_reward.types import DIMENSIONS
from qsave_reward.world import WorldConfig, WorldPlan, render_plan, world_plan
from qsave_reward.world.defects import LABELS
from qsave_reward.world.phrasing import VERBS
from qsave_reward.world.scene import COLORS, FADING, MOTIONS, SHAPES

SUMMARIES = ("visual", "dynamic", "alignment", "overall")
SHOWN = 0.35
"""Share of the frames, the clearest ones, in which an object that appears or disappears must be right."""
FAR = 60.0
"""Distance in color (0..100) that stands for more than that."""


@dataclass(frozen=True)
class GoldScores:
    """What a clip is worth, each part 0..1; all are 0 where no object stands out.

    Attributes:
        color: how near the object is to the color asked for, and nearer than to the other nine.
        shape: how well its outline fits the shape asked for, and better than the other nine.
        motion: how much of its way the motion asked for explains, and whether that goes far enough.
        alone: its share of all that stands out; 0.5 when there are two.
        sharpness: how steep its outline is, without noise and without blocks.
        purity: how near it is to any color and any shape of the world.
        steadiness: no flicker, no jitter, jump, stop or change of shape; half of that when it is frozen.
    """

    color: float
    shape: float
    motion: float
    alone: float
    sharpness: float
    purity: float
    steadiness: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must be in 0..1, got {value}; please report this as a bug")

    def as_dict(self) -> dict[str, float]:
        """Parts and `SUMMARIES` by name."""
        return asdict(self) | {name: getattr(self, name) for name in SUMMARIES}

    @property
    def visual(self) -> float:
        """Mean of sharpness and purity."""
        return (self.sharpness + self.purity) / 2

    @property
    def dynamic(self) -> float:
        """Steadiness."""
        return self.steadiness

    @property
    def alignment(self) -> float:
        """Geometric mean of color, shape and motion, so that each must be there, times `alone`."""
        return float(np.cbrt(self.color * self.shape * self.motion)) * self.alone

    @property
    def overall(self) -> float:
        """Mean of visual, dynamic and alignment."""
        return (self.visual + self.dynamic + self.alignment) / 3


GOLD_PARTS = (*(field.name for field in fields(GoldScores)), *SUMMARIES)
"""Names in `GoldScores.as_dict`."""


def gold_scores(frames: Frames, prompt: str) -> GoldScores:
    """Judge a clip.

    Args:
        frames: uint8 [T >= 8, H >= 32, W >= 32, 3], RGB; the whole clip at an even rate.
        prompt: what it should show, as `parse_prompt` takes it.

    Raises:
        ConfigError: the prompt is not understood.
        VideoError: the frames are of another form.
    """
    asked = parse_prompt(prompt)
    check_frames(frames)
    seen = find_object(frames)
    clear = seen.opacity > CLEAR
    if not clear.any():
        return GoldScores(**dict.fromkeys((part.name for part in fields(GoldScores)), 0.0))
    shapes = shape_matches(seen.patches) * (seen.contrast > 0)[:, None]
    fit = fit_motions(seen, SHAPES[int(shapes.sum(axis=0).argmax())])
    number = math.ceil(SHOWN * len(frames)) if asked.motion in FADING else len(frames)
    counted = np.argsort(-seen.contrast, kind="stable")[:number]
    return GoldScores(
        color=_color(seen.colors[counted], asked.color),
        shape=shape_score(shapes[counted], asked.shape),
        motion=fit.scores[asked.motion],
        alone=float(seen.alone[clear].mean()),
        sharpness=_sharpness(frames, seen),
        purity=_purity(seen.colors[clear], shapes[clear]),
        steadiness=steadiness(seen, fit, shapes=shapes, resting=asked.motion == "still"),
    )


def _color(distances: Floats, color: str) -> float:
    """Mean over the frames of the closeness to a color, times its share among all colors."""
    distances = np.minimum(distances, FAR)
    own = distances[:, list(COLORS).index(color)]
    share = 1 / np.exp((own[:, None] ** 2 - distances**2) / 32).sum(axis=1)
    return float((share * np.exp(-((own / 12) ** 2))).mean())


def _sharpness(frames: Frames, seen: Sighting) -> float:
    steep, blocky = edges(frames, seen)
    outline = np.clip((steep - 0.1) / 0.4, 0, 1) * (1 - 0.9 * np.clip((blocky - 0.15) / 0.75, 0, 1))
    return float(outline.mean()) * math.exp(-max(seen.grain - 1, 0) / 10)


def _purity(distances: Floats, matches: Floats) -> float:
    """Mean over the frames; the allowances are what thin rings and small objects need."""
    off = np.maximum(np.minimum(distances.min(axis=1), FAR) - 1.5, 0)
    bent = np.maximum(1 - matches.max(axis=1) - 0.025, 0)
    return float(np.exp(-off / 8 - bent / 0.1).mean())


def single_plans(split: str, limit: int, *, config: WorldConfig) -> list[WorldPlan]:
    """The first items of a split whose prompt `parse_prompt` takes."""
    plans: list[WorldPlan] = []
    index = 0
    while len(plans) < limit:
        plan = world_plan(split, index, config=config)
        index += 1
        if sum(group.count for group in plan.scene.groups) == 1 and plan.scene.camera is None:
            plans.append(plan)
    return plans


def other_prompt(prompt: str, part: str, *, rng: np.random.Generator) -> str:
    """A prompt that asks for another color, shape or motion, whichever `part` says."""
    asked = parse_prompt(prompt)
    options = {"color": tuple(COLORS), "shape": SHAPES, "motion": MOTIONS}[part]
    choice = str(rng.choice([option for option in options if option != getattr(asked, part)]))
    asked = replace(asked, **{part: choice})
    return f"a {asked.color} {asked.shape} {VERBS[asked.motion][0][0]}"


def blurred(frames: Frames, sigma: float) -> Frames:
    """Gaussian blur of `sigma` pixels."""
    smooth = ndimage.gaussian_filter(frames.astype(np.float32), (0, sigma, sigma, 0))
    return np.asarray(np.rint(smooth), np.uint8)


def faded(frames: Frames, share: float) -> Frames:
    """Mixed with gray; a share of 1 leaves nothing else."""
    return np.asarray(np.rint(frames * (1 - share) + 128 * share), np.uint8)


def empty_clips(plan: WorldPlan, rng: np.random.Generator) -> dict[str, Frames]:
    """Clips without an object, in the size of a planned one: its background, noise, clouds and gray."""
    bare = render_plan(replace(plan, shown=replace(plan.scene, groups=(), places=()))).frames
    noise = rng.integers(0, 256, bare.shape, dtype=np.uint8)
    clouds = ndimage.gaussian_filter(rng.standard_normal(bare.shape), (1, 4, 4, 0))
    clouds = np.clip(np.rint(128 + 50 * clouds / clouds.std()), 0, 255).astype(np.uint8)
    return {"background": bare, "noise": noise, "clouds": clouds, "gray": faded(bare, 1.0)}


def judge_clean(plan: WorldPlan, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Sections of the table for one clean clip: as it is, asked otherwise, without object, made worse."""
    frames, prompt = render_plan(plan).frames, plan.prompt
    started = time.process_time()
    score = gold_scores(frames, prompt)
    seconds = time.process_time() - started
    wrong = {part: other_prompt(prompt, part, rng=rng) for part in ("color", "shape", "motion")}
    blurs = {f"sigma {sigma:g} px": blurred(frames, sigma) for sigma in (0.5, 1, 2, 4)}
    fades = {f"{share:.0%} gray": faded(frames, share) for share in (0.25, 0.5, 0.75, 1)}
    return {
        "clean clips": score.as_dict(),
        "asked for another one: that part": {p: getattr(gold_scores(frames, w), p) for p, w in wrong.items()},
        "no object: alignment": {
            k: gold_scores(f, prompt).alignment for k, f in empty_clips(plan, rng).items()
        },
        "blurred: overall": {k: gold_scores(f, prompt).overall for k, f in blurs.items()},
        "faded: overall": {k: gold_scores(f, prompt).overall for k, f in fades.items()},
        "time": {"processor milliseconds a clip": 1000 * seconds},
    }


def judge_defects(plans: Sequence[WorldPlan], scores: Sequence[GoldScores]) -> dict[str, dict[str, float]]:
    """Sections for clips with defects: correlation with the true quality, and the fall by each defect."""
    found: dict[str, dict[str, float]] = {"SRCC with true quality": {}, "SRCC where an object was found": {}}
    seen, falls = np.array([score.alone > 0 for score in scores]), {}
    for name, dimension in zip(SUMMARIES, DIMENSIONS, strict=False):
        values = np.array([getattr(score, name) for score in scores])
        truth = np.array([plan.latent[dimension] for plan in plans])
        for section, chosen in zip(found, (np.ones_like(seen), seen), strict=True):
            found[section][name] = srcc(values[chosen], truth[chosen])
        for label in LABELS[dimension]:
            has = np.array([any(defect.label == label for defect in plan.defects) for plan in plans])
            if has.any() and (truth == 5).any():
                falls[f"{name}, {label}"] = float(values[has].mean() - values[truth == 5].mean())
    return found | {"with a defect, minus without any of its dimension": falls}


def validate(limit: int, size: int) -> dict[str, dict[str, float]]:
    """Judge `limit` clean and `limit` other clips of the test split; means by section and row."""
    config = WorldConfig(height=size, width=size, num_frames=17, fps=8.0, clean=True)
    if limit < 2:
        raise ConfigError(f"expected at least 2 clips, got --limit {limit}")
    plans, rng = single_plans("test", limit, config=config), np.random.default_rng(0)
    worse, rows, scores = single_plans("test", limit, config=replace(config, clean=False)), [], []
    with progress_bar(limit, "judging") as advance:
        for plan, bad in zip(plans, worse, strict=True):
            rows.append(judge_clean(plan, rng))
            scores.append(gold_scores(render_plan(bad).frames, bad.prompt))
            advance(1)
    means = {
        section: {name: float(np.mean([row[section][name] for row in rows])) for name in rows[0][section]}
        for section in rows[0]
    }
    return means | judge_defects(worse, scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=300, help="clips of each kind")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    found = validate(args.limit, args.size)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    table = Table("what", "value", title=f"gold judge on {args.limit} clips")
    for section, row in found.items():
        table.add_section()
        table.add_row(section, "", style="bold")
        for name, value in row.items():
            table.add_row("  " + name, f"{value:.3f}")
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
