"""Strict configuration files."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml

from qsave_reward.config import expand_config
from qsave_reward.errors import ConfigError

# TRL's default is the old name of an option that transformers renamed; both names work until transformers 6.
pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs" / "reward").rglob("*.yaml"))
SFT = ROOT / "configs" / "reward" / "tiny" / "1_sft.yaml"


def test_a_file_becomes_arguments_before_the_users_own(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 1.0e-4\nlist: [a, 2]\nmapping: {x: 1}\nnothing: null\nflag: true\n")
    expected = ["--learning_rate", "0.0001", "--list", "a", "2", "--mapping", '{"x": 1}', "--flag", "True"]
    for form in (["--config", str(path)], [f"--config={path}"]):
        assert expand_config(["--seed", "3", *form, "--x"]) == [*expected, "--seed", "3", "--x"]
    assert expand_config(["--seed", "3"]) == ["--seed", "3"]


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "text", "1: 2\n", "a: [", "a: b: c"])
def test_files_that_are_no_mapping_are_refused(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        expand_config(["--config", str(path)])


@pytest.mark.parametrize(
    "argv", [["--config"], ["--config", "none.yaml"], ["--config", "a", "--config", "b"]]
)
def test_wrong_use(argv):
    with pytest.raises(ConfigError):
        expand_config(argv)


def parse(path, *options):
    """Options as the script reads them that the file's first lines name."""
    sys.path.insert(0, str(ROOT / "recipes" / "reward"))
    name = re.search(r"^#.*recipes/reward/(\w+)\.py --config", path.read_text(), flags=re.MULTILINE)[1]
    recipe = importlib.import_module(name)
    return recipe.parse_options(["--config", str(path), *options], *recipe.OPTIONS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-3:]))
def test_shipped_configs_parse(path, tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.chdir(ROOT)
    content = yaml.safe_load(path.read_text())
    # A machine without a GPU refuses bfloat16 unless it is told to use the CPU.
    _, plan, config, *_ = parse(path, "--output_dir", str(tmp_path), "--use_cpu", "true")
    assert plan.token_budget == content["token_budget"] and config.max_steps == content["max_steps"]
    assert str(path.relative_to(ROOT)) in path.read_text(), "the first lines give the command"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning_rat", "1"], "learning_rat"),
        (["--max_steps", "8.5"], "8.5"),
        (["--mode", "fast"], "invalid choice"),
        (["--token_budget", "0"], "token_budget >= 1"),
    ],
)
def test_wrong_options_stop_the_run(tmp_path, capsys, options, message):
    with pytest.raises((ConfigError, SystemExit)) as caught:
        parse(SFT, "--output_dir", str(tmp_path), *options)
    assert message in str(caught.value) + capsys.readouterr().err
