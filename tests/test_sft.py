"""The supervised recipe, run as a user runs it on an untrained model of the smallest size."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from qsave_reward.errors import ConfigError
from qsave_reward.model import RewardModel
from qsave_reward.processor import normalize, patchify
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import DIMENSIONS
from qsave_reward.world import world_item

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

from sft import RewardArguments, check_prompts, check_ratings, make_dataset

FACTS = {
    "motion",
    "bent",
    "moved",
    "column",
    "row",
    "column_before",
    "row_before",
    "morphed",
    "verb",
    "shape",
    "color",
    "count",
    "across",
    "height",
    "relation",
    "stated",
    "word_level",
    "relation_level",
}
JUDGED = {d + of for d in ("visual_quality", "dynamic_quality") for of in ("_defect", "_level", "_second")}
LOSSES = {f"loss_{name}" for name in FACTS | JUDGED | {"text", "level", "expectation"}}

SEVERAL = ("--prompts_per_clip", "2")

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes" / "reward"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    sizes = (
        "--hidden 32 --layers 5 --heads 1 --vision-hidden 32 --vision-layers 1 --corpus 500 --patch-clips 200"
    )
    subprocess.run(
        [sys.executable, RECIPES / "make_tiny.py", "--out", out, *sizes.split()], check=True, timeout=120
    )
    return out


def command(base, out, *options):
    config = ROOT / "configs" / "reward" / "tiny" / "1_sft.yaml"
    small = (
        "--max_steps 4 --save_steps 1 --save_total_limit 9 --per_device_train_batch_size 3 --warmup_steps 0 "
        "--logging_steps 1 --compile_blocks false --bf16 false --save_dtype float32 --report_to none "
        "--dataloader_num_workers 0"
    )
    return [
        *(sys.executable, RECIPES / "sft.py", "--config", config, "--model_name_or_path", base),
        *("--output_dir", out, *small.split(), *options),
    ]


def run(*arguments, expect=0):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return out, run(base, out, *SEVERAL)


def test_every_weight_moves_and_every_loss_is_logged(base, trained):
    out, log = trained
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    still = [name for name in before if torch.equal(before[name], after[name].to(before[name].dtype))]
    assert not still
    for name in LOSSES:
        assert log.count(f"'{name}'") >= 4


def test_the_result_is_a_reward_model(trained):
    model = RewardModel.from_pretrained(trained[0], device="cpu")
    item = world_item("test", 0)
    card = model.score(item.frames, item.record.prompt, fps=item.fps)
    assert all(1 <= card.scores[dimension].mean <= 5 for dimension in DIMENSIONS)
    assert card.provenance.frame_plan["token_budget"] == 128
    assert card.provenance.revision == model.metadata.revision != ""
    assert "rendered clips" in model.metadata.trained_on


def kill_after(command, checkpoint):
    """Start a run and kill it, without a chance to clean up, as soon as it has written a checkpoint."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not (checkpoint / "trainer_state.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def assert_same_end(start, undisturbed, resumed, names):
    """That two runs ended at the same weights, compared with the way they went.

    Adam turns rounding noise in a vanishing gradient into a full step, so a few weights may differ; other
    data or a fresh optimizer would move most of them elsewhere.
    """
    start, undisturbed, resumed = (
        torch.cat([weights[name].flatten() for name in sorted(names)])
        for weights in (start, undisturbed, resumed)
    )
    assert (undisturbed - resumed).norm() < 0.05 * (undisturbed - start).norm()


def test_a_killed_run_goes_on_and_ends_where_an_undisturbed_one_ends(base, trained, tmp_path):
    kill_after(command(base, tmp_path, *SEVERAL), tmp_path / "checkpoint-2")
    assert not (tmp_path / "qsave.json").exists()
    # What a kill in the middle of saving leaves behind: a later checkpoint without its last file.
    (tmp_path / "checkpoint-9").mkdir()
    log = run(base, tmp_path, *SEVERAL)
    assert log.count("loss_text") <= 2, "the run started again instead of going on"
    start, undisturbed, resumed = (load_file(d / "model.safetensors") for d in (base, trained[0], tmp_path))
    assert_same_end(start, undisturbed, resumed, start)


def test_accumulated_batches_are_averaged(base, tmp_path):
    log = run(base, tmp_path, "--max_steps", "1", "--gradient_accumulation_steps", "2")
    found = {name: float(value) for name, value in re.findall(r"'(loss\w*)': '([0-9.]+)'", log)}
    weights = yaml.safe_load((ROOT / "configs" / "reward" / "tiny" / "1_sft.yaml").read_text())
    parts = [weights[f"{name}_weight"] * found[f"loss_{name}"] for name in ("text", "level", "expectation")]
    assert found.keys() == {"loss", *LOSSES}
    others = LOSSES - {"loss_text", "loss_level", "loss_expectation"}
    parts += [weights["facts_weight"] * found[name] for name in others]
    assert found["loss"] == pytest.approx(sum(parts), rel=1e-2)


def asked_of_clips(processor, n=6, **options):
    """For each clip the prompts of its row, each with the MOS that it gets."""
    arguments = RewardArguments(data="world:train", trained_on="", paired_answers=True, **options)
    rows = make_dataset(arguments, n, 3, processor, FramePlan(token_budget=40))
    return [[(one["question"], tuple(one["mos"])) for one in row["asked"]] for row in rows]


