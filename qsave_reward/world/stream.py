"""The endless stream of rated clips: item number `index` of a split, the same on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS, Defect, Record
from qsave_reward.world.alterations import alter
from qsave_reward.world.defects import (
    LABELS,
    MIN_SEVERITY,
    OBJECT_LABELS,
    degrade,
    draw_labels,
    draw_span,
    in_span,
    object_effects,
    showable,
)
from qsave_reward.world.film import film_background
from qsave_reward.world.phrasing import describe, phrase
from qsave_reward.world.raters import Opinion, latent_quality, rate
from qsave_reward.world.render import Effects, Track, camera_pan, object_tracks, render
from qsave_reward.world.scene import BACKGROUND_COLORS, FILMED, Group, Scene, draw_scene, pick

WORLD_VERSION = 1
"""Changes whenever an item of the same index would look or read differently."""

SPLITS = ("train", "val", "test")

GENERATORS: dict[str, tuple[float, float, float]] = {
    "gen-a": (0.5, 0.5, 0.6),
    "gen-b": (0.6, 1.3, 0.8),
    "gen-c": (1.3, 0.6, 1.0),
    "gen-d": (0.9, 0.9, 1.4),
    "gen-e": (1.3, 1.3, 0.8),
    "gen-f": (1.4, 1.4, 1.4),
}
"""Simulated generators: how prone to defects each one is, in the order of `DIMENSIONS`."""

ONE_DEFECT, TWO_DEFECTS = 0.45, 0.15
"""Probability of exactly one and of two defects in a dimension, for an average generator."""

SIZES = ((128, 128), (128, 128), (128, 128), (96, 160), (160, 96), (96, 96), (192, 192), (256, 256))
"""Heights and widths of a varied world; 128 x 128 is the most common."""


@dataclass(frozen=True)
class WorldConfig:
    """What the clips of a world look like.

    Attributes:
        height: pixels, at least 32.
        width: pixels, at least 32.
        num_frames: at least 8.
        fps: frames per second; motions last `num_frames / fps` seconds.
        raters: people who judge a clip.
        clean: no defects at all, as for training a generator.
        varied: draw size, number of frames (8 to 24) and frame rate (6 to 12) anew for each item.
        films: folder of real clips; half of the scenes in which the camera rests get one as background.
    """

    height: int = 128
    width: int = 128
    num_frames: int = 16
    fps: float = 8.0
    raters: int = 5
    clean: bool = False
    varied: bool = False
    films: str | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 32:
            raise ConfigError(
                f"a world needs frames of at least 32 x 32 pixels, got {self.height} x {self.width}"
            )
        if self.num_frames < 8:
            raise ConfigError(f"a world needs at least 8 frames for its motions, got {self.num_frames}")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps must be positive, got {self.fps}")
        if self.raters < 1:
            raise ConfigError(f"a world needs at least one rater, got {self.raters}")


@dataclass(frozen=True)
class WorldPlan:
    """An item without its pixels.

    Attributes:
        name: "world:<split>/<seed>/<index>".
        scene: what the prompt says.
        shown: what the clip shows.
        prompt: the text.
        defects: in the order of `DIMENSIONS`.
        generator: one of `GENERATORS`.
        latent: true quality of each dimension, 1 to 5.
        opinion: what the raters say.
        config: size, frames and rate of this very item.
        entropy: seed of what is random in the pixels.
    """

    name: str
    scene: Scene
    shown: Scene
    prompt: str
    defects: tuple[Defect, ...]
    generator: str
    latent: dict[str, float]
    opinion: Opinion
    config: WorldConfig
    entropy: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class WorldItem:
    """A rated clip.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB.
        times: float64 [T], seconds.
        fps: frames per second.
        record: prompt, scores, defects and the description of what is shown (`rationale`).
        latent: true quality of each dimension, 1 to 5, before any rater.
    """

    frames: NDArray[np.uint8]
    times: NDArray[np.float64]
    fps: float
    record: Record
    latent: dict[str, float]


def world_plan(split: str, index: int, *, seed: int = 0, config: WorldConfig | None = None) -> WorldPlan:
    """Everything about an item but its pixels; the same for the same arguments, whatever was asked before."""
    config = config or WorldConfig()
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    if index < 0 or seed < 0:
        raise ConfigError(f"index and seed must not be negative, got {index} and {seed}")
    entropy = (seed, SPLITS.index(split), index)
    rng = _generator(entropy, 0)
    if config.varied:
        height, width = pick(rng, SIZES)
        frames, fps = int(rng.integers(8, 25)), float(rng.integers(6, 13))
        config = replace(config, height=height, width=width, num_frames=frames, fps=fps, varied=False)
    scene = draw_scene(rng, split)
    if config.films is not None and scene.camera is None and _generator(entropy, 4).random() < 0.5:
        scene = replace(scene, background=FILMED)
    prompt = phrase(scene, rng)
    generator = pick(rng, tuple(GENERATORS))
    shown, defects = (scene, ()) if config.clean else draw_defects(rng, scene, GENERATORS[generator], config)
    latent = latent_quality(defects, config.num_frames / config.fps)
    opinion = rate(latent, config.raters, _generator(entropy, 1))
    name = f"world:{split}/{seed}/{index}"
    return WorldPlan(name, scene, shown, prompt, defects, generator, latent, opinion, config, entropy)


def _generator(entropy: tuple[int, ...], purpose: int) -> np.random.Generator:
    """An independent source of random numbers for one purpose of one item."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*entropy, purpose])))


