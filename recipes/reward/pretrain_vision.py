"""Stage 0 of the embedded model: teach its vision tower to see, before any text.

    python recipes/reward/pretrain_vision.py --config configs/reward/tiny/0_vision.yaml

A language model that must learn from scores alone what a picture is learns it very slowly; large models
start from a pretrained vision tower, and so does this one. From the tokens the language model would get,
small heads tell for each token which object it shows, how that moves and where its outline runs, for each
chunk which defects are active, and for the clip how good picture and motion are and what is shown. The heads
are thrown away; the result is the given model with a better tower.

Killed runs continue from their last checkpoint when the same command is given again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from object_heads import OBJECT_TARGETS, OBJECT_WEIGHTS, ObjectHeads
from token_targets import token_targets
from training import last_finished_checkpoint, muon_optimizer, parse_options, rows_needed, save_options
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments, set_seed

from qsave_reward.errors import QSaveError
from qsave_reward.fast_vision import use_fast_vision
from qsave_reward.processor import QSaveProcessor, normalize, patchify, resize_chunks
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.video import Sampling, read_clip
from qsave_reward.world import LABELS, WorldPlan, render_plan, world_plan
from qsave_reward.world.scene import BACKGROUND_COLORS, BACKGROUNDS, COLORS, DIRECTIONS, MOTIONS, SHAPES

SEEN = ("visual_quality", "dynamic_quality")
"""The dimensions that can be judged without the prompt."""
DEFECTS = [label for dimension in SEEN for label in LABELS[dimension]]
SHOWN = [*SHAPES, *COLORS, *MOTIONS, *BACKGROUNDS, *BACKGROUND_COLORS, *DIRECTIONS, *"1234"]
WEIGHTS = OBJECT_WEIGHTS | {"loss_defects": 5.0, "loss_shown": 5.0, "loss_mos": 1.0}
"""Weight of each loss."""


@dataclass
class VisionArguments:
    """What this recipe adds to transformers' options."""

    model_name_or_path: str = field(metadata={"help": "a Qwen3-VL model; only its vision tower is trained"})
    compile_blocks: bool = field(
        default=False, metadata={"help": "compile each transformer block (1.4 times as fast on a CPU)"}
    )


OPTIONS = (VisionArguments, FramePlan, TrainingArguments)


def chunk_targets(plan: WorldPlan, at: float) -> list[float]:
    """For each of `DEFECTS`: 0 when it is not active at second `at`, else 0.5 to 1 by its severity."""
    active = dict.fromkeys(DEFECTS, 0.0)
    for defect in plan.defects:
        if defect.label in active and (defect.start is None or defect.start <= at <= (defect.end or 0.0)):
            active[defect.label] = 0.5 + defect.severity / 2
    return list(active.values())


def clip_targets(plan: WorldPlan) -> list[float]:
    """For each of `SHOWN`: whether the clip shows it, 0 or 1."""
    scene = plan.shown
    words = {group.shape for group in scene.groups} | {group.color for group in scene.groups}
    words |= {group.motion for group in scene.groups} | {scene.background, scene.background_color}
    words |= {scene.camera or "", str(sum(group.count for group in scene.groups))}
    return [float(word in words) for word in SHOWN]


