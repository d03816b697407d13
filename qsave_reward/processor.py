"""Chunks and text to model inputs: a transformers processor that needs torch only, no torchvision.

Each chunk of two frames is one "image" of Qwen3-VL with `image_grid_thw = [1, h, w]`: a video patch
differs from an image patch only in holding two different frames. Trainers that know lists of images and
nothing else (TRL's SFT and GRPO) thus take SlowFast input as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoTokenizer, BatchFeature
from transformers.processing_utils import ProcessorMixin

from qsave_reward.errors import ConfigError
from qsave_reward.prompt import build_messages
from qsave_reward.slowfast import Chunk

TEMPORAL_PATCH = 2
PIXEL_MEAN = PIXEL_STD = 127.5
"""Qwen3-VL normalises (x / 255 - 0.5) / 0.5."""


def resize_chunks(chunks: Sequence[Chunk], device: torch.device | str = "cpu") -> list[torch.Tensor]:
    """Resize chunks to their target sizes, all chunks of one size in one batch.

    Args:
        chunks: chunks of one clip or of several.
        device: where the work is done; a GPU gives the same pixels within one grey level.

    Returns:
        uint8 [2, height, width, 3] for each chunk, in the order given: bicubic with antialiasing.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, chunk in enumerate(chunks):
        groups.setdefault((*chunk.frames.shape[1:3], chunk.height, chunk.width), []).append(i)
    resized: list[torch.Tensor] = [torch.empty(0)] * len(chunks)
    for (*_, height, width), members in groups.items():
        pixels = torch.from_numpy(np.concatenate([chunks[i].frames for i in members])).to(device)
        pixels = _resize(pixels.permute(0, 3, 1, 2), height, width).permute(0, 2, 3, 1)
        for i, pair in zip(members, torch.split(pixels, TEMPORAL_PATCH), strict=True):
            resized[i] = pair
    return resized


def _resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 [N, 3, H, W] to uint8 [N, 3, height, width]."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    if pixels.device.type == "cpu":  # the 8-bit kernel, bit for bit what Pillow does
        return F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    real = F.interpolate(pixels.float(), size=(height, width), mode="bicubic", antialias=True)
    return real.round_().clamp_(0, 255).to(torch.uint8)


