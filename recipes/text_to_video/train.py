"""Fine-tune a text-to-video pipeline from the scores of a reward model.

    python recipes/text_to_video/train.py --config configs/text_to_video/tiny.yaml --output_dir OUT
    accelerate launch recipes/text_to_video/train.py --config ...          # several GPUs, or DeepSpeed ZeRO-2

Each update samples videos in groups of one prompt, scores them while the next group is sampled, compares them
within their group, and moves a LoRA towards the better ones (`nft`, `grpo`). Evaluations use the stock
sampler on other prompts. A run that was stopped goes on from its last checkpoint and gives the same numbers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, set_seed
from accelerators import keep_model_out, open_accelerator
from checkpoints import resume, save
from evaluation import Evaluation, alarms, evaluate, merged, metric_names
from families import family_of
from lora import Policies, add_lora, blend, export_lora, using
from options import parse_options
from pipelines import load_pipeline
from rewards import Scored, check_identity, check_masked, identity, open_scoring
from rollout import Rollout, group_seeds, sample
from run_log import RunLog, read_log
from sde import one_step_sde
from sheets import ROWS, save_sheet
from text_prompts import in_world, prompts_of_update, read_prompts
from torch import Tensor
from tqdm import tqdm
from train_options import TrainOptions
from update_numbers import guard_numbers, reward_numbers
from updates import Learner

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.types import DIMENSIONS
from qsave_reward.weighting import advantages


class Run:
    """A run: pipeline, LoRA, reward and log. Every process has one; only the main one writes."""

    def __init__(self, options: TrainOptions) -> None:
        self.options, self.output = options, Path(options.output_dir)
        accelerator = self.accelerator = open_accelerator(options)
        options.check_folder(self.output)
        set_seed(options.seed)
        self.prompts = read_prompts(options.prompts)
        self.eval_prompts = read_prompts(options.eval_prompts, options.eval_count)
        if len(self.prompts) < options.prompts_per_update:
            raise ConfigError(
                f"{options.prompts} has {len(self.prompts)} prompts, an update takes "
                f"{options.prompts_per_update}"
            )
        device = options.reward_device or str(accelerator.device)
        self.scorings = {"reward": open_scoring(options, options.reward, device=device)}
        if options.held_out:
            self.scorings["held_out"] = open_scoring(options, options.held_out, device=device)
        metrics = metric_names(list(self.scorings), gold=in_world(options.eval_prompts))
        if options.keep_best not in metrics:
            raise ConfigError(f"keep_best must be one of {', '.join(metrics)}, got {options.keep_best}")
        self.pipeline = load_pipeline(
            options.pipeline,
            dtype=options.dtype,
            device=accelerator.device,
            arguments=options.sampling().extra,
        )
        family = family_of(self.pipeline)
        if options.algorithm == "grpo" and not family.flow:
            raise ConfigError(f"grpo needs a flow-matching pipeline, got {family.pipeline}; use nft")
        transformer = self.pipeline.transformer
        parameters = add_lora(
            transformer,
            rank=options.lora_rank,
            alpha=options.lora_alpha,
            targets=options.lora_targets or family.lora_targets,
            seed=options.seed,
        )
        if options.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        optimizer = torch.optim.AdamW(
            parameters,
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            eps=options.adam_epsilon,
        )
        model, optimizer = accelerator.prepare(transformer, optimizer)
        self.policies = Policies(parameters)
        accelerator.register_for_checkpointing(self.policies)
        keep_model_out(accelerator)
        self.learner = Learner(
            accelerator,
            model,
            optimizer,
            pipeline=self.pipeline,
            family=family,
            policies=self.policies,
            options=options,
        )
        self.step = resume(accelerator, self.output / "checkpoints")
        self._check_reward()
        if accelerator.is_main_process:
            options.save(self.output)
        self.log = RunLog(self.output, step=self.step) if accelerator.is_main_process else None

    def _check_reward(self) -> None:
        """The rewards must be those that the log names."""
        begun = {row["kind"]: row for row in read_log(self.output / "log.jsonl") if self.step}
        for name, scoring in self.scorings.items():
            if name in begun:
                check_identity(scoring.reward, begun[name]["identity"])

    def train(self) -> None:
        """All updates that are left; when one fails, nothing that waits is scored."""
        try:
            self._train()
        finally:
            for scoring in self.scorings.values():
                scoring.close()
            if self.log:
                self.log.close()

    def _train(self) -> None:
        first = self.step
        if self.log:
            named = {row["kind"] for row in read_log(self.log.path)}
            for name, scoring in self.scorings.items():
                if name not in named:  # a held-out one may come later
                    self.log.write(name, first, {"identity": identity(scoring.reward)})
        if first == 0:
            self.evaluate(0)
        main = self.accelerator.is_main_process
        with tqdm(total=self.options.updates, initial=first, desc="updates", disable=not main) as bar:
            for update in range(first, self.options.updates):
                values = self.update(update)
                self.step = update + 1
                if self.log:
                    self.log.write("update", self.step, values)
                bar.set_postfix({n: f"{values[f'reward.{n}']:.3f}" for n in DIMENSIONS})
                bar.update()
                last = self.step == self.options.updates
                if self.step % self.options.evaluate_every == 0 or last:
                    self.evaluate(self.step)
                if self.step % self.options.save_every == 0 or last:
                    save(self.accelerator, self.output / "checkpoints", self.step)
        if main:
            self.export("last")

    def update(self, update: int) -> dict[str, float]:
        """Sample, score, compare, learn. Returns what goes to the log."""
        options, seconds = self.options, {}
        began = time.perf_counter()
        rollouts, pending = self.rollouts(update)
        seconds["rollout"] = time.perf_counter() - began
        scored = self.scored(pending)
        seconds["waited_for_scores"] = time.perf_counter() - began - seconds["rollout"]
        values, groups, own = self.gathered(rollouts, scored)
        check_masked(values, scored, limit=options.max_masked, step=self.step)
        compared = advantages(values, groups, weights=options.dimension_weights())
        parts = [torch.from_numpy(chunk) for chunk in np.split(compared[own], len(rollouts))]
        trained = time.perf_counter()
        numbers = self.learner.update(
            rollouts,
            parts,
            seed=options.seed * 1_000_003 + update,
            first=self.accelerator.process_index * len(rollouts),
        )
        policies = self.policies
        kept = 0.0 if options.algorithm == "grpo" else min(options.old_rate * (update + 1), options.old_limit)
        blend(policies.old, policies.current, kept)
        blend(policies.average, policies.current, min(options.average, (1 + update) / (10 + update)))
        seconds["training"] = time.perf_counter() - trained
        seconds["scoring"] = sum(one.seconds for one in scored)
        numbers = self.averaged(numbers | guard_numbers(rollouts))
        numbers |= {f"seconds.{name}": value for name, value in seconds.items()}
        return numbers | reward_numbers(values, groups)

    def rollouts(self, update: int) -> tuple[list[Rollout], list[Any]]:
        """Videos for this process's share of the prompts, and their scores to come."""
        options, accelerator = self.options, self.accelerator
        prompts = prompts_of_update(self.prompts, update, options.prompts_per_update, seed=options.seed)
        share = len(prompts) // accelerator.num_processes
        first = accelerator.process_index * share
        rollouts: list[Rollout] = []
        pending = []
        for i in range(first, first + share):
            *seeds, start = group_seeds(options.seed, update, i, options.group_size + 1)
            for at in range(0, options.group_size, options.batch_size):
                rollouts.append(self.rollout(prompts[i], seeds[at : at + options.batch_size], start=start))
                pending.append(self.scorings["reward"].submit(rollouts[-1]))
        return rollouts, pending

    def rollout(self, prompt: str, seeds: list[int], *, start: int) -> Rollout:
        """One batch of videos by the old policy.

        For GRPO the seed `start` decides what a group has in common, the initial noise and which step is
        stochastic, and `seeds` only the noise of that step.
        """
        options, stock = self.options, self.pipeline.scheduler
        if options.algorithm == "grpo":
            sde = one_step_sde(self.pipeline)
            sde.plan(stochastic=start % max(options.steps // 2, 1), noise=options.noise, seed=seeds[0])
            self.pipeline.scheduler, seeds = sde, [start] * len(seeds)
        try:
            with using(self.policies.current, self.policies.old), self.accelerator.autocast():
                return sample(self.pipeline, prompt, seeds, options.sampling())
        finally:
            self.pipeline.scheduler = stock

    def gathered(
        self, rollouts: Sequence[Rollout], scored: Sequence[Scored]
    ) -> tuple[np.ndarray, list[int], slice]:
        """Scores of all processes [n, 3], the group of each, and which rows are this process's own."""
        own = torch.from_numpy(np.concatenate([one.values for one in scored]))
        everything: Tensor = self.accelerator.gather(own.to(self.accelerator.device)).cpu()
        groups = [row // self.options.group_size for row in range(len(everything))]
        start = self.accelerator.process_index * len(own)
        return everything.double().numpy(), groups, slice(start, start + len(own))

    def averaged(self, numbers: dict[str, float]) -> dict[str, float]:
        """Means over processes."""
        own = torch.tensor(list(numbers.values()), device=self.accelerator.device)
        return dict(zip(numbers, self.accelerator.reduce(own, "mean").tolist(), strict=True))

    def scored(self, pending: Sequence[Any]) -> list[Scored]:
        """Scores of this process's videos; stops as soon as it is certain that too many will be missing."""
        options, scored = self.options, []
        videos = options.prompts_per_update * options.group_size
        for future in pending:
            scored.append(future.result())
            known = np.concatenate([one.values for one in scored])
            others = np.zeros((videos - len(known), known.shape[1]))
            check_masked(np.concatenate([known, others]), scored, limit=options.max_masked, step=self.step)
        return scored

    def evaluate(self, step: int) -> None:
        """Evaluate the running average; keep it if it is the best of those that were trained."""
        options, accelerator = self.options, self.accelerator
        with using(self.policies.current, self.policies.average):
            own = evaluate(
                self.pipeline,
                self.eval_prompts,
                self.scorings,
                sampling=options.eval_sampling(),
                videos=options.eval_videos,
                seed=options.seed,
                gold=in_world(options.eval_prompts),
                batch_size=options.batch_size,
                share=slice(accelerator.process_index, None, accelerator.num_processes),
            )
        shown = -(-ROWS // accelerator.num_processes)
        evaluation = merged(gather_object([replace(own, frames=own.frames[:shown])]))
        if self.log:
            self._write_evaluation(step, evaluation)
        accelerator.wait_for_everyone()

    def _write_evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Log, alarms, sheet, and the LoRA where it is the best so far."""
        metric, means = self.options.keep_best, evaluation.means()
        limit = self.options.max_masked * len(evaluation.prompts) * self.options.eval_videos
        earlier = [row for row in read_log(self.output / "log.jsonl") if row["kind"] == "evaluation"]
        found = alarms(earlier[0], means) if earlier else []
        # What failed may have been the worse part: an evaluation that lacks much is no measure of the best.
        whole = [row for row in earlier if row["step"] and row["failed"] <= limit]
        best = max((row[metric] for row in whole if row.get(metric) is not None), default=-np.inf)
        if step and evaluation.failed() <= limit and means[metric] > best:
            self.export("best")
        for text in found:
            tqdm.write(f"alarm at update {step}: {text}", file=sys.stderr)
        self.log.write("evaluation", step, means | {"failed": evaluation.failed(), "alarms": found})
        save_sheet(evaluation, self.output / "sheets" / f"{step:05d}.png")

    def export(self, name: str) -> None:
        """Write the running average as a LoRA for the stock pipeline."""
        with using(self.policies.current, self.policies.average):
            export_lora(self.pipeline, self.output / name)


def main(argv: Sequence[str] | None = None) -> None:
    try:
        Run(parse_options(TrainOptions, argv)).train()
    except QSaveError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
