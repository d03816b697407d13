"""Tokens and differences of the comparison of frame plans; the training itself is that of sft.py."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel
from scipy.stats import spearmanr

from qsave_reward.checkpoint import write_metadata
from qsave_reward.errors import ConfigError
from qsave_reward.evaluate import evaluate, load_data
from qsave_reward.slowfast import FramePlan
from qsave_reward.video import Sampling, read_clip
from qsave_reward.world import world_item

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "reward"))

import compare_plans as plans

RECIPES = Path(__file__).parent.parent / "recipes" / "reward"


@pytest.mark.parametrize(
    "text", ["slowfast", "slowfast:", "fast:128", "slowfast:0", "slowfast:-1", "slowfast:1.5"]
)
def test_what_is_no_plan(text):
    with pytest.raises(ConfigError):
        plans.parse_plan(text)
    assert plans.parse_plan("all_slow:96") == ("all_slow", 96)


def test_tokens_are_those_of_the_chunks():
    # 16 frames of 128 x 128 in 8 chunks, all of 4 x 4 tokens: the budget is used up.
    plan = FramePlan(mode="all_slow", token_budget=128, max_slow_tokens=16)
    assert plans.tokens_used(plan, 3) == 128
    # Two slow chunks of 16 tokens, six fast ones of 9.
    plan = FramePlan(mode="uniform", slow_every=4, token_budget=128, max_slow_tokens=16, fast_share=0.5625)
    assert plans.tokens_used(plan, 3) == 2 * 16 + 6 * 9


def test_the_gain_is_a_difference_of_rank_correlations():
    rng = np.random.default_rng(0)
    mos = rng.normal(size=50)
    scores, base = mos + rng.normal(size=50), mos + 2 * rng.normal(size=50)
    expected = spearmanr(scores, mos)[0] - spearmanr(base, mos)[0]
    assert plans.srcc_gain(scores, base, mos) == pytest.approx(expected)


def test_a_row_compares_clip_by_clip(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "tokens_used", lambda plan: 96.4)  # of 200 clips; see above

    class Dimmed(FakeModel):
        def score_batch(self, videos, prompts, **options):
            return super().score_batch(videos[::-1], prompts[::-1], **options)

    for name, model in (("slowfast_128", FakeModel()), ("uniform_128", Dimmed())):
        folder = tmp_path / name
        folder.mkdir()
        plan = FramePlan(mode=name.split("_")[0], token_budget=128, max_slow_tokens=16)
        write_metadata(folder, plan, trained_on="nothing", prompt_words=None)
        evaluate(
            model, load_data("world:test", limit=8), mode="direct", attribution_limit=0, batch_size=8
        ).save(folder / "eval")
    options = argparse.Namespace(out=tmp_path)
    first = plans.row(options, "slowfast:128", "slowfast:128")
    other = plans.row(options, "uniform:128", "slowfast:128")
    items = [world_item("test", index) for index in range(8)]
    mean = [read_clip(item.frames, Sampling(8), times=item.times.tolist()).frames.mean() for item in items]
    mos = [item.record.mos["visual_quality"] for item in items]
    here, there = spearmanr(mean, mos)[0], spearmanr(mean[::-1], mos)[0]
    assert first[:2] == ["slowfast:128", "96"] and first[2] == f"{here:.3f}"
    assert other[2].startswith(f"{there:.3f} ({there - here:+.3f} [")
    evaluate(FakeModel(), load_data("world:test", limit=7), attribution_limit=0).save(
        tmp_path / "uniform_128" / "eval"
    )
    with pytest.raises(ConfigError, match="scores of other clips"):
        plans.row(options, "uniform:128", "slowfast:128")


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(plans, "run", lambda command: commands.append(command))
    options = argparse.Namespace(
        out=tmp_path, config="c.yaml", start="tiny", steps=7, limit=9, train=["--seed", "3"]
    )
    plans.train_and_score(options, "uniform:96")
    train, score = commands
    assert train[train.index("--token_budget") + 1] == "96" and train[-2:] == ["--seed", "3"]
    assert train[train.index("--mode") + 1] == "uniform" and score[score.index("--limit") + 1] == "9"
    done = tmp_path / "uniform_96"
    (done / "eval").mkdir(parents=True)
    for name in ("qsave.json", "eval/evaluation.json"):
        (done / name).write_text(json.dumps({}))
    plans.train_and_score(options, "uniform:96")
    assert len(commands) == 2


def test_the_command_explains_itself():
    script = str(RECIPES / "compare_plans.py")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "MODE:TOKENS" in done.stdout
