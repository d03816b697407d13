"""Labels of visual tokens against the pixels of the rendered clips they describe."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qsave_reward.world import WorldConfig, render_plan, world_plan
from qsave_reward.world.scene import COLORS, SHAPES
from qsave_reward.world.shapes import outline

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))
from token_targets import FINE, NOTHING, RAYS, token_targets

GRID = (4, 4)


def clean_plans(accept, n):
    """Clips without defects, of one object that is always there."""
    found = []
    for index in range(3000):
        plan = world_plan("train", index, config=WorldConfig(clean=True))
        groups = plan.shown.groups
        alone = len(groups) == 1 and groups[0].count == 1 and groups[0].motion not in ("appear", "disappear")
        if alone and accept(plan):
            found.append(plan)
        if len(found) == n:
            return found
    raise AssertionError("too few clips")


def picture_of(values, chunk, side):
    """Values of a chunk's tokens [tokens, side * side] as one picture [rows * side, columns * side]."""
    rows, columns = GRID
    tokens = values.reshape(-1, rows, columns, side, side)[chunk]
    return tokens.permute(0, 2, 1, 3).reshape(rows * side, columns * side).numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_covers_the_pixels_that_are_not_background(shape):
    (plan,) = clean_plans(lambda p: p.shown.groups[0].shape == shape, 1)
    empty = replace(plan, shown=replace(plan.shown, groups=(), places=()))
    frames, behind = (render_plan(one).frames.astype(int) for one in (plan, empty))
    masks = token_targets(plan, [GRID] * 8).mask.view(-1, 2, FINE * FINE)
    for chunk, frame in itertools.product((0, 4, 7), (0, 1)):
        painted = np.abs(frames[2 * chunk + frame] - behind[2 * chunk + frame]).sum(axis=2) > 30
        # Each point of the mask is the middle of 4x4 pixels.
        there = painted.reshape(32, 4, 32, 4)[:, 1:3, :, 1:3].mean(axis=(1, 3)) >= 0.5
        told = picture_of(masks[:, frame], chunk, FINE) > 0
        assert there.any() and (there & told).sum() / (there | told).sum() > 0.75


def test_tokens_at_the_middle_of_an_object_show_its_color_and_place():
    plans = clean_plans(lambda p: p.shown.groups[0].shape not in ("ring", "crescent"), 12)
    for plan in plans:
        group = plan.shown.groups[0]
        targets = token_targets(plan, [GRID] * 8)
        frames = render_plan(plan).frames.astype(float)
        color = targets.color.view(8, *GRID)
        for chunk in (0, 7):
            row, column = (color[chunk] != NOTHING).nonzero()[0].tolist()
            token = chunk * 16 + row * 4 + column
            x, y, radius = (32 * targets.numbers[token, :3]).tolist()
            center = round(y + (row + 0.5) * 32), round(x + (column + 0.5) * 32)
            pixel = frames[2 * chunk : 2 * chunk + 2, center[0], center[1]].mean(axis=0)
            assert np.abs(pixel - COLORS[group.color]).max() < 40
            assert 4 < radius < 45
        shown = targets.color != NOTHING
        assert set(targets.shape[shown].tolist()) == {SHAPES.index(group.shape)}
        assert (targets.numbers[~shown] == 0).all() and (targets.outline[~shown] == 0).all()


def painted_middles(plan):
    """Where a clip's only object is painted, chunk by chunk: [8, 2], x and y as shares of the picture."""
    empty = replace(plan, shown=replace(plan.shown, groups=(), places=()))
    frames, behind = (render_plan(one).frames.astype(int) for one in (plan, empty))
    painted = [np.argwhere(row)[:, ::-1].mean(axis=0) for row in np.abs(frames - behind).sum(axis=3) > 30]
    return (np.array(painted).reshape(8, 2, 2).mean(axis=1) + 0.5) / 128


