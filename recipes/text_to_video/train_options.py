"""Options of reward fine-tuning: one flat dataclass."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from rollout import SamplingOptions

from qsave_reward.errors import ConfigError
from qsave_reward.weighting import scaled_weights

MAY_CHANGE = ("updates", "reward", "reward_device", "reward_timeout", "reward_token_file")
"""Options that a run may be started again with: its length, and where its reward is."""

OWN = {"prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale", "generator"}
OWN |= {"output_type", "callback_on_step_end"}
"""Arguments of a pipeline that the recipe sets itself."""


@dataclass
class TrainOptions:
    """Options of a run; `configs/text_to_video/` has one file for each generator.

    Attributes:
        output_dir: where everything is written; a run that was stopped goes on from there.
        pipeline: folder or hub name of a diffusers text-to-video pipeline; `tiny` is the embedded one.
        dtype: of the pipeline's weights; the LoRA is always float32.
        algorithm: `nft` (DiffusionNFT) or `grpo` (one-step Flow-GRPO).
        prompts, eval_prompts: a file with one prompt a line, or `world:train`, `world:test`.
        eval_videos: videos for each of the `eval_count` prompts of an evaluation.
        height, width, num_frames, fps, steps, guidance: how videos are sampled (see `SamplingOptions`).
        extra: further arguments of the pipeline, JSON.
        eval_steps, eval_guidance: sampling in evaluations; 0: as in training.
        reward: `tiny`, a checkpoint folder, or addresses of reward servers.
        reward_device, reward_timeout, reward_token_file: see `open_reward`.
        held_out: a second reward that is evaluated but not trained on; as `reward`, or empty.
        weights: of the three dimensions in the advantage, JSON; empty: equal.
        updates: how often videos are made, scored and learned from.
        prompts_per_update: by all processes together.
        group_size: videos of one prompt, which are compared with each other; at least 2.
        batch_size: videos that go through the transformer at a time; divides `group_size`.
        minibatches: optimizer steps in an update.
        max_masked: share of videos without a score at which the run stops.
        lora_rank, lora_alpha: size and strength of the LoRA.
        lora_targets: endings of layer names; empty: those of the family.
        learning_rate, weight_decay, adam_epsilon, max_grad_norm: of AdamW.
        advantage_limit: advantages are clipped to this.
        kl: weight of the distance to the reference.
        beta, levels_per_video, old_rate, old_limit: NFT; the old policy keeps min(`old_rate` update,
            `old_limit`) of itself in an update.
        noise, clip: GRPO; of the stochastic step, and of the ratio.
        average: the running average keeps this share of itself in an update, less in the first ones.
        evaluate_every, save_every: updates.
        keep_best: metric of an evaluation whose best LoRA is kept in `best/`.
    """

    output_dir: str
    pipeline: str = "tiny"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    algorithm: Literal["nft", "grpo"] = "nft"
    prompts: str = "world:train"
    eval_prompts: str = "world:test"
    eval_count: int = 16
    eval_videos: int = 2
    height: int = 64
    width: int = 64
    num_frames: int = 17
    fps: float = 8.0
    steps: int = 8
    guidance: float = 1.0
    extra: str = "{}"
    eval_steps: int = 0
    eval_guidance: float = 0.0
    reward: str = "tiny"
    reward_device: str | None = None
    reward_timeout: float = 300.0
    reward_token_file: str | None = None
    held_out: str = ""
    weights: str = ""
    updates: int = 100
    prompts_per_update: int = 16
    group_size: int = 8
    batch_size: int = 8
    minibatches: int = 1
    max_masked: float = 0.05
    lora_rank: int = 32
    lora_alpha: float = 64.0
    lora_targets: list[str] = field(default_factory=list)
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    advantage_limit: float = 5.0
    kl: float = 1e-2
    beta: float = 0.1
    levels_per_video: int = 2
    old_rate: float = 1e-3
    old_limit: float = 0.5
    noise: float = 0.7
    clip: float = 1e-3
    average: float = 0.9
    evaluate_every: int = 10
    save_every: int = 10
    keep_best: str = "reward.overall"
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (
            "updates",
            "prompts_per_update",
            "batch_size",
            "minibatches",
            "levels_per_video",
            "eval_count",
        )
        counts += (
            "eval_videos",
            "height",
            "width",
            "num_frames",
            "steps",
            "lora_rank",
            "evaluate_every",
            "save_every",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        positive = (
            "fps",
            "guidance",
            "lora_alpha",
            "learning_rate",
            "max_grad_norm",
            "advantage_limit",
            "beta",
        )
        for name in (*positive, "noise", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        others = (
            "max_masked",
            "old_rate",
            "kl",
            "eval_steps",
            "eval_guidance",
            "weight_decay",
            "adam_epsilon",
        )
        for name in (*others, "seed"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{name} must be 0 or more and finite, got {getattr(self, name)}")
        for name in ("average", "old_limit"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be a share, from 0 to 1, got {getattr(self, name)}")
        if self.num_frames < 2:
            raise ConfigError(
                f"num_frames must be at least 2, got {self.num_frames}: one frame has no motion"
            )
        if named := OWN & json_mapping("extra", self.extra).keys():
            raise ConfigError(f"extra must not name {', '.join(sorted(named))}; there are options for that")
        if self.group_size < 2:
            raise ConfigError(
                f"group_size must be at least 2, got {self.group_size}: a video is judged against others of "
                "its prompt"
            )
        if self.group_size % self.batch_size:
            raise ConfigError(f"batch_size ({self.batch_size}) must divide group_size ({self.group_size})")
        self.sampling()
        self.dimension_weights()

    def sampling(self, *, evaluation: bool = False) -> SamplingOptions:
        """How the pipeline is called."""
        return SamplingOptions(
            height=self.height,
            width=self.width,
            num_frames=self.num_frames,
            fps=self.fps,
            steps=(self.eval_steps or self.steps) if evaluation else self.steps,
            guidance=(self.eval_guidance or self.guidance) if evaluation else self.guidance,
            extra=json_mapping("extra", self.extra),
        )

    def dimension_weights(self) -> dict[str, float] | None:
        """Weights of the three dimensions, or `None` for equal ones."""
        if not self.weights:
            return None
        weights = json_mapping("weights", self.weights)
        scaled_weights(weights)
        return weights

    def check_folder(self, output: Path) -> None:
        """A ConfigError when the run in a folder was begun with other options; some may change."""
        path = output / "config.yaml"
        if not path.exists():
            return
        begun, own = yaml.safe_load(path.read_text()), self._written()
        names = [name for name in own | begun if name not in MAY_CHANGE]
        changed = [name for name in names if begun.get(name) != own.get(name)]
        if changed:
            differences = ", ".join(f"{n}: {begun.get(n)} then, {own.get(n)} now" for n in changed)
            raise ConfigError(
                f"{output} holds a run with other options ({differences}); choose another output_dir"
            )

    def save(self, output: Path) -> None:
        """Write the options, defaults included, to `config.yaml`, which `--config` takes."""
        output.mkdir(parents=True, exist_ok=True)
        part = output / "config.part"
        part.write_text(yaml.safe_dump(self._written(), sort_keys=False))
        part.rename(output / "config.yaml")

    def _written(self) -> dict[str, Any]:
        """All options but empty lists, which no command line can say."""
        return {name: value for name, value in asdict(self).items() if value != []}


def json_mapping(name: str, text: str) -> dict[str, float]:
    """A JSON object given as text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} must be a JSON object, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be a JSON object, got {text!r}")
    return value
