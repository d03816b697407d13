"""What a run's processes share: where the optimizer steps, other numbers of processes, whole weights."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from accelerators import keep_model_out, open_accelerator
from checkpoints import resume, save
from run_log import read_log
from t2v_pipelines import build, sampled
from t2v_training import learner_for
from train_options import TrainOptions

from qsave_reward.errors import ConfigError

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "text_to_video"
RUN = "--height 32 --width 32 --num_frames 9 --steps 2 --prompts_per_update 2 --group_size 4 --batch_size 4"
RUN += " --lora_rank 4 --eval_count 2 --eval_videos 1 --evaluate_every 9 --save_every 1"
ADVANTAGES = torch.tensor([1.0, 0.0, -1.0])

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def command(folder: Path, *more: str, processes: int = 1, **own: str) -> subprocess.CompletedProcess:
    """Run `train.py` in some processes."""
    settings = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"} | own
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [*launch, RECIPE / "train.py", "--output_dir", folder, *RUN.split(), *more],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=280,
    )


def opened(learner):
    """A learner whose checkpoints are those of a run."""
    learner.accelerator.register_for_checkpointing(learner.policies)
    keep_model_out(learner.accelerator)
    return learner


def boundaries(learner, rollout, monkeypatch):
    """After which of the batches of an update the optimizer steps."""
    seen, backward = [], learner.accelerator.backward

    def watched(loss):
        seen.append(learner.accelerator.sync_gradients)
        backward(loss)

    monkeypatch.setattr(learner.accelerator, "backward", watched)
    learner.update([rollout], [ADVANTAGES], seed=0)
    return seen


@pytest.mark.parametrize("batches", [2, 4])
def test_a_run_that_goes_on_with_other_processes_steps_at_the_end_of_an_update(
    tmp_path, monkeypatch, batches
):
    """A process has fewer batches in an update, the more processes there are; levels stand for them here."""
    begun = opened(learner_for(build("wan"), levels_per_video=3))
    rollout = sampled(begun.pipeline, "wan", number=3)
    begun.update([rollout], [ADVANTAGES], seed=0)
    save(begun.accelerator, tmp_path, 1)
    learner = opened(learner_for(build("wan"), levels_per_video=batches))
    assert resume(learner.accelerator, tmp_path) == 1
    weights = zip(learner.policies.current, begun.policies.current, strict=True)
    assert all(torch.equal(own, saved) for own, saved in weights)
    assert boundaries(learner, rollout, monkeypatch) == [False] * (batches - 1) + [True]
    assert all(weight.grad is None for weight in learner.policies.current)


def test_a_process_that_no_checkpoint_was_written_for_counts_as_the_others_do(tmp_path):
    begun = opened(learner_for(build("wan"), levels_per_video=3))
    begun.accelerator.step = 3
    save(begun.accelerator, tmp_path, 1)
    counts = []
    for number in (0, 1):
        learner = opened(learner_for(build("wan"), levels_per_video=2))
        learner.accelerator.step = 1
        if number:
            (tmp_path / "step-1" / "random_states_0.pkl").unlink()
        resume(learner.accelerator, tmp_path)
        counts.append(learner.accelerator.step)
    assert counts == [0, 0]


@pytest.mark.parametrize(("minibatches", "batches"), [(1, 24), (2, 12), (3, 8), (6, 4)])
def test_minibatches_share_the_groups_of_a_process(minibatches, batches):
    options = TrainOptions(
        output_dir="OUT", prompts_per_update=6, group_size=4, batch_size=2, minibatches=minibatches
    )
    assert open_accelerator(options).gradient_accumulation_steps == batches
    with pytest.raises(ConfigError, match=r"minibatches \(4\) must divide .* \(6, .* over 1 processes\)"):
        open_accelerator(replace(options, minibatches=4))  # which divides the 24 batches


def levels_of(learner, rollouts):
    """Noise levels, 0..1, at which an update looks at `rollouts`, [rollouts * levels_per_video, B]."""
    seen = []
    handle = learner.pipeline.transformer.register_forward_pre_hook(
        lambda _module, _given, keywords: seen.append(keywords["timestep"]), with_kwargs=True
    )
    learner.update(rollouts, [torch.linspace(-1, 1, len(one.latents)) for one in rollouts], seed=0)
    handle.remove()
    # Old policy, reference and policy see the same latents.
    assert all(torch.equal(a, b) for a, b in zip(seen[::3], seen[2::3], strict=True))
    return torch.stack(seen[::3]) / 1000


def test_noise_levels_cover_their_range_in_every_update_and_are_one_for_a_group():
    learner = learner_for(build("ltx"), levels_per_video=2, prompts_per_update=4, group_size=2, batch_size=1)
    rollouts = [sampled(learner.pipeline, "ltx", number=1) for _ in range(8)]  # a group is two of them
    levels = levels_of(learner, rollouts).flatten().sort().values
    assert torch.equal(levels[::2], levels[1::2])
    assert ((levels[::2] * 8).floor() == torch.arange(8)).all()


def test_an_optimizer_step_sees_whole_groups_at_all_of_their_levels():
    sizes = {"prompts_per_update": 4, "group_size": 2, "batch_size": 1}
    learner = learner_for(build("ltx"), levels_per_video=2, minibatches=2, **sizes)
    rollouts = [sampled(learner.pipeline, "ltx", number=1) for _ in range(8)]  # a group is two of them
    levels = (levels_of(learner, rollouts).flatten() * 8).floor()
    # Of the eight levels each group has one in the lower and one in the upper half, twice: 8 values a step.
    for step in levels.split(8):
        seen, times = step.unique(return_counts=True)
        assert len(seen) == 4 and (times == 2).all() and (seen < 4).sum() == 2
    assert len(levels.unique()) == 8


def test_fsdp_is_refused(monkeypatch):
    Accelerator()
    with monkeypatch.context() as patch:
        patch.setitem(PartialState._shared_state, "distributed_type", DistributedType.FSDP)
        with pytest.raises(ConfigError, match="whole weights in each process, got FSDP.* ZeRO stage 2"):
            open_accelerator(TrainOptions(output_dir="OUT"))
    Accelerator()  # the state of an accelerator is one for all: take the next test's from the restored one


@pytest.mark.slow
def test_zero_3_is_refused(tmp_path):
    pytest.importorskip("deepspeed")
    zero = str(ROOT / "configs" / "accelerate" / "zero3.json")
    own = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": zero}
    done = command(tmp_path / "run", DS_ACCELERATOR="cpu", **own)
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    assert "error: expected whole weights in each process, got DeepSpeed ZeRO stage 3" in done.stderr


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_and_with_more_processes(tmp_path):
    for updates, processes in ((1, 2), (2, 1), (3, 2)):
        done = command(tmp_path, "--updates", str(updates), "--kl", "0.5", processes=processes)
        assert done.returncode == 0, done.stderr[-4000:]
    done = command(tmp_path / "whole", "--updates", "3", "--kl", "0.5")
    assert done.returncode == 0, done.stderr[-4000:]
    found, whole = (
        [row for row in read_log(folder / "log.jsonl") if row["kind"] == "update"]
        for folder in (tmp_path, tmp_path / "whole")
    )
    for one, other in zip(found, whole, strict=True):
        for name in ("grad_norm", "drift_reference", "reward.overall"):
            assert one[name] == pytest.approx(other[name], rel=0.05), (one["step"], name)
