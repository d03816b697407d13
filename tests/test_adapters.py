"""Each adapter called as its trainer calls it: order, forms of clips, one clip that fails in the middle."""

import inspect
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from reward_cases import BROKEN, CALIBRATION, ColorModel, score_of, solid

from qsave_reward.adapters import (
    FlowFactoryReward,
    VideoAlignReward,
    flow_grpo_reward,
    trl_reward,
)
from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.reward import VideoReward
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import write_clip

COLORS = ((200, 100, 0), (10, 250, 40), (90, 90, 90))
RAW = [[score_of(level) for level in color] for color in COLORS]
MEANS = [sum(row) / 3 for row in RAW]
PROMPTS = ["red", "green", "grey"]
CLIPS = solid(*COLORS)
TENSOR = torch.tensor(CLIPS).permute(0, 1, 4, 2, 3).float() / 255
IN_THE_MIDDLE = [CLIPS[0], BROKEN, CLIPS[2]]
FORMS = [
    CLIPS,
    TENSOR,
    TENSOR.numpy(),
    list(CLIPS),
    list(TENSOR),
    [list(clip) for clip in CLIPS],
    TENSOR.double(),
]


def masking(**options):
    return VideoReward(ColorModel(), on_error="mask", **options)


def trainer_calls_trl(func, prompts, completions, **columns):
    """What GRPOTrainer does with a reward function: keywords, helpers, None becomes NaN."""
    logged = {}
    output = func(
        prompts=prompts,
        completions=completions,
        completion_ids=[[1]] * len(prompts),
        trainer_state=object(),
        log_extra=lambda column, values: None,
        log_metric=lambda name, value: logged.setdefault(name, value),
        **columns,
    )
    assert isinstance(output, list) and len(output) == len(prompts)
    return torch.tensor([value if value is not None else torch.nan for value in output]), logged


@pytest.mark.parametrize("clips", FORMS)
def test_trl_keeps_the_order(clips):
    rewards, logged = trainer_calls_trl(trl_reward(VideoReward(ColorModel())), PROMPTS, clips, fps=[8, 8, 8])
    assert rewards.tolist() == pytest.approx(MEANS, abs=1e-6)
    assert logged.pop("qsave_reward/failed") == 0
    expected = np.mean(RAW, axis=0)
    assert logged == {f"qsave_reward/{name}": pytest.approx(expected[i]) for i, name in enumerate(DIMENSIONS)}


def test_trl_gets_none_for_a_masked_clip():
    func = trl_reward(masking())
    assert func(prompts=PROMPTS, completions=IN_THE_MIDDLE, fps=[8, 8, 8])[1] is None
    rewards, logged = trainer_calls_trl(func, PROMPTS, IN_THE_MIDDLE, fps=[8, 8, 8])
    assert rewards[[0, 2]].tolist() == pytest.approx([MEANS[0], MEANS[2]]) and rewards[1].isnan()
    assert logged["qsave_reward/failed"] == pytest.approx(1 / 3)
    assert logged["qsave_reward/visual_quality"] == pytest.approx((RAW[0][0] + RAW[2][0]) / 2)
    rewards, logged = trainer_calls_trl(func, PROMPTS, [BROKEN] * 3, fps=[8, 8, 8])
    assert rewards.isnan().all() and logged == {"qsave_reward/failed": 1.0}


def test_trl_takes_files_and_the_rate_of_each_clip(tmp_path):
    scorer, paths = ColorModel(), [str(tmp_path / f"{i}.mp4") for i in range(3)]
    for path, clip in zip(paths, CLIPS, strict=True):
        write_clip(path, clip, fps=8)
    rewards, _ = trainer_calls_trl(trl_reward(VideoReward(scorer)), PROMPTS, paths)
    assert rewards.tolist() == pytest.approx(MEANS, abs=0.1)
    scorer.seen.clear()
    trainer_calls_trl(trl_reward(VideoReward(scorer)), PROMPTS, CLIPS, fps=[1, 2, 4])
    assert [clip.times[1] for clip in scorer.seen] == [1, 0.5, 0.25]