def test_other_prompts_of_a_clip_come_again_and_change_its_alignment_only(processor):
    several = asked_of_clips(processor, prompts_per_clip=4)
    assert several == asked_of_clips(processor, prompts_per_clip=4)
    alone = asked_of_clips(processor)
    assert [row[:1] for row in several] == alone
    for own, *others in several:
        assert len(others) == 3 and all(mos[:2] == own[1][:2] for _, mos in others)
    # Some are followed, some are not, and hardly one is the clip's own.
    alignment = [mos[2] for _, *others in several for _, mos in others]
    assert min(alignment) < 3 and max(alignment) > 4
    assert len({question for row in several for question, _ in row}) > 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "world:train", "prompts_per_clip": 0, "paired_answers": True}, "at least 1, got 0"),
        ({"data": "world:train", "prompts_per_clip": 2}, "paired_answers False"),
        ({"data": "a.jsonl", "prompts_per_clip": 2, "paired_answers": True}, "got data 'a.jsonl'"),
    ],
)
def test_other_prompts_are_refused_where_there_are_none(options, message):
    with pytest.raises(ConfigError, match=f"prompts_per_clip.*{message}"):
        check_prompts(RewardArguments(trained_on="", **options))
    check_prompts(RewardArguments(trained_on="", **options | {"prompts_per_clip": 1}))


def test_facts_are_refused_where_nobody_knows_them(base, tmp_path):
    log = run(base, tmp_path, "--data", "rated.jsonl", expect=1)
    assert re.search("error: facts_weight .* got data 'rated.jsonl'.*--facts_weight 0", log)
    assert "Traceback" not in log and not any(tmp_path.iterdir())


def test_data_without_a_rated_dimension_is_refused_before_a_model_is_read(tmp_path):
    rated = {"overall": 3.5}, {"overall": 2.0, "ratings": {"visual_quality": []}}
    rows = [{"video": "a.mp4", "prompt": "a red circle", **some} for some in rated]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ("--data", tmp_path / "all.jsonl", "--facts_weight", "0")
    log = run(tmp_path / "no model", tmp_path / "out", *options, expect=1)
    assert re.search("error: .*all.jsonl: expected ratings of dimensions .*holistic recipe", log)
    assert "Traceback" not in log and not (tmp_path / "out").exists()


def test_a_world_that_nobody_judges_is_refused_before_a_model_is_read(tmp_path):
    log = run(tmp_path / "no model", tmp_path / "out", "--raters", "0", expect=1)
    assert "error: a world needs at least one rater, got 0" in log
    assert "Traceback" not in log and not (tmp_path / "out").exists()


@pytest.mark.parametrize("rated", [{"mos": {"text_alignment": 2}}, {"ratings": {"visual_quality": [3, 4]}}])
def test_one_rated_dimension_of_one_clip_is_something_to_learn(tmp_path, rated):
    rows = [{"video": "a.mp4", "prompt": "a red circle", **some} for some in ({"overall": 2.0}, rated)]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    check_ratings(str(tmp_path / "some.jsonl"))
    check_ratings("world:train")


def test_lora_is_merged_into_what_is_saved(base, tmp_path):
    run(base, tmp_path, "--max_steps", "1", "--use_peft", "true", "--lora_target_modules", "q_proj", "v_proj")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name.split(".")[-2] for name in before if not torch.allclose(before[name], after[name])}
    assert moved <= {"q_proj", "v_proj"} and "v_proj" in moved
    RewardModel.from_pretrained(tmp_path, device="cpu")


def vision_command(base, out, *options):
    config = ROOT / "configs" / "reward" / "tiny" / "0_vision.yaml"
    small = (
        "--max_steps 3 --save_steps 1 --save_total_limit 9 --per_device_train_batch_size 2 --logging_steps 1 "
        "--warmup_steps 0 --compile_blocks false --bf16 false --report_to none --dataloader_num_workers 0"
    )
    script = RECIPES / "pretrain_vision.py"
    arguments = ("--config", config, "--model_name_or_path", base, "--output_dir", out)
    return [sys.executable, script, *arguments, *small.split(), *options]


def test_the_vision_tower_alone_can_be_taught_and_a_killed_run_goes_on(base, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    done = subprocess.run(vision_command(base, once), check=True, timeout=200, capture_output=True, text=True)
    for name in ("loss_defects", "loss_shown", "loss_mos"):
        assert done.stdout.count(name) == 3
    before, after = load_file(base / "model.safetensors"), load_file(once / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    tower = {name for name in before if name.startswith("model.visual.") and "deepstack" not in name}
    assert moved == tower  # what feeds the language model's later layers is not classified from

    kill_after(vision_command(base, twice), twice / "checkpoint-1")
    assert not (twice / "model.safetensors").exists()
    subprocess.run(vision_command(base, twice), check=True, timeout=200)
    resumed = load_file(twice / "model.safetensors")
    assert_same_end(before, after, resumed, tower)


def test_patch_filters_see_all_kinds_of_change_about_equally(base):
    weight = load_file(base / "model.safetensors")["model.visual.patch_embed.proj.weight"]
    patches = []
    for index in range(40):
        pair = torch.from_numpy(world_item("val", index).frames[:2].copy())
        patches.append(normalize(patchify(pair, 16, 2)))
    seen = torch.cat(patches) @ weight.flatten(1).T
    spread = seen.std(dim=0)
    assert spread.min() > 0.4 and spread.max() < 2.5
    # Some filters compare the two frames: they see little of a still picture.
    still = torch.cat(patches).unflatten(1, (3, 2, -1))
    still[:, :, 1] = still[:, :, 0]
    ratio = (still.flatten(1) @ weight.flatten(1).T).std(dim=0) / spread
    assert (ratio < 0.4).sum() >= len(weight) // 4
