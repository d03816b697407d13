"""`HolisticConfig`: the three encoders, what they are shown, and the language model that judges."""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoConfig, BlipVisionConfig, PretrainedConfig

from qsave_reward.checkpoint import HOLISTIC_TYPE
from qsave_reward.errors import ConfigError

BRANCHES = ("semantic", "motion", "technical")
"""The encoders, in the order in which the language model reads their tokens."""


class HolisticConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of `HolisticModel`; the defaults are AIGVEval's (arXiv 2506.04715), as in its code.

    Attributes:
        text_config: of the language model, any causal one of transformers.
        vision_config: of BLIP's image encoder, whose `image_size` is the side of its frames in pixels.
        motion_config, technical_config: fields of `SlowFastConfig` and `VideoSwinConfig`.
        branches: which encoders there are; leaving one out is an ablation.
        clip_frames: frames that the semantic and the technical branch see.
        motion_frames: frames that the motion branch sees, and tokens that it gives.
        motion_positions: rows of the table of positions of its tokens.
        motion_size: side of its frames in pixels.
        fragments, fragment_size: the technical branch sees `fragments` x `fragments` pieces of a frame, each
            `fragment_size` pixels wide, at native resolution.
        random_fragments: pieces are cut at random places also when scoring, as in the public code.
        technical_tokens: how often the one feature of the technical branch is repeated.
        level_temperature: divides the logits of the level words.
        show_prompt: the language model also reads the text that the clip was generated from.
        per_dimension: three read-outs, one for each dimension, instead of one for the whole.
    """

    model_type = HOLISTIC_TYPE
    sub_configs = {"text_config": AutoConfig, "vision_config": BlipVisionConfig}

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: BlipVisionConfig | dict[str, Any] | None = None,
        motion_config: dict[str, Any] | None = None,
        technical_config: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if text_config is None or isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**{"model_type": "llama"} | (text_config or {}))
        if vision_config is None or isinstance(vision_config, dict):
            vision_config = BlipVisionConfig(**vision_config or {})
        self.text_config, self.vision_config = text_config, vision_config
        self.motion_config = motion_config or {}
        self.technical_config = technical_config or {}
        self.branches = list(options.pop("branches", BRANCHES))
        self.clip_frames = options.pop("clip_frames", 8)
        self.motion_frames = options.pop("motion_frames", 32)
        self.motion_positions = options.pop("motion_positions", 2000)
        self.motion_size = options.pop("motion_size", 224)
        self.fragments = options.pop("fragments", 7)
        self.fragment_size = options.pop("fragment_size", 32)
        self.random_fragments = options.pop("random_fragments", True)
        self.technical_tokens = options.pop("technical_tokens", 32)
        self.level_temperature = options.pop("level_temperature", 100.0)
        self.show_prompt = options.pop("show_prompt", False)
        self.per_dimension = options.pop("per_dimension", False)
        self._check()
        super().__init__(**options)

    def _check(self) -> None:
        if not self.branches or self.branches != [name for name in BRANCHES if name in self.branches]:
            raise ConfigError(
                f"branches must be some of {', '.join(BRANCHES)}, in order, got {self.branches}"
            )
        if self.motion_frames > self.motion_positions:
            raise ConfigError(
                f"motion_frames must not exceed motion_positions, got {self.motion_frames} and "
                f"{self.motion_positions}"
            )
        counts = ("clip_frames", "motion_frames", "motion_size", "fragments", "fragment_size")
        for name in (*counts, "technical_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (math.isfinite(self.level_temperature) and self.level_temperature > 0):
            raise ConfigError(f"level_temperature must be above 0, got {self.level_temperature}")
