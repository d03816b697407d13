"""How often a model prefers the clip that people preferred, on public sets of pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsave_reward.agreement import PairPlan, Row, pairwise_row
from qsave_reward.agreement.pairwise import fit_half
from qsave_reward.preferences import OVERALL, Preference
from qsave_reward.score_log import LoggedScore
from qsave_reward.scoring import Job
from qsave_reward.types import DIMENSIONS

TRUTH = {"A": (1.0, 0.0), "B": (0.0, 1.0), "tie": (0.0, 0.0)}


@dataclass(frozen=True)
class PreferenceAccuracy:
    """Agreement with people on pairs.

    Attributes:
        results: `agreement.pairwise_row` for each judged dimension and for `"overall"`, where the mean of the
            three scores is compared.
        n: pairs of the set.
        n_failed: pairs left out because a clip could not be scored.
        failures: name and message of each such clip.
    """

    results: dict[str, Row]
    n: int
    n_failed: int
    failures: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        failures = [{"video": video, "message": message} for video, message in self.failures]
        return {"results": self.results, "n": self.n, "n_failed": self.n_failed, "failures": failures}


def jobs_of(pairs: Sequence[Preference]) -> list[Job]:
    """Each clip of the pairs once, for each prompt that it is judged by; paths are those of the pairs."""
    clips = dict.fromkeys((video, pair.prompt) for pair in pairs for video in (pair.video_a, pair.video_b))
    return [Job(video, os.path.realpath(video), prompt) for video, prompt in clips]


def preference_accuracy(
    pairs: Sequence[Preference], jobs: Sequence[Job], scores: Sequence[LoggedScore]
) -> PreferenceAccuracy:
    """Agreement on the pairs, given the scores of `jobs_of` them.

    The tie margin of each dimension is fitted on half of the prompts and all accuracies are of the other half
    (`agreement.pairwise`).
    """
    of_clip = {(job.name, job.prompt): score for job, score in zip(jobs, scores, strict=True)}
    failures = tuple(
        (job.name, score.error["message"])
        for job, score in zip(jobs, scores, strict=True)
        if score.error is not None
    )
    whole = [(pair, means) for pair in pairs if (means := _means(pair, of_clip)) is not None]
    return PreferenceAccuracy(
        results={
            name: _row([(pair, means) for pair, means in whole if name in pair.choices], name)
            for name in (*DIMENSIONS, OVERALL)
            if any(name in pair.choices for pair in pairs)
        },
        n=len(pairs),
        n_failed=len(pairs) - len(whole),
        failures=failures,
    )


def _means(
    pair: Preference, of_clip: Mapping[tuple[str, str], LoggedScore]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Scores of both clips of a pair, or `None` where one has none."""
    first, second = (of_clip[video, pair.prompt].means for video in (pair.video_a, pair.video_b))
    return None if first is None or second is None else (first, second)


def _row(judged: Sequence[tuple[Preference, tuple[tuple[float, ...], tuple[float, ...]]]], name: str) -> Row:
    """Agreement on one dimension: each pair becomes two items of its own."""
    column = slice(None) if name == OVERALL else slice(DIMENSIONS.index(name), DIMENSIONS.index(name) + 1)
    predicted = np.array([[np.mean(clip[column]) for clip in means] for _, means in judged]).reshape(-1)
    truth = np.array([TRUTH[pair.choices[name]] for pair, _ in judged]).reshape(-1)
    prompts = [pair.prompt for pair, _ in judged]
    places = {prompt: place for place, prompt in enumerate(sorted(set(prompts)))}
    items = np.arange(2 * len(judged), dtype=np.int64).reshape(-1, 2)
    fitted = fit_half(prompts)
    number = np.repeat(np.array([places[prompt] for prompt in prompts], dtype=np.int64), 2)
    plan = PairPlan("same prompt", np.repeat(fitted, 2), items[fitted], items[~fitted], number)
    return pairwise_row(predicted, truth, plan=plan)
