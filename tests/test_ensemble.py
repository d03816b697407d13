"""Scorers side by side: what two reach together, by an independent computation; items that one failed on."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel, spread
from scipy.stats import spearmanr, zscore
from test_evaluate import clip, data

from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.evaluate import evaluate
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.types import DIMENSIONS, Provenance, Record, VideoScore

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
import ensemble

N = 80
PROVENANCE = Provenance("fake", "0", "1", {})


def two_scorers(seed: int = 0):
    """Truth and two scorers with errors of their own, the second on another scale."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1.5, 4.5, N)
    means = [
        np.clip(truth + rng.normal(0, 1, N), 1, 5),
        np.clip(3 + 0.3 * (truth - 3) + rng.normal(0, 0.3, N), 1, 5),
    ]
    records = [
        Record(f"{k}.mp4", "a cat", {"visual_quality": float(t)}, overall=float(6 - t))
        for k, t in enumerate(truth)
    ]
    said = []
    for scorer in means:
        cards = [VideoScore(dict.fromkeys(DIMENSIONS, spread(float(mean))), PROVENANCE) for mean in scorer]
        said.append([Prediction(*pair, index=k) for k, pair in enumerate(zip(records, cards, strict=True))])
    return truth, means, said


def test_agreement_alone_and_together() -> None:
    truth, means, said = two_scorers()
    found = ensemble.row(ensemble.common_items(said), "visual_quality")
    alone = [spearmanr(mean, truth).statistic for mean in means]
    together = spearmanr(zscore(means[0]) + zscore(means[1]), truth).statistic
    assert found.alone == pytest.approx(alone) and found.n == N
    assert found.together == pytest.approx(together)
    assert found.gain[0] == pytest.approx(together - max(alone))
    assert found.between == pytest.approx(spearmanr(*means).statistic)
    assert found.gain[1] < found.gain[0] < found.gain[2] and found.gain[0] > 0.02  # independent errors cancel


def test_the_whole_has_ratings_of_its_own_and_what_nobody_rated_is_no_row() -> None:
    truth, means, said = two_scorers()
    found = ensemble.row(ensemble.common_items(said), "overall")
    assert found.alone == pytest.approx([spearmanr(mean, 6 - truth).statistic for mean in means])
    assert ensemble.row(ensemble.common_items(said), "text_alignment") is None


def test_a_scorer_that_always_says_the_same_changes_nothing() -> None:
    scores = np.array([[1.0, 3.0], [2.0, 3.0], [4.0, 3.0]])
    mean = ensemble.mixed(scores)
    assert np.isfinite(mean).all() and (np.diff(mean) > 0).all()


def test_items_that_one_could_not_score_are_left_out() -> None:
    *_, said = two_scorers()
    said[1][3] = replace(said[1][3], card=VideoError("no video"))
    assert [p.index for p, _ in ensemble.common_items(said)] == [k for k in range(N) if k != 3]


def test_evaluations_of_other_items_are_refused() -> None:
    *_, said = two_scorers()
    for other in (said[1][:-1], said[1][::-1], [replace(p, index=p.index + 1) for p in said[1]]):
        with pytest.raises(ConfigError, match="of the same items"):
            ensemble.common_items([said[0], other])


@pytest.fixture
def folders(tmp_path):
    clips = [VideoError("gone") if k == 2 else clip(20 * k) for k in range(12)]
    rated = (Record(f"{k}.mp4", "a cat", dict.fromkeys(DIMENSIONS, 1 + k / 4)) for k in range(12))
    items = list(zip(rated, clips, strict=True))
    for name in ("one", "two"):
        evaluate(FakeModel(), data(items)).save(tmp_path / name)
    return [str(tmp_path / name) for name in ("one", "two")]


def test_the_command(folders, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["ensemble.py", *folders, "--json"])
    ensemble.main()
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == 1 and [row["name"] for row in found["rows"]] == list(DIMENSIONS)
    assert found["rows"][0]["alone"] == pytest.approx([1.0, 1.0]) and found["rows"][0]["n"] == 11
    monkeypatch.setattr(sys, "argv", ["ensemble.py", *folders])
    ensemble.main()
    table = capsys.readouterr().out
    assert "| visual quality | 1.000 | 1.000 | 1.000 | +0.000 [+0.000, +0.000] | 1.000 | 11 |" in table
    assert "1 clips that one of them could not score" in table


def test_one_folder_or_a_wrong_one_is_an_error(folders, tmp_path, monkeypatch) -> None:
    for wrong, words in ((folders[:1], "at least two"), ([folders[0], str(tmp_path)], "evaluation.json")):
        monkeypatch.setattr(sys, "argv", ["ensemble.py", *wrong])
        with pytest.raises(SystemExit, match=words):
            ensemble.main()
