"""`Calibration`: what a model's scores look like on a reference set, so that a score can be given in standard
deviations. Kept beside the checkpoint as `calibration.json`, which `qsave calibrate` writes; by hand:

    raw = reward(videos, prompts).raw
    calibration = Calibration.fit(raw, data="our 2000 rated clips", revision=model.provenance.revision)
    calibration.save("our-checkpoint")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date as Date
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsave_reward.errors import ConfigError
from qsave_reward.fields import number, show, text
from qsave_reward.tables import fresh_file
from qsave_reward.types import DIMENSIONS

CALIBRATION_FILE = "calibration.json"

MIN_STD = 0.01
"""Points; to calibrate a dimension that varies less over the reference set would only amplify noise."""


@dataclass(frozen=True)
class Calibration:
    """Mean and spread of one model's raw scores on a named set of clips.

    Attributes:
        mean: for each of `DIMENSIONS`, 1 to 5.
        std: for each of `DIMENSIONS`, the sample standard deviation (divisor n - 1), at least `MIN_STD`.
        n: clips behind the numbers, at least 2.
        date: day of the fit, `YYYY-MM-DD`.
        data: name of the reference set, for people.
        revision: `Provenance.revision` of the model; the numbers mean nothing for another one.
    """

    mean: Mapping[str, float]
    std: Mapping[str, float]
    n: int
    date: str
    data: str
    revision: str

    def __post_init__(self) -> None:
        _check_numbers("mean", self.mean, 1.0, 5.0)
        _check_numbers("std", self.std, MIN_STD, 4.0)
        if not isinstance(self.n, int) or self.n < 2:
            raise ConfigError(f"field 'n': expected a whole number of at least 2 clips, got {show(self.n)}")
        given = {"date": self.date, "data": self.data, "revision": self.revision}
        for name in given:
            text(given, name)
        try:
            day = Date.fromisoformat(self.date).isoformat()
        except ValueError:
            day = ""
        if day != self.date:
            raise ConfigError(f"field 'date': expected YYYY-MM-DD, got {show(self.date)}")

    @staticmethod
    def fit(scores: ArrayLike, *, data: str, revision: str, date: str | None = None) -> Calibration:
        """Measure mean and spread.

        Args:
            scores: [n, 3] raw scores in the order of `DIMENSIONS`, n >= 2, all of one model.
            data: name of the reference set.
            revision: `provenance.revision` of the model.
            date: default: today (UTC).

        Raises:
            ConfigError: for another shape, scores outside 1..5 (NaN too: leave failed clips out first), or a
                dimension that hardly varies.
        """
        table = np.asarray(scores, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(DIMENSIONS) or len(table) < 2:
            raise ConfigError(f"expected scores [n, {len(DIMENSIONS)}] with n >= 2, got {table.shape}")
        wrong = ~((table >= 1) & (table <= 5)).all(axis=1)
        if wrong.any():
            raise ConfigError(
                f"expected raw scores in 1..5, got {table[wrong][0].tolist()} in row {int(wrong.argmax())} "
                f"({int(wrong.sum())} such rows); leave failed clips out"
            )
        return Calibration(
            mean=dict(zip(DIMENSIONS, table.mean(axis=0).tolist(), strict=True)),
            std=dict(zip(DIMENSIONS, table.std(axis=0, ddof=1).tolist(), strict=True)),
            n=len(table),
            date=datetime.now(timezone.utc).date().isoformat() if date is None else date,
            data=data,
            revision=revision,
        )

    def apply(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw scores [n, 3] as z-scores, (score - mean) / std; NaN stays NaN."""
        mean = np.array([self.mean[name] for name in DIMENSIONS])
        std = np.array([self.std[name] for name in DIMENSIONS])
        values: NDArray[np.float64] = (scores - mean) / std
        return values

    def save(self, place: str | Path) -> Path:
        """Write to a file, which appears complete or not at all.

        Args:
            place: as for `calibration_path`; its folder is there already.

        Raises:
            ConfigError: when it cannot be written.
        """
        path = calibration_path(place)
        with fresh_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")
        return path

    @staticmethod
    def load(place: str | Path, *, revision: str | None = None) -> Calibration:
        """Read what `save` wrote, strictly.

        Args:
            place: as for `calibration_path`.
            revision: `provenance.revision` of the scorer it is meant for; `None` leaves the check to
                `VideoReward`.

        Raises:
            ConfigError: `no_calibration` when there is none, `calibration_revision` when it was made with
                other weights; otherwise for anything but exactly the fields of this class.
        """
        path = calibration_path(place)
        try:
            raw: Any = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise ConfigError(
                f"expected a calibration in {str(path)!r}, there is none; `qsave calibrate` makes one, or "
                "score a reference set and save Calibration.fit(...)",
                code="no_calibration",
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
        expected = {field.name for field in fields(Calibration)}
        if not isinstance(raw, dict) or set(raw) != expected:
            raise ConfigError(f"{path} must hold exactly the keys {sorted(expected)}")
        try:
            calibration = Calibration(**raw)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}", code=error.code) from error
        if revision is not None:
            calibration.check(revision)
        return calibration

    def check(self, revision: str) -> None:
        """Refuse a scorer of another revision.

        Raises:
            ConfigError: with `code="calibration_revision"`.
        """
        if revision != self.revision:
            raise ConfigError(
                f"this calibration was made on {self.date} with revision {self.revision!r}, the scorer is "
                f"{revision!r}; score the reference set again and fit a new one",
                code="calibration_revision",
            )


def calibration_path(place: str | Path) -> Path:
    """The file of a calibration: `place` when its name ends in `.json`, else `calibration.json` inside it."""
    path = Path(place)
    return path if path.suffix == ".json" else path / CALIBRATION_FILE


def _check_numbers(name: str, values: Any, low: float, high: float) -> None:
    if not isinstance(values, Mapping) or set(values) != set(DIMENSIONS):
        raise ConfigError(f"field {name!r}: expected exactly {', '.join(DIMENSIONS)}, got {show(values)}")
    for dimension, value in values.items():
        if not low <= number(value, f"{name}.{dimension}") <= high:
            raise ConfigError(f"field '{name}.{dimension}': expected {low:g} to {high:g}, got {value:g}")
