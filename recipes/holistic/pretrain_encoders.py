"""Stage 0 of `holistic-tiny`: teach its three encoders to see, in place of public checkpoints.

    python recipes/holistic/pretrain_encoders.py --config configs/holistic/tiny_encoders.yaml

At size the encoders come pretrained: BLIP on pictures and their captions, SlowFast and Video Swin on videos
of actions. Here each learns from rendered clips what it is there for. A linear head on the tokens that the
language model will get tells: from the semantic branch what the clip shows, and shape, number and place of
the objects of each color, from the motion branch how those move and which defects the motion has, from the
technical branch which defects the picture has. Each patch of the semantic branch also tells which object it
shows. The heads are thrown away.

Killed runs continue from their last checkpoint when the same command is given again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import TrainingArguments, set_seed

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from object_heads import OBJECT_TARGETS, OBJECT_WEIGHTS, ObjectHeads
from pretrain_vision import SHOWN, VisionTrainer, clip_targets
from spoken_facts import CENTRAL, off_center
from token_targets import token_targets
from training import last_finished_checkpoint, parse_options, rows_needed, save_options

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.scorer import load_holistic
from qsave_reward.holistic.views import VIEWS, Views, make_views
from qsave_reward.video import Sampling, read_clip
from qsave_reward.world import LABELS, WorldPlan, render_plan, world_plan
from qsave_reward.world.scene import COLORS, MAX_OBJECTS, MOTIONS, SHAPES
from qsave_reward.world.stream import plan_tracks

PLACES = (("at the left", "at the right"), ("above", "below"))
OF_COLORS = {
    "semantic": [*SHAPES, *map(str, range(1, MAX_OBJECTS + 1)), *PLACES[0], *PLACES[1]],
    "motion": MOTIONS,
}
"""What is asked of the objects of each color: else "a red circle, a blue star" is "a red star" as well."""
TOLD = {
    branch: names + [f"{color} {word}" for color in COLORS for word in OF_COLORS.get(branch, ())]
    for branch, names in {
        # Single frames show what shapes are, and so where these are wrong.
        "semantic": [*SHOWN, "shape distortion", "ghosting", "morphing"],
        "motion": [*MOTIONS, *LABELS["dynamic_quality"]],
        "technical": [*LABELS["visual_quality"]],
    }.items()
}
"""What each branch tells of a clip."""
PATCH_WEIGHT = 3.0
"""Of what patches tell."""
LOOKED_AT = 3
"""Frames of the semantic branch that are learned from: they are much alike, and other clips teach more."""


@dataclass
class EncoderArguments:
    """What this recipe adds to transformers' options."""

    model_name_or_path: str = field(metadata={"help": "what make_holistic_tiny.py wrote"})
    branches: list[str] = field(
        default_factory=list, metadata={"help": "encoders to train, the others stay; default: all"}
    )


OPTIONS = (EncoderArguments, TrainingArguments)


def colored(plan: WorldPlan) -> set[str]:
    """What a clip shows of the objects of each color, as in `OF_COLORS`; nowhere is the middle."""
    tracks, found = plan_tracks(plan), set()
    for group in plan.shown.groups:
        offset = off_center(plan, [track for owner, track in tracks if owner == group])
        places = [pair[int(at > 0)] for pair, at in zip(PLACES, offset, strict=True) if abs(at) > CENTRAL]
        words = (group.shape, str(group.count), group.motion, *places)
        found |= {f"{group.color} {word}" for word in words}
    return found


def targets(plan: WorldPlan, branch: str) -> list[float]:
    """For each of `TOLD`: whether the clip shows it, 0 or 1; of a defect 0, or 0.5 to 1 by its severity."""
    known = dict(zip(SHOWN, clip_targets(plan), strict=True)) | dict.fromkeys(colored(plan), 1.0)
    found = {defect.label: 0.5 + defect.severity / 2 for defect in plan.defects}
    return [known.get(name, found.get(name, 0.0)) for name in TOLD[branch]]


def base_rates(plans: Sequence[WorldPlan], branch: str) -> torch.Tensor:
    """In what share of some clips each of `TOLD` is there: float32 [labels], above 0 and below 1."""
    told = torch.tensor([targets(plan, branch) for plan in plans])
    return (told.sum(dim=0) + 0.5) / (len(plans) + 1)


