"""Chunks to model inputs: parity with the stock classes of transformers, golden ids, refusals."""

import numpy as np
import pytest
import torch
from conftest import WEIGHTS
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from qsave_reward.errors import ConfigError
from qsave_reward.fast_vision import use_fast_vision
from qsave_reward.processor import QSaveProcessor, normalize, patchify, resize_chunks
from qsave_reward.slowfast import Chunk

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def random_pair(height, width, seed=0):
    # Smooth random pictures: pure noise would make resizing a matter of one rounded pixel.
    small = np.random.default_rng(seed).integers(
        0, 256, (2, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8
    )
    return np.ascontiguousarray(small.repeat(8, 1).repeat(8, 2)[:, :height, :width])


def test_pixels_equal_the_stock_image_processor_within_one_grey_level():
    stock = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": 96 * 128},
    )  # fmt: skip
    still = random_pair(150, 210)[:1].repeat(2, axis=0)
    expected = stock(images=[still[0]], return_tensors="pt")
    _, rows, columns = expected["image_grid_thw"][0].tolist()
    (pair,) = resize_chunks([Chunk(still, 0.0, rows * 16, columns * 16, True)])
    ours = normalize(patchify(pair, 16, 2))
    assert ours.shape == expected["pixel_values"].shape
    assert (ours - expected["pixel_values"]).abs().max() <= 1 / 127.5 + 1e-6
    assert ((ours - expected["pixel_values"]).abs() > 1e-5).float().mean() < 0.01


def test_patchify_puts_each_pixel_where_the_model_expects_it():
    pair = torch.from_numpy(random_pair(64, 96))
    rows = normalize(patchify(pair, 16, 2))
    # Row r of the output belongs to token r // 4 and, inside it, to patch r % 4, both counted row by row.
    for row in (0, 5, 14, 23):
        token, inner = divmod(row, 4)
        top, left = (token // 3 * 2 + inner // 2) * 16, (token % 3 * 2 + inner % 2) * 16
        patch = pair[:, top : top + 16, left : left + 16].permute(3, 0, 1, 2)  # channel, frame, y, x
        assert torch.allclose(rows[row], (patch.float() / 255 - 0.5).div(0.5).flatten(), atol=1e-6)


def test_chunks_of_one_size_give_the_logits_of_the_stock_video_path(processor, stock_model):
    pairs = [torch.from_numpy(random_pair(64, 96, seed)) for seed in range(3)]
    text = "".join(f"<{i / 2:.1f} seconds>{IMAGE}" for i in range(3)) + "hello"
    as_images = processor(images=pairs, text=[text], return_tensors="pt")
    ids, types = as_images["input_ids"].clone(), as_images["mm_token_type_ids"].clone()
    ids[types == 1] = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    with torch.no_grad():
        images = stock_model(**as_images, use_cache=False).logits
        video = stock_model(
            input_ids=ids,
            mm_token_type_ids=types * 2,
            attention_mask=as_images["attention_mask"],
            pixel_values_videos=as_images["pixel_values"],
            video_grid_thw=torch.tensor([[3, 4, 6]]),
            use_cache=False,
        ).logits
        # The only difference left is the placeholder's own embedding, which vision features replace.
        assert torch.equal(images, video)
        assert images.std() > 1e-3


def test_fast_vision_gives_what_the_stock_tower_gives(processor, stock_model):
    pairs = [
        torch.from_numpy(random_pair(*size, i))
        for i, size in enumerate([(64, 96), (32, 32), (64, 96), (96, 64)])
    ]
    inputs = processor(images=pairs, text=["".join(IMAGE for _ in pairs) + "x"], return_tensors="pt")
    stock_model.requires_grad_(True)
    expected = stock_model(**inputs, use_cache=False).logits
    expected.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in stock_model.named_parameters() if "visual" in name}
    stock_model.zero_grad()
    got = use_fast_vision(stock_model)(**inputs, use_cache=False).logits
    got.square().mean().backward()
    assert torch.allclose(got, expected, atol=1e-10)
    for name, parameter in stock_model.named_parameters():
        if "visual" in name:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-10), name


def test_golden_ids(processor):
    pairs = [torch.zeros(2, 64, 32, 3, dtype=torch.uint8), torch.zeros(2, 32, 32, 3, dtype=torch.uint8)]
    question = processor.question([0.0, 1.25], "a red circle moves left")
    inputs = processor(images=pairs, text=[question], return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    shown = "".join(tokens).replace("Ġ", " ").replace("Ċ", "\n")
    assert shown == (
        "<|im_start|>user\nThis video was generated from a text prompt.\n"
        "<0.0 seconds><|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
        "<1.2 seconds><|vision_start|><|image_pad|><|vision_end|>"
        "\nPrompt: a red circle moves left\n"
        "Rate visual quality, dynamic quality and text alignment as bad, poor, fair, good or excellent."
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 2], [1, 2, 2]]
    assert inputs["mm_token_type_ids"].sum() == 3
    assert inputs["pixel_values"].shape == (8 + 4, 3 * 2 * 16 * 16)
    assert (inputs["pixel_values"] == -1).all()


def test_batches_pad_and_keep_rows_apart(processor):
    short, long = processor.question([0.0], "a"), processor.question([0.0, 1.0], "a red circle moves left")
    pair = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    nested = processor(images=[[pair], [pair, pair]], text=[short, long], padding=True, return_tensors="pt")
    flat = processor(images=[pair] * 3, text=[short, long], padding=True, return_tensors="pt")
    assert torch.equal(nested["input_ids"], flat["input_ids"])
    assert nested["attention_mask"][0, 0] == 0 and nested["attention_mask"][0, -1] == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 32, 40, 3), np.uint8), "multiples of 32"),
        (np.zeros((2, 0, 32, 3), np.uint8), "multiples of 32"),
        (np.zeros((1, 32, 32, 3), np.uint8), r"uint8 \[2, H, W, 3\]"),
        (np.zeros((2, 32, 32, 3), np.float32), r"uint8 \[2, H, W, 3\]"),
    ],
)
def test_wrong_chunks_are_refused(processor, image, message):
    with pytest.raises(ConfigError, match=message):
        processor(images=[image], text=[IMAGE])


def test_chunks_and_placeholders_must_agree(processor):
    with pytest.raises(ConfigError, match="2 image tokens but 1 chunks"):
        processor(images=[np.zeros((2, 32, 32, 3), np.uint8)], text=[IMAGE * 2])


def test_saved_and_loaded_processor_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(WEIGHTS)
    model.config.save_pretrained(tmp_path)
    again = QSaveProcessor.for_model(tmp_path)
    question = processor.question([0.5], "a red circle")
    assert again.question([0.5], "a red circle") == question
    assert again.tokenizer(question)["input_ids"] == processor.tokenizer(question)["input_ids"]
