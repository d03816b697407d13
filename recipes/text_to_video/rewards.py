"""The reward of a run: a model in this process, or a reward server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pipeline_options import PipelineOptions
from rollout import Rollout

from qsave_reward.client import RewardClient
from qsave_reward.errors import ConfigError, QSaveError, ServerError
from qsave_reward.loading import load_scorer
from qsave_reward.reward import Rewards, VideoReward


def open_reward(
    name: str, *, device: str | None = None, timeout: float = 300.0, token_file: str | None = None
) -> VideoReward:
    """A reward that masks what it cannot score, asked once whether it is there.

    Args:
        name: `tiny`, a checkpoint folder, or the address of a server; several addresses with commas.
        device: of a model in this process.
        timeout: seconds a server may take for one group of videos.
        token_file: file with the server's token.

    Raises:
        ConfigError: for a model that cannot be loaded.
        ServerError: for a server that cannot be reached.
    """
    if name.startswith(("http://", "https://")):
        try:
            token = Path(token_file).read_text().strip() if token_file else None
        except OSError as error:
            raise ConfigError(f"cannot read the server's token from {token_file}: {error}") from error
        reward = VideoReward(RewardClient(name.split(","), token=token, timeout=timeout), on_error="mask")
    else:
        reward = VideoReward(load_scorer(name, device=device), on_error="mask")
    identity(reward)  # a server says here whether it is there
    return reward


def open_scoring(options: PipelineOptions, name: str, *, device: str) -> Scoring:
    """The scoring of `options.reward` or `options.held_out`."""
    reward = open_reward(
        name, device=device, timeout=options.reward_timeout, token_file=options.reward_token_file
    )
    return Scoring(reward, fps=options.fps)


def identity(reward: VideoReward) -> dict[str, Any]:
    """What must stay the same during a run: the weights, and the frames they want of a clip."""
    provenance = reward.scorer.provenance
    return {"revision": provenance.revision, "frame_plan": dict(provenance.frame_plan)}


def check_identity(reward: VideoReward, expected: dict[str, Any]) -> None:
    """A ConfigError unless the reward is the one a run began with."""
    found = identity(reward)
    if found != expected:
        raise ConfigError(
            f"this run began with the reward {expected}, but the reward is now {found}; scores of "
            "different models cannot be compared: bring the first one back, or start another run in another "
            "output_dir"
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of the videos of one rollout.

    Attributes:
        values: float64 [K, 3], 1 to 5, in the order of `DIMENSIONS`; NaN rows could not be scored.
        errors: why, one text for each of them.
        seconds: that scoring took.
    """

    values: NDArray[np.float64]
    errors: tuple[str, ...]
    seconds: float


def check_masked(values: NDArray[np.float64], scored: Sequence[Scored], *, limit: float, step: int) -> None:
    """A QSaveError when of the videos after update `step`, `values` [n, 3], too many have no score."""
    masked = float(np.isnan(values).any(axis=1).mean())
    if masked > limit or masked == 1:
        reasons = [error for one in scored for error in one.errors] or ["see the other processes"]
        raise QSaveError(
            f"{masked:.0%} or more of the videos of update {step + 1} have no score, more than max_masked = "
            f"{limit:.0%}; the first reason: {reasons[0]}. Mend it and start again: the run goes on from its "
            "last checkpoint",
            code="too_many_masked",
        )


class Scoring:
    """Scores rollouts one after the other in a thread, while the next one is sampled."""

    def __init__(self, reward: VideoReward, *, fps: float) -> None:
        self.reward, self.fps = reward, fps
        self.revision = reward.scorer.provenance.revision
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")

    def submit(self, rollout: Rollout) -> Future[Scored]:
        """Begin; the future raises a ServerError when another model answered."""
        return self._thread.submit(self._score, rollout)

    def _score(self, rollout: Rollout) -> Scored:
        number = len(rollout.frames)
        began = time.perf_counter()
        try:
            rewards: Rewards = self.reward(list(rollout.frames), [rollout.prompt] * number, fps=self.fps)
        except ConfigError:
            raise
        except QSaveError as error:  # a server that is down or slow: none of these videos has a score
            return Scored(np.full((number, 3), np.nan), (str(error),) * number, time.perf_counter() - began)
        for card in rewards.cards:
            if card is not None and card.provenance.revision != self.revision:
                raise ServerError(
                    f"the run began with reward weights {self.revision}, an answer came from "
                    f"{card.provenance.revision}; all servers must serve the same model",
                    code="other_model",
                )
        failed = tuple(str(error) for error in rewards.errors if error is not None)
        return Scored(rewards.raw, failed, time.perf_counter() - began)

    def close(self) -> None:
        """Drop what waits."""
        self._thread.shutdown(cancel_futures=True)
