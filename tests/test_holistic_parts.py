"""The holistic scorer's parts: what the encoders are shown, the text, the losses."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from qsave_reward.checkpoint import BUNDLED
from qsave_reward.errors import ConfigError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.losses import plcc_loss, quality_loss, rank_loss
from qsave_reward.holistic.network import expected_levels
from qsave_reward.holistic.text import SLOTS, compose, level_token_ids, pad
from qsave_reward.holistic.views import cut_fragments, make_views, normalise
from qsave_reward.video import Clip

NUMBERS = st.floats(-5, 5)
DOUBLE = partial(torch.tensor, dtype=torch.float64)


def config(**changes):
    return HolisticConfig(vision_config={"image_size": 16}, **{"motion_size": 8, **changes})


def clip(frames):
    return Clip(frames=frames, times=np.arange(len(frames)) / 8, duration=len(frames) / 8, warnings=())


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_the_defaults_are_those_of_the_paper():
    own = HolisticConfig()
    shown = (own.clip_frames, own.motion_frames, own.motion_size, own.fragments, own.fragment_size)
    assert shown == (8, 32, 224, 7, 32) and own.technical_tokens == 32
    assert own.random_fragments and not own.show_prompt and not own.per_dimension


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"branches": []}, "branches"),
        ({"branches": ["motion", "semantic"]}, "in order"),
        ({"branches": ["colour"]}, "semantic, motion, technical"),
        ({"motion_frames": 3000}, "motion_positions"),
        ({"fragments": 0}, "fragments must be at least 1"),
        ({"level_temperature": 0.0}, "level_temperature must be above 0"),
    ],
)
def test_a_wrong_configuration_says_what_is_expected(changes, words):
    with pytest.raises(ConfigError, match=words):
        HolisticConfig(**changes)


def test_a_configuration_comes_back_as_it_was_written(tmp_path):
    own = HolisticConfig(text_config={"model_type": "gpt2", "n_embd": 64}, branches=["motion"], fragments=3)
    own.save_pretrained(tmp_path)
    again = HolisticConfig.from_pretrained(tmp_path)
    assert again.to_dict() == own.to_dict() and again.text_config.hidden_size == 64


def test_frames_are_spread_over_the_clip_and_repeated_where_there_are_few():
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 40, 40, 3), np.uint8)
    views = make_views(clip(frames), config(fragments=2, fragment_size=16, motion_frames=40))
    spread = np.linspace(0, 19, 8).round()
    assert views.frames.shape == (8, 3, 16, 16) and views.fragments.shape == (3, 8, 32, 32)
    assert views.frames[:, 0, 0, 0].tolist() == spread.tolist() == views.fragments[1, :, 5, 5].tolist()
    assert views.motion.shape == (3, 40, 8, 8)
    assert views.motion[2, :, 7, 7].tolist() == np.linspace(0, 19, 40).round().tolist()


def test_sizes_are_reached_by_the_nearest_pixel():
    frames = noise(1, 48, 64, 3)
    views = make_views(clip(frames), config(fragments=1, fragment_size=16))
    rows, columns = (np.arange(16) * 3, np.arange(16) * 4)
    expected = frames[0][rows][:, columns].transpose(2, 0, 1)
    assert (views.frames.numpy() == expected).all()


def fragments_by_hand(frames, cells, size, offsets):
    """The public algorithm, one pixel block after the other."""
    length, _, height, width = frames.shape
    out = np.zeros((length, 3, cells * size, cells * size), np.uint8)
    for i in range(cells):
        for j in range(cells):
            top = min(i * height // cells, height - size) + offsets[0]
            left = min(j * width // cells, width - size) + offsets[1]
            block = frames[:, :, top : top + size, left : left + size]
            out[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size] = block
    return out


@pytest.mark.parametrize(
    ("height", "width", "offsets"), [(64, 64, (0, 0)), (100, 150, (4, 10)), (65, 71, (0, 0))]
)
def test_fragments_are_pieces_at_native_resolution(height, width, offsets):
    frames = noise(2, 3, height, width)
    found = cut_fragments(torch.from_numpy(frames), 4, size=16)
    assert (found.numpy() == fragments_by_hand(frames, 4, 16, offsets)).all()


def test_random_fragments_stay_inside_their_cells_and_are_the_same_in_all_frames():
    frames = torch.arange(60 * 60).reshape(1, 1, 60, 60).expand(3, 3, 60, 60) % 251
    found = [
        cut_fragments(frames.byte(), 2, size=16, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert all(torch.equal(one[0], one[2]) for one in found)
    value = torch.arange(60 * 60).reshape(60, 60) % 251
    for i in range(2):
        for j in range(2):
            block = found[2][0, 0, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
            cell = value[30 * i : 30 * i + 30, 30 * j : 30 * j + 30]
            windows = cell.unfold(0, 16, 1).unfold(1, 16, 1)
            assert (windows == block).all(dim=(2, 3)).any()


def test_small_frames_are_enlarged_before_they_are_cut():
    frames = torch.full((1, 3, 10, 20), 77, dtype=torch.uint8)
    found = cut_fragments(frames, 4, size=16)
    assert found.shape == (1, 3, 64, 64) and (found == 77).all()


def test_normalising_by_hand():
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    found = normalise(pixels, 1, torch.float32).flatten().tolist()
    expected = [-0.485 / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUNDLED["tiny"])


def read(tokenizer, own, prompt="a red circle"):
    """Pieces of text between visual tokens, and the number of those."""
    reading = compose(tokenizer, own, prompt)
    pieces, counts, text = [], [], []
    for token in (*reading.ids, None):
        if token is None or token < 0:
            if text:
                pieces.append(tokenizer.decode(text))
            text = []
            counts.append(token)
        else:
            text.append(token)
    return pieces, {branch: counts.count(slot) for branch, slot in SLOTS.items()}, reading


def test_the_text_is_that_of_the_public_code(tokenizer):
    pieces, counts, reading = read(tokenizer, HolisticConfig())
    assert pieces == [
        "The key frames of this video are:\n",
        ". The motion feature of the video is:\n",
        ". And the technical quality feature of the video is:\n",
        ". Please assess the quality of this video.",
    ]
    assert counts == {"semantic": 8, "motion": 32, "technical": 32}
    assert reading.read_at == (len(reading.ids) - 1,)


def test_more_can_be_shown_and_read(tokenizer):
    own = HolisticConfig(branches=["motion"], motion_frames=3, show_prompt=True, per_dimension=True)
    pieces, counts, reading = read(tokenizer, own, " a red circle. ")
    assert counts == {"semantic": 0, "motion": 3, "technical": 0}
    assert pieces[1] == (
        ". The video was generated from the text: a red circle. Please assess the quality of this video."
        "\nVisual quality:\nDynamic quality:\nText alignment:"
    )
    ends = [
        tokenizer.decode([token for token in reading.ids[: at + 1] if token >= 0]) for at in reading.read_at
    ]
    assert [end.rsplit("\n", 1)[1] for end in ends] == [
        "Visual quality:",
        "Dynamic quality:",
        "Text alignment:",
    ]


def test_levels_are_words_after_a_colon(tokenizer):
    ids = level_token_ids(tokenizer)
    assert [tokenizer.decode([i]).strip() for i in ids] == ["bad", "poor", "fair", "good", "excellent"]


def test_a_tokenizer_without_words_for_the_levels_is_refused(tokenizer):
    class Letters:
        def __call__(self, text, **_):
            return type("Out", (), {"input_ids": [ord(c) for c in text]})

        def convert_ids_to_tokens(self, ids):
            return [chr(i) for i in ids]

    with pytest.raises(ConfigError, match="different tokens"):
        level_token_ids(Letters())


def test_texts_are_filled_up_on_the_right(tokenizer):
    own = HolisticConfig(branches=["motion"], motion_frames=2, show_prompt=True)
    short, long = (compose(tokenizer, own, prompt) for prompt in ("a star", "a red star and a blue ring"))
    ids, masks = pad([short, long], 0)
    assert ids[0][: len(short.ids)] == list(short.ids) and ids[1] == list(long.ids)
    assert [sum(mask) for mask in masks] == [len(short.ids), len(long.ids)]


def test_levels_count_upward_from_bad():
    logits = torch.zeros(2, 5)
    logits[0, 0], logits[1, 4] = 50.0, 50.0
    assert expected_levels(logits).tolist() == pytest.approx([1.0, 5.0])
    assert expected_levels(torch.tensor([0.0, 0, 0, 0, math.log(3)])).item() == pytest.approx((10 + 15) / 7)


def plcc_by_hand(scores, targets):
    p, y = ((v - v.mean()) / (v.std() + 1e-8) for v in (np.array(scores), np.array(targets)))
    rho = (p * y).mean()
    return (((p - y) ** 2).mean() / 4 + ((rho * p - y) ** 2).mean() / 4) / 2


def rank_by_hand(scores, targets):
    n, terms = len(scores), []
    for i in range(n):
        for j in range(n):
            terms.append(max(0.0, (scores[i] - scores[j]) * np.sign(targets[j] - targets[i])))
    return sum(terms) / (n * (n - 1)) / (1 + max(terms))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8))
def test_the_losses_by_hand(pairs):
    scores, targets = map(list, zip(*pairs, strict=True))
    if min(np.std(scores), np.std(targets)) > 1e-2:
        found = plcc_loss(*map(DOUBLE, (scores, targets)))
        assert found.item() == pytest.approx(plcc_by_hand(scores, targets), abs=1e-6)
    found = rank_loss(*map(DOUBLE, (scores, targets)))
    assert found.item() == pytest.approx(rank_by_hand(scores, targets), abs=1e-9)


def test_the_losses_are_zero_for_the_right_line_and_order():
    targets = torch.tensor([1.0, 2.0, 3.5, 5.0])
    assert plcc_loss(2.5 + targets / 50, targets) < 1e-6
    assert rank_loss(targets**3, targets) == 0
    assert rank_loss(-targets, targets) > 0.3  # the public code's is zero here too
    assert plcc_loss(-targets, targets) == pytest.approx(0.5)


def test_the_rank_loss_pulls_a_pair_into_order():
    scores = torch.tensor([3.0, 2.0], requires_grad=True)
    rank_loss(scores, torch.tensor([1.0, 4.0])).backward()
    assert scores.grad[0] > 0 > scores.grad[1]


def test_clips_that_nobody_rated_teach_nothing():
    scores = torch.tensor([[3.0, 2.0], [2.0, 2.5], [4.0, 1.0], [1.0, 1.0]], requires_grad=True)
    gap = math.nan
    targets = torch.tensor([[3.0, gap], [1.0, 2.0], [gap, gap], [2.0, gap]])
    loss = quality_loss(scores, targets, rank_weight=0.3, level_weight=0.5)
    first, known = scores[[0, 1, 3], 0], targets[[0, 1, 3], 0]
    alone = plcc_loss(first, known) + 0.3 * rank_loss(first, known) + 0.5 * ((first - known) ** 2).mean()
    assert loss.item() == pytest.approx(alone.item())
    loss.backward()
    assert scores.grad[2, 0] == 0 and not scores.grad[:, 1].any() and scores.grad[[0, 1, 3], 0].all()
    nothing = quality_loss(scores, torch.full((4, 2), gap))
    assert nothing == 0 and nothing.requires_grad
