"""What each branch is for: the table of `recipes/holistic/branches.py` by an independent computation."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fake_model import spread

from qsave_reward.errors import ConfigError
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.types import DIMENSIONS, Provenance, VideoScore
from qsave_reward.world import world_plan
from qsave_reward.world.stream import plan_record

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
import branches

PROVENANCE = Provenance("fake", "0", "1", {})
PLANS = [world_plan("test", index) for index in range(400)]


def test_area_under_the_curve_by_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, bad = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    pairs = list(product(scores[bad], scores[~bad]))
    counted = sum((low < high) + 0.5 * (low == high) for low, high in pairs) / len(pairs)
    assert branches.area_under_curve(scores[bad], scores[~bad]) == pytest.approx(counted)
    for bad, good in ((scores, scores[:0]), (scores[:0], scores)):
        with pytest.raises(ConfigError) as caught:
            branches.area_under_curve(bad, good)
        assert caught.value.code == "undefined"


def test_families_are_lone_defects_of_the_dimension() -> None:
    for branch, (dimension, labels) in branches.FAMILIES.items():
        for plan in PLANS:
            own = [defect.label for defect in plan.defects if defect.dimension == dimension]
            expected = False if not own else True if len(own) == 1 and own[0] in labels else None
            assert branches.family(plan, branch) is expected


def test_a_scorer_without_a_branch_loses_its_family_only(monkeypatch, capsys) -> None:
    """Fakes that see all defects, and all but one family, in front of noise."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.4, len(PLANS))

    def says(blind: str | None) -> list[Prediction]:
        found = []
        for index, plan in enumerate(PLANS):
            hidden = branches.FAMILIES[blind][1] if blind else ()
            seen = {d.dimension for d in plan.defects if d.label not in hidden}
            means = {name: np.clip((2 if name in seen else 4) + noise[index], 1, 5) for name in DIMENSIONS}
            card = VideoScore({name: spread(float(mean)) for name, mean in means.items()}, PROVENANCE)
            found.append(Prediction(plan_record(plan), card, index=index))
        return found

    folders = {"whole": says(None), "a": says("motion"), "b": says("technical")}
    monkeypatch.setattr(
        branches,
        "load_evaluation",
        lambda names: type("E", (), {"predictions": folders[names[0]], "data": "world:test"}),
    )
    monkeypatch.setattr(sys, "argv", ["branches.py", "whole", "--without", "motion=a", "technical=b"])
    branches.main()
    header, _, semantic, motion, technical = capsys.readouterr().out.splitlines()
    assert header == "| defects | whole | without motion | without technical |"
    cells = {
        name: [float(cell.split()[0]) for cell in line.split("|")[2:5]]
        for name, line in (("semantic", semantic), ("motion", motion), ("technical", technical))
    }
    assert all(row[0] > 0.95 for row in cells.values())
    assert cells["semantic"][1:] == [0, 0] and cells["motion"][2] == cells["technical"][1] == 0
    assert cells["motion"][1] < -0.3 and cells["technical"][2] < -0.3


def test_an_unknown_branch_is_named(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["branches.py", "whole", "--without", "sound=a"])
    with pytest.raises(SystemExit, match="got sound"):
        branches.main()
