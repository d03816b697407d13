"""The call shapes of trainers: one adapter a caller, so that a team changes one line.

Each wraps a `VideoReward`, can be pickled if that can, and keeps the order of the clips. What a failed clip
does follows the reward's `on_error`: it raises, or it is masked in the form named below. Only TRL leaves
masked clips out; the other trainers average over NaN, which spoils the whole batch, so use `"raise"` there
unless your training loop drops such clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.calibration import Calibration
from qsave_reward.errors import ConfigError
from qsave_reward.reward import Rewards, VideoReward
from qsave_reward.types import DIMENSIONS


def trl_reward(reward: VideoReward) -> Callable[..., list[float | None]]:
    """A reward function of TRL's GRPOTrainer (TRL 1.16), for a policy whose completions are videos.

    It is called with `prompts` (plain texts), `completions` (paths, or frames), the columns of the data set,
    and the trainer's own helpers. A column `fps` gives the rate of each clip. Returns one `combined` a
    completion; TRL leaves a completion with `None` out of its statistics and gives it the advantage 0. The
    mean raw score of each dimension and the share of failed clips go to the trainer's log.

    Raises:
        ConfigError: when called with conversations for prompts.
    """
    return _TRLReward(reward)


@dataclass(frozen=True, eq=False)
class _TRLReward:
    reward: VideoReward

    __name__ = "qsave_reward"

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        rewards = self.reward(completions, prompts, fps=columns.get("fps"))
        if (log := columns.get("log_metric")) is not None and len(prompts) > 0:
            failed = [error is not None for error in rewards.errors]
            log(f"{self.__name__}/failed", sum(failed) / len(failed))
            if not all(failed):
                for name, mean in zip(DIMENSIONS, np.nanmean(rewards.raw, axis=0).tolist(), strict=True):
                    log(f"{self.__name__}/{name}", mean)
        return [None if math.isnan(value) else value for value in rewards.combined.tolist()]


def flow_grpo_reward(
    reward: VideoReward, *, fps: float
) -> Callable[..., tuple[dict[str, list[float]], dict[str, Any]]]:
    """A reward function of flow_grpo (commit 32b48fd, 2025), in the place of its `multi_score`.

    It is called as `fn(images, prompts, metadata, ref_images=None, only_strict=True)` from a thread pool;
    `images` is a float array or tensor [B,F,C,H,W] in [0, 1], or uint8 [B,F,H,W,C], or a list of clips.
    Returns `(scores, info)`: lists under `"avg"` (`combined`) and under each dimension (raw scores), NaN for
    a masked clip; `info["errors"]` has the reason or `None` of each. Metadata, reference images and
    `only_strict` are not looked at.

    Args:
        reward: gives the scores.
        fps: frame rate of the generator, in frames per second; flow_grpo does not pass one.

    Raises:
        ConfigError: when called with images in place of clips.
    """
    return _FlowGRPOReward(reward, fps)


@dataclass(frozen=True, eq=False)
class _FlowGRPOReward:
    reward: VideoReward
    fps: float

    __name__ = "qsave_reward"

    def __call__(
        self,
        images: Any,
        prompts: Sequence[str],
        metadata: Any = None,
        ref_images: Any = None,
        only_strict: bool = True,
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        shape = getattr(images, "shape", None)
        if shape is not None and len(shape) != 5:
            raise ConfigError(f"expected clips [B,F,C,H,W] or [B,F,H,W,C], got {tuple(shape)}")
        rewards = self.reward(images, prompts, fps=self.fps)
        return {"avg": rewards.combined.tolist(), **_by_dimension(rewards)}, {"errors": _reasons(rewards)}


@dataclass(frozen=True, eq=False)
class FlowFactoryOutput:
    """What Flow-Factory reads of its `RewardModelOutput`.

    Attributes:
        rewards: float64 [B]; `combined`, NaN for a masked clip.
        extra_info: raw scores under each dimension, and `"errors"`: the reason or `None` of each clip.
    """

    rewards: NDArray[np.float64]
    extra_info: dict[str, Any]


@dataclass(frozen=True, eq=False)
class FlowFactoryReward:
    """The body of a pointwise reward model of Flow-Factory (commit 5f6cda1, 2026).

    Flow-Factory accepts subclasses of its own `PointwiseRewardModel` only, so wrap it there:

        class QSave(PointwiseRewardModel):
            required_fields = ("prompt", "video")
            use_tensor_inputs = True

            def __init__(self, config, accelerator):
                super().__init__(config, accelerator)
                reward = VideoReward.from_pretrained("tiny", device=self.device)
                self.judge = FlowFactoryReward(reward, fps=16)

            def __call__(self, prompt, video=None):
                return self.judge(prompt, video=video)

    Attributes:
        reward: gives the scores.
        fps: frame rate of the generator, in frames per second; Flow-Factory does not pass one.
    """

    reward: VideoReward
    fps: float

    def __call__(
        self, prompt: Sequence[str], image: Any = None, video: Sequence[Any] | None = None, **kw: Any
    ) -> FlowFactoryOutput:
        """Score a batch.

        Args:
            prompt: B texts.
            image: not looked at.
            video: B clips: lists of PIL images, or tensors [T,C,H,W] in [0, 1].
            kw: further fields of the samples, not looked at.

        Raises:
            ConfigError: without `video`.
        """
        if video is None:
            raise ConfigError("expected video, a list of clips; this reward does not judge images")
        rewards = self.reward(video, prompt, fps=self.fps)
        return FlowFactoryOutput(rewards.combined, {**_by_dimension(rewards), "errors": _reasons(rewards)})


@dataclass(frozen=True, eq=False)
class VideoAlignReward:
    """Has the method of VideoAlign's `VideoVLMRewardInference` (commit 1140ffd) that trainers call.

    VQ, MQ and TA are `DIMENSIONS` in order. The numbers are on another scale than VideoAlign's.

    Attributes:
        video_reward: gives the scores; its weights, floors and `combine` play no part.
    """

    video_reward: VideoReward

    def reward(
        self,
        video_paths: Sequence[Any],
        prompts: Sequence[str],
        fps: float | None = None,
        num_frames: int | None = None,
        max_pixels: int | None = None,
        use_norm: bool = True,
    ) -> list[dict[str, Any]]:
        """Score files (or whole `Clip`s).

        Args:
            video_paths: n clips.
            prompts: n texts.
            fps, num_frames, max_pixels: how VideoAlign samples frames; here that belongs to the checkpoint,
                so anything but `None` is refused. (`fps` there is not the frame rate of the file.)
            use_norm: z-scores of the reward's calibration; otherwise raw scores, 1 to 5.

        Returns:
            n dictionaries with `"VQ"`, `"MQ"`, `"TA"` and `"Overall"`, their plain sum. Those of a masked
            clip hold NaN, and the reason under `"error"`.

        Raises:
            ConfigError: `no_calibration` for `use_norm` with a reward that has none; for sampling options.
        """
        sampling = {"fps": fps, "num_frames": num_frames, "max_pixels": max_pixels}
        if given := [name for name, value in sampling.items() if value is not None]:
            raise ConfigError(f"leave {', '.join(given)} out: the checkpoint says how frames are sampled")
        if use_norm and not isinstance(self.video_reward.normalise, Calibration):
            raise ConfigError(
                "use_norm needs a VideoReward with a Calibration; pass one as normalise=, or use_norm=False",
                code="no_calibration",
            )
        rewards = self.video_reward(video_paths, prompts)
        rows = []
        for values, reason in zip(
            rewards.values if use_norm else rewards.raw, _reasons(rewards), strict=True
        ):
            row: dict[str, Any] = dict(zip(("VQ", "MQ", "TA"), values.tolist(), strict=True))
            row["Overall"] = row["VQ"] + row["MQ"] + row["TA"]
            rows.append(row if reason is None else row | {"error": reason})
        return rows


def _by_dimension(rewards: Rewards) -> dict[str, list[float]]:
    return dict(zip(DIMENSIONS, rewards.raw.T.tolist(), strict=True))


def _reasons(rewards: Rewards) -> list[Mapping[str, str] | None]:
    return [None if error is None else error.to_dict() for error in rewards.errors]