class Clips(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i: training clip i of the world as pixel rows, grids and targets, with one slow chunk.

    All clips have the same shapes, so that kernels are built only once.
    """

    def __init__(self, n: int, plan: FramePlan, processor: QSaveProcessor) -> None:
        self.n, self.plan = n, plan
        self.patch_size, self.merge_size = processor.patch_size, processor.merge_size

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # Seed 1: other clips than those of the later stages.
        scene = world_plan("train", index, seed=1)
        item = render_plan(scene)
        sampling = Sampling(max_frames=self.plan.max_frames)
        chunks = plan_chunks(read_clip(item.frames, sampling, times=item.times.tolist()), self.plan)
        size, side = self.patch_size, self.plan.token_side
        tokens = token_targets(scene, [(chunk.height // side, chunk.width // side) for chunk in chunks])
        mos = scene.opinion.mos
        return {
            "pixels": torch.cat([patchify(pair, size, self.merge_size) for pair in resize_chunks(chunks)]),
            "grids": torch.tensor([[1, chunk.height // size, chunk.width // size] for chunk in chunks]),
            "defects": torch.tensor([chunk_targets(scene, chunk.time) for chunk in chunks]),
            "shown": torch.tensor(clip_targets(scene)),
            "mos": torch.tensor([mos[dimension] for dimension in SEEN]),
            **{name: getattr(tokens, name) for name in OBJECT_TARGETS},
        }


class TowerWithHeads(torch.nn.Module):
    """The vision tower, and heads that read its tokens: one for each chunk, two for the clip."""

    def __init__(self, visual: Any, width: int, chunks: int) -> None:
        super().__init__()
        self.visual = visual
        self.merged = visual.spatial_merge_size**2
        self.tell = ObjectHeads(width)
        self.defects = torch.nn.Linear(2 * width, len(DEFECTS))
        self.enter = torch.nn.Linear(2 * width, width)
        self.when = torch.nn.Parameter(0.1 * torch.randn(chunks, width))
        layer = torch.nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.compare = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.mos = torch.nn.Linear(2 * width, len(SEEN))
        self.shown = torch.nn.Linear(2 * width, len(SHOWN))

    def forward(self, pixels: torch.Tensor, grids: torch.Tensor, **targets: torch.Tensor) -> dict[str, Any]:
        """Losses on pixels [clips, patches, values], uint8, grids [clips, chunks, 3], targets of `Clips`."""
        output = self.visual(normalize(pixels.flatten(0, 1)), grid_thw=grids.flatten(0, 1), return_dict=True)
        tokens = output.pooler_output.float()
        counts = (grids.flatten(0, 1).prod(dim=1) // self.merged).tolist()
        parts = tokens.split(counts)
        pooled = torch.stack([torch.cat([part.mean(dim=0), part.amax(dim=0)]) for part in parts])
        pooled = pooled.view(*grids.shape[:2], -1)
        inside = self.compare(self.enter(pooled) + self.when[: grids.shape[1]])
        clip = torch.cat([inside.mean(dim=1), inside.amax(dim=1)], dim=-1)
        entropy = F.binary_cross_entropy_with_logits
        losses = {
            **self.tell(tokens, **{name: targets[name] for name in OBJECT_TARGETS}),
            "loss_defects": entropy(self.defects(pooled).float(), targets["defects"]),
            "loss_shown": entropy(self.shown(clip).float(), targets["shown"]),
            "loss_mos": (self.mos(clip).float() + 3 - targets["mos"]).square().mean(),
        }
        loss = sum(WEIGHTS[name] * value for name, value in losses.items())
        return {"loss": loss, **{name: value.detach() for name, value in losses.items()}}


class VisionTrainer(Trainer):
    """Transformers' trainer with Muon, and with each loss in the log."""

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = muon_optimizer(self.model if model is None else model, self.args)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = model(**inputs)
        self.parts = getattr(self, "parts", [])
        self.parts.append({name: value.item() for name, value in losses.items() if name != "loss"})
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        parts, self.parts = getattr(self, "parts", []), []
        for name in parts[0] if parts else ():
            logs[name] = round(sum(part[name] for part in parts) / len(parts), 4)
        super().log(logs, start_time)


def main() -> None:
    arguments, plan, config = parse_options(sys.argv[1:], *OPTIONS)
    config.remove_unused_columns = False
    output = Path(config.output_dir)
    set_seed(config.seed)
    processor = QSaveProcessor.for_model(arguments.model_name_or_path)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model_name_or_path, dtype=torch.float32)
    visual = use_fast_vision(model.model.visual)
    if arguments.compile_blocks:
        for block in visual.blocks:
            block.compile()
    save_options(output, config, plan, arguments)
    tower = TowerWithHeads(visual, model.config.text_config.hidden_size, (plan.max_frames + 1) // 2)
    trainer = VisionTrainer(
        model=tower,
        args=config,
        train_dataset=Clips(rows_needed(config), plan, processor),
    )
    trainer.train(resume_from_checkpoint=last_finished_checkpoint(output))
    if trainer.is_world_process_zero():
        model.save_pretrained(output)
        processor.tokenizer.save_pretrained(output)


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
