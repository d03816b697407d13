"""How well a scorer agrees with known scores and known defects, with intervals, baselines and counts.

    data = load_data("world:test", limit=1000)
    evaluation = evaluate(RewardModel.from_pretrained("tiny"), data)
    evaluation.to_dict()["results"]["visual_quality"]["srcc"]

Every number is computed once, over all items that could be scored; batches only decide how many clips are
handed to the scorer at a time. An item that fails is counted and left out, and a statistic that does not
exist is null beside its reason.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.agreement import agreement_row, attribution_row, constant_row, random_row
from qsave_reward.data import make_folder, read_records, write_lines
from qsave_reward.doctor import package_versions
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.types import DIMENSIONS, Mode, Provenance, Record, Scorer, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip
from qsave_reward.world import noise_ceiling, parse_world_name, world_item

WORLD_LIMIT = 1000
"""Clips rendered for `world:SPLIT` when no limit is given."""

VERSIONED = ("qsave_reward", "torch", "transformers", "numpy", "av")


@dataclass(frozen=True)
class EvalData:
    """Rated clips to compare with.

    Attributes:
        name: what was loaded, for the record.
        items: pairs of a `Record` and the video as a `Scorer` takes it; consumed once.
        n: how many items there are.
        ceiling: the SRCC that noisy raters allow a perfect scorer, for each dimension where it is known.
    """

    name: str
    items: Iterable[tuple[Record, Any]]
    n: int
    ceiling: Mapping[str, float] = field(default_factory=dict)


def load_data(name: str, *, limit: int | None = None) -> EvalData:
    """Open `world:SPLIT[:SEED]` (the first items, rendered in memory) or a JSONL file of records.

    Args:
        name: for example `"world:test"` or `"rated/records.jsonl"`.
        limit: most items; default `WORLD_LIMIT` for the world and all of a file.

    Raises:
        ConfigError: for an unknown split, a limit below 1, or a wrong file.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"expected a limit of at least 1, got {limit}")
    if name.startswith("world:"):
        split, seed = parse_world_name(name)
        n = limit or WORLD_LIMIT
        return EvalData(name, _render(split, seed, n), n, noise_ceiling(split, n, seed))
    records = read_records(name)[:limit]
    folder = os.path.dirname(name)
    items = [(record, os.path.join(folder, record.video)) for record in records]
    return EvalData(name, items, len(records))


def _render(split: str, seed: int, n: int) -> Iterator[tuple[Record, Clip]]:
    for index in range(n):
        item = world_item(split, index, seed=seed)
        duration = len(item.frames) / item.fps
        yield item.record, Clip(frames=item.frames, times=item.times, duration=duration, warnings=())


@dataclass(frozen=True)
class Prediction:
    """What a scorer said about one item, beside what is known about it; a line of `predictions.jsonl`.

    Attributes:
        record: the item.
        card: its scores in the evaluated mode, or the error.
        reasons: the report card of the reasoned pass, or its error; `None` when none was asked for.
        duration: seconds of the clip, where spans were to be compared.
    """

    record: Record
    card: VideoScore | QSaveError
    reasons: VideoScore | QSaveError | None = None
    duration: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        card = self.card if isinstance(self.card, VideoScore) else None
        reasons = self.reasons if isinstance(self.reasons, VideoScore) else None
        return {
            "record": self.record.to_dict(),
            "scores": card and {name: asdict(score) for name, score in card.scores.items()},
            "warnings": list(card.warnings) if card else [],
            "defects": reasons and (None if reasons.defects is None else list(map(asdict, reasons.defects))),
            "reasoning": reasons and reasons.reasoning,
            "error": self.card.to_dict() if isinstance(self.card, QSaveError) else None,
            "reasons_error": self.reasons.to_dict() if isinstance(self.reasons, QSaveError) else None,
        }


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        data: name of the data.
        mode: `"direct"` or `"reasoned"`.
        n: items seen.
        n_failed: items without scores; `failures` counts them by error code.
        results: for each dimension a row of `agreement_row` plus `ceiling` (of the SRCC); and `attribution`,
            a row of `attribution_row` plus `n_failed`, the reasoned answers that could not be had or read.
        baselines: for each dimension the rows of `random` scores, of a `constant`, and the `ceiling`.
        provenance: of the scores; `None` when every item failed.
        versions: of Python packages.
        predictions: one for each item, in order.
    """

    data: str
    mode: Mode
    n: int
    n_failed: int
    failures: Mapping[str, int]
    results: Mapping[str, Any]
    baselines: Mapping[str, Any]
    provenance: Provenance | None
    versions: Mapping[str, str | None]
    predictions: tuple[Prediction, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the predictions."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "predictions"}
        return plain | {"provenance": self.provenance and asdict(self.provenance)}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `evaluation.json` and `predictions.jsonl` into a folder, made when missing.

        Raises:
            ConfigError: when the folder cannot be written.
        """
        make_folder(folder)
        write_lines(Path(folder) / "evaluation.json", [json.dumps(self.to_dict(), indent=1)])
        lines = (json.dumps(prediction.to_dict()) for prediction in self.predictions)
        write_lines(Path(folder) / "predictions.jsonl", lines)


