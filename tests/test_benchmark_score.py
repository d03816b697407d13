"""`qsave bench score`: what is timed, what comes of the times; the baselines compute the same scores."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_cases import command
from fake_clock import Time

from qsave_reward import command_options
from qsave_reward.errors import ConfigError
from qsave_reward.model import RewardModel
from qsave_reward.slowfast import plan_chunks
from qsave_reward.speed.cost import count_operations
from qsave_reward.speed.passes import padded, three_passes
from qsave_reward.speed.peer import PeerAnswer, peer_plan, peer_style, read_answer, summary
from qsave_reward.speed.scaling import bench_scaling, curve, growing_plans
from qsave_reward.speed.stages import replay, stage_seconds, watched
from qsave_reward.speed.workload import rendered, visual_tokens
from qsave_reward.types import DIMENSIONS
from qsave_reward.video import write_clip

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def work():
    return rendered(5, frames=8, size=(96, 96))


def means(scorer: RewardModel, of) -> np.ndarray:
    cards = scorer.score_batch(of.clips, of.prompts)
    return np.array([[card.scores[name].mean for name in DIMENSIONS] for card in cards])


def test_clips_of_mixed_lengths_are_beginnings_of_the_clips(work) -> None:
    mixed = work.shortened()
    assert [len(clip.times) for clip in mixed.clips] == [8, 2, 6, 4, 8] and mixed.prompts == work.prompts
    for cut, clip in zip(mixed.clips, work.clips, strict=True):
        assert (cut.frames == clip.frames[: len(cut.times)]).all()
        assert cut.duration == pytest.approx(len(cut.times) / 8)
    assert [len(part.clips) for part in work.batches(2)] == [2, 2, 1]
    assert work.repeated(7).prompts == [*work.prompts, *work.prompts[:2]]


@pytest.mark.parametrize("baseline", [padded, three_passes])
def test_the_baselines_give_the_scores_of_the_normal_path(tiny_by_twos, work, baseline) -> None:
    mixed = work.shortened()
    expected = means(tiny_by_twos, mixed)
    assert np.ptp(expected, axis=0).min() > 0.1 and np.ptp(expected, axis=1).max() > 0.1  # can differ
    assert np.abs(np.array(baseline(tiny_by_twos, mixed)) - expected).max() < 1e-3


def test_three_passes_run_the_whole_network_three_times(tiny_by_twos, work) -> None:
    with watched(tiny_by_twos, clock=Time(), settle=lambda: None) as calls:
        three_passes(tiny_by_twos, work)
    assert len(calls) == 3 * 3
    first, second, third = calls[:3]
    assert first.kwargs["input_ids"].shape[1] < second.kwargs["input_ids"].shape[1]
    assert second.kwargs["input_ids"].shape[1] < third.kwargs["input_ids"].shape[1]
    assert all(call.kwargs["pixel_values"] is first.kwargs["pixel_values"] for call in calls[:3])


def test_the_lower_bound_is_the_network_on_the_tensors_of_scoring(tiny_by_twos, work, monkeypatch) -> None:
    with watched(tiny_by_twos, clock=Time(), settle=lambda: None) as calls:
        means(tiny_by_twos, work)
    assert len(calls) == 3 and not tiny_by_twos.model.model._forward_pre_hooks
    monkeypatch.setattr(tiny_by_twos.processor, "question", None)  # nothing is prepared
    with watched(tiny_by_twos, clock=Time(), settle=lambda: None) as again:
        replay(tiny_by_twos, calls)
    assert [call.kwargs.keys() for call in again] == [call.kwargs.keys() for call in calls]
    assert all(
        a.kwargs["pixel_values"] is b.kwargs["pixel_values"] for a, b in zip(again, calls, strict=True)
    )


def test_stages_follow_the_clock(tiny_by_twos, work, tmp_path) -> None:
    files = [str(tmp_path / f"{i}.mp4") for i in range(5)]
    for file, clip in zip(files, work.clips, strict=True):
        write_clip(file, clip, fps=8)
    # Every look takes a second: before and after a stage that is timed alone, and in each of three batches at
    # the start, where the network begins, around its vision tower, at its end, at the end.
    found = stage_seconds(tiny_by_twos, work, files=files, clock=Time(step=1.0), settle=lambda: None)
    assert found == {"decode": 1, "plan": 1, "preprocess": 3 - 1, "vision": 3, "prefill": 6, "read_out": 3}


def test_the_peer_sees_every_frame_large(tiny, work) -> None:
    plan = replace(tiny.frame_plan, mode="slowfast", token_budget=20, max_slow_tokens=16)
    sizes = {(c.slow, c.height, c.width) for c in plan_chunks(work.clips[0], peer_plan(plan))}
    assert sizes == {(True, 96, 96)}
    assert peer_plan(replace(plan, max_frames=16, token_budget=4096)).token_budget == 4096


def test_the_peer_writes_and_its_text_is_parsed(tiny_by_twos, work, monkeypatch) -> None:
    from qsave_reward.speed import peer

    texts = []
    monkeypatch.setattr(peer, "read_answer", lambda text, n: texts.append(text) or read_answer(text, n))
    two = work.repeated(2)
    answers = peer_style(tiny_by_twos, two)
    for text, answer in zip(texts, answers, strict=True):
        assert text.count("<think>") == 1 and answer.tokens > 20
        line = text.rsplit("\n", 1)[-1].split("</think>")[-1]
        words = [part.rsplit(" ", 1)[-1].strip(".") for part in line.strip().split(", ")]
        levels = ["bad", "poor", "fair", "good", "excellent"]
        assert [levels.index(word) + 1 for word in words] == [answer.levels[name] for name in DIMENSIONS]
    # A model that writes nonsense has no scores.
    monkeypatch.setattr(
        tiny_by_twos.model, "generate", lambda input_ids, **_: torch.cat([input_ids, input_ids[:, :3]], dim=1)
    )
    failed = peer_style(tiny_by_twos, two)
    assert failed == [PeerAnswer(None, 3)] * 2
    assert summary([*answers, *failed])["failed"] == 2
    assert summary([*failed, PeerAnswer(None, 9)]) == {"failed": 3, "tokens_per_answer": 5.0}


def test_twice_the_clips_take_twice_the_operations(tiny_by_twos, work) -> None:
    def operations(of) -> int:
        with watched(tiny_by_twos, clock=Time(), settle=lambda: None) as calls:
            means(tiny_by_twos, of)
        return count_operations(lambda: replay(tiny_by_twos, calls))

    pair = work.repeated(2)
    one, two = operations(pair), operations(pair.repeated(4))
    assert two == 2 * one > 1e8


def test_token_budgets_grow_fourfold(tiny) -> None:
    assert rendered(1, frames=5, size=(64, 96)).clips[0].frames.shape == (5, 64, 96, 3)
    clips = rendered(1, frames=16, size=(256, 256)).clips
    plans = growing_plans(tiny.frame_plan, frames=16, size=(256, 256))
    all_slow = [replace(plan, mode="all_slow") for plan in plans]
    assert [visual_tokens(clips, plan)["slow"] for plan in (all_slow[0], all_slow[3])] == [8 * 16, 8 * 64]
    totals = [sum(visual_tokens(clips, plan).values()) for plan in plans]
    assert totals == sorted(totals) and totals[3] == 4 * totals[0]
    assert sum(visual_tokens(clips, tiny.frame_plan).values()) == totals[0]


def test_scaling_and_its_picture(tiny_by_twos, tmp_path, monkeypatch) -> None:
    from qsave_reward.speed.plot import write_plot

    found = bench_scaling(tiny_by_twos, clips=2, frames=8, size=(128, 128), rounds=1, most=4)
    assert [point.size for point in found.clips.points] == [1, 2, 4]
    tokens = [point.size for point in found.tokens.points]
    assert 3 < tokens[-1] / tokens[0] <= 4 and found.of == 2
    assert all(point.low <= point.seconds <= point.high for point in found.tokens.points)
    assert found.tokens.points[-1].seconds > 0 and np.isfinite([found.clips.exponent, found.clips.r2]).all()
    for name, head in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG")):
        write_plot(found, str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(head)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_plot(found, str(tmp_path / "b.svg"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_clips_too_small_to_grow(tiny_by_twos) -> None:
    with pytest.raises(ConfigError, match="make them larger"):
        bench_scaling(tiny_by_twos, clips=1, frames=8, size=(32, 32), rounds=1)


@pytest.fixture
def qsave(monkeypatch, capsys, tiny):
    copy = RewardModel(tiny.model, tiny.processor, tiny.metadata, name="tiny", batch_size=8)
    monkeypatch.setattr(command_options, "load_model", lambda name, device: copy)
    return command(monkeypatch, capsys)


SMALL = ("--clips", "2", "--frames", "8", "--size", "64x64", "--batch-size", "1", "--rounds", "1")


def test_the_command(qsave) -> None:
    code, out, _ = qsave("bench", "score", *SMALL, "--json")
    assert code == 0
    found = json.loads(out)
    (seconds,) = found["rounds"]
    ratios = found["ratios"]
    assert ratios["vs_peer_style"] == seconds["peer_style"] / seconds["score"]
    assert ratios["vs_three_passes"] == seconds["three_passes"] / seconds["score"]
    assert ratios["vs_padded"] == seconds["padded"] / seconds["score_mixed"]
    assert ratios["vs_lower_bound"] == seconds["score"] / seconds["lower_bound"]
    assert found["ranges"] == {name: [value, value] for name, value in ratios.items()}
    assert found["clips_per_s"] == pytest.approx(2 / seconds["score"])
    tokens = found["tokens_per_clip"]
    # Four chunks of 64 x 64 pixels: four tokens each, slow and fast.
    assert tokens["slow"] + tokens["fast"] == 16 and tokens["slow"] >= 4 and tokens["text"] > 50
    assert found["tokens_per_s"] == pytest.approx(2 * sum(tokens.values()) / seconds["score"])
    stages = found["stages_ms"]
    assert list(stages) == ["decode", "plan", "preprocess", "vision", "prefill", "read_out"]
    assert all(stages[name] > 0 for name in ("decode", "plan", "vision", "prefill", "read_out"))
    assert found["peak_mb"] is None or found["peak_mb"] > 100
    flops = found["flops"]
    assert found["flops_share"] == pytest.approx(flops["achieved"] / flops["ceiling"])
    assert 0 < found["flops_share"] < 1.5
    assert max(found["max_difference"].values()) < 1e-3
    assert set(found["peer"]) == {"failed", "tokens_per_answer"} and found["peer"]["tokens_per_answer"] > 20
    assert (found["clips"], found["shape"], found["batch_size"]) == (2, [8, 64, 64], 1)
    assert found["machine"]["device"] == "cpu" and "scaling" not in found


def test_the_table_and_scaling(qsave, monkeypatch, tmp_path) -> None:
    """Everything that takes time is put in place; the rest is the command's own."""
    from qsave_reward.speed import scaling, score

    points = {1.0: [1.0], 2.0: [2.0], 4.0: [4.0]}
    grown = scaling.Scaling(curve(points), curve(points), 3)
    monkeypatch.setattr(scaling, "bench_scaling", lambda *_, **__: grown)
    found = {
        "ratios": {"vs_padded": 1.5},
        "ranges": {"vs_padded": (1.0, 2.0)},
        **{"clips_per_s": 12.0, "tokens_per_s": 3e4, "flops_share": 0.25, "peak_mb": None},
        **dict.fromkeys(("stages_ms", "tokens_per_clip", "flops", "max_difference", "peer"), {"x": 0.5}),
    }
    monkeypatch.setattr(
        score, "bench_score", lambda *_, **__: SimpleNamespace(to_dict=lambda: json.loads(json.dumps(found)))
    )
    picture = tmp_path / "grow.svg"
    code, out, err = qsave("bench", "score", "--scaling", "--plot", str(picture))
    assert code == 0 and picture.read_bytes().startswith(b"<?xml") and "wrote" in err
    assert "1.50 (1.00 to 2.00)" in out and "unknown" in out and "exponent 1.000, R2 1.0000" in out
    code, out, _ = qsave("bench", "score", "--scaling", "--json")
    shown = json.loads(out)["scaling"]
    assert shown["clips"]["points"][1] == {"size": 2.0, "seconds": 2.0, "low": 2.0, "high": 2.0}


