"""`recipes/holistic/compare_speed.py`: every model scores the same clips, ratios are over the first."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
import compare_speed


def test_a_row_for_each_model_over_the_first(monkeypatch, capsys):
    seen = {}

    class Slow:
        def __init__(self, name):
            self.name = name

        def score_batch(self, clips, prompts):
            seen.setdefault(self.name, []).append((len(clips), tuple(prompts)))

    def in_turn(variants, rounds):
        for work in variants.values():
            work()
        return type("M", (), {"rounds": [{"a": 1.0, "b": 1.5}, {"a": 2.0, "b": 4.0}, {"a": 1.0, "b": 1.8}]})

    monkeypatch.setattr(compare_speed, "load_scorer", Slow)
    monkeypatch.setattr(compare_speed, "measure_in_turn", in_turn)
    monkeypatch.setattr(sys, "argv", ["compare_speed.py", "a", "b", "--clips", "3"])
    compare_speed.main()
    assert seen["a"] == seen["b"] and seen["a"][0][0] == 3
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| a | 3.0 | 1.00 | 1.00 to 1.00 |",
        "| b | 1.7 | 1.80 | 1.50 to 2.00 |",
    ]


def test_an_unknown_model_is_said(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare_speed.py", "no-such-folder/model"])
    with pytest.raises(SystemExit, match="error: "):
        compare_speed.main()
