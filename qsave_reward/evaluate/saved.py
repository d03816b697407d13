"""Evaluations from their saved files: the same numbers without the model, or from several processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.evaluate.predictions import Prediction, prediction_from_dict
from qsave_reward.evaluate.run import Evaluation, conclude
from qsave_reward.tables import read_rows
from qsave_reward.types import Provenance


def load_evaluation(folders: Sequence[str | os.PathLike[str]]) -> Evaluation:
    """The evaluation whose predictions `Evaluation.save` left in a folder, or in one folder a part.

    All numbers are computed anew from the predictions, over the items of all parts in the order of the data,
    so that they do not depend on how the work was shared out.

    Raises:
        ConfigError: when a file is missing or wrong, when the folders differ in data, mode, scorer or
            versions, or when an item is there twice or missing in between.
    """
    heads = [_head(Path(folder) / "evaluation.json") for folder in folders]
    for folder, head in zip(folders, heads, strict=True):
        for key in ("data", "mode", "versions"):
            if head[key] != heads[0][key]:
                raise ConfigError(
                    f"expected parts of one evaluation, got {key} {heads[0][key]!r} in "
                    f"{os.fspath(folders[0])!r} and {head[key]!r} in {os.fspath(folder)!r}"
                )
    predictions: list[Prediction] = []
    for folder, head in zip(folders, heads, strict=True):
        provenance = None if head["provenance"] is None else Provenance(**head["provenance"])
        rows = read_rows(Path(folder) / "predictions.jsonl")
        predictions += [prediction_from_dict(row, provenance) for _, row in rows]
    predictions.sort(key=lambda prediction: prediction.index)
    for expected, prediction in enumerate(predictions):
        if prediction.index != expected:
            raise ConfigError(
                f"expected each item once, from 0 on, got item {prediction.index} in place {expected}; "
                "give all parts, each once"
            )
    rows = heads[0]["baselines"]["ceiling"]
    ceiling = {name: row["srcc"] for name, row in rows.items() if row["srcc"] is not None}
    source = next((row["source"] for row in rows.values() if row["source"]), None)
    known = {"ceiling": ceiling, "ceiling_source": source, "versions": heads[0]["versions"]}
    return conclude(predictions, data=heads[0]["data"], mode=heads[0]["mode"], **known)


def _head(path: Path) -> Mapping[str, Any]:
    """The content of `evaluation.json`."""
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}; expected what --out wrote") from error
    wanted = {"data", "mode", "versions", "provenance", "baselines"}
    if not isinstance(head, dict) or not wanted <= head.keys():
        raise ConfigError(f"{str(path)!r}: expected the result of an evaluation, with {sorted(wanted)}")
    return head