def patch_targets(plan: WorldPlan, config: HolisticConfig, frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """`OBJECT_TARGETS` of the patches of some frames of the semantic branch: [frames * patches, ...]."""
    vision, length = config.vision_config, plan.config.num_frames
    side = vision.image_size // vision.patch_size
    pairs = (torch.linspace(0, length - 1, config.clip_frames).round().long() // 2)[frames].tolist()
    asked = [side if pair in pairs else 1 for pair in range(length // 2)]
    told, sizes = token_targets(plan, [(n, n) for n in asked]), [n * n for n in asked]
    parts = {name: getattr(told, name).split(sizes) for name in OBJECT_TARGETS}
    return {name: torch.cat([part[pair] for pair in pairs]) for name, part in parts.items()}


class Clips(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i: clip i of the world as the views of the encoders, and what each branch is to tell."""

    def __init__(self, n: int, config: HolisticConfig, split: str = "train") -> None:
        self.n, self.config, self.split = n, config, split

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # Seed 1: other clips than those of the later stage.
        plan = world_plan(self.split, index, seed=1)
        item = render_plan(plan)
        clip = read_clip(
            item.frames, Sampling(max_frames=self.config.motion_frames), times=item.times.tolist()
        )
        generator = torch.Generator().manual_seed(index)
        views = make_views(clip, self.config, generator=generator)
        told = {f"told_{branch}": torch.tensor(targets(plan, branch)) for branch in self.config.branches}
        shown = {name: getattr(views, name) for name in VIEWS}
        some = torch.randperm(len(views.frames), generator=generator)[:LOOKED_AT].sort().values
        return shown | {"frames": views.frames[some]} | told | patch_targets(plan, self.config, some)


class EncodersWithHeads(torch.nn.Module):
    """Encoders of a model, one linear head for each, and heads for the patches of the semantic one."""

    def __init__(self, model: HolisticModel, branches: Sequence[str] | None = None) -> None:
        super().__init__()
        branches = branches or model.config.branches
        # Without the language model, whose tied weights the trainer could not save.
        parts = {name: part for name, part in model.named_children() if name.split("_")[0] in branches}
        self.encoders = torch.nn.ModuleDict(parts)
        self.visual_tokens = partial(model.visual_tokens, branches=branches)
        width = model.config.text_config.hidden_size
        self.heads = torch.nn.ModuleDict(
            {branch: torch.nn.Linear(2 * width, len(TOLD[branch])) for branch in branches}
        )
        plans = [world_plan("train", index, seed=1) for index in range(500)]
        for branch, head in self.heads.items():
            # Most labels are rare; a bias that begins at 0 learns that in hundreds of steps, and little else.
            torch.nn.init.zeros_(head.weight)
            head.bias.data = base_rates(plans, branch).logit()
        if "semantic" in parts:
            self.tell = ObjectHeads(model.config.vision_config.hidden_size)
            parts["semantic"].register_forward_hook(self._keep)

    def _keep(self, semantic: Any, arguments: Any, output: Any) -> None:
        self.patches = output.last_hidden_state[:, 1:]

    def say(self, views: Views) -> dict[str, torch.Tensor]:
        """Logits float32 [B, labels of `TOLD`] of each branch."""
        said = {}
        for branch, tokens in self.visual_tokens(views).items():
            clip = torch.cat([tokens.mean(dim=1), tokens.amax(dim=1)], dim=-1)
            said[branch] = self.heads[branch](clip).float()
        return said

    def forward(
        self, frames: torch.Tensor, motion: torch.Tensor, fragments: torch.Tensor, **told: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Losses on a batch of `Clips`: of each branch the sum over its labels, the mean over clips; and the
        weighted sum of those of `ObjectHeads`."""
        losses = {}
        for branch, said in self.say(Views(frames, motion, fragments)).items():
            wanted = told[f"told_{branch}"]
            entropy = F.binary_cross_entropy_with_logits(said, wanted, reduction="sum")
            losses[f"loss_{branch}"] = entropy / len(wanted)
        if "semantic" in self.heads:
            objects = self.tell(self.patches.flatten(0, 1), **{name: told[name] for name in OBJECT_TARGETS})
            total = sum(OBJECT_WEIGHTS[name] * loss for name, loss in objects.items())
            losses["loss_patches"] = PATCH_WEIGHT * total
        return {"loss": sum(losses.values()), **{name: loss.detach() for name, loss in losses.items()}}


def main() -> None:
    arguments, options = parse_options(sys.argv[1:], *OPTIONS)
    options.remove_unused_columns = False
    output = Path(options.output_dir)
    set_seed(options.seed)
    model, tokenizer = load_holistic(Path(arguments.model_name_or_path), dtype=torch.float32)
    if not set(arguments.branches) <= set(model.config.branches):
        raise ConfigError(f"expected branches among {model.config.branches}, got {arguments.branches}")
    save_options(output, options, arguments)
    trainer = VisionTrainer(
        model=EncodersWithHeads(model, arguments.branches),
        args=options,
        train_dataset=Clips(rows_needed(options), model.config),
    )
    trainer.train(resume_from_checkpoint=last_finished_checkpoint(output))
    if trainer.is_world_process_zero():
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
