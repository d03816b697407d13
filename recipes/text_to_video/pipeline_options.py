"""Options that training and evaluation share: which pipeline, how it is called, and who judges."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from rollout import SamplingOptions
from tiny_pipeline import TEXT_LENGTH

from qsave_reward.errors import ConfigError

OWN = {"prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale", "generator"}
OWN |= {"output_type", "callback_on_step_end", "num_videos_per_prompt", "latents", "prompt_embeds"}
"""Arguments of a pipeline that the recipe sets itself."""


@dataclass(kw_only=True)
class PipelineOptions:
    """A pipeline, its sampling, and the reward.

    Attributes:
        pipeline: folder or hub name of a diffusers text-to-video pipeline; `tiny` is the embedded one.
        dtype: of the pipeline's weights; a LoRA in training is always float32.
        height, width, num_frames, fps, steps, guidance: how videos are sampled (see `SamplingOptions`).
        extra: further arguments of the pipeline, JSON; empty: none, but for `tiny` the prompt length that it
            was trained with.
        batch_size: videos that go through the transformer at a time.
        reward: `tiny`, a checkpoint folder, or addresses of reward servers.
        reward_timeout, reward_token_file: see `open_reward`.
        held_out: a second reward that is not trained on; as `reward`, or empty.
    """

    pipeline: str = "tiny"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 8.0
    steps: int = 8
    guidance: float = 1.0
    extra: str = ""
    batch_size: int = 8
    reward: str = "tiny"
    reward_timeout: float = 300.0
    reward_token_file: str | None = None
    held_out: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_counts("height", "width", "num_frames", "steps", "batch_size")
        self.check_positive("fps", "guidance", "reward_timeout")
        self.check_not_negative("seed")
        if self.num_frames < 2:
            raise ConfigError(
                f"num_frames must be at least 2, got {self.num_frames}: one frame has no motion"
            )
        if not self.extra:
            self.extra = json.dumps({"max_sequence_length": TEXT_LENGTH} if self.pipeline == "tiny" else {})
        if named := OWN & json_mapping("extra", self.extra).keys():
            raise ConfigError(f"extra must not name {', '.join(sorted(named))}; there are options for that")

    def check_counts(self, *names: str) -> None:
        """A ConfigError unless each is at least 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")

    def check_positive(self, *names: str) -> None:
        """A ConfigError unless each is above 0 and finite."""
        for name in names:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} must be above 0 and finite, got {getattr(self, name)}")

    def check_not_negative(self, *names: str) -> None:
        """A ConfigError unless each is 0 or more and finite."""
        for name in names:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} must be 0 or more and finite, got {getattr(self, name)}")

    def sampling(self) -> SamplingOptions:
        """How the pipeline is called."""
        return SamplingOptions(
            height=self.height,
            width=self.width,
            num_frames=self.num_frames,
            fps=self.fps,
            steps=self.steps,
            guidance=self.guidance,
            extra=json_mapping("extra", self.extra),
        )


def json_mapping(name: str, text: str) -> dict[str, Any]:
    """A JSON object given as text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} must be a JSON object, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be a JSON object, got {text!r}")
    return value