def test_trl_names_and_refusals():
    func = trl_reward(VideoReward(ColorModel()))
    assert func.__name__ == "qsave_reward"
    with pytest.raises(ConfigError, match="plain texts"):
        func(prompts=[[{"role": "user", "content": "red"}]] * 3, completions=CLIPS, fps=[8, 8, 8])
    with pytest.raises(VideoError, match="clip 1 of"):
        func(prompts=PROMPTS, completions=IN_THE_MIDDLE, fps=[8, 8, 8])


def trainer_calls_flow_grpo(func, images, prompts, **options):
    """What train_wan2_1.py does: in a thread, with `only_strict`, every list becomes a float tensor."""
    with ThreadPoolExecutor(8) as executor:
        scores, info = executor.submit(func, images, prompts, [{}] * len(prompts), **options).result()
    return {key: torch.as_tensor(value).float() for key, value in scores.items()}, info


@pytest.mark.parametrize("clips", FORMS)
@pytest.mark.parametrize("only_strict", [True, False])
def test_flow_grpo_keeps_the_order(clips, only_strict):
    func = flow_grpo_reward(
        VideoReward(ColorModel(), weights=dict(zip(DIMENSIONS, (2, 1, 1), strict=True))), fps=8
    )
    scores, info = trainer_calls_flow_grpo(func, clips, PROMPTS, only_strict=only_strict)
    assert list(scores) == ["avg", *DIMENSIONS]
    assert scores["avg"].tolist() == pytest.approx(np.array(RAW) @ [0.5, 0.25, 0.25], abs=1e-6)
    for i, name in enumerate(DIMENSIONS):
        assert scores[name].tolist() == pytest.approx([row[i] for row in RAW], abs=1e-6)
    assert info == {"errors": [None, None, None]}


def test_flow_grpo_gives_raw_scores_beside_a_normalised_average():
    scores, _ = flow_grpo_reward(masking(normalise=CALIBRATION), fps=8)(CLIPS, PROMPTS, {})
    assert scores["visual_quality"] == pytest.approx([row[0] for row in RAW])
    assert scores["avg"] == pytest.approx(CALIBRATION.apply(np.array(RAW)).mean(axis=1))


def test_flow_grpo_masks_or_raises():
    scores, info = trainer_calls_flow_grpo(flow_grpo_reward(masking(), fps=8), IN_THE_MIDDLE, PROMPTS)
    for name in scores:
        assert scores[name].isnan().tolist() == [False, True, False]
    assert info["errors"][1]["code"] == "bad_values" and info["errors"][::2] == [None, None]
    with pytest.raises(VideoError, match="clip 1 of"):
        trainer_calls_flow_grpo(flow_grpo_reward(VideoReward(ColorModel()), fps=8), IN_THE_MIDDLE, PROMPTS)


def test_flow_grpo_refuses_images():
    with pytest.raises(ConfigError, match=r"\(3, 3, 16, 16\)"):
        flow_grpo_reward(masking(), fps=8)(TENSOR[:, 0], PROMPTS, {})


def test_flow_grpo_takes_a_reference_where_its_caller_puts_it():
    names = list(inspect.signature(flow_grpo_reward(masking(), fps=8)).parameters)
    assert names == ["images", "prompts", "metadata", "ref_images", "only_strict"]


def trainer_calls_flow_factory(model, samples):
    """What RewardProcessor does: the fields that no sample lacks, and rewards as a float tensor."""
    parameters = inspect.signature(model.__call__).parameters
    assert "prompt" in parameters and "video" in parameters
    batch = {
        key: [sample[key] for sample in samples]
        for key in samples[0]
        if all(sample[key] is not None for sample in samples)
    }
    output = model(**batch)
    return torch.as_tensor(output.rewards, device="cpu", dtype=torch.float32), output.extra_info


def samples(clips):
    return [
        {"prompt": prompt, "image": None, "video": clip, "height": 16, "metadata": "{}"}
        for prompt, clip in zip(PROMPTS, clips, strict=True)
    ]


@pytest.mark.parametrize(
    "clips", [list(TENSOR), [[Image.fromarray(frame) for frame in clip] for clip in CLIPS]]
)
def test_flow_factory_keeps_the_order(clips):
    rewards, extra = trainer_calls_flow_factory(
        FlowFactoryReward(VideoReward(ColorModel()), fps=8), samples(clips)
    )
    assert rewards.tolist() == pytest.approx(MEANS, abs=1e-6)
    assert [extra[name][1] for name in DIMENSIONS] == pytest.approx(RAW[1])
    assert extra["errors"] == [None] * 3


