"""Strict configuration files."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from qsave_reward.config import expand_config
from qsave_reward.errors import ConfigError

# TRL's default is the old name of an option that transformers renamed; both names work until transformers 6.
pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))


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


def load_recipe():
    """Recipes are scripts, not a package."""
    path = Path(__file__).parent.parent / "recipes" / "reward" / "sft.py"
    spec = importlib.util.spec_from_file_location("sft_recipe", path)
    recipe = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = recipe  # dataclasses look their module up
    spec.loader.exec_module(recipe)
    return recipe


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-3:]))
def test_shipped_configs_parse(path, tmp_path):

    recipe = load_recipe()
    arguments, plan, config, _ = recipe.parse(["--config", str(path), "--output_dir", str(tmp_path)])
    content = yaml.safe_load(path.read_text())
    assert arguments.data == content["data"] and arguments.trained_on
    assert plan.token_budget == content["token_budget"] and config.max_steps == content["max_steps"]


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
        load_recipe().parse(["--config", str(CONFIGS[0]), "--output_dir", str(tmp_path), *options])
    assert message in str(caught.value) + capsys.readouterr().err
