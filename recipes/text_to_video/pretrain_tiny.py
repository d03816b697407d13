"""Train the embedded generator on clean clips of the rendered world: first the VAE, then the transformer.

    python recipes/text_to_video/pretrain_tiny.py --output_dir outputs/t2v/pretrained

Writes `pipeline/`, which `WanPipeline.from_pretrained` loads, and `log.jsonl`. Stopped and started again, it
goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from checkpoints import resume, save
from diffusers import AutoencoderKLWan, WanPipeline
from diffusers.training_utils import EMAModel
from kernel_muon import optimizers_for
from options import parse_options
from safetensors.torch import load_file, save_file
from tiny_pipeline import TEXT_LENGTH, build_pipeline
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from world_prompts import NUM_FRAMES, object_frames, object_plans


@dataclass(frozen=True)
class Options:
    """Options of a pretraining run.

    Attributes:
        output_dir: where everything is written.
        vae_steps: updates of the VAE, of `vae_batch` clips each, or three times as many short ones.
        clips: encoded once; the transformer learns from them again and again.
        steps: updates of the transformer and the text encoder, of `batch` clips each.
        unprompted: share of clips with an empty prompt, for guidance.
        save_every: steps between two checkpoints.
    """

    output_dir: str = "outputs/t2v/pretrained"
    vae_steps: int = 800
    vae_batch: int = 4
    vae_learning_rate: float = 3e-3
    clips: int = 8000
    steps: int = 6600
    batch: int = 16
    learning_rate: float = 2e-3
    unprompted: float = 0.1
    save_every: int = 100
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv)
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    pipeline = build_pipeline(seed=options.seed)
    if (output / "vae.safetensors").exists():
        pipeline.vae.load_state_dict(load_file(output / "vae.safetensors"))
    else:
        train_vae(pipeline.vae, options, output)
    latents = encode_clips(pipeline.vae, options, output)
    normalise_latents(pipeline.vae, latents)
    train_transformer(pipeline, latents, options, output)
    pipeline.to(torch.float16).save_pretrained(output / "pipeline")
    print(f"saved {output / 'pipeline'}")


def train_vae(vae: AutoencoderKLWan, options: Options, output: Path) -> None:
    """Teach the VAE to copy clips: absolute error of pixels and of their differences, and a little KL.

    The first half of the steps sees 5 frames of three times as many clips: what most needs learning, colours
    and edges, differs between clips and not between frames.
    """
    short, short_batch = 5, 3 * options.vae_batch
    plans = object_plans("train", options.vae_steps * short_batch, seed=options.seed)

    def loss_of(step: int) -> dict[str, Tensor]:
        frames, number = (
            (short, short_batch) if 2 * step < options.vae_steps else (NUM_FRAMES, options.vae_batch)
        )
        start = step % (NUM_FRAMES - frames + 1)
        batch = plans[step * short_batch : step * short_batch + number]
        clips = [torch.from_numpy(object_frames(plan)[start : start + frames]) for plan in batch]
        pixels = to_pixels(clips).to(vae.device)
        posterior = vae.encode(pixels).latent_dist
        copy = vae.decode(posterior.sample(), return_dict=False)[0]
        edges = sum(functional.l1_loss(copy.diff(dim=d), pixels.diff(dim=d)) for d in (2, 3, 4))
        kl = posterior.kl().mean() / pixels[0].numel()
        # The object covers a tenth of the picture and must not count for a tenth.
        salience = (pixels - pixels.mean(dim=(3, 4), keepdim=True)).abs().mean(dim=1, keepdim=True)
        error = ((copy - pixels).abs() * (1 + 6 * salience)).mean()
        return {"loss": error + edges + 1e-4 * kl, "error": error, "edges": edges, "kl": kl}

    vae.train()
    run(
        "vae",
        loss_of,
        modules=[vae],
        optimizers=optimizers_for(vae, lr=options.vae_learning_rate),
        steps=options.vae_steps,
        options=options,
        output=output,
    )
    vae.eval()
    save_file(vae.state_dict(), output / "vae.safetensors")


def to_pixels(clips: list[Tensor]) -> Tensor:
    """uint8 [T, H, W, 3] each to float32 [B, 3, T, H, W] in [-1, 1]."""
    return torch.stack(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


@torch.no_grad()
def encode_clips(vae: AutoencoderKLWan, options: Options, output: Path) -> Tensor:
    """Raw latents of the training clips, float32 [N, C, T', h, w]; made once and kept in a file."""
    path = output / "latents.safetensors"
    if not path.exists():
        plans = object_plans("train", options.clips, seed=options.seed + 1)
        parts = []
        for start in tqdm(range(0, len(plans), 16), desc="encode", unit="batch"):
            pixels = to_pixels([torch.from_numpy(object_frames(plan)) for plan in plans[start : start + 16]])
            parts.append(vae.encode(pixels.to(vae.device)).latent_dist.mode().half().cpu())
        save_file({"latents": torch.cat(parts)}, output / "latents.part")
        (output / "latents.part").rename(path)
    return load_file(path)["latents"].float()


def normalise_latents(vae: AutoencoderKLWan, latents: Tensor) -> None:
    """Write mean and deviation of each channel to the VAE's configuration, and apply them in place."""
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    latents.sub_(mean.view(1, -1, 1, 1, 1)).div_(std.view(1, -1, 1, 1, 1))


def train_transformer(pipeline: WanPipeline, latents: Tensor, options: Options, output: Path) -> None:
    """Flow matching of the transformer together with its text encoder; the average of weights is kept."""
    transformer, text_encoder = pipeline.transformer, pipeline.text_encoder
    prompts = [plan.prompt for plan in object_plans("train", len(latents), seed=options.seed + 1)]
    shift = pipeline.scheduler.config.flow_shift
    trained = torch.nn.ModuleList([transformer, text_encoder])
    average = EMAModel(trained.parameters(), decay=0.998, use_ema_warmup=True, power=0.75)

    def loss_of(step: int) -> dict[str, Tensor]:
        device = transformer.device
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        chosen = torch.randint(len(latents), (options.batch,), generator=generator)
        clean = latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        # Spread evenly over (0, 1), so that no noise level is left out of a batch.
        even = (torch.arange(options.batch) + torch.rand((), generator=generator)) / options.batch
        sigma = shift * even / (1 + (shift - 1) * even)
        silent = torch.rand(options.batch, generator=generator) < options.unprompted
        texts = [
            "" if quiet else prompts[i] for i, quiet in zip(chosen.tolist(), silent.tolist(), strict=True)
        ]
        clean, noise, sigma = clean.to(device), noise.to(device), sigma.to(device)
        level = sigma.view(-1, 1, 1, 1, 1)
        velocity = transformer(
            hidden_states=(1 - level) * clean + level * noise,
            timestep=sigma * 1000,
            encoder_hidden_states=pipeline._get_t5_prompt_embeds(
                texts, max_sequence_length=TEXT_LENGTH, device=device
            ),
            return_dict=False,
        )[0]
        return {"loss": functional.mse_loss(velocity, noise - clean)}

    run(
        "transformer",
        loss_of,
        modules=[trained],
        optimizers=optimizers_for(trained, lr=options.learning_rate, tables=[text_encoder.shared.weight]),
        steps=options.steps,
        options=options,
        output=output,
        average=average,
    )
    average.copy_to(trained.parameters())


def run(
    name: str,
    loss_of: Callable[[int], dict[str, Tensor]],
    *,
    modules: list[torch.nn.Module],
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    options: Options,
    output: Path,
    average: EMAModel | None = None,
) -> None:
    """`steps` updates with a linear warm-up and a cosine decay; resumable, logged every 10 steps."""
    set_seed(options.seed)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    accelerator.prepare(*modules, *optimizers)
    if average is not None:
        accelerator.register_for_checkpointing(average)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    folder = output / f"{name}_checkpoints"
    first = resume(accelerator, folder)
    if average is not None:
        average.to(accelerator.device)  # it was made, and is loaded, on the CPU
    with (output / "log.jsonl").open("a") as log, tqdm(total=steps, initial=first, desc=name) as bar:
        for step in range(first, steps):
            for optimizer, rate in zip(optimizers, rates, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate * schedule(step, steps)
            parts = loss_of(step)
            accelerator.backward(parts["loss"])
            for module in modules:
                accelerator.clip_grad_norm_(module.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if average is not None:
                average.step(modules[0].parameters())
            bar.update()
            if (step + 1) % 10 == 0:
                values = {key: round(value.item(), 6) for key, value in parts.items()}
                bar.set_postfix(values)
                log.write(json.dumps({"stage": name, "step": step + 1, **values}) + "\n")
                log.flush()
            if (step + 1) % options.save_every == 0 and step + 1 < steps:
                save(accelerator, folder, step + 1)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate in a step: linear to 1 over the first 50, then cosine to 0."""
    return min((step + 1) / 50, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))


if __name__ == "__main__":
    sys.exit(main())