def test_flow_factory_masks_or_raises():
    model = FlowFactoryReward(masking(), fps=8)
    rewards, extra = trainer_calls_flow_factory(model, samples(IN_THE_MIDDLE))
    assert rewards.isnan().tolist() == [False, True, False]
    assert extra["errors"][1]["code"] == "bad_values" and math.isnan(extra["visual_quality"][1])
    with pytest.raises(VideoError):
        FlowFactoryReward(VideoReward(ColorModel()), fps=8)(PROMPTS, video=IN_THE_MIDDLE)
    with pytest.raises(ConfigError, match="video"):
        model(PROMPTS, image=[Image.fromarray(CLIPS[0, 0])] * 3)


@pytest.fixture
def paths(tmp_path):
    for i, clip in enumerate(CLIPS):
        write_clip(tmp_path / f"{i}.mp4", clip, fps=8)
    return [str(tmp_path / f"{i}.mp4") for i in range(3)]


def test_video_align_with_and_without_norm(paths):
    judge = VideoAlignReward(VideoReward(ColorModel(), normalise=CALIBRATION))
    raw, normed = judge.reward(paths, PROMPTS, use_norm=False), judge.reward(paths, PROMPTS)
    for i, row in enumerate(raw):
        assert list(row) == ["VQ", "MQ", "TA", "Overall"]
        assert [row["VQ"], row["MQ"], row["TA"]] == pytest.approx(RAW[i], abs=0.1)
        values = np.array([row["VQ"], row["MQ"], row["TA"]])
        assert row["Overall"] == pytest.approx(values.sum())
        z_scores = (values - [2.0, 3.0, 4.0]) / [0.5, 1.0, 2.0]
        assert list(normed[i].values()) == pytest.approx([*z_scores, z_scores.sum()])


def test_video_align_overall_is_a_plain_sum_whatever_the_reward_combines(paths):
    weights = dict(zip(DIMENSIONS, (1, 0, 0), strict=True))
    reward = VideoReward(ColorModel(), weights=weights, floors={"text_alignment": 5.0})
    plain = VideoAlignReward(VideoReward(ColorModel()))
    rows = VideoAlignReward(reward).reward(paths, PROMPTS, use_norm=False)
    assert rows == plain.reward(paths, PROMPTS, use_norm=False)


def test_video_align_masks_or_raises(paths):
    rows = VideoAlignReward(masking()).reward([paths[0], "nothing.mp4", paths[2]], PROMPTS, use_norm=False)
    assert all(math.isnan(rows[1][name]) for name in ("VQ", "MQ", "TA", "Overall"))
    assert rows[1]["error"]["code"] == "not_found" and "error" not in rows[0] | rows[2]
    with pytest.raises(VideoError, match="clip 1 of"):
        VideoAlignReward(VideoReward(ColorModel())).reward(
            [paths[0], "nothing.mp4"], PROMPTS[:2], use_norm=False
        )


@pytest.mark.parametrize("options", [{"fps": 2.0}, {"num_frames": 8}, {"max_pixels": 448 * 448}])
def test_video_align_refuses_sampling_options(paths, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        VideoAlignReward(masking(normalise=CALIBRATION)).reward(paths, PROMPTS, **options)


def test_video_align_refuses_norm_without_calibration(paths):
    with pytest.raises(ConfigError, match="use_norm") as caught:
        VideoAlignReward(masking()).reward(paths, PROMPTS)
    assert caught.value.code == "no_calibration"


def test_adapters_can_be_pickled():
    reward = VideoReward(ColorModel())
    func = pickle.loads(pickle.dumps(trl_reward(reward)))
    assert func(PROMPTS, CLIPS, fps=[8] * 3) == pytest.approx(MEANS)
    func = pickle.loads(pickle.dumps(flow_grpo_reward(reward, fps=8)))
    assert func(CLIPS, PROMPTS, {})[0]["avg"] == pytest.approx(MEANS)
    assert pickle.loads(pickle.dumps(FlowFactoryReward(reward, fps=8)))(PROMPTS, video=CLIPS).rewards[0]
    assert pickle.loads(pickle.dumps(VideoAlignReward(reward))).video_reward.on_error == "raise"
