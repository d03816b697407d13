"""Evaluations that were saved: the same numbers again, from one process or several; files that are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel
from test_evaluate import data, failing_items, grouped_items, some_items

from qsave_reward.data import write_records
from qsave_reward.errors import ConfigError
from qsave_reward.evaluate import EvalData, evaluate, load_data, load_evaluation, parse_part
from qsave_reward.types import DIMENSIONS


def test_saved_files_hold_result_and_predictions(tmp_path) -> None:
    done = evaluate(FakeModel(), data(failing_items()))
    done.save(tmp_path / "new" / "out")
    saved = json.loads((tmp_path / "new" / "out" / "evaluation.json").read_text())
    assert saved == json.loads(json.dumps(done.to_dict()))
    assert (saved["part"], saved["n_whole"], saved["n"]) == ([1, 1], 13, 13)
    assert saved["versions"]["numpy"] == np.__version__
    assert saved["provenance"]["model"] == "fake"
    text = (tmp_path / "new" / "out" / "predictions.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == 13
    assert lines[0]["scores"]["visual_quality"]["mean"] == 1.0
    assert lines[0]["defects"][0]["label"] == "exposure"
    assert lines[3]["scores"] is None and lines[3]["error"]["code"] == "not_found"
    assert lines[4]["scores"] and lines[4]["defects"] is None
    assert lines[4]["reasons_error"]["code"] == "bad_answer"
    with pytest.raises(ConfigError, match="cannot make the folder"):
        done.save(tmp_path / "new" / "out" / "evaluation.json")


@pytest.mark.parametrize("mode", ["direct", "reasoned"])
def test_saved_predictions_give_every_number_again_without_the_model(mode, tmp_path) -> None:
    items = failing_items() + grouped_items(16)
    done = evaluate(FakeModel(), data(items, visual_quality=0.9), mode=mode, attribution_limit=9)
    done.save(tmp_path)
    again = load_evaluation([tmp_path])
    assert again.to_dict() == done.to_dict()
    assert [p.to_dict() for p in again.predictions] == [p.to_dict() for p in done.predictions]


def save_parts(items, n: int, folder: Path) -> list[Path]:
    """Evaluate the items in `n` processes' shares; the folder of each."""
    folders = [folder / f"{k} of {n}" for k in range(1, n + 1)]
    for k, place in enumerate(folders, start=1):
        share = EvalData("mine", items[k - 1 :: n], len(items), {"visual_quality": 0.9}, "known", (k, n))
        evaluate(FakeModel(), share, attribution_limit=9, batch_size=k).save(place)
    return folders


@pytest.mark.parametrize("n_items", [1, 2, 29])
def test_numbers_do_not_depend_on_the_number_of_processes(tmp_path, n_items) -> None:
    items = (failing_items() + grouped_items(16))[:n_items]
    loaded = EvalData("mine", items, n_items, {"visual_quality": 0.9}, "known")
    whole = evaluate(FakeModel(), loaded, attribution_limit=9)
    first, second, third = save_parts(items, 3, tmp_path)  # of one or two items, some parts are empty
    merged = load_evaluation([third, first, second])
    assert merged.to_dict() == whole.to_dict()
    assert [p.to_dict() for p in merged.predictions] == [p.to_dict() for p in whole.predictions]
    merged.save(tmp_path / "merged")
    assert load_evaluation([tmp_path / "merged"]).to_dict() == whole.to_dict()


def test_a_whole_needs_each_of_its_parts_once(tmp_path) -> None:
    # Of two items, part 1 of 2 has item 0 alone, as an evaluation of one item would.
    one, other = save_parts(some_items(2), 2, tmp_path)
    with pytest.raises(ConfigError, match="expected all 2 parts, missing are 2/2$"):
        load_evaluation([one])
    with pytest.raises(ConfigError, match=r"each of 2 parts once, got the parts \[1, 2, 1\]"):
        load_evaluation([one, other, one])
    many = save_parts(some_items(2), 12, tmp_path)
    missing = "3/12, 4/12, 5/12, 6/12, 7/12, 8/12, 9/12, 10/12 and 2 more"
    with pytest.raises(ConfigError, match=f"expected all 12 parts, missing are {missing}$"):
        load_evaluation(many[:2])
    with pytest.raises(ConfigError, match="got number of parts 2 in .* and 12 in"):
        load_evaluation([one, *many])
    longer = save_parts(some_items(3), 2, tmp_path / "longer")
    with pytest.raises(ConfigError, match="got n_whole 2 in .* and 3 in"):
        load_evaluation([one, longer[1]])
    with pytest.raises(ConfigError, match="at least one folder"):
        load_evaluation([])


def test_a_part_needs_its_own_items_in_order(tmp_path) -> None:
    one, other = save_parts(some_items(4), 2, tmp_path)
    path = one / "predictions.jsonl"
    lines = path.read_text().splitlines()
    for wrong in (lines[::-1], lines[:1], [*lines, lines[1]], [lines[0], lines[0]]):
        path.write_text("\n".join(wrong))
        with pytest.raises(ConfigError, match="expected the 2 items of its part in order, got the items"):
            load_evaluation([one, other])
    path.write_text((other / "predictions.jsonl").read_text())
    with pytest.raises(ConfigError, match=r"got the items \[1, 3\]"):
        load_evaluation([one, other])


