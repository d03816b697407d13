"""The ceiling of an evaluation: an SRCC for a world, a PLCC for a file, each under its own name."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from fake_model import FakeModel
from rich.console import Console
from test_evaluate import some_items

from qsave_reward.data import write_records
from qsave_reward.evaluate import EvalData, evaluate, load_data, load_evaluation
from qsave_reward.evaluate.data import FROM_RATINGS, FROM_WORLD
from qsave_reward.terminal import evaluation_table
from qsave_reward.types import Record


def test_single_ratings_tell_the_ceiling_of_a_file(tmp_path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for i in range(60):
        answers = tuple(float(v) for v in np.clip(1 + 4 * i / 60 + rng.normal(0, 0.7, 3), 1, 5))
        mos, ratings = {"visual_quality": float(np.mean(answers))}, {"visual_quality": answers}
        records.append(Record(f"{i}.mp4", "x", mos, ratings=ratings))
    write_records(tmp_path / "r.jsonl", records)
    loaded = load_data(str(tmp_path / "r.jsonl"))
    assert set(loaded.ceiling) == {"visual_quality"} and 0.9 < loaded.ceiling["visual_quality"] < 0.99
    assert "ratings" in loaded.ceiling_source
    # It is a PLCC, and is called one.
    done = evaluate(FakeModel(), EvalData("mine", some_items(), 12, loaded.ceiling, loaded.ceiling_source))
    known = done.baselines["ceiling"]["visual_quality"]
    assert (known["srcc"], known["plcc"]) == (None, loaded.ceiling["visual_quality"])
    assert done.results["visual_quality"]["ceiling"] == loaded.ceiling["visual_quality"]
    assert known["source"] == loaded.ceiling_source and known["reason"] is None
    assert done.baselines["ceiling"]["text_alignment"]["plcc"] is None


def columns_of_the_table(ceiling_source: str) -> tuple[list[str], list[str]]:
    """Header and first row of the table for people."""
    loaded = EvalData(
        "mine", some_items(), 12, {"visual_quality": 0.9, "text_alignment": 0.8}, ceiling_source
    )
    console = Console(width=100, file=io.StringIO())
    console.print(evaluation_table(evaluate(FakeModel(), loaded).to_dict()))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    return next((line, lines[k + 1]) for k, line in enumerate(lines) if line[:1] == ["SRCC"])


def test_the_ceiling_stands_beside_the_correlation_that_it_is_one_of() -> None:
    header, row = columns_of_the_table(FROM_WORLD)
    assert header == ["SRCC", "95", "%", "ceiling", "PLCC", "KRCC", "RMSE", "n"]
    assert row[2:] == ["1.000", "1.000", "to", "1.000", "0.900", "1.000", "1.000", "0.000", "12"]
    header, row = columns_of_the_table(FROM_RATINGS)
    assert header == ["SRCC", "95", "%", "PLCC", "ceiling", "KRCC", "RMSE", "n"]
    assert row[2:] == ["1.000", "1.000", "to", "1.000", "1.000", "0.900", "1.000", "0.000", "12"]


@pytest.mark.parametrize(("source", "name"), [(FROM_WORLD, "srcc"), (FROM_RATINGS, "plcc")])
def test_ceilings_of_this_and_of_earlier_versions_are_read_as_what_they_are(tmp_path, source, name) -> None:
    items = some_items()
    done = evaluate(FakeModel(), EvalData("mine", items, len(items), {"visual_quality": 0.9}, source))
    done.save(tmp_path)
    assert load_evaluation([tmp_path]).to_dict() == done.to_dict()
    path = tmp_path / "evaluation.json"
    head = json.loads(path.read_text())
    for row in head["baselines"]["ceiling"].values():
        row["srcc"] = row.pop("plcc") if row["srcc"] is None else row["srcc"]
        row.pop("plcc", None)
    path.write_text(json.dumps(head | {"protocol": 1}))
    again = load_evaluation([tmp_path])
    assert again.to_dict() == done.to_dict()
    assert again.baselines["ceiling"]["visual_quality"][name] == 0.9
