"""`HolisticModel`: three encoders whose tokens a language model reads to name a level.

After AIGVEval (arXiv 2506.04715; second place in NTIRE 2025 XGC Track 2): semantic tokens from the class
token of BLIP's image encoder, motion tokens from the fast pathway of SlowFast-R50, technical tokens from
Video Swin on fragments. The score is the expectation over the five level words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BlipVisionModel, PreTrainedModel

from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.slowfast_network import SlowFastConfig, SlowFastEncoder
from qsave_reward.holistic.text import SLOTS
from qsave_reward.holistic.video_swin import VideoSwin, VideoSwinConfig
from qsave_reward.holistic.views import Views, normalise


class HolisticModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """See the module. Parts of `config.branches` that are left out do not exist."""

    config_class = HolisticConfig
    base_model_prefix = ""
    main_input_name = "input_ids"

    def __init__(self, config: HolisticConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.language: Any = AutoModelForCausalLM.from_config(config.text_config)  # type: ignore[no-untyped-call]
        if "semantic" in config.branches:
            self.semantic: Any = BlipVisionModel(config.vision_config)
            self.semantic_projection = nn.Linear(config.vision_config.hidden_size, width)
        if "motion" in config.branches:
            motion: Any = SlowFastEncoder(SlowFastConfig(**config.motion_config))
            for block in motion.blocks:  # nothing flows from the slow pathway to the map that is used
                block.multipathway_blocks[0], block.multipathway_fusion = nn.Identity(), None
            self.motion, channels = motion, motion.fast_channels
            self.motion_positions = nn.Embedding(config.motion_positions, channels)
            self.motion_projection = nn.Sequential(
                nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
            )
        if "technical" in config.branches:
            self.technical: Any = VideoSwin(VideoSwinConfig(**config.technical_config))
            self.technical_projection = nn.Linear(self.technical.out_channels, width)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """The parts have drawn their own weights; transformers would draw the convolutions anew."""

    def visual_tokens(self, views: Views, branches: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Tokens [B, n, width] of each branch, or of some, for views with a leading axis B."""
        dtype, tokens = self.dtype, {}
        branches = self.config.branches if branches is None else branches
        if "semantic" in branches:
            frames = normalise(views.frames.flatten(0, 1), 1, dtype)
            seen = self.semantic(pixel_values=frames).last_hidden_state[:, 0]  # the class token
            tokens["semantic"] = self.semantic_projection(seen).unflatten(0, views.frames.shape[:2])
        if "motion" in branches:
            fast = self.motion.fast(normalise(views.motion, 1, dtype)).mean(dim=(3, 4)).transpose(1, 2)
            places = torch.arange(fast.shape[1], device=fast.device)
            tokens["motion"] = self.motion_projection(fast + self.motion_positions(places))
        if "technical" in branches:
            pooled = self.technical(normalise(views.fragments, 1, dtype)).mean(dim=(2, 3, 4))
            projected = self.technical_projection(pooled)[:, None]
            tokens["technical"] = projected.expand(-1, self.config.technical_tokens, -1)
        return tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        read_at: Tensor,
        level_ids: Tensor,
        views: Views,
        position_ids: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Logits of the level words divided by the temperature: float32 [B, R, 5].

        Args:
            input_ids: int64 [B, N]; numbers of `SLOTS` stand for visual tokens.
            attention_mask: int64 [B, N], 0 where a text is filled up; or bool [B, 1, N, N], whether
                the token of a row sees that of a column.
            read_at: int64 [B, R].
            level_ids: int64 [5], in the order of `LEVELS`.
            views: a batch.
            position_ids: int64 [B, N]; `None`: as they stand.
        """
        embedded = self.language.get_input_embeddings()(input_ids.clamp_min(0))
        for branch, tokens in self.visual_tokens(views).items():
            slots = (input_ids == SLOTS[branch])[..., None].expand_as(embedded)
            embedded = embedded.masked_scatter(slots, tokens.to(embedded.dtype))
        if attention_mask.ndim == 4:  # as all kinds of attention take it
            unseen = torch.zeros(attention_mask.shape, dtype=embedded.dtype, device=embedded.device)
            attention_mask = unseen.masked_fill(~attention_mask, torch.finfo(embedded.dtype).min)
        decoder = self.language.base_model
        hidden = decoder(
            inputs_embeds=embedded, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        states = hidden.gather(1, read_at[..., None].expand(-1, -1, hidden.shape[-1]))
        head = self.language.get_output_embeddings()
        logits: Tensor = head(states)[..., level_ids].float() / self.config.level_temperature
        return logits


def expected_levels(logits: Tensor) -> Tensor:
    """Scores 1 to 5, float32 [...], of level logits [..., 5] from bad to excellent.

    (The public code stacks its logits from excellent to bad and weighs them 1 to 5.)
    """
    weights = torch.arange(1, 6, dtype=torch.float32, device=logits.device)
    return logits.softmax(dim=-1) @ weights
