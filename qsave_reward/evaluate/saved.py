"""Evaluations from their saved files: the same numbers without the model, or from several processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from qsave_reward.errors import ConfigError
from qsave_reward.evaluate.data import positions
from qsave_reward.evaluate.predictions import Prediction, prediction_from_dict
from qsave_reward.evaluate.run import Evaluation, conclude
from qsave_reward.fields import number, show
from qsave_reward.tables import read_rows
from qsave_reward.types import Mode, Provenance

LISTED = 8
"""Missing parts named in a message."""


class _Part(NamedTuple):
    """What `evaluation.json` says about one part.

    Attributes:
        folder: where it lies.
        share: as `EvalData.part`.
        common: what all parts of an evaluation have in common: data, mode, n_whole, versions.
        provenance: of the scores.
        ceiling, ceiling_source: as in `EvalData`.
    """

    folder: Path
    share: tuple[int, int]
    common: dict[str, Any]
    provenance: Provenance | None
    ceiling: dict[str, float]
    ceiling_source: str | None


def load_evaluation(folders: Sequence[str | os.PathLike[str]]) -> Evaluation:
    """The evaluation whose predictions `Evaluation.save` left in a folder, or in one folder a part.

    All numbers are computed anew from the predictions, over the items of all parts in the order of the data,
    so that they do not depend on how the work was shared out.

    Raises:
        ConfigError: when a file is missing or wrong, when the folders differ in data, mode, scorer or
            versions, or when they are not all the parts of the whole, each once.
    """
    parts = [_read_part(Path(folder)) for folder in folders]
    _check_parts(parts)
    predictions = [prediction for part in parts for prediction in _predictions(part)]
    return conclude(
        sorted(predictions, key=lambda prediction: prediction.index),
        part=(1, 1),
        ceiling=parts[0].ceiling,
        ceiling_source=parts[0].ceiling_source,
        **parts[0].common,
    )


def _read_part(folder: Path) -> _Part:
    path = folder / "evaluation.json"
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}; expected what --out wrote") from error
    try:
        return _part(folder, head)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{str(path)!r}: expected the result of an evaluation, got a wrong or missing field ({error})"
        ) from error


def _part(folder: Path, head: Mapping[str, Any]) -> _Part:
    """The part, from the content of its `evaluation.json`; any of the usual errors for another content."""
    common = {key: head[key] for key in ("data", "mode", "n_whole", "versions")}
    first, step = head["part"]
    if any(type(value) is not int for value in (first, step, common["n_whole"])) or not 1 <= first <= step:
        raise ValueError(f"part {show(head['part'])} of {show(common['n_whole'])} items")
    if common["mode"] not in get_args(Mode):
        raise ValueError(f"mode {show(common['mode'])}")
    rows = head["baselines"]["ceiling"]
    return _Part(
        folder=folder,
        share=(first, step),
        common=common,
        provenance=None if head["provenance"] is None else Provenance(**head["provenance"]),
        ceiling={name: number(best, name) for name, row in rows.items() if (best := _best(row)) is not None},
        ceiling_source=next((row["source"] for row in rows.values() if row["source"]), None),
    )


def _best(row: Mapping[str, Any]) -> Any:
    """The ceiling in a row; earlier versions left a PLCC under `srcc` too, and no `plcc`."""
    return row.get("plcc") if row["srcc"] is None else row["srcc"]


def _check_parts(parts: Sequence[_Part]) -> None:
    """Refuse what is not the whole of one evaluation."""
    if not parts:
        raise ConfigError("expected at least one folder, got none")
    first = parts[0]
    for part in parts:
        mine, theirs = ({**p.common, "number of parts": p.share[1]} for p in (first, part))
        for key in mine:
            if mine[key] != theirs[key]:
                raise ConfigError(
                    f"expected parts of one evaluation, got {key} {mine[key]!r} in {str(first.folder)!r} "
                    f"and {theirs[key]!r} in {str(part.folder)!r}"
                )
    step, given = first.share[1], [part.share[0] for part in parts]
    missing = [f"{k}/{step}" for k in range(1, step + 1) if k not in given]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise ConfigError(f"expected all {step} parts, missing are {', '.join(missing[:LISTED])}{more}")
    if len(given) > step:
        raise ConfigError(f"expected each of {step} parts once, got the parts {show(given)}")


def _predictions(part: _Part) -> list[Prediction]:
    """The predictions of a part, which must be those of its items, in their order."""
    path, mine = part.folder / "predictions.jsonl", positions(part.common["n_whole"], part.share)
    found = []
    # Where there are more parts than items, a part's file is empty.
    for line, row in read_rows(path) if mine else ():
        try:
            found.append(prediction_from_dict(row, part.provenance))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {line}: {error}") from error
    if [prediction.index for prediction in found] != list(mine):
        seen = show([prediction.index for prediction in found])
        raise ConfigError(
            f"{path}: expected the {len(mine)} items of its part in order, got the items {seen}"
        )
    return found