def test_parts_of_data_share_its_items_and_ceiling(tmp_path) -> None:
    whole = list(load_data("world:test", limit=5).items)
    parts = [load_data("world:test", limit=5, part=(k, 2)) for k in (1, 2)]
    assert [list(part.indices) for part in parts] == [[0, 2, 4], [1, 3]]
    assert parts[0].ceiling == parts[1].ceiling == load_data("world:test", limit=5).ceiling
    found = [record for part in parts for record, _ in part.items]
    assert found == [whole[i][0] for i in (0, 2, 4, 1, 3)]
    write_records(tmp_path / "r.jsonl", [record for record, _ in whole])
    assert list(load_data(str(tmp_path / "r.jsonl"), part=(2, 3)).indices) == [1, 4]
    assert parse_part("2/4") == (2, 4)
    for text in ("2", "2/", "-1/4", "a/b", "1/2/3"):
        with pytest.raises(ConfigError, match="second of four"):
            parse_part(text)
    for part in ((0, 1), (3, 2)):
        with pytest.raises(ConfigError, match="part K/N"):
            load_data("world:test", part=part)


def test_parts_of_different_evaluations_do_not_mix(tmp_path) -> None:
    evaluate(FakeModel(), data(some_items(4))).save(tmp_path / "a")
    evaluate(FakeModel(), data(some_items(4)), mode="reasoned").save(tmp_path / "b")
    with pytest.raises(ConfigError, match="got mode 'direct'"):
        load_evaluation([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match=r"evaluation\.json"):
        load_evaluation([tmp_path])


@pytest.mark.parametrize(
    "change",
    [
        {"part": None},
        {"part": [0, 1]},
        {"part": [2, 1]},
        {"part": [1, 1, 1]},
        {"part": [True, 1]},
        {"part": ["1", 1]},
        {"n_whole": "4"},
        {"mode": "fast"},
        {"provenance": {"model": "x"}},
        {"provenance": "x"},
        {"baselines": {}},
        {"baselines": {"ceiling": []}},
        {"baselines": {"ceiling": {"visual_quality": {"srcc": "0.9", "source": None}}}},
        {"baselines": {"ceiling": {"visual_quality": {"srcc": None, "plcc": "0.9", "source": None}}}},
    ],
    ids=str,
)
def test_a_wrong_head_is_a_typed_error(tmp_path, change) -> None:
    evaluate(FakeModel(), data(some_items(4))).save(tmp_path)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=r"evaluation.json': expected the result of an evaluation, got a"):
        load_evaluation([tmp_path])


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "{}"])
def test_a_head_of_another_form_is_a_typed_error(tmp_path, text) -> None:
    evaluate(FakeModel(), data(some_items(4))).save(tmp_path)
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(ConfigError, match="expected the result of an evaluation"):
        load_evaluation([tmp_path])


SCORE = {"mean": 3.0, "std": 0.0, "probs": [0, 0, 1, 0, 0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": "1"}, "field 'index': expected int, got '1'"),
        ({"index": True}, "field 'index': expected int, got True"),
        ({"index": 1.0}, "field 'index': expected int, got 1.0"),
        ({"record": "abc"}, "field 'record': expected dict, got 'abc'"),
        ({"record": {"video": "a.mp4"}}, "field 'prompt' is missing"),
        ({"scores": None}, "field 'scores': expected dict, got None"),
        ({"scores": {"visual_quality": SCORE}}, "without 'dynamic_quality'"),
        ({"scores": dict.fromkeys(DIMENSIONS, 3.0)}, "field 'visual_quality': expected dict, got 3.0"),
        ({"scores": dict.fromkeys(DIMENSIONS, SCORE | {"mean": "3"})}, "field 'mean': expected a number"),
        ({"scores": dict.fromkeys(DIMENSIONS, SCORE | {"probs": "abcde"})}, "field 'probs': expected list"),
        ({"warnings": "abc"}, "field 'warnings': expected list, got 'abc'"),
        ({"warnings": [1]}, "field 'warnings': expected str, got 1"),
        ({"defects": "abc"}, "field 'defects': expected a list or null"),
        ({"defects": [{"dimension": "visual_quality"}]}, "field 'label' is missing"),
        ({"reasoning": 1}, "field 'reasoning': expected str or null, got 1"),
        ({"duration": "2"}, "field 'duration': expected a number"),
        ({"error": "x"}, "field 'error': expected dict or null, got 'x'"),
        ({"error": {"message": "x"}}, "without 'code'"),
        ({"reasons_error": {"message": 1, "code": "x"}}, "field 'message': expected str, got 1"),
    ],
    ids=str,
)
def test_a_wrong_line_is_a_typed_error(tmp_path, change, message) -> None:
    evaluate(FakeModel(), data(some_items(2))).save(tmp_path)
    path = tmp_path / "predictions.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{json.dumps(json.loads(second) | change)}")
    with pytest.raises(ConfigError, match="predictions.jsonl, line 2: .*" + re.escape(message)):
        load_evaluation([tmp_path])


def test_a_line_without_a_field_is_a_typed_error(tmp_path) -> None:
    evaluate(FakeModel(), data(some_items(2))).save(tmp_path)
    row = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    for field in row:
        rest = {name: value for name, value in row.items() if name != field}
        (tmp_path / "predictions.jsonl").write_text(json.dumps(rest))
        with pytest.raises(ConfigError, match=f"line 1: expected a line of saved predictions, .* '{field}'"):
            load_evaluation([tmp_path])
