"""Stage 0 of `holistic-tiny`: what each branch is to tell, what is trained, resuming; its language model."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from holistic_cases import small_base
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

import pretrain_encoders as recipe
from make_holistic_tiny import copy_tower, show_places, tiny_config, tiny_language, watch_changes
from spoken_facts import CENTRAL
from transformers import BlipVisionModel

from qsave_reward.errors import ConfigError
from qsave_reward.holistic.configuration import HolisticConfig
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.scorer import load_holistic
from qsave_reward.holistic.views import make_views, normalise
from qsave_reward.processor import normalize, patchify
from qsave_reward.video import Clip
from qsave_reward.world import LABELS, WorldConfig, render_plan, world_plan
from qsave_reward.world.scene import COLORS

CONFIG = Path(recipe.__file__).parent.parent.parent / "configs" / "holistic" / "tiny_encoders.yaml"
SMALL = [
    "--per_device_train_batch_size",
    "4",
    "--report_to",
    "none",
    "--bf16",
    "false",
    "--warmup_steps",
    "0",
]
SMALL += ["--disable_tqdm", "true", "--save_steps", "2", "--learning_rate", "1e-3", "--max_steps", "4"]


def test_each_branch_is_asked_for_what_it_is_there_for():
    plans = (world_plan("train", index) for index in range(2000))
    wanted = {"blur", "jitter"}
    plan = next(p for p in plans if wanted <= {d.label for d in p.defects} and len(p.shown.groups) == 2)
    told = {
        branch: dict(zip(names, recipe.targets(plan, branch), strict=True))
        for branch, names in recipe.TOLD.items()
    }
    severity = {defect.label: 0.5 + defect.severity / 2 for defect in plan.defects}
    groups = plan.shown.groups
    for branch, dimension in (("technical", "visual_quality"), ("motion", "dynamic_quality")):
        found = {name: told[branch].pop(name) for name in LABELS[dimension]}
        assert found == {name: severity.get(name, 0.0) for name in LABELS[dimension]}
    assert told.pop("technical") == {}
    ways = {g.motion for g in groups} | {f"{g.color} {g.motion}" for g in groups} | {plan.shown.camera}
    assert {name for name, value in told["motion"].items() if value} == ways - {None}
    seen = {name for name, value in told["semantic"].items() if value}
    assert {g.shape for g in groups} | {g.color for g in groups} | {str(sum(g.count for g in groups))} <= seen
    assert plan.shown.background in seen and not seen & wanted
    assert {f"{g.color} {word}" for g in groups for word in (g.shape, g.count)} <= seen


def test_objects_of_a_color_are_where_the_picture_shows_them():
    plans = (world_plan("train", index, config=WorldConfig(clean=True)) for index in range(200))
    asked = Counter()
    for plan in plans:
        groups, height, width = plan.shown.groups, plan.config.height, plan.config.width
        if plan.shown.camera or len({g.color for g in groups}) < len(groups):
            continue
        frames, told = render_plan(plan).frames.astype(float), recipe.colored(plan)
        for group in groups:
            paint = np.linalg.norm(frames - COLORS[group.color], axis=-1) < 12
            if not paint.any():
                continue
            rows, columns = paint.nonzero()[1:]
            for offset, names in (
                (columns.mean() / width - 0.5, recipe.PLACES[0]),
                (rows.mean() / height - 0.5, recipe.PLACES[1]),
            ):
                found = [name for name in names if f"{group.color} {name}" in told]
                if abs(offset) > CENTRAL + 0.05:
                    asked[names[int(offset > 0)]] += 1
                    assert found == [names[int(offset > 0)]], (plan.prompt, offset)
                elif abs(offset) < CENTRAL - 0.05:
                    asked["middle"] += 1
                    assert found == [], (plan.prompt, offset)
    assert len(asked) == 5 and min(asked.values()) >= 10


def test_patches_are_asked_for_the_object_that_is_in_them():
    config = HolisticConfig(vision_config={"image_size": 64, "patch_size": 8})
    palette = torch.tensor(list(COLORS.values()))
    there, elsewhere = [], []
    for index in range(40):
        plan = world_plan("train", index, config=WorldConfig(clean=True))
        if plan.shown.camera:
            continue
        item = render_plan(plan)
        frames = make_views(Clip(item.frames, item.times, 2.0), config).frames.float()
        patches = frames.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).permute(0, 2, 3, 4, 1)
        told = recipe.patch_targets(plan, config, torch.arange(8))["color"].view(8, 8, 8)
        some = recipe.patch_targets(plan, config, torch.tensor([1, 2, 7]))["color"].view(3, 8, 8)
        assert torch.equal(some, told[[1, 2, 7]])
        for shown, found in ((patches, there), (patches.roll(4, dims=0), elsewhere)):
            asked = told >= 0
            near = (shown[asked] - palette[told[asked]][:, None]).abs().amax(dim=-1) < 40
            found += (near.float().mean(dim=1) > 0.05).tolist()
    assert len(there) > 1000 and np.mean(there) > 0.8 > 0.6 > np.mean(elsewhere)


def test_heads_begin_with_how_often_each_label_is_right(tmp_path):
    model, _ = load_holistic(small_base(tmp_path / "base"), dtype=torch.float32)
    clips = recipe.Clips(64, model.config)
    batch = torch.utils.data.default_collate([clips[index] for index in range(64)])
    said = recipe.EncodersWithHeads(model)(**batch)
    for branch in recipe.TOLD:
        told = batch[f"told_{branch}"].double()
        rate = torch.tensor([recipe.targets(world_plan("train", i, seed=1), branch) for i in range(500)])
        rate = rate.double().mean(dim=0).clamp(1e-3, 1 - 1e-3)
        entropy = -(told * rate.log() + (1 - told) * (1 - rate).log()).sum(dim=1).mean()
        assert said[f"loss_{branch}"] == pytest.approx(entropy.item(), rel=0.02)


def run(monkeypatch, base, output, *more):
    words = ["pretrain_encoders.py", "--model_name_or_path", str(base), "--output_dir", str(output)]
    monkeypatch.setattr(sys, "argv", [*words, "--config", str(CONFIG), *SMALL, *more])
    recipe.main()
    return load_file(output / "model.safetensors")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_encoders_learn_and_a_killed_run_ends_with_the_same_weights(monkeypatch, tmp_path, capsys):
    base = small_base(tmp_path / "base")
    whole = run(monkeypatch, base, tmp_path / "out", "--logging_steps", "2")
    log = capsys.readouterr().out
    assert all(log.count(f"loss_{part}") == 2 for part in [*recipe.TOLD, "patches"])
    start = load_file(base / "model.safetensors")
    assert whole.keys() == start.keys()
    same = {name for name in start if torch.equal(start[name], whole[name])}
    assert {name for name in start if name.startswith("language")} <= same
    # A map of what is beside what, and nothing else, stays in the encoders.
    rest = same - {name for name in start if name.startswith("language")}
    assert all(name.endswith("relative_position_index") for name in rest)

    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    (tmp_path / "out" / "model.safetensors").unlink()
    again = run(monkeypatch, base, tmp_path / "out")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_one_branch_learns_alone(monkeypatch, tmp_path):
    base = small_base(tmp_path / "base")
    start = load_file(base / "model.safetensors")
    ended = run(monkeypatch, base, tmp_path / "out", "--branches", "semantic", "--max_steps", "2")
    changed = {name for name in start if not torch.equal(start[name], ended[name])}
    assert changed == {name for name in start if name.startswith("semantic")}
    with pytest.raises(ConfigError, match="expected branches among"):
        run(monkeypatch, base, tmp_path / "other", "--branches", "sound")
    assert not (tmp_path / "other").exists()


def test_its_semantic_branch_sees_patches_as_the_tower_of_the_other_scorer_does(tiny):
    """Of a picture that stands still; later the places of queries and keys make a difference."""
    tower = tiny.model.model.visual
    semantic = BlipVisionModel(tiny_config(tiny_language().config).vision_config)
    copy_tower(semantic)
    picture = torch.randint(
        0, 256, (1, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    pair = picture.permute(0, 2, 3, 1).expand(2, -1, -1, -1).contiguous()
    seen = []
    tower.blocks[0].norm1.register_forward_pre_hook(lambda norm, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        tower(normalize(patchify(pair, 16, 2)), grid_thw=torch.tensor([[1, 8, 8]]))
        ours = semantic.embeddings(normalise(picture, 1, torch.float32))[0, 1:]
        # The tower reads patches in groups of 2x2.
        theirs = seen[0].view(4, 4, 2, 2, -1).transpose(1, 2).flatten(0, 3)
        assert torch.allclose(ours, theirs, atol=1e-3) and ours.abs().mean() > 1
        # With places that turn nothing the layers are the same, class token aside.
        for block, layer in zip(tower.blocks, semantic.encoder.layers, strict=False):
            states = torch.randn(1, 64, 192, generator=torch.Generator().manual_seed(1))
            flat = (torch.ones(64, 32), torch.zeros(64, 32))
            found = block(
                states[0], cu_seqlens=torch.tensor([0, 64], dtype=torch.int32), position_embeddings=flat
            )
            assert torch.allclose(layer(states, attention_mask=None)[0], found, atol=1e-4)
        last = semantic.encoder.layers[-1]
        assert torch.equal(last(states, attention_mask=None), states)


def places_told(semantic):
    """How well a linear map tells row and column of patches from what the last layer says: R^2."""
    config, states = tiny_config(tiny_language().config), []
    for index in range(60):
        item = render_plan(world_plan("train", index))
        frames = make_views(Clip(item.frames, item.times, 2.0), config).frames[:1]
        with torch.no_grad():
            states.append(semantic(normalise(frames, 1, torch.float32)).last_hidden_state[0, 1:])
    seen = torch.stack(states)
    grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), dim=-1)
    wanted = ((grid - 3.5) / grid.std()).flatten(0, 1).repeat(60, 1)
    seen = torch.cat([seen.flatten(0, 1), torch.ones(len(wanted), 1)], dim=1)
    first = 40 * 64
    weights = torch.linalg.lstsq(seen[:first], wanted[:first]).solution
    wrong = (seen[first:] @ weights - wanted[first:]).square().mean(dim=0)
    return 1 - wrong / wanted[first:].square().mean(dim=0)


def test_patches_know_where_they_are():
    semantic = BlipVisionModel(tiny_config(tiny_language().config).vision_config).eval()
    copy_tower(semantic)
    assert places_told(semantic).max() < 0.1
    show_places(semantic)
    assert places_told(semantic).min() > 0.5


def test_every_second_filter_of_the_motion_branch_sees_change_only():
    motion = HolisticModel(tiny_config(tiny_language().config)).motion
    stem = motion.get_submodule("blocks.0.multipathway_blocks.1.conv")
    before = stem.weight.detach().clone()
    watch_changes(motion, torch.Generator().manual_seed(0))
    assert torch.equal(stem.weight[::2], before[::2])
    assert torch.allclose(stem.weight.flatten(1).norm(dim=1), before.flatten(1).norm(dim=1))
    picture = torch.randn(1, 3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    clip = picture.repeat(1, 1, 16, 1, 1)
    clip[:, :, 8:] += torch.randn(1, 3, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        seen = stem(clip)[0, :, 2:-2].abs().amax(dim=(2, 3))  # the ends are filled up with black
    still = seen[:, [time for time in range(12) if time != 6]]
    assert still[1::2].max() < 1e-4 and seen[1::2, 6].min() > 0.1 and still[::2].min() > 0.1


def test_its_language_model_is_that_of_the_other_scorer(tiny):
    tokenizer = tiny.processor.tokenizer
    ids = tokenizer("a red circle moves left while a blue square grows", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        theirs = tiny.model(input_ids=ids).logits
        ours = tiny_language().eval()(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4)
