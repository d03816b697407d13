"""The holistic scorer's recipe: what is trained, resuming, selection, public checkpoints, NTIRE lists."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from holistic_cases import small_base
from safetensors.torch import load_file
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    EvalPrediction,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

import assemble
from holistic_options import HolisticArguments
from training import parse_options
from training_rows import check_ratings, sources, target

from qsave_reward.data import write_records
from qsave_reward.errors import ConfigError
from qsave_reward.holistic.scorer import HolisticScorer
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import Record
from qsave_reward.video import write_clip

# By its path: another recipe has a train.py too.
SPEC = importlib.util.spec_from_file_location("holistic_train", Path(assemble.__file__).with_name("train.py"))
recipe = importlib.util.module_from_spec(SPEC)
sys.modules["holistic_train"] = recipe
SPEC.loader.exec_module(recipe)

CONFIGS = Path(__file__).parent.parent / "configs" / "holistic"
SMALL = [
    "--per_device_train_batch_size",
    "4",
    "--eval_clips",
    "6",
    "--report_to",
    "none",
    "--use_cpu",
    "true",
]
SMALL += ["--data", "world:train", "--eval_data", "world:val", "--trained_on", "Nothing.", "--seed", "3"]
SMALL += ["--disable_tqdm", "true", "--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2"]
SMALL += ["--learning_rate", "1e-3", "--max_steps", "4"]

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("base"))


def train(monkeypatch, base, output, *more):
    words = ["train.py", "--model_name_or_path", str(base), "--output_dir", str(output), *SMALL, *more]
    monkeypatch.setattr(sys, "argv", words)
    recipe.main()
    return load_file(output / "model.safetensors")


@pytest.mark.parametrize("muon", ["false", "true"])
def test_a_killed_run_ends_with_the_same_weights(monkeypatch, base, tmp_path, muon):
    all_of_it = ["--lora_rank", "0", "--muon", muon]
    whole = train(monkeypatch, base, tmp_path / "out", *all_of_it)
    start = load_file(base / "model.safetensors")
    assert start.keys() == whole.keys()
    counters = {name for name in start if "num_batches" in name}
    still = {name for name in start if torch.equal(start[name], whole[name])} - counters
    assert not {name for name in still if not name.endswith("relative_position_index")}
    for name in ("checkpoint-4", "model.safetensors"):
        path = tmp_path / "out" / name
        path.unlink() if path.is_file() else path.rename(tmp_path / "gone")
    again = train(monkeypatch, base, tmp_path / "out", *all_of_it)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    scorer = HolisticScorer.from_pretrained(tmp_path / "out", device="cpu")
    assert scorer.metadata.trained_on == "Nothing." and scorer.frame_plan.max_frames == 8
    assert "circle" in scorer.metadata.prompt_words


def test_a_lora_changes_what_it_is_for_and_is_merged(monkeypatch, base, tmp_path):
    more = ["--lora_rank", "2", "--lora_dropout", "0", "--max_steps", "2", "--frozen", "semantic"]
    tuned = train(monkeypatch, base, tmp_path, *more)
    start = load_file(base / "model.safetensors")
    assert start.keys() == tuned.keys()
    changed = {name for name in start if not torch.equal(start[name], tuned[name])}
    language = {name for name in changed if name.startswith("language")}
    assert language and all("q_proj" in name or "v_proj" in name for name in language)
    assert len(language) == len(
        [n for n in start if n.startswith("language") and ("q_proj" in n or "v_proj" in n)]
    )
    assert not {name for name in changed if name.startswith("semantic.")}
    assert {"semantic_projection.weight", "motion_positions.weight", "technical.norm.weight"} <= changed
    HolisticScorer.from_pretrained(tmp_path, device="cpu")


def test_frozen_encoders_stay_as_they_are_to_the_last_statistic(monkeypatch, base, tmp_path):
    more = ["--lora_rank", "0", "--max_steps", "2", "--frozen", "semantic", "motion"]
    tuned = train(monkeypatch, base, tmp_path, *more)
    start = load_file(base / "model.safetensors")
    changed = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert {name.split(".")[0] for name in changed} == {
        *("language", "technical", "motion_positions"),
        *("semantic_projection", "motion_projection", "technical_projection"),
    }
    assert any("running_mean" in name for name in start if name.startswith("motion."))


def test_a_branch_that_is_left_out_is_gone(monkeypatch, base, tmp_path):
    more = ["--lora_rank", "0", "--max_steps", "1", "--branches", "technical", "semantic"]
    kept = train(monkeypatch, base, tmp_path, *more, "--save_dtype", "float16")
    assert kept["semantic_projection.weight"].dtype == torch.float16
    start = load_file(base / "model.safetensors")
    assert kept.keys() == {name for name in start if not name.startswith("motion")}
    scorer = HolisticScorer.from_pretrained(tmp_path, device="cpu")
    assert scorer.model.config.branches == ["semantic", "technical"]


def test_the_best_step_is_kept(monkeypatch, base, tmp_path):
    found = iter([0.9, 0.1])
    monkeypatch.setattr(recipe, "agreement", lambda prediction: {"srcc": next(found)})
    more = ["--load_best_model_at_end", "true", "--metric_for_best_model", "srcc", "--lora_rank", "0"]
    kept = train(monkeypatch, base, tmp_path, *more)
    best = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    last = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    name = "motion_projection.0.weight"
    assert torch.equal(kept[name], best[name]) and not torch.equal(kept[name], last[name])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lora_targets", "nothing_proj"], "lora_targets"),
        (["--eval_data", ""], "world:train has no end"),
        (["--max_steps", "0"], "max_steps above 0"),
        (["--branches", "motion", "sound"], "branches among"),
        (["--frozen", "motion", "sound"], "frozen: expected branches among .* got sound"),
        (["--agreed_share", "15"], "agreed_share must be from 0 to 1, got 15"),
        (["--prompts_per_clip", "0"], "prompts_per_clip must be at least 1"),
    ],
)
def test_what_cannot_work_is_said_before_training(monkeypatch, base, tmp_path, more, words):
    with pytest.raises(ConfigError, match=words):
        train(monkeypatch, base, tmp_path, *more)


def test_ratings_of_the_whole_do_not_teach_three_read_outs(monkeypatch, base, tmp_path):
    data = ntire(tmp_path, 4)
    with pytest.raises(ConfigError, match=r"train_data.txt: expected ratings of dimensions .* got none"):
        train(monkeypatch, base, tmp_path / "out", "--data", str(data))
    with pytest.raises(ConfigError, match="expected ratings of dimensions"):
        train(monkeypatch, base, tmp_path / "out", "--eval_data", str(data))
    assert not (tmp_path / "out").exists()
    check_ratings(str(data), per_dimension=False)
    records = [Record(f"{i}.mp4", "a", {"visual_quality": 2.0}) for i in range(3)]
    write_records(tmp_path / "partial.jsonl", records)
    check_ratings(str(tmp_path / "partial.jsonl"), per_dimension=True)
    with pytest.raises(ConfigError, match="expected an overall rating"):
        check_ratings(str(tmp_path / "partial.jsonl"), per_dimension=False)


def test_agreement_leaves_out_what_nobody_rated():
    targets = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, 3.0], [3.0, np.nan, 3.0], [np.nan, np.nan, 3.0]])
    scores = np.array([[1.1, 2, 1], [1.5, 2, 2], [1.3, 2, 3], [9.0, 2, 4]])
    found = recipe.agreement(EvalPrediction(scores, targets))
    assert found == pytest.approx({"srcc_visual_quality": 0.5, "srcc": 0.5})
    assert recipe.agreement(EvalPrediction(scores[:3, :1], targets[:3, :1])) == pytest.approx(
        {"srcc_overall": 0.5, "srcc": 0.5}
    )
    with pytest.raises(ConfigError, match="clips with different ratings and different scores"):
        recipe.agreement(EvalPrediction(scores[:, 1:2], targets[:, 1:2]))


def test_targets_are_what_people_said():
    rated = {"visual_quality": 2.0, "dynamic_quality": 4.0, "text_alignment": 3.0}
    assert target(Record("a.mp4", "a", rated), per_dimension=True) == [2.0, 4.0, 3.0]
    assert target(Record("a.mp4", "a", rated), per_dimension=False) == [3.0]
    assert target(Record("a.mp4", "a", rated, overall=1.5), per_dimension=False) == [1.5]
    assert np.isnan(target(Record("a.mp4", "a", {"visual_quality": 2.0}), per_dimension=False)).all()


def ntire(folder, number):
    for i in range(number):
        write_clip(folder / f"{i}.mp4", np.full((4, 32, 32, 3), 5 * i, np.uint8), fps=8)
    lines = [f"{i}.mp4|clip | number {i // 2}|{1 + i % 4}" for i in range(number)]
    (folder / "train_data.txt").write_text("\n".join(lines) + "\n")
    return folder / "train_data.txt"


def test_a_list_of_the_challenge_is_split_by_prompt(base, tmp_path):
    data = ntire(tmp_path, 40)
    arguments = HolisticArguments(str(base), str(data), "Nothing.", eval_share=0.3, eval_clips=5)
    first, held_out, number = sources(arguments, FramePlan(max_frames=8))
    train, held = ({source(i)[1].prompt for i in range(40)} for source in (first, held_out))
    assert number == 5 and train and held and not train & held and len(train | held) == 20
    clip, record = first(0)
    assert record.overall == 1 + int(record.video.removesuffix(".mp4")) % 4 and clip.frames.shape[1:] == (
        32,
        32,
        3,
    )
    with pytest.raises(ConfigError, match="both sides of eval_share 0.0"):
        sources(HolisticArguments(str(base), str(data), "x", eval_share=0.0), FramePlan())


@pytest.mark.parametrize("name", ["tiny", "ntire-track2"])
def test_every_configuration_is_read(name):
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    values.pop("deepspeed", None)  # it would begin here
    words = [
        w
        for name, value in values.items()
        for w in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]
    arguments, options = parse_options([*words, "--bf16", "false"], *recipe.OPTIONS)
    assert options.metric_for_best_model == "srcc" and arguments.rank_weight == 0.3
    assert options.max_steps > 0 and isinstance(options, TrainingArguments)


def public_checkpoints(folder):
    """As the authors of the parts publish them, the language model and BLIP smaller."""
    from transformers import AutoTokenizer

    from qsave_reward.checkpoint import BUNDLED
    from qsave_reward.holistic.slowfast_network import SlowFastEncoder
    from qsave_reward.holistic.video_swin import VideoSwin

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    language = LlamaForCausalLM(LlamaConfig(vocab_size=743, num_key_value_heads=2, **sizes))
    language.save_pretrained(folder / "language")
    AutoTokenizer.from_pretrained(BUNDLED["tiny"]).save_pretrained(folder / "language")
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    blip = BlipForImageTextRetrieval(
        BlipConfig(text_config={**sizes, "vocab_size": 99}, vision_config=vision)
    )
    blip.save_pretrained(folder / "blip")
    slowfast, swin = SlowFastEncoder(), VideoSwin()
    torch.save({"model_state": slowfast.state_dict()}, folder / "slowfast.pyth")
    torch.save(
        {"state_dict": {f"backbone.{k}": v for k, v in swin.state_dict().items()}}, folder / "swin.pth"
    )
    return language, blip.vision_model, slowfast, swin


def test_public_checkpoints_are_put_together(tmp_path, monkeypatch, capsys):
    language, vision, slowfast, swin = public_checkpoints(tmp_path)
    words = ["assemble.py", "--out", str(tmp_path / "base"), "--dtype", "float32"]
    for name, file in (
        ("language", "language"),
        ("blip", "blip"),
        ("slowfast", "slowfast.pyth"),
        ("swin", "swin.pth"),
    ):
        words += [f"--{name}", str(tmp_path / file)]
    monkeypatch.setattr(sys, "argv", words)
    assemble.main()
    found = load_file(tmp_path / "base" / "model.safetensors")
    parts = {"language": language, "semantic": vision, "motion": slowfast, "technical": swin}
    own = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    same = {name for name in found if name in own}
    assert all(torch.equal(found[name], own[name]) for name in same)
    projections = {name for name in found if "_projection." in name or name.startswith("motion_positions")}
    assert found.keys() - same == projections and len(projections) == 9
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert config["random_fragments"] is False and config["motion_frames"] == 32
    broken = torch.load(tmp_path / "swin.pth", weights_only=True)
    broken["state_dict"].pop("backbone.norm.weight")
    torch.save(broken, tmp_path / "swin.pth")
    with pytest.raises(SystemExit, match=r"error: .*norm\.weight"):
        assemble.main()
