"""What the gold judge sees: prompts, places, shapes, turns and motions of objects drawn elsewhere."""

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from gold_cases import POLYGONS, TIME, WAYS, drawn

from qsave_reward.world import WorldConfig
from qsave_reward.world.phrasing import VERBS
from qsave_reward.world.scene import COLORS, MOTIONS, SHAPES

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

import gold_judge
from gold_forms import Asked, fit_motions, parse_prompt, shape_matches, shape_score, turns
from gold_judge import gold_scores, single_plans
from gold_objects import find_object


def test_every_prompt_of_the_world_says_what_its_scene_says():
    seen = set()
    for split in ("train", "test"):
        for plan in single_plans(split, 150, config=WorldConfig(clean=True)):
            (group,) = plan.scene.groups
            assert parse_prompt(plan.prompt) == Asked(group.color, group.shape, group.motion)
            seen |= {group.color, group.shape, group.motion}
    assert seen == {*COLORS, *SHAPES, *MOTIONS}
    for motion, pairs in VERBS.items():
        for verb, _ in pairs:
            assert parse_prompt(f"A Video of an  orange ring that {verb}.") == Asked("orange", "ring", motion)
    text = "On a tan plain background, a little red circle moves to the left"
    assert parse_prompt(text) == Asked("red", "circle", "left")


@pytest.mark.parametrize(
    ("side", "x", "y"), [(64, 0.4, 0.6), (128, 0.61, 0.37), (48, 0.5, 0.5), (40, 0.55, 0.5)]
)
def test_an_object_is_where_it_was_drawn(side, x, y):
    seen = find_object(drawn(x=x, y=y, radius=0.2, side=side))
    assert seen.centers == pytest.approx(np.tile([x, y], (17, 1)), abs=0.4 / min(side, 64))
    # The square has sides of 1.6 radii; its edges are soft, and so it looks a little larger.
    assert seen.size == pytest.approx(np.full(17, 0.2 * 1.6 / math.sqrt(math.pi)), rel=0.1)
    assert (seen.alone == 1).all() and (seen.opacity > 0.99).all() and seen.grain == 0
    red = list(COLORS).index("red")
    assert (seen.colors.argmin(axis=1) == red).all() and seen.colors[:, red].max() < 1


@pytest.mark.parametrize("shape", POLYGONS)
def test_a_shape_is_told_from_the_nine_others_at_any_turn(shape):
    matches = shape_matches(find_object(drawn(shape, angle=TIME / 3)).patches)
    assert {SHAPES[k] for k in matches.argmax(axis=1)} == {shape} and matches.max() <= 1 + 1e-6
    found = {other: shape_score(matches, other) for other in SHAPES}
    assert found.pop(shape) > 0.85 and max(found.values()) < 0.15
    assert gold_scores(drawn(shape), f"a red {shape} stays still").shape > 0.85


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_is_told_from_the_twelve_others(motion):
    scores = fit_motions(find_object(drawn("star", **WAYS[motion])), "star").scores
    assert sorted(scores) == sorted(MOTIONS) and scores[motion] > 0.85
    # A quarter of a circle goes on sideways; a swing drifts a little.
    assert max(value for name, value in scores.items() if name != motion) < 0.35


def test_a_turn_is_measured():
    for shape in ("star", "square", "triangle", "diamond"):
        seen = find_object(drawn(shape, angle=-0.4 * TIME))
        assert turns(seen.patches, shape)[-1] - turns(seen.patches, shape)[0] == pytest.approx(
            -0.4 * TIME[-1], abs=0.01
        )
    assert not turns(find_object(drawn("circle")).patches, "circle").any()


def test_the_judge_is_independent():
    used = set()
    for path in Path(gold_judge.__file__).parent.glob("gold_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                used.add(node.module)
            elif isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
    own = {name.removeprefix("qsave_reward.") for name in used if name.startswith("qsave_reward")}
    assert own <= {
        "errors",
        "metrics",
        "terminal",
        "types",
        "world",
        "world.defects",
        "world.phrasing",
        "world.scene",
    }
    assert not {name.split(".")[0] for name in used} & {"torch", "transformers", "cv2", "skimage", "sklearn"}
