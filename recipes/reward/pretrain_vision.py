"""Stage 0 of the embedded model: teach its vision tower to see, before any text.

    python recipes/reward/pretrain_vision.py --model outputs/tiny/base --out outputs/tiny/vision

A language model that must learn from scores alone what a picture is learns it very slowly; large models
start from a pretrained vision tower, and so does this one. Each chunk of two frames is classified on its
own, from the tokens the language model would get: which defects are active and how severe, and which
shapes, colors, motions and background are shown. The classifier is thrown away; the result is the given
model with a better tower.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText

from qsave_reward.fast_vision import use_fast_vision
from qsave_reward.processor import QSaveProcessor, patchify, resize_chunks
from qsave_reward.slowfast import FramePlan, plan_chunks
from qsave_reward.video import Sampling, read_clip
from qsave_reward.world import LABELS, WorldConfig, WorldPlan, render_plan, world_plan
from qsave_reward.world.scene import BACKGROUND_COLORS, BACKGROUNDS, COLORS, DIRECTIONS, MOTIONS, SHAPES

DEFECTS = [*LABELS["visual_quality"], *LABELS["dynamic_quality"]]
SHOWN = [*SHAPES, *COLORS, *MOTIONS, *BACKGROUNDS, *BACKGROUND_COLORS, *DIRECTIONS, *"1234"]


def chunk_targets(plan: WorldPlan, at: float) -> list[float]:
    """Severities of the defects active at second `at` (0: absent), then 0 or 1 for all that is shown."""
    active = dict.fromkeys(DEFECTS, 0.0)
    for defect in plan.defects:
        if defect.label in active and (defect.start is None or defect.start <= at <= (defect.end or 0.0)):
            active[defect.label] = 0.5 + defect.severity / 2
    scene = plan.shown
    words = {group.shape for group in scene.groups} | {group.color for group in scene.groups}
    words |= {group.motion for group in scene.groups} | {scene.background, scene.background_color}
    words |= {scene.camera or "", str(sum(group.count for group in scene.groups))}
    return [*active.values(), *(float(word in words) for word in SHOWN)]


class Chunks(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i: two chunks of training clip i as pixel rows, their grids, and their targets.

    The chunks of a clip look alike, so a step learns more from two chunks each of many clips.
    """

    def __init__(self, n: int, plan: FramePlan, patch_size: int, merge_size: int) -> None:
        self.n, self.plan, self.patch_size, self.merge_size = n, plan, patch_size, merge_size

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        scene = world_plan("train", index, seed=1, config=WorldConfig(num_frames=8))
        item = render_plan(scene)
        sampling = Sampling(max_frames=self.plan.max_frames)
        chunks = plan_chunks(read_clip(item.frames, sampling, times=item.times.tolist()), self.plan)
        chunks = [chunks[0], chunks[1 + index % (len(chunks) - 1)]]
        size = self.patch_size
        return {
            "pixels": torch.cat([patchify(pair, size, self.merge_size) for pair in resize_chunks(chunks)]),
            "grids": torch.tensor([[1, chunk.height // size, chunk.width // size] for chunk in chunks]),
            "targets": torch.tensor([chunk_targets(scene, chunk.time) for chunk in chunks]),
        }


def collate(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([item[name] for item in items]) for name in items[0]}


def pooled(visual: Any, batch: dict[str, torch.Tensor], merge_size: int) -> torch.Tensor:
    """Mean and maximum over each chunk's tokens, [chunks, 2 * hidden]."""
    tokens = visual(batch["pixels"], grid_thw=batch["grids"], return_dict=True).pooler_output.float()
    counts = (batch["grids"].prod(dim=1) // merge_size**2).tolist()
    return torch.stack([torch.cat([t.mean(dim=0), t.amax(dim=0)]) for t in tokens.split(counts)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64, help="clips")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    processor = QSaveProcessor.for_model(args.model)
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
    visual = use_fast_vision(model.model.visual).train()
    head = torch.nn.Linear(2 * model.config.text_config.hidden_size, len(DEFECTS) + len(SHOWN))
    side = processor.patch_size * processor.merge_size
    plan = FramePlan(token_budget=96, max_slow_tokens=16, similarity=0.95, token_side=side)
    data = Chunks(args.steps * args.batch_size, plan, processor.patch_size, processor.merge_size)
    loader = DataLoader(
        data, batch_size=args.batch_size, collate_fn=collate, num_workers=2, prefetch_factor=4
    )
    parameters = [*visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.05, cycle_momentum=False
    )
    started, sums = time.monotonic(), [0.0, 0.0]
    for step, batch in enumerate(loader, start=1):
        logits = head(pooled(visual, batch, processor.merge_size))
        losses = F.binary_cross_entropy_with_logits(logits, batch["targets"], reduction="none").mean(dim=0)
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        for part, value in enumerate((losses[: len(DEFECTS)], losses[len(DEFECTS) :])):
            sums[part] += value.mean().item() / 25
        if step % 25 == 0:
            seconds = time.monotonic() - started
            print(f"step {step} defects {sums[0]:.4f} shown {sums[1]:.4f} {seconds:.0f} s", flush=True)
            sums = [0.0, 0.0]
    model.save_pretrained(args.out)
    processor.tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
