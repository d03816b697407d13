"""The embedded generator: a stock `WanPipeline` at a small size, from configurations only.

Every part is the class that Wan uses; what differs is in the numbers below. The VAE works on 2x2 pixel
patches and has shortcuts, as that of Wan 2.2: four times cheaper, and it learns in minutes. It makes a
frame only four times smaller, since so few channels cannot hold an edge of a larger cell; the transformer
takes 4x4 patches of its latents instead, so that a clip of 17 x 64 x 64 is 9 x 4 x 4 tokens.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from qsave_reward.world import vocabulary

LATENT_CHANNELS = 4
TEXT_WIDTH = 192
TEXT_LENGTH = 32
"""Tokens of a prompt, padding included (`max_sequence_length` of the pipeline); the longest has 21."""


def build_pipeline(*, seed: int = 0) -> WanPipeline:
    """An untrained generator: VAE 0.4 M weights, transformer 3.4 M, text encoder 0.8 M; eval mode."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(tokenizer),
                d_model=TEXT_WIDTH,
                d_kv=32,
                num_heads=6,
                num_layers=2,
                d_ff=384,
                relative_attention_num_buckets=32,
                relative_attention_max_distance=32,
                dropout_rate=0.0,
            )
        ),
        vae=AutoencoderKLWan(
            base_dim=16,
            z_dim=LATENT_CHANNELS,
            dim_mult=[2, 2],
            num_res_blocks=1,
            attn_scales=[],
            temperal_downsample=[True],
            in_channels=12,
            out_channels=12,
            patch_size=2,
            is_residual=True,
            scale_factor_temporal=2,
            scale_factor_spatial=4,
            latents_mean=[0.0] * LATENT_CHANNELS,
            latents_std=[1.0] * LATENT_CHANNELS,
        ),
        transformer=WanTransformer3DModel(
            patch_size=(1, 4, 4),
            num_attention_heads=6,
            attention_head_dim=32,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            text_dim=TEXT_WIDTH,
            freq_dim=128,
            ffn_dim=512,
            num_layers=6,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=64,
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
    )
    # Latents begin nearly without noise; at a spread of 1 the decoder would learn nothing from them for long.
    torch.nn.init.constant_(pipeline.vae.quant_conv.bias[LATENT_CHANNELS:], -6.0)
    for part in (pipeline.vae, pipeline.transformer, pipeline.text_encoder):
        part.eval()
    return pipeline


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the world's prompts; other words become `<unk>`."""
    words = ["<pad>", "</s>", "<unk>", ",", *sorted(vocabulary())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(",", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_LENGTH,
    )