@pytest.mark.parametrize("motion", ["right", "still", "orbit"])
def test_centers_are_where_the_object_is_painted_now_and_a_chunk_before(motion):
    (plan,) = clean_plans(
        lambda p: (p.shown.groups[0].motion, p.shown.groups[0].shape) == (motion, "circle"), 1
    )
    middles = painted_middles(plan)
    targets = token_targets(plan, [GRID] * 8)
    centers, shown = targets.center.view(8, 16, 2, 2), (targets.color != NOTHING).view(8, 16)
    assert centers[~shown].isnan().all() and centers[0, :, 1].isnan().all() and shown.any(dim=1).all()
    for k in range(8):
        assert np.abs(centers[k, shown[k], 0].numpy() - middles[k]).max() < 0.01
        assert k == 0 or np.abs(centers[k, shown[k], 1].numpy() - middles[k - 1]).max() < 0.01


def test_centers_follow_an_object_that_jumps():
    plans = (world_plan("train", index) for index in range(3000))
    plan = next(
        p
        for p in plans
        if [(g.shape, g.count) for g in p.shown.groups] == [("circle", 1)]
        and [(d.label, d.severity > 0.4) for d in p.defects] == [("jump", True)]
    )
    middles = painted_middles(plan)
    targets = token_targets(plan, [GRID] * 8)
    centers = targets.center.view(8, 16, 2, 2).nanmean(dim=1).numpy()
    assert np.abs(centers[:, 0] - middles).max() < 0.01
    assert np.abs(centers[1:, 1] - middles[:-1]).max() < 0.01
    assert np.abs(centers[1:, 0] - centers[1:, 1]).max() > 0.1


def test_an_object_that_was_not_there_yet_was_nowhere():
    plans = (world_plan("train", index, config=WorldConfig(clean=True)) for index in range(3000))
    plan = next(p for p in plans if [(g.motion, g.count) for g in p.shown.groups] == [("appear", 1)])
    targets = token_targets(plan, [GRID] * 8)
    shown = (targets.color != NOTHING).view(8, 16).any(dim=1).tolist()
    known = (~targets.center.isnan()).view(8, 16, 2, 2).any(dim=1).all(dim=2).tolist()
    first = shown.index(True)
    assert 0 < first < 7 and shown == [False] * first + [True] * (8 - first)
    assert known == [[there, k > first] for k, there in enumerate(shown)]


def test_velocity_says_where_the_object_is_in_the_second_frame():
    (plan,) = clean_plans(lambda p: p.shown.groups[0].motion == "right" and not p.shown.camera, 1)
    targets = token_targets(plan, [GRID] * 8)
    numbers = targets.numbers.view(8, 16, -1)
    seen = [numbers[k][(targets.color.view(8, 16)[k] != NOTHING)][0] for k in range(8)]
    travel = plan.shown.places[0][0].travel * 128 / 32  # tokens from the first to the last frame's time
    for one in seen:
        assert one[3] / 10 == pytest.approx(travel / 16, rel=1e-3)
        assert one[4] == pytest.approx(0, abs=1e-4) and one[5] == pytest.approx(0, abs=1e-4)


def test_outline_turns_with_the_object():
    (plan,) = clean_plans(
        lambda p: p.shown.groups[0].motion == "rotate" and p.shown.groups[0].shape == "heart", 1
    )
    targets = token_targets(plan, [GRID] * 8)
    shown = (targets.color != NOTHING).view(8, 16)
    told = [targets.outline.view(8, 16, -1)[k][shown[k]][0] for k in range(8)]
    radii = outline("heart").radii
    for k, one in enumerate(told):
        turn = 0.55 * (2 * k) / 16
        expected = [radii[int(np.floor((ray / RAYS - turn) * 1024)) % 1024] for ray in range(RAYS)]
        assert one[:RAYS].tolist() == pytest.approx(expected, abs=0.02)
    assert (told[0] - told[4]).abs().max() > 0.2


def test_grids_of_different_sizes_keep_their_place():
    plan = world_plan("train", 3, seed=1)
    mixed = token_targets(plan, [(4, 4), (2, 2), (3, 3), (4, 4)])
    alike = token_targets(plan, [(4, 4)] * 4)
    assert len(mixed.color) == 16 + 4 + 9 + 16
    for name in ("color", "shape", "numbers", "outline", "mask", "center"):
        one, other = (getattr(targets, name).nan_to_num(-1) for targets in (mixed, alike))
        assert (one[:16] == other[:16]).all() and (one[-16:] == other[-16:]).all()
