"""`HolisticScorer` behind everything that takes a scorer: library, command line, server, evaluation."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from cli_cases import command, write_clips
from holistic_cases import small_base, small_checkpoint, small_config
from safetensors.torch import load_file, save_file
from served import served

from qsave_reward import RewardClient, RewardModel, VideoReward
from qsave_reward.errors import AnswerError, ConfigError, VideoError
from qsave_reward.evaluate import evaluate, load_data
from qsave_reward.holistic.network import HolisticModel
from qsave_reward.holistic.scorer import NO_REASONS, OVERALL_ONLY, HolisticScorer, model_inputs
from qsave_reward.holistic.text import Reading
from qsave_reward.holistic.views import make_views
from qsave_reward.loading import load_scorer
from qsave_reward.server.worker import Worker
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import read_clip

PROMPT = "a red circle moves left"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("holistic"))


@pytest.fixture(scope="module")
def scorer(folder):
    return load_scorer(folder, device="cpu")


def clips(n, *, height=48, width=64):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (n, 12, height, width, 3), dtype=np.uint8)
    return [read_clip(one, fps=8.0) for one in frames]


def means(card):
    return [score.mean for score in card.scores.values()]


def test_a_checkpoint_loads_as_it_was_saved(folder, scorer):
    assert isinstance(scorer, HolisticScorer) and not scorer.model.training
    saved = load_file(folder / "model.safetensors")
    own = scorer.model.state_dict()
    assert saved.keys() <= own.keys() and all(torch.equal(own[name], saved[name]) for name in saved)
    assert {"language.lm_head.weight"} == own.keys() - saved.keys()  # tied
    assert scorer.provenance.prompt_version == "holistic-1" and len(scorer.provenance.revision) == 12


def test_it_sees_the_clip_and_reads_the_prompt(scorer):
    first, second = clips(2)
    cards = scorer.score_batch([first, second, first], [PROMPT, PROMPT, "a blue square moves right"])
    assert all(1 <= mean <= 5 for card in cards for mean in means(card))
    assert means(cards[0]) != means(cards[1]) and means(cards[0]) != means(cards[2])
    assert len(set(means(cards[0]))) == 3
    assert cards[0].defects is None and cards[0].reasoning is None


@pytest.mark.parametrize("branch", ["semantic", "motion", "technical"])
def test_each_branch_reaches_the_score(branch, tmp_path):
    alone = HolisticScorer.from_pretrained(small_checkpoint(tmp_path, branches=[branch]), device="cpu")
    first, second = clips(2)
    one, other = alone.score_batch([first, second], [PROMPT, PROMPT])
    assert means(one) != means(other)
    parts = {name.split(".")[0].split("_")[0] for name in alone.model.state_dict()}
    assert parts == {"language", branch}


def test_scores_do_not_depend_on_the_company(scorer):
    videos = [*clips(3), *clips(1, height=100, width=70)]
    prompts = [PROMPT, "a blue circle", "a red square moves right", PROMPT]
    alone = [means(scorer.score_batch([v], [p])[0]) for v, p in zip(videos, prompts, strict=True)]
    together = [means(card) for card in scorer.score_batch(videos, prompts)]
    backward = [means(card) for card in scorer.score_batch(videos[::-1], prompts[::-1])][::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(backward, alone, atol=1e-5)


def test_a_clip_that_fails_keeps_its_place(scorer, tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    good = clips(1)[0]
    cards = scorer.score_batch([good, tmp_path / "no.mp4", good], [PROMPT, PROMPT, " "], on_error="return")
    assert isinstance(cards[1], VideoError) and cards[2].code == "empty_prompt"
    assert means(cards[0]) == means(scorer.score_batch([good], [PROMPT])[0])
    with pytest.raises(VideoError):
        scorer.score_batch([good, tmp_path / "no.mp4"], [PROMPT, PROMPT])


def test_it_writes_no_reasons_and_says_so(scorer):
    good = clips(1)[0]
    assert scorer.explain_batch([good], [PROMPT])[0].warnings == (NO_REASONS,)
    found = scorer.score_batch([good], [PROMPT], mode="reasoned", on_error="return")
    assert isinstance(found[0], AnswerError) and found[0].code == "no_reasons"
    with pytest.raises(AnswerError, match="writes no reasons"):
        scorer.score_batch([good], [PROMPT], mode="reasoned")
    with pytest.raises(ConfigError, match="'direct' or 'reasoned', got 'quick'"):
        scorer.score_batch([good], [PROMPT], mode="quick")


def test_a_kind_is_not_loaded_as_the_other(folder):
    with pytest.raises(ConfigError, match="no checkpoint of a RewardModel; load_scorer"):
        RewardModel.from_pretrained(folder)
    with pytest.raises(ConfigError, match="no checkpoint of a HolisticScorer; load_scorer"):
        HolisticScorer.from_pretrained("tiny")


def test_one_clip_at_a_time(scorer):
    good = clips(1)[0]
    expected = means(scorer.score_batch([good], [PROMPT])[0])
    explained = scorer.explain(good, PROMPT)
    assert means(scorer.score(good, PROMPT)) == means(explained) == expected
    assert explained.reasoning is None and explained.warnings == (NO_REASONS,)
    with pytest.raises(ConfigError):
        scorer.score(good, " ")


def test_words_it_never_saw_are_named(scorer):
    card = scorer.score_batch(clips(1), ["a red zebra"])[0]
    assert "never saw (zebra)" in card.warnings[0]


def test_one_read_out_stands_for_all_dimensions(tmp_path):
    whole = load_scorer(small_checkpoint(tmp_path, per_dimension=False, show_prompt=False), device="cpu")
    first, again = whole.score_batch([clips(1)[0]] * 2, [PROMPT, "a zebra"])
    assert len(set(means(first))) == 1 and first.overall == pytest.approx(means(first)[0])
    assert first.warnings == (OVERALL_ONLY,) and means(first) == means(again)


def test_random_fragments_are_drawn_anew_only_where_asked_for(scorer, tmp_path):
    drawn = load_scorer(small_checkpoint(tmp_path, random_fragments=True), device="cpu")
    video = clips(1, height=100, width=100)[0]
    assert len({tuple(means(drawn.score_batch([video], [PROMPT])[0])) for _ in range(3)}) > 1
    assert len({tuple(means(scorer.score_batch([video], [PROMPT])[0])) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda weights: weights.pop("technical.norm.weight"),
            "lacks 1 weights, such as technical.norm.weight",
        ),
        (
            lambda weights: weights.update({"motion.more": torch.zeros(1)}),
            "unknown 1 weights, such as motion.more",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused(folder, tmp_path, damage, words):
    for name in ("config.json", "qsave.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = load_file(folder / "model.safetensors")
    damage(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=words):
        load_scorer(tmp_path, device="cpu")


def test_the_two_kinds_are_told_apart(folder, tmp_path):
    assert isinstance(load_scorer("tiny", device="cpu"), RewardModel)
    small_base(tmp_path)
    with pytest.raises(ConfigError, match=r"has no qsave\.json"):
        load_scorer(tmp_path)
    raw = json.loads((folder / "qsave.json").read_text())
    (tmp_path / "qsave.json").write_text(json.dumps(raw | {"prompt_version": "1"}))
    with pytest.raises(ConfigError, match="version '1', this package speaks 'holistic-1'"):
        load_scorer(tmp_path)


def test_it_travels_to_another_process(scorer, folder):
    again = copy.copy(scorer)
    assert again is not scorer and again.provenance == scorer.provenance
    code = "import sys; from qsave_reward.loading import load_scorer; "
    code += "print(load_scorer(sys.argv[1], device='cpu').score(sys.argv[2], sys.argv[3]).overall)"
    clip = "qsave_reward/examples/clean.mp4"
    done = subprocess.run([sys.executable, "-c", code, folder, clip, PROMPT], capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(scorer.score(clip, PROMPT).overall, abs=1e-5), done.stderr


def test_behind_a_server_and_as_a_reward_it_gives_the_same(folder, scorer):
    videos, prompts = clips(3), [PROMPT, "a blue circle", PROMPT]
    expected = [means(card) for card in scorer.score_batch(videos, prompts)]
    with served(Worker(str(folder), device="cpu")) as url:
        client = RewardClient(url)
        found = [means(card) for card in client.score_batch(videos, prompts)]
        raw = VideoReward(client, on_error="mask")(videos, prompts).raw
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(raw, expected, atol=1e-5)
    own = VideoReward.from_pretrained(folder, device="cpu", weights=dict.fromkeys(DIMENSIONS, 1.0))
    np.testing.assert_allclose(own(videos, prompts).raw, expected, atol=1e-5)


def test_it_is_evaluated_as_any_other(scorer):
    found = evaluate(scorer, load_data("world:test", limit=6), attribution_limit=2).to_dict()
    assert found["n"] == 6 and found["n_failed"] == 0
    assert found["results"]["overall"]["srcc"] is not None
    assert (found["results"]["attribution"]["n_failed"], found["results"]["attribution"]["n"]) == (2, 0)


def test_the_bundled_checkpoint_agrees_with_the_raters():
    bundled = load_scorer("holistic-tiny", device="cpu")
    assert isinstance(bundled, HolisticScorer) and "not on real video" in bundled.metadata.trained_on
    found = evaluate(bundled, load_data("world:test", limit=120), attribution_limit=0).to_dict()
    # With 120 clips an SRCC is uncertain by about 0.1.
    assert found["n_failed"] == 0
    wanted = {"visual_quality": 0.7, "dynamic_quality": 0.65, "text_alignment": 0.55, "overall": 0.7}
    for name, least in wanted.items():
        assert found["results"][name]["srcc"] > least


def test_the_command_line(folder, tmp_path, monkeypatch, capsys):
    qsave = command(monkeypatch, capsys)
    paths = write_clips(tmp_path)
    code, out, _ = qsave(
        "score", *paths, "--prompt", PROMPT, "--model", str(folder), "--device", "cpu", "--json"
    )
    cards = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [card["error"] for card in cards] == [None] * 3
    assert cards[0]["defects"] is None and NO_REASONS in cards[0]["warnings"]
    page = tmp_path / "report.html"
    code, out, _ = qsave("score", paths[0], "--prompt", PROMPT, "--model", str(folder), "--html", str(page))
    assert code == 0 and NO_REASONS in " ".join(out.split()) and "circle" in page.read_text()


def test_every_weight_has_a_gradient():
    torch.manual_seed(0)
    model = HolisticModel(small_config())
    ids = (5, *[-1] * 4, 6, *[-2] * 8, 7, *[-3] * 4, 8, 9)
    readings = [Reading(ids, (len(ids) - 3, len(ids) - 2, len(ids) - 1))] * 2
    inputs = model_inputs(
        [make_views(clip, model.config) for clip in clips(2)], readings, device=torch.device("cpu")
    )
    model(**inputs, level_ids=torch.arange(5)).square().sum().backward()
    dead = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert dead <= {"language.model.embed_tokens.weight"}
