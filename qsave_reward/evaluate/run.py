"""Scoring the items, and the result: numbers, counts, versions and every prediction."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count, islice
from pathlib import Path
from typing import Any

from qsave_reward.data import make_folder, write_lines
from qsave_reward.doctor import package_versions
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.evaluate.data import EvalData
from qsave_reward.evaluate.predictions import Prediction
from qsave_reward.evaluate.summary import summarise
from qsave_reward.types import Mode, Provenance, Record, Scorer, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip

PROTOCOL = 2
"""Changes whenever the same predictions would give another number."""

VERSIONED = ("qsave_reward", "torch", "transformers", "numpy", "av")


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        data: name of the data.
        mode: `"direct"` or `"reasoned"`.
        part: what share of the whole was seen: `(2, 4)` is every fourth item from the second on.
        n_whole: items of the whole.
        n: items seen.
        n_failed: items without scores; `failures` counts them by error code, `failed_items` lists them.
        results: for each dimension (and `overall`, where rated) a row of `agreement_row` plus `ceiling`, as
            `EvalData` has it (`baselines` says of which correlation). Under `generator_level`,
            `within_generator`, `pairwise` and `calibration` one row for each dimension. `attribution`, a row
            of `attribution_row` plus `n_failed`, the reasoned answers that could not be had or read.
        baselines: `random`, `constant`, `generator_mean` and `ceiling`, each with a row for each dimension;
            a ceiling is under `srcc` or `plcc`, whichever it is one of, and the other is `None`.
        provenance: of the scores; `None` when every item failed.
        versions: of Python packages; `protocol` is that of the numbers.
        predictions: one for each item, in order.
    """

    data: str
    mode: Mode
    part: tuple[int, int]
    n_whole: int
    n: int
    n_failed: int
    failures: Mapping[str, int]
    failed_items: tuple[Mapping[str, Any], ...]
    results: Mapping[str, Any]
    baselines: Mapping[str, Any]
    provenance: Provenance | None
    versions: Mapping[str, str | None]
    protocol: int
    predictions: tuple[Prediction, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the predictions."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "predictions"}
        plain["failed_items"] = list(self.failed_items)
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
        ConfigError: for a batch size below 1, when the scores are not all of one provenance, or when there
            are not as many items as `data` says.
    """
    if batch_size < 1:
        raise ConfigError(f"expected a batch size of at least 1, got {batch_size}")
    predictions: list[Prediction] = []
    items = zip(count(data.part[0] - 1, data.part[1]), data.items, strict=False)
    while batch := list(islice(items, batch_size)):
        explain = mode == "reasoned" or attribution_limit is None
        explained = [explain or index < (attribution_limit or 0) for index, _ in batch]
        predictions += _judge(scorer, batch, mode, explained)
        progress(len(batch))
    if len(predictions) != len(data.indices):
        raise ConfigError(f"expected {len(data.indices)} items of {data.name!r}, got {len(predictions)}")
    return conclude(
        predictions,
        data=data.name,
        mode=mode,
        part=data.part,
        n_whole=data.n,
        ceiling=data.ceiling,
        ceiling_source=data.ceiling_source,
        versions=package_versions(VERSIONED),
    )


def conclude(
    predictions: Sequence[Prediction],
    *,
    data: str,
    mode: Mode,
    part: tuple[int, int],
    n_whole: int,
    ceiling: Mapping[str, float],
    ceiling_source: str | None,
    versions: Mapping[str, str | None],
) -> Evaluation:
    """The evaluation that these predictions make.

    Args:
        predictions: in the order of the data.
        data: name of the data.
        mode: how the scores were read.
        part: what share of the whole they are.
        n_whole: items of the whole.
        ceiling: the correlation of a perfect scorer, for each dimension where it is known.
        ceiling_source: how it is known.
        versions: of the packages that made the predictions.

    Raises:
        ConfigError: when the scores are not all of one provenance.
    """
    results, baselines = summarise(predictions, ceiling=ceiling, ceiling_source=ceiling_source)
    failed = tuple(
        {"index": p.index, "id": p.record.id, "video": p.record.video, **p.card.to_dict()}
        for p in predictions
        if isinstance(p.card, QSaveError)
    )
    return Evaluation(
        data=data,
        mode=mode,
        part=part,
        n_whole=n_whole,
        n=len(predictions),
        n_failed=len(failed),
        failures=dict(Counter(str(item["code"]) for item in failed)),
        failed_items=failed,
        results=results,
        baselines=baselines,
        provenance=_one_provenance(predictions),
        versions=versions,
        protocol=PROTOCOL,
        predictions=tuple(predictions),
    )


def _judge(
    scorer: Scorer, batch: Sequence[tuple[int, tuple[Record, Any]]], mode: Mode, explained: Sequence[bool]
) -> list[Prediction]:
    """Score one batch, and have the scorer explain those of the wanted items whose defects are known."""
    records, videos = [record for _, (record, _) in batch], [video for _, (_, video) in batch]
    prompts = [record.prompt for record in records]
    cards = scorer.score_batch(videos, prompts, mode=mode, on_error="return")
    known = [
        i
        for i, card in enumerate(cards)
        if explained[i] and records[i].defects is not None and isinstance(card, VideoScore)
    ]
    reasons: dict[int, VideoScore | QSaveError] = {}
    if mode == "reasoned":
        reasons = dict(enumerate(cards))
    elif known:
        again = scorer.score_batch(
            [videos[i] for i in known], [prompts[i] for i in known], mode="reasoned", on_error="return"
        )
        reasons = dict(zip(known, again, strict=True))
    done = []
    for i, card in enumerate(cards):
        found = reasons.get(i)
        named = found if isinstance(found, VideoScore) else None
        done.append(
            Prediction(
                record=records[i],
                card=card,
                index=batch[i][0],
                defects=None if named is None else named.defects,
                reasoning=None if named is None else named.reasoning,
                reasons_error=found if isinstance(found, QSaveError) else None,
                duration=_duration(videos[i]) if i in known else None,
            )
        )
    return done


def _duration(video: Any) -> float:
    """Seconds of a clip that was scored a moment ago."""
    clip = video if isinstance(video, Clip) else read_clip(video, Sampling(max_frames=1))
    return float(clip.duration)


def _one_provenance(predictions: Sequence[Prediction]) -> Provenance | None:
    """The provenance that all scores share; numbers over several would mean nothing."""
    found = [p.card.provenance for p in predictions if isinstance(p.card, VideoScore)]
    for other in found[1:]:
        if other != found[0]:
            raise ConfigError(f"the scores come from two different scorers: {found[0]} and {other}")
    return found[0] if found else None
