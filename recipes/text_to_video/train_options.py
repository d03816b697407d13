"""Options of reward fine-tuning: one flat dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pipeline_options import PipelineOptions, json_mapping
from rollout import SamplingOptions

from qsave_reward.errors import ConfigError
from qsave_reward.weighting import scaled_weights

MAY_CHANGE = ("output_dir", "updates", "reward", "held_out")
MAY_CHANGE += ("reward_device", "reward_timeout", "reward_token_file")
"""Options that a run may be started again with: where it is, its length, and where its rewards are."""


@dataclass(kw_only=True)
class TrainOptions(PipelineOptions):
    """Options of a run; `configs/text_to_video/` has one file for each generator.

    Attributes:
        output_dir: where everything is written; a run that was stopped goes on from there.
        algorithm: `nft` (DiffusionNFT) or `grpo` (one-step Flow-GRPO).
        prompts, eval_prompts: a file with one prompt a line, or `world:train`, `world:test`.
        eval_videos: videos for each of the `eval_count` prompts of an evaluation.
        eval_steps, eval_guidance: sampling in evaluations; 0: as in training.
        reward_device: of a reward in this process; default: that of the pipeline.
        weights: of the three dimensions in the advantage, JSON; empty: equal.
        updates: how often videos are made, scored and learned from.
        prompts_per_update: by all processes together.
        group_size: videos of one prompt, which are compared with each other; at least 2, and a multiple of
            `batch_size`.
        minibatches: optimizer steps in an update; each takes whole groups, so their number must divide that
            of the prompts of a process.
        max_masked: share of videos without a score at which the run stops.
        lora_rank, lora_alpha: size and strength of the LoRA.
        lora_targets: endings of layer names; empty: those of the family.
        learning_rate, weight_decay, adam_epsilon, max_grad_norm: of AdamW; `adam_epsilon` is 1e-8 for NFT and
            1e-15 for GRPO, whose gradients are tiny, unless it is given.
        advantage_limit: advantages are clipped to this.
        kl: weight of the distance to the reference; 0.01 for NFT and 0 for GRPO unless it is given.
        beta, levels_per_video, old_rate, old_limit: NFT; the old policy keeps min(`old_rate` update,
            `old_limit`) of itself in an update.
        noise, clip: GRPO; of the stochastic step, and of the ratio.
        average: the running average keeps this share of itself in an update, less in the first ones.
        evaluate_every, save_every: updates.
        keep_best: metric of an evaluation whose best LoRA is kept in `best/`.
    """

    output_dir: str
    algorithm: Literal["nft", "grpo"] = "nft"
    prompts: str = "world:train"
    eval_prompts: str = "world:test"
    eval_count: int = 16
    eval_videos: int = 2
    eval_steps: int = 0
    eval_guidance: float = 0.0
    reward_device: str | None = None
    weights: str = ""
    updates: int = 100
    prompts_per_update: int = 16
    group_size: int = 8
    minibatches: int = 1
    max_masked: float = 0.05
    lora_rank: int = 32
    lora_alpha: float = 64.0
    lora_targets: list[str] = field(default_factory=list)
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    adam_epsilon: float | None = None
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    advantage_limit: float = 5.0
    kl: float | None = None
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

    def __post_init__(self) -> None:
        super().__post_init__()
        grpo = self.algorithm == "grpo"
        if self.kl is None:
            self.kl = 0.0 if grpo else 1e-2
        if self.adam_epsilon is None:
            self.adam_epsilon = 1e-15 if grpo else 1e-8
        if self.dtype == "float16":
            raise ConfigError(
                "dtype float16 cannot be trained: what a video adds to the gradient of one latent element is "
                "below its smallest number; use bfloat16"
            )
        self.check_counts("updates", "prompts_per_update", "minibatches", "levels_per_video", "eval_count")
        self.check_counts("eval_videos", "lora_rank", "evaluate_every", "save_every")
        self.check_positive("lora_alpha", "learning_rate", "max_grad_norm", "advantage_limit", "beta")
        self.check_positive("noise", "clip")
        self.check_not_negative("max_masked", "old_rate", "kl", "eval_steps", "eval_guidance")
        self.check_not_negative("weight_decay", "adam_epsilon")
        for name in ("average", "old_limit"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be a share, from 0 to 1, got {getattr(self, name)}")
        if self.group_size < 2:
            raise ConfigError(
                f"group_size must be at least 2, got {self.group_size}: a video is judged against others of "
                "its prompt"
            )
        if self.group_size % self.batch_size:
            raise ConfigError(f"batch_size ({self.batch_size}) must divide group_size ({self.group_size})")
        self.dimension_weights()

    def eval_sampling(self) -> SamplingOptions:
        """How the pipeline is called in evaluations."""
        sampling = self.sampling()
        return replace(
            sampling,
            steps=self.eval_steps or sampling.steps,
            guidance=self.eval_guidance or sampling.guidance,
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
