"""`VideoReward`: from clips and prompts to the numbers that a generator's trainer receives.

    reward = VideoReward.from_pretrained("tiny", floors={"dynamic_quality": 2.0}, on_error="mask")
    rewards = reward(videos, prompts, fps=16)     # videos: frames [T,C,H,W], paths, ...
    rewards.combined                              # float64 [n]; NaN where rewards.errors says why
    advantages(rewards.values, prompts)           # float64 [n]; of qsave_reward.weighting

Several processes (DDP, DeepSpeed): build one on every rank, with that rank's device. No gradient flows
through it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from qsave_reward.calibration import Calibration
from qsave_reward.errors import AnswerError, ConfigError, QSaveError
from qsave_reward.types import DIMENSIONS, Provenance, Scorer, VideoScore
from qsave_reward.video import Clip, Sampling, read_clip
from qsave_reward.weighting import FloatArray, hold_floors, is_number, scaled_weights, soft_minimum

if TYPE_CHECKING:
    import torch

Failure = Literal["raise", "mask"]
Combine = Literal["mean", "softmin"]


class PinnedScorer(Scorer, Protocol):
    """A `Scorer` that says which weights it holds, as `RewardModel` does."""

    @property
    def provenance(self) -> Provenance: ...


@dataclass(frozen=True, eq=False)
class Rewards:
    """Rewards of n clips, in the order they came in.

    Attributes:
        raw: float64 [n, 3], scores 1 to 5 in the order of `DIMENSIONS`.
        values: float64 [n, 3], `raw`, or z-scores when the reward has a calibration.
        combined: float64 [n], one number for each clip, in the units of `values`.
        errors: n entries; why a clip has no score, else `None`. Its row is NaN in each array.
        cards: n entries; the whole report card, `None` for a failed clip.
    """

    raw: FloatArray
    values: FloatArray
    combined: FloatArray
    errors: tuple[QSaveError | None, ...]
    cards: tuple[VideoScore | None, ...]


@dataclass(frozen=True, eq=False)
class VideoReward:
    """Callable reward of videos and prompts; can be pickled if its scorer can.

    `combined` rises, or stays, when any raw score rises. It is found in three steps:

    1. `values` are the raw scores, or (score - mean) / std of the calibration.
    2. They become their weighted mean, or their `soft_minimum`, which a generator cannot raise by giving up
       one dimension for another.
    3. A clip whose raw score is under the floor of a dimension is worth at most its value in that dimension,
       however good it is elsewhere; the floor of a dimension with weight 0 holds too.

    Attributes:
        scorer: gives the scores.
        weights: for all of `DIMENSIONS`, not negative; scaled to the sum 1. Default: equal.
        normalise: `"none"`, or a `Calibration` of this scorer's revision.
        on_error: `"raise"` the first failed clip, or `"mask"` failed clips with NaN.
        floors: lowest acceptable raw score, 1 to 5, for any of `DIMENSIONS`.
        combine: `"mean"` or `"softmin"`.
        temperature: T of `"softmin"` in the units of `values`, 0.001 to 1000.

    Raises:
        ConfigError: for anything else; `code="calibration_revision"` for a calibration of other weights.
    """

    scorer: PinnedScorer
    _: KW_ONLY
    weights: Mapping[str, float] | None = None
    normalise: Literal["none"] | Calibration = "none"
    on_error: Failure = "raise"
    floors: Mapping[str, float] = field(default_factory=dict)
    combine: Combine = "mean"
    temperature: float = 0.5

    __name__ = "qsave_reward"  # trainers log a reward function under its name

    def __post_init__(self) -> None:
        if not hasattr(self.scorer, "score_batch"):
            raise ConfigError(
                f"expected a scorer such as a RewardModel, got {type(self.scorer).__name__}; "
                "VideoReward.from_pretrained(name) loads one"
            )
        if isinstance(self.normalise, Calibration):
            self.normalise.check(self.scorer.provenance.revision)
        elif self.normalise != "none":
            raise ConfigError(
                f"normalise must be 'none' or a Calibration, got {self.normalise!r}; "
                "only VideoReward.from_pretrained knows 'checkpoint'"
            )
        for name, choices in (("on_error", get_args(Failure)), ("combine", get_args(Combine))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not (is_number(self.temperature) and 1e-3 <= self.temperature <= 1e3):
            raise ConfigError(f"temperature must lie in [0.001, 1000], got {self.temperature!r}")
        for name, floor in self.floors.items():
            if name not in DIMENSIONS or not is_number(floor) or not 1 <= floor <= 5:
                raise ConfigError(
                    f"floors must map some of {', '.join(DIMENSIONS)} to raw scores in [1, 5], "
                    f"got {name!r}: {floor!r}"
                )
        scaled = dict(zip(DIMENSIONS, scaled_weights(self.weights).tolist(), strict=True))
        object.__setattr__(self, "weights", scaled)
        object.__setattr__(self, "floors", dict(self.floors))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 8,
        normalise: Literal["none", "checkpoint"] | Calibration = "none",
        **options: Any,
    ) -> VideoReward:
        """Load a scorer and wrap it.

        Args:
            name, device, dtype, batch_size: as in `RewardModel.from_pretrained`.
            normalise: `"checkpoint"` uses the `calibration.json` beside the weights.
            options: further attributes of `VideoReward`.

        Raises:
            ConfigError: as `RewardModel.from_pretrained`, `Calibration.load` and `VideoReward` do.
        """
        from qsave_reward.checkpoint import find_checkpoint
        from qsave_reward.loading import load_scorer

        model = load_scorer(name, device=device, dtype=dtype, batch_size=batch_size)
        if normalise == "checkpoint":
            normalise = Calibration.load(find_checkpoint(name), revision=model.provenance.revision)
        return cls(model, normalise=normalise, **options)

    def __call__(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str],
        *,
        fps: float | Sequence[float | None] | None = None,
        times: Sequence[Any] | None = None,
    ) -> Rewards:
        """Score clips.

        Args:
            videos: n clips, each anything `read_clip` takes; an array or tensor with a leading batch axis
                counts as n clips.
            prompts: the n texts the clips were generated from.
            fps: frames per second, one number or one for each clip. Frames need it; for files it overrules
                what the file says. `None` for a clip that brings its own times.
            times: seconds of all frames instead of `fps`: one list, or one list (or `None`) for each clip.

        Raises:
            ConfigError: for arguments that do not fit together, whatever `on_error` says.
            QSaveError: the first failure, with `on_error="raise"`.
        """
        if isinstance(videos, str | bytes | os.PathLike | Clip) or isinstance(prompts, str):
            raise ConfigError("expected a list of videos and a list of prompts; wrap a single one in [ ]")
        n = len(videos)
        if len(prompts) != n:
            raise ConfigError(f"expected {n} prompts, one for each video, got {len(prompts)}")
        if kinds := sorted({type(prompt).__name__ for prompt in prompts if not isinstance(prompt, str)}):
            raise ConfigError(f"expected prompts as plain texts, got {', '.join(kinds)}")
        clips = [
            self._read(video, rate, clock)
            for video, rate, clock in zip(videos, _rates(fps, n), _clocks(times, n), strict=True)
        ]
        self._settle(clips)
        ready = [i for i in range(n) if not isinstance(clips[i], QSaveError)]
        results: list[Any] = list(clips)
        if ready:
            judged = self.scorer.score_batch(
                [clips[i] for i in ready], [prompts[i] for i in ready], on_error="return"
            )
            for i, result in zip(ready, judged, strict=True):
                results[i] = _checked(result)
        self._settle(results)
        return self._rewards(results)

    def _read(self, video: Any, fps: float | None, times: Any) -> Any:
        """The clip at the rate given, sampled as the scorer would, or why not; untouched without a rate."""
        if fps is None and times is None:
            return video
        plan = self.scorer.provenance.frame_plan
        sampling = Sampling(max_frames=plan.get("max_frames", sys.maxsize), fps=plan.get("fps"))
        try:
            return read_clip(video, sampling, fps=fps, times=times)
        except ConfigError:
            raise
        except QSaveError as error:
            return error

    def _settle(self, results: Sequence[Any]) -> None:
        failed = next((i for i, result in enumerate(results) if isinstance(result, QSaveError)), None)
        if failed is not None and self.on_error == "raise":
            error = results[failed]
            if len(results) == 1:
                raise error
            message = f"clip {failed} of 0..{len(results) - 1}: {error}"
            raise type(error)(message, code=error.code) from error

    def _rewards(self, results: Sequence[Any]) -> Rewards:
        raw = np.full((len(results), len(DIMENSIONS)), np.nan)
        for i, result in enumerate(results):
            if isinstance(result, VideoScore):
                raw[i] = [min(max(result.scores[name].mean, 1.0), 5.0) for name in DIMENSIONS]
        values = self.normalise.apply(raw) if isinstance(self.normalise, Calibration) else raw.copy()
        return Rewards(
            raw=raw,
            values=values,
            combined=self._combined(raw, values),
            errors=tuple(result if isinstance(result, QSaveError) else None for result in results),
            cards=tuple(result if isinstance(result, VideoScore) else None for result in results),
        )

    def _combined(self, raw: FloatArray, values: FloatArray) -> FloatArray:
        weights = scaled_weights(self.weights)
        if self.combine == "mean":
            combined = np.sum(values * weights, axis=1)
        else:
            combined = soft_minimum(values, weights, temperature=self.temperature)
        return hold_floors(combined, values, raw=raw, floors=self.floors)


def _checked(result: VideoScore | QSaveError) -> VideoScore | QSaveError:
    """The result, or an error if its scores are off the scale (beyond rounding)."""
    if isinstance(result, VideoScore):
        means = [result.scores[name].mean for name in DIMENSIONS]
        if not all(1 - 1e-6 <= mean <= 5 + 1e-6 for mean in means):
            return AnswerError(f"expected scores from 1 to 5, the scorer gave {means}", code="bad_score")
    return result


def _rates(fps: Any, n: int) -> list[Any]:
    """One frame rate, or `None`, for each of n clips."""
    given = fps.tolist() if hasattr(fps, "tolist") else fps
    if given is None or isinstance(given, Real):
        return [given] * n
    if len(given) != n or not all(rate is None or isinstance(rate, Real) for rate in given):
        raise ConfigError(f"fps must be a number or a list of {n}, one for each video, got {fps!r}")
    return list(given)


def _clocks(times: Any, n: int) -> list[Any]:
    """A list of seconds, or `None`, for each of n clips."""
    given = times.tolist() if hasattr(times, "tolist") else times
    if given is None or all(isinstance(time, Real) for time in given):
        return [given] * n
    if len(given) != n or any(isinstance(clock, Real) for clock in given):
        raise ConfigError(f"times must be a list of seconds, or {n} such lists, one for each video")
    return list(given)