def patchify(pair: torch.Tensor, patch_size: int, merge_size: int) -> torch.Tensor:
    """One resized chunk, uint8 [2, H, W, 3], to uint8 rows [H / patch * W / patch, 3 * 2 * patch * patch].

    Rows are ordered so that the patches of one token follow each other; values are channel, frame, row,
    column, the layout of the Qwen2-VL and Qwen3-VL image processors.
    """
    frames, height, width, _ = pair.shape
    rows, columns = height // patch_size // merge_size, width // patch_size // merge_size
    grid = pair.view(frames, rows, merge_size, patch_size, columns, merge_size, patch_size, 3)
    return grid.permute(1, 4, 2, 5, 7, 0, 3, 6).reshape(-1, 3 * frames * patch_size * patch_size)


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 values of any shape to float32 in [-1, 1], what the vision tower expects."""
    return pixels.to(torch.float32, copy=True).sub_(PIXEL_MEAN).div_(PIXEL_STD)


class QSaveProcessor(ProcessorMixin):
    """Tokenizer plus chunk preprocessing behind the interface that transformers and TRL expect.

    `images` are resized chunks: uint8 [2, H, W, 3] arrays or tensors with H and W multiples of
    `patch_size * merge_size`. `text` holds one `<|image_pad|>` for each chunk, as the chat template
    writes it.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: Any = None,
        patch_size: int = 16,
        merge_size: int = 2,
        chat_template: str | None = None,
    ) -> None:
        self.patch_size = patch_size
        self.merge_size = merge_size
        self.image_token = "<|image_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(tokenizer, chat_template=chat_template or tokenizer.chat_template)  # type: ignore[no-untyped-call]

    @classmethod
    def for_model(cls, name_or_path: str | Path) -> QSaveProcessor:
        """Build from a checkpoint of any Qwen3-VL-like model: its tokenizer and its vision tower's sizes.

        Raises:
            ConfigError: when there is no such checkpoint.
        """
        try:
            vision = AutoConfig.from_pretrained(name_or_path).vision_config
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        except (OSError, ValueError, AttributeError) as error:  # nothing there, damaged, no vision tower
            raise ConfigError(
                "expected a directory with a vision-language model or a hub id that can be reached, got "
                f"{str(name_or_path)!r}: {error}"
            ) from error
        if vision.temporal_patch_size != TEMPORAL_PATCH:
            raise ConfigError(
                f"expected a vision tower that takes {TEMPORAL_PATCH} frames a patch, "
                f"{name_or_path} takes {vision.temporal_patch_size}"
            )
        return cls(tokenizer, patch_size=vision.patch_size, merge_size=vision.spatial_merge_size)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, "mm_token_type_ids", "pixel_values", "image_grid_thw"]

    def __call__(
        self,
        images: Sequence[Any] | None = None,
        text: str | Sequence[str] = "",
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenize texts and turn their chunks into pixel rows.

        Args:
            images: chunks of all texts, flat or one list for each text.
            text: one text or a list of texts.
            **kwargs: passed on to the tokenizer (`padding`, `padding_side`, `return_tensors`, ...).

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` (1 at image tokens), and, when there are
            chunks, `pixel_values` float32 [patches, 3 * 2 * patch * patch] and `image_grid_thw` int64
            [chunks, 3].

        Raises:
            ConfigError: when the number of chunks and of image tokens in the text differ, or a chunk has
            a wrong shape.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pairs = [self._as_pair(image) for image in _flatten(images)]
        grids = [[1, pair.shape[1] // self.patch_size, pair.shape[2] // self.patch_size] for pair in pairs]
        expected = sum(one.count(self.image_token) for one in texts)
        if expected != len(pairs):
            raise ConfigError(f"the text has {expected} image tokens but {len(pairs)} chunks were given")
        counts = iter(rows * columns // self.merge_size**2 for _, rows, columns in grids)
        texts = [self._expand(one, counts) for one in texts]
        return_tensors = kwargs.pop("return_tensors", None)
        kwargs.pop("return_mm_token_type_ids", None)
        inputs = dict(self.tokenizer(texts, **kwargs))
        inputs["mm_token_type_ids"] = [
            [int(token == self.image_token_id) for token in row] for row in inputs["input_ids"]
        ]
        if pairs:
            rows = [patchify(pair, self.patch_size, self.merge_size) for pair in pairs]
            inputs["pixel_values"] = normalize(torch.cat(rows))
            inputs["image_grid_thw"] = torch.tensor(grids)
        return BatchFeature(inputs, tensor_type=return_tensors)

    def _as_pair(self, image: Any) -> torch.Tensor:
        pair = torch.as_tensor(image)
        side = self.patch_size * self.merge_size
        shape = tuple(pair.shape)
        if pair.dtype != torch.uint8 or len(shape) != 4 or shape[0] != TEMPORAL_PATCH or shape[3] != 3:
            raise ConfigError(f"expected a chunk as uint8 [2, H, W, 3], got {pair.dtype} {list(shape)}")
        if shape[1] % side or shape[2] % side or not shape[1] * shape[2]:
            raise ConfigError(
                f"expected chunk sides that are multiples of {side} pixels, got {shape[1]}x{shape[2]}"
            )
        return pair

    def _expand(self, text: str, counts: Any) -> str:
        head, *tail = text.split(self.image_token)
        return head + "".join(self.image_token * next(counts) + part for part in tail)

    def question(self, times: Sequence[float], prompt: str) -> str:
        """The rendered chat up to the point where the assistant starts to write."""
        messages = build_messages(times, prompt)
        rendered: str = self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
        )
        return rendered


def _flatten(images: Sequence[Any] | None) -> list[Any]:
    """Chunks given flat or as one list for each text, as one flat list."""
    flat: list[Any] = []
    for entry in images if images is not None else ():
        flat.extend(entry) if isinstance(entry, (list, tuple)) else flat.append(entry)
    return flat
