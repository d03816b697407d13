"""Options that cannot work, where prompts come from, and the log."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from best_of_n import BestOfOptions
from evaluate import EvaluateOptions, options_from
from options import parse_options
from run_log import RunLog, read_log
from text_prompts import in_world, prompts_of_update, read_prompts
from train_options import TrainOptions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")


def parsed(*arguments: str) -> TrainOptions:
    return parse_options(TrainOptions, ["--output_dir", "OUT", *arguments])


def refusal(capsys, *arguments: str) -> str:
    """What is said of arguments that are refused, by a ConfigError or by argparse, which exits with 2."""
    with pytest.raises((SystemExit, ConfigError)) as caught:
        parsed(*arguments)
    if isinstance(caught.value, ConfigError):
        return str(caught.value)
    assert caught.value.code == 2
    return capsys.readouterr().err


COUNTS = (
    "updates prompts_per_update batch_size minibatches levels_per_video eval_count eval_videos height width"
)
COUNTS += " num_frames steps lora_rank evaluate_every save_every"
POSITIVE = "fps guidance lora_alpha learning_rate advantage_limit beta noise clip"


@pytest.mark.parametrize("name", COUNTS.split())
def test_counts_begin_at_one(name):
    with pytest.raises(ConfigError, match=f"^{name} must be at least 1, got 0"):
        parsed(f"--{name}", "0")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("name", POSITIVE.split())
def test_what_must_be_above_zero(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must be above 0"):
        parsed(f"--{name}", value)


@pytest.mark.parametrize("value", ["-0.1", "nan"])
@pytest.mark.parametrize("name", ["max_masked", "old_rate", "old_limit", "average", "kl", "eval_guidance"])
def test_what_must_not_be_negative(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must"):
        parsed(f"--{name}", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("average", "1.5"),  # a blend with a negative share runs away
        ("old_limit", "1.5"),
        ("kl", "inf"),
        ("eval_guidance", "inf"),
        ("weight_decay", "-0.1"),
        ("adam_epsilon", "-1e-8"),
        ("max_grad_norm", "0"),
        ("max_grad_norm", "-1"),
        ("seed", "-1"),
    ],
)
def test_what_would_spoil_a_run_much_later_is_refused_at_once(name, value):
    with pytest.raises(ConfigError, match=f"^{name} must"):
        parsed(f"--{name}={value}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--group_size", "1"], "group_size must be at least 2, got 1"),
        (["--group_size", "8", "--batch_size", "3"], r"batch_size \(3\) must divide group_size \(8\)"),
        (["--batch_size", "16"], r"batch_size \(16\) must divide group_size \(8\)"),
        (["--extra", "max_sequence_length: 3"], "extra must be a JSON object, got 'max_sequence_length: 3'"),
        (["--extra", "[1]"], "extra must be a JSON object"),
        (["--extra", '{"num_frames": 9}'], "extra.*num_frames"),
        (["--weights", '{"quality": 1}'], "weights must name each of visual_quality"),
        (["--weights", '{"visual_quality": 1, "dynamic_quality": -1, "text_alignment": 1}'], "not negative"),
        (["--weights", "1,1,1"], "weights must be a JSON object"),
        (["--config", "there-is-none.yaml"], r"cannot read the configuration there-is-none\.yaml"),
    ],
)
def test_options_that_do_not_fit_say_what_was_expected(arguments, words):
    with pytest.raises(ConfigError, match=words):
        parsed(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rte", "1"], "--learning_rte"),
        (["--learn", "1"], "--learn"),  # no abbreviations
        (["--updates", "2.5"], "--updates: invalid int value: '2.5'"),
        (["--kl", "much"], "--kl: invalid float value: 'much'"),
        (["--algorithm", "ppo"], "'ppo'"),
        (["--dtype", "fp8"], "'fp8'"),
        (["--gradient_checkpointing", "maybe"], "maybe"),
    ],
)
def test_wrong_names_types_and_choices_are_refused(arguments, words, capsys):
    assert words in refusal(capsys, *arguments)


def test_a_run_needs_a_folder(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(TrainOptions, [])
    assert caught.value.code == 2 and "--output_dir" in capsys.readouterr().err


def test_a_wrong_file_is_no_better_than_a_wrong_command_line(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rte: 1.0e-4\n")
    assert "learning_rte" in refusal(capsys, "--config", str(file))
    file.write_text("updates: many\n")
    assert "'many'" in refusal(capsys, "--config", str(file))
    file.write_text(
        "updates: 3\nextra: {max_sequence_length: 32}\nlora_targets: [to_q, to_k]\nreward_device: null"
    )
    options = parsed("--config", str(file), "--updates", "4", "--eval_steps", "9", "--eval_guidance", "3")
    assert options.updates == 4 and options.lora_targets == ["to_q", "to_k"] and options.reward_device is None
    assert options.sampling().extra == {"max_sequence_length": 32}
    assert (options.sampling().steps, options.sampling().guidance) == (8, 1)
    evaluated = options.eval_sampling()
    assert (evaluated.steps, evaluated.guidance, evaluated.fps) == (9, 3, 8)


def test_a_run_goes_on_only_with_its_own_options(tmp_path):
    parsed().save(tmp_path)
    longer = parsed("--updates", "7", "--reward", "http://127.0.0.1:9", "--reward_timeout", "9")
    parsed("--held_out", "http://127.0.0.1:8").check_folder(tmp_path)
    longer.check_folder(tmp_path)
    longer.save(tmp_path)
    with pytest.raises(ConfigError, match="seed: 0 then, 3 now, kl: 0.01 then, 0.1 now.*another output_dir"):
        parsed("--kl", "0.1", "--seed", "3").check_folder(tmp_path)
    assert "updates: 7" in (tmp_path / "config.yaml").read_text()


def test_a_run_goes_on_where_it_was_moved_to(tmp_path):
    parsed("--output_dir", str(tmp_path / "begun")).save(tmp_path / "begun")
    moved = (tmp_path / "begun").rename(tmp_path / "moved")
    parsed("--output_dir", str(moved)).check_folder(moved)


def test_grpo_brings_its_own_epsilon_and_needs_no_distance():
    nft, grpo = parsed(), parsed("--algorithm", "grpo")
    assert (nft.kl, nft.adam_epsilon, grpo.kl, grpo.adam_epsilon) == (1e-2, 1e-8, 0, 1e-15)
    given = parsed("--algorithm", "grpo", "--kl", "0.5", "--adam_epsilon", "1e-9")
    assert (given.kl, given.adam_epsilon) == (0.5, 1e-9)


def test_half_precision_is_refused_for_training_only(capsys):
    assert "float16 cannot be trained" in refusal(capsys, "--dtype", "float16")
    assert parse_options(EvaluateOptions, ["--dtype", "float16"]).dtype == "float16"


def test_an_evaluation_takes_over_what_a_run_evaluates_with(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    own = parsed("--height", "96", "--fps", "24", "--eval_steps", "30", "--eval_guidance", "5", "--seed", "4")
    own = replace(own, eval_prompts=str(tmp_path / "prompts.txt"), eval_count=2, reward="http://127.0.0.1:9")
    own = replace(own, extra='{"max_sequence_length": 512}', dtype="bfloat16", held_out="")
    own.save(tmp_path)
    found = options_from(EvaluateOptions, ["--run", str(tmp_path), "--lora", "best", "--videos", "5"])
    assert found.sampling() == own.eval_sampling() and (found.steps, found.guidance) == (30, 5)
    assert (found.prompts, found.count, found.videos) == (own.eval_prompts, 2, 5)
    assert (found.reward, found.dtype, found.seed, found.lora) == (own.reward, "bfloat16", 4, "best")
    best = options_from(BestOfOptions, ["--n", "3", f"--run={tmp_path}", "--reward", "tiny"])
    assert (best.videos, best.reward, best.height) == (3, "tiny", 96)
    with pytest.raises(
        ConfigError, match="expected the folder of a run, with config.yaml in it, got .*empty"
    ):
        options_from(EvaluateOptions, ["--run", str(tmp_path / "empty")])


def test_the_file_of_a_run_starts_the_same_run(tmp_path):
    own = parsed(
        "--weights", '{"visual_quality": 1, "dynamic_quality": 2, "text_alignment": 1}', "--kl", "1e-7"
    )
    own.save(tmp_path)
    assert parse_options(TrainOptions, ["--config", str(tmp_path / "config.yaml")]) == own


@pytest.mark.parametrize("kind", [TrainOptions, EvaluateOptions, BestOfOptions])
def test_only_the_embedded_generator_has_a_prompt_length_unless_one_is_given(kind):
    needed = ["--output_dir", "OUT"] if kind is TrainOptions else []

    def extra(*arguments):
        return parse_options(kind, [*needed, *arguments]).sampling().extra

    assert extra() == {"max_sequence_length": 32}
    assert extra("--pipeline", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers") == {}
    assert extra("--extra", "{}") == {}
    assert extra("--pipeline", "other", "--extra", '{"frame_rate": 25}') == {"frame_rate": 25}


@given(st.integers(1, 12), st.data(), st.integers(0, 5))
def test_no_prompt_comes_twice_in_a_turn_and_none_is_left_out_for_long(total, data, seed):
    number = data.draw(st.integers(1, total))
    prompts = [f"prompt {i}" for i in range(total)]
    turn = total // number
    used = [prompts_of_update(prompts, update, number, seed=seed) for update in range(60 * turn)]
    for start in range(0, len(used), turn):
        together = [prompt for update in used[start : start + turn] for prompt in update]
        assert len(set(together)) == len(together) == turn * number
    assert {prompt for update in used for prompt in update} == set(prompts)


@given(st.integers(2, 8), st.data(), st.integers(0, 5))
def test_the_prompts_of_an_update_are_different(total, data, seed):
    number = data.draw(st.integers(2, total))
    prompts = [f"prompt {i}" for i in range(total)]
    for update in range(2 * total):
        assert len(set(prompts_of_update(prompts, update, number, seed=seed))) == number


def test_prompts_depend_on_update_and_seed_only():
    prompts = [f"prompt {i}" for i in range(50)]
    first = prompts_of_update(prompts, 3, 10, seed=0)
    assert first == prompts_of_update(prompts, 3, 10, seed=0) != prompts_of_update(prompts, 3, 10, seed=1)
    assert first != prompts[30:40]  # shuffled
    ten = [prompts_of_update(prompts, update, 10, seed=0) for update in range(10)]
    assert ten[:5] != ten[5:]  # otherwise in the next turn


def test_prompts_of_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n\n  a blue square \na red circle\nein grüner Kreis\n", encoding="utf-8")
    assert read_prompts(str(file)) == ["a red circle", "a blue square", "ein grüner Kreis"]
    assert read_prompts(str(file), 2) == ["a red circle", "a blue square"]
    with pytest.raises(ConfigError, match="expected at least 4 different prompts in .*, found 3"):
        read_prompts(str(file), 4)
    assert not in_world(str(file)) and in_world("world:test")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00a"])
def test_a_file_without_prompts_is_refused(content, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"prompts\.txt"):
        read_prompts(str(tmp_path / "prompts.txt"))


def test_prompts_that_cannot_be_read_are_refused(tmp_path):
    for source in (str(tmp_path), str(tmp_path / "none.txt")):
        with pytest.raises(ConfigError, match="cannot read prompts, one a line"):
            read_prompts(source)
    with pytest.raises(ConfigError):
        read_prompts("world:nowhere", 2)


def test_prompts_of_the_world_are_different_ones_of_its_splits():
    train, test = read_prompts("world:train", 40), read_prompts("world:test", 40)
    assert len(set(train) | set(test)) == 80 and read_prompts("world:train", 10) == train[:10]
    assert read_prompts("world:train:1", 10) != train[:10]


def test_a_log_keeps_what_is_not_made_again(tmp_path):
    log = RunLog(tmp_path, step=0)
    for step in range(1, 4):
        log.write("update", step, {"loss": step / 3, "broken": float("nan"), "alarms": ["a"]})
    log.close()
    rows = read_log(tmp_path / "log.jsonl")
    assert rows[0] == {"kind": "update", "step": 1, "loss": 0.333333, "broken": None, "alarms": ["a"]}
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "upd')
    RunLog(tmp_path, step=2).close()
    kept = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kept == rows[:2] and read_log(tmp_path / "none.jsonl") == []