def evaluate(
    scorer: Scorer,
    data: EvalData,
    *,
    mode: Mode = "direct",
    batch_size: int = 8,
    attribution_limit: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Score all items and compare.

    Args:
        scorer: any `Scorer`.
        data: from `load_data`.
        mode: how the scores are read. In direct mode attribution takes a reasoned pass of its own.
        batch_size: items handed to the scorer at a time.
        attribution_limit: in direct mode, give only the first so many items a reasoned pass; `None`: all.
        progress: called with the number of items just finished.

    Raises:
        ConfigError: for a batch size below 1, or when the scores are not all of one provenance.
    """
    if batch_size < 1:
        raise ConfigError(f"expected a batch size of at least 1, got {batch_size}")
    predictions: list[Prediction] = []
    items = iter(data.items)
    while batch := list(islice(items, batch_size)):
        explain = max(0, len(batch) if attribution_limit is None else attribution_limit - len(predictions))
        predictions += _judge(scorer, batch, mode, len(batch) if mode == "reasoned" else explain)
        progress(len(batch))
    failures = [p.card.code for p in predictions if isinstance(p.card, QSaveError)]
    results: dict[str, Any] = {}
    baselines: dict[str, Any] = {"random": {}, "constant": {}, "ceiling": {}}
    for dimension in DIMENSIONS:
        ceiling = data.ceiling.get(dimension)
        predicted, truth = _scores(predictions, dimension)
        results[dimension] = {**agreement_row(predicted, truth), "ceiling": ceiling}
        baselines["random"][dimension] = random_row(truth)
        baselines["constant"][dimension] = constant_row(truth)
        baselines["ceiling"][dimension] = {"srcc": ceiling}
    return Evaluation(
        data=data.name,
        mode=mode,
        n=len(predictions),
        n_failed=len(failures),
        failures=dict(Counter(failures)),
        results={**results, "attribution": _attribution(predictions)},
        baselines=baselines,
        provenance=_one_provenance(predictions),
        versions=package_versions(VERSIONED),
        predictions=tuple(predictions),
    )


def _judge(
    scorer: Scorer, batch: Sequence[tuple[Record, Any]], mode: Mode, n_explained: int
) -> list[Prediction]:
    """Score one batch, and have the scorer explain those of its first items whose defects are known."""
    records, videos = [record for record, _ in batch], [video for _, video in batch]
    prompts = [record.prompt for record in records]
    cards = scorer.score_batch(videos, prompts, mode=mode, on_error="return")
    known = [
        i
        for i in range(min(len(batch), n_explained))
        if records[i].defects is not None and isinstance(cards[i], VideoScore)
    ]
    explained: dict[int, VideoScore | QSaveError] = {}
    if mode == "reasoned":
        explained = dict(enumerate(cards))
    elif known:
        reasons = scorer.score_batch(
            [videos[i] for i in known], [prompts[i] for i in known], mode="reasoned", on_error="return"
        )
        explained = dict(zip(known, reasons, strict=True))
    return [
        Prediction(record, card, explained.get(i), _duration(videos[i]) if i in known else None)
        for i, (record, card) in enumerate(zip(records, cards, strict=True))
    ]


def _duration(video: Any) -> float:
    """Seconds of a clip that was scored a moment ago."""
    clip = video if isinstance(video, Clip) else read_clip(video, Sampling(max_frames=1))
    return float(clip.duration)


def _scores(
    predictions: Sequence[Prediction], dimension: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted and true scores, float64 [items], of the items that have both."""
    pairs = [
        (p.card.scores[dimension].mean, p.record.mos[dimension])
        for p in predictions
        if isinstance(p.card, VideoScore) and dimension in p.record.mos
    ]
    columns = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def _attribution(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Attribution over the items whose defects are known and whose reasons could be read."""
    predicted, truth, durations = [], [], []
    for p in predictions:
        if isinstance(p.reasons, VideoScore) and p.reasons.defects is not None and p.duration is not None:
            predicted.append(p.reasons.defects)
            truth.append(p.record.defects or ())
            durations.append(p.duration)
    row = attribution_row(predicted, truth, durations=durations)
    if not truth:
        row["reason"] = "no item has both known defects and an answer that names defects"
    return row | {"n_failed": sum(isinstance(p.reasons, QSaveError) for p in predictions)}


def _one_provenance(predictions: Sequence[Prediction]) -> Provenance | None:
    """The provenance that all scores share; numbers over several would mean nothing."""
    found = [p.card.provenance for p in predictions if isinstance(p.card, VideoScore)]
    for other in found[1:]:
        if other != found[0]:
            raise ConfigError(f"the scores come from two different scorers: {found[0]} and {other}")
    return found[0] if found else None
