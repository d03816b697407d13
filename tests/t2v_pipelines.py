"""Tiny text-to-video pipelines with random weights, from configurations only, and how they are sampled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from rollout import Rollout, SamplingOptions, sample

PROMPT = "a red circle moves left"
WORDS = ("<pad>", "</s>", "<unk>", *["a", "red", "blue", "circle", "square", "moves", "left", "right"])
TEXT_WIDTH = 32


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of `WORDS`, and one at the end of a text."""
    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )


def t5(config: type = T5Config, model: type = T5EncoderModel) -> Any:
    """A text encoder of one layer."""
    return model(
        config(
            vocab_size=len(WORDS),
            d_model=TEXT_WIDTH,
            d_kv=8,
            d_ff=32,
            num_heads=4,
            num_layers=1,
            dropout_rate=0.0,
        )
    )


def flow_unipc() -> UniPCMultistepScheduler:
    """Wan's scheduler; its timesteps are whole numbers."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan(channels: int = 16, **changes: Any) -> WanTransformer3DModel:
    """Wan's transformer, 28 thousand weights."""
    sizes: dict[str, Any] = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": TEXT_WIDTH,
        "freq_dim": 256,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }
    return WanTransformer3DModel(**sizes | changes)


def build_wan() -> WanPipeline:
    """Wan 2.1."""
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    return WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(UMT5Config, UMT5EncoderModel),
        vae=vae,
        transformer=wan(),
        scheduler=flow_unipc(),
    )


def build_wan_5b() -> WanPipeline:
    """Wan 2.2 5B, which gives each token a timestep of its own."""
    vae = AutoencoderKLWan(
        base_dim=3,
        z_dim=48,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        scale_factor_spatial=16,
        temperal_downsample=[False, True, True],
    )
    return WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(UMT5Config, UMT5EncoderModel),
        vae=vae,
        transformer=wan(48),
        scheduler=flow_unipc(),
        expand_timesteps=True,
    )


def build_ltx() -> LTXPipeline:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=TEXT_WIDTH,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
    )
    return LTXPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def build_cogvideox(*, rotary: bool = False) -> CogVideoXPipeline:
    """CogVideoX 2B, or with rotary positions as in 5B; the noise levels are those of 2B."""
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=TEXT_WIDTH,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=rotary,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
        timestep_spacing="trailing",
    )
    return CogVideoXPipeline(
        tokenizer=tokenizer(), text_encoder=t5(), vae=vae, transformer=transformer, scheduler=scheduler
    )


def build_hunyuan() -> HunyuanVideoPipeline:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    vae = AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4
    )
    sizes = {"vocab_size": len(WORDS), "intermediate_size": 32, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(LlamaConfig(hidden_size=16, **sizes)),
        tokenizer=tokenizer(),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(CLIPTextConfig(hidden_size=8, max_position_embeddings=77, **sizes)),
        tokenizer_2=tokenizer(),
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "wan": build_wan,
    "wan_5b": build_wan_5b,
    "ltx": build_ltx,
    "cogvideox": build_cogvideox,
    "hunyuan": build_hunyuan,
}

SIDES = {"wan": 16, "wan_5b": 32, "ltx": 32, "cogvideox": 16, "hunyuan": 16}
"""Pixels: no smaller clip passes the VAE."""


def build(name: str, *, seed: int = 0) -> Any:
    """A pipeline of `BUILDERS` in evaluation mode; the same weights for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = BUILDERS[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def options_for(name: str, *, guidance: float = 1.0, steps: int = 2, **extra: Any) -> SamplingOptions:
    """How a pipeline of `BUILDERS` is sampled: 8 or 9 frames."""
    extra = {"max_sequence_length": 16} | extra
    if name == "hunyuan":
        extra |= {"prompt_template": {"template": "{}", "crop_start": 0}}
    return SamplingOptions(
        height=SIDES[name],
        width=SIDES[name],
        num_frames=8 if name == "cogvideox" else 9,
        fps=8.0,
        steps=steps,
        guidance=guidance,
        extra=extra,
    )


def sampled(
    pipeline: Any, name: str, *, number: int = 2, guidance: float = 1.0, steps: int = 2, **extra: Any
) -> Rollout:
    """Videos of `PROMPT` with the seeds 0, 1 ..."""
    options = options_for(name, guidance=guidance, steps=steps, **extra)
    return sample(pipeline, PROMPT, list(range(number)), options)
