"""`qsave pairs`: agreement with people on pairs, against sums done here; failures; going on after a stop."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from cli_cases import fake_command, write_clips
from list_files import lines, write

from qsave_reward.preference_accuracy import jobs_of, preference_accuracy
from qsave_reward.preferences import Preference
from qsave_reward.score_log import LoggedScore
from qsave_reward.types import DIMENSIONS

HEAD = "path_A,path_B,A_model,B_model,prompt,VQ,MQ,TA,Overall\n"


@pytest.fixture
def qsave(monkeypatch, capsys, tmp_path):
    write_clips(tmp_path)
    monkeypatch.chdir(tmp_path)
    return fake_command(monkeypatch, capsys)


def reported(prompts: list[str]) -> set[str]:
    """The half of the prompts that accuracies are of: the later ones by their hashes."""
    ordered = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).hexdigest())
    return set(ordered[len(ordered) // 2 :])


def drawn_pairs(n: int) -> tuple[list[Preference], dict[str, tuple[float, ...]]]:
    rng = np.random.default_rng(0)
    pairs, means = [], {}
    for k in range(n):
        choices = {name: "AB"[int(rng.integers(2))] for name in DIMENSIONS}
        choices["overall"] = ("A", "B", "tie")[int(rng.integers(3))]
        pairs.append(Preference(f"prompt {k}", f"{k}a.mp4", f"{k}b.mp4", choices))
        means |= {f"{k}{side}.mp4": tuple(rng.uniform(1, 5, 3).tolist()) for side in "ab"}
    return pairs, means


def scored(pairs, means):
    jobs = jobs_of(pairs)
    return jobs, [LoggedScore(means[job.name], None) for job in jobs]


def test_accuracies_are_those_of_the_half_of_the_prompts_that_the_margin_was_not_fitted_on():
    pairs, means = drawn_pairs(60)
    found = preference_accuracy(pairs, *scored(pairs, means))
    half = reported([pair.prompt for pair in pairs])
    assert list(found.results) == [*DIMENSIONS, "overall"] and (found.n, found.n_failed) == (60, 0)
    for name, row in found.results.items():
        ahead = {
            pair.prompt: np.mean(a) - np.mean(b)
            if name == "overall"
            else a[DIMENSIONS.index(name)] - b[DIMENSIONS.index(name)]
            for pair in pairs
            for a, b in [(means[pair.video_a], means[pair.video_b])]
        }
        tested = [pair for pair in pairs if pair.prompt in half]
        right = [
            (ahead[pair.prompt] > 0) == (pair.choices[name] == "A")
            for pair in tested
            if pair.choices[name] != "tie"
        ]
        assert row["without_ties"] == pytest.approx(np.mean(right))
        called = [
            "tie" if abs(ahead[pair.prompt]) <= row["tie_margin"] else "AB"[int(ahead[pair.prompt] < 0)]
            for pair in tested
        ]
        expected = np.mean([one == pair.choices[name] for one, pair in zip(called, tested, strict=True)])
        assert row["with_ties"] == pytest.approx(expected)
        assert (row["n_pairs"], row["n_tied"]) == (30, 30 - len(right))


def test_the_margin_does_not_see_the_reported_pairs():
    pairs, means = drawn_pairs(40)
    half = reported([pair.prompt for pair in pairs])
    turned = [
        pair
        if pair.prompt not in half
        else Preference(pair.prompt, pair.video_a, pair.video_b, dict.fromkeys(pair.choices, "tie"))
        for pair in pairs
    ]
    before, after = (preference_accuracy(some, *scored(some, means)).results for some in (pairs, turned))
    assert [row["tie_margin"] for row in before.values()] == [row["tie_margin"] for row in after.values()]
    assert after["overall"]["without_ties"] is None and after["overall"]["n_tied"] == 20


def test_a_pair_without_a_score_is_left_out_and_its_clip_named():
    pairs, means = drawn_pairs(10)
    jobs, scores = scored(pairs, means)
    scores[3] = LoggedScore(None, {"code": "not_a_video", "message": "no video"})
    found = preference_accuracy(pairs, jobs, scores)
    assert (found.n, found.n_failed, found.failures) == (10, 1, ((jobs[3].name, "no video"),))
    rest = [pair for pair in pairs if jobs[3].name not in (pair.video_a, pair.video_b)]
    assert found.results == preference_accuracy(rest, *scored(rest, means)).results


def test_a_dimension_that_nobody_judged_has_no_row():
    pairs = [Preference(f"p{k}", "a.mp4", "b.mp4", {"overall": "A"}) for k in range(4)]
    jobs = jobs_of(pairs)
    assert len(jobs) == 8  # a clip is judged by each of its prompts
    scores = [LoggedScore((4.0, 4.0, 4.0) if job.name == "a.mp4" else (2.0, 2.0, 2.0), None) for job in jobs]
    found = preference_accuracy(pairs, jobs, scores)
    assert list(found.results) == ["overall"] and found.results["overall"]["without_ties"] == 1.0


def test_command_scores_each_clip_once_and_not_again(qsave, tmp_path):
    rows = "".join(f"{k % 3}.mp4,{(k + 1) % 3}.mp4,m,n,p{k},B,A,same,B\n" for k in range(6))
    write(tmp_path / "bench.csv", HEAD + rows)
    arguments = ("pairs", "videogen-rewardbench", "bench.csv", "--out", "result.json")
    code, out, err = qsave(*arguments, "--json")
    assert (code, err.count("left out")) == (0, 0)
    found = json.loads(out)
    assert found == json.loads((tmp_path / "result.json").read_text())
    # The brighter clip wins: 0 < 1 < 2. B is brighter unless the pair is (2, 0).
    tested = [k for k in range(6) if f"p{k}" in reported([f"p{k}" for k in range(6)])]
    share = np.mean([k % 3 != 2 for k in tested])
    assert found["results"]["visual_quality"]["without_ties"] == pytest.approx(share)
    assert found["results"]["dynamic_quality"]["without_ties"] == pytest.approx(1 - share)
    assert sum(count for _, count in qsave.model.batches) == 12
    code, out, _ = qsave(*arguments)
    assert code == 0 and "text alignment" in out and "overall" in out
    assert sum(count for _, count in qsave.model.batches) == 12


def test_command_takes_the_first_pairs_and_names_a_clip_that_is_missing(qsave, tmp_path):
    vote = {"prompt": "a", "left_model": "m", "right_model": "n", "vote_type": "leftvote"}
    sides = [("0.mp4", "1.mp4"), ("1.mp4", "gone.mp4"), ("2.mp4", "also-gone.mp4")]
    lines(tmp_path / "v.jsonl", [{**vote, "left_video": a, "right_video": b} for a, b in sides])
    code, out, err = qsave(
        "pairs", "genai-bench", "v.jsonl", "--out", "result.json", "--limit", "2", "--json"
    )
    found = json.loads(out)
    assert code == 1 and "1 of 2 pairs are left out" in err and "gone.mp4: " in err
    assert (found["n"], found["n_failed"], len(found["failures"])) == (2, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("genai-bench", "gone.jsonl", "--out", "r.json"), "gone.jsonl"),
        (("imagereward", "0.mp4", "--out", "r.json"), "imagereward"),
        (("genai-bench", "0.mp4", "--out", "no/such/r.json"), "no/such/r.json"),
    ],
)
def test_command_refuses_what_it_cannot_do(qsave, tmp_path, arguments, message):
    code, _, err = qsave("pairs", *arguments)
    assert code == 2 and message in err and not (tmp_path / "r.json").exists()