def test_wrong_commands(qsave, monkeypatch, tmp_path) -> None:
    assert qsave("bench", "score", "--plot", str(tmp_path / "a.svg"))[0] == 2
    code, _, err = qsave("bench", "score", "--scaling", "--plot", str(tmp_path / "a.pdf"))
    assert code == 2 and "ending .svg or .png" in err
    code, _, err = qsave("bench", "score", "--scaling", "--plot", str(tmp_path / "none" / "a.svg"))
    assert code == 2 and "existing folder" in err
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = qsave("bench", "score", "--scaling", "--plot", str(tmp_path / "a.svg"))
    assert code == 2 and "pip install 'qsave_reward[t2v]'" in err
    monkeypatch.setattr(command_options, "load_model", lambda name, device: SimpleNamespace())
    code, _, err = qsave("bench", "score")
    assert code == 2 and "writes reasons" in err


def test_another_number_type(qsave, monkeypatch) -> None:
    from qsave_reward.speed import score

    seen = []

    class Stop(ConfigError):
        pass

    def stop(scorer, **options):
        seen.append((scorer.model.dtype, scorer.batch_size, options["clips"]))
        raise Stop("enough")

    monkeypatch.setattr(score, "bench_score", stop)
    assert qsave("bench", "score", "--dtype", "bfloat16", "--batch-size", "3", "--clips", "9")[0] == 2
    assert qsave("bench", "score", "--dtype", "float32")[0] == 2
    assert seen == [(torch.bfloat16, 3, 9), (torch.float32, 8, 32)]