def draw_defects(
    rng: np.random.Generator, scene: Scene, prone: tuple[float, float, float], config: WorldConfig
) -> tuple[Scene, tuple[Defect, ...]]:
    """The scene to show and the defects of an item by a generator that is `prone` to them."""
    times = np.arange(config.num_frames) / config.fps
    wanted = []
    for factor in prone:
        chance = rng.random()
        number = (chance < (ONE_DEFECT + TWO_DEFECTS) * factor) + (chance < TWO_DEFECTS * factor)
        # A generator prone to defects also has the more severe ones.
        wanted.append(MIN_SEVERITY + (1 - MIN_SEVERITY) * rng.random(number) ** (1 / factor))
    shown, wrong = alter(scene, wanted[2].tolist(), rng)
    defects: list[Defect] = []
    for dimension, severities in zip(DIMENSIONS[:2], wanted[:2], strict=True):
        possible = [label for label in LABELS[dimension] if showable(label, shown)]
        labels = draw_labels(rng, dimension, len(severities), possible)
        for label, value in zip(labels, severities.tolist(), strict=False):
            severity = round(value, 3)
            defects.append(Defect(dimension, label, severity, *draw_span(rng, label, severity, times)))
    return shown, (*defects, *wrong)


def render_plan(plan: WorldPlan) -> WorldItem:
    """Draw a planned item."""
    config = plan.config
    times = np.arange(config.num_frames) / config.fps
    duration = config.num_frames / config.fps
    effects = plan_effects(plan)
    size = {"height": config.height, "width": config.width}
    film = None
    if plan.scene.background == FILMED and config.films is not None:
        color, rng = BACKGROUND_COLORS[plan.scene.background_color], _generator(plan.entropy, 5)
        film = film_background(config.films, color, len(times), **size, rng=rng)
    drawn = render(plan.shown, times, duration=duration, **size, effects=effects, film=film)
    frames = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)
    frames = degrade(frames, times, plan.defects, _generator(plan.entropy, 3), skip=OBJECT_LABELS)
    # Some defects leave time as the axis that lies densest; a decoder hands out one picture after another.
    return WorldItem(np.ascontiguousarray(frames), times, config.fps, plan_record(plan), plan.latent)


def plan_effects(plan: WorldPlan) -> Effects:
    """What the defects of a planned item do to its objects."""
    times = np.arange(plan.config.num_frames) / plan.config.fps
    duration = plan.config.num_frames / plan.config.fps
    return object_effects(plan.shown, plan.defects, times, duration, _generator(plan.entropy, 2))


def plan_tracks(plan: WorldPlan) -> list[tuple[Group, Track]]:
    """The way of every object of a planned item in pixels, one value per frame; later ones are in front.

    A frozen picture holds its objects. Jitter and ghosting, which act on pixels, are left out.
    """
    config = plan.config
    times = np.arange(config.num_frames) / config.fps
    duration = config.num_frames / config.fps
    effects = plan_effects(plan)
    pan = camera_pan(plan.shown, times / duration)
    seen = np.arange(len(times))
    for defect in plan.defects:
        if defect.label == "freeze":
            inside = in_span(defect, times)
            seen[inside] = int(np.argmax(inside))
    tracks = []
    for index, track in object_tracks(plan.shown, effects, pan, height=config.height, width=config.width):
        held = replace(
            track,
            centers=track.centers[seen],
            radius=track.radius[seen],
            angle=track.angle[seen],
            alpha=track.alpha[seen],
        )
        tracks.append((plan.shown.groups[index], held))
    return tracks


def plan_record(plan: WorldPlan) -> Record:
    """The record of an item; its `video` is the name of the item."""
    return Record(
        video=plan.name,
        prompt=plan.prompt,
        mos=plan.opinion.mos,
        ratings=plan.opinion.ratings,
        overall=plan.opinion.overall,
        defects=plan.defects,
        rationale=describe(plan.shown),
        generator=plan.generator,
        id=plan.name.replace(":", "-").replace("/", "-"),
    )


def world_item(split: str, index: int, *, seed: int = 0, config: WorldConfig | None = None) -> WorldItem:
    """Item number `index` of a split.

    Example:
        >>> item = world_item("train", 0)
        >>> item.frames.shape
        (16, 128, 128, 3)
    """
    return render_plan(world_plan(split, index, seed=seed, config=config))
