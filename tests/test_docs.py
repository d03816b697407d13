"""What the README says is run, and the bundled model gives its stored scores."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from qsave_reward import doctor
from qsave_reward.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RECIPES = (ROOT / "recipes" / "reward" / "README.md").read_text()

UsageError = typer.BadParameter.__base__  # of click, or of the copy that newer versions of typer bring


def test_the_readme_example_runs(monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 4
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    overall, dynamic = map(float, capsys.readouterr().out.split()[:2])
    assert 1 <= overall <= 5 and 1 <= dynamic <= 5


def parse(line):
    """Understand a `qsave` line as the command would, without running it."""
    name, *words = shlex.split(line, comments=True)
    command = typer.main.get_command(app)
    # A group leaves its words to the subcommand, which it looks up only when it runs.
    while isinstance(command, typer.core.TyperGroup):
        name, *words = words
        command = command.commands[name]
    valued = [option for option in command.params if not getattr(option, "is_flag", True)]
    if words and any(words[-1] in option.opts for option in valued):
        words.append("x")  # a sentence names an option without a value
    command.make_context(name, words)


def commands(text):
    """The `qsave` lines of code blocks, and those within sentences."""
    return re.findall(r"^qsave .*$", text, flags=re.MULTILINE) + re.findall(r"`(qsave [^`]+)`", text)


def test_the_readme_commands_exist():
    assert len(commands(README)) >= 6 and len(commands(RECIPES)) >= 3
    for line in commands(README) + commands(RECIPES):
        parse(line)


@pytest.mark.parametrize(
    "line", ["qsave magic", "qsave data chek a.jsonl", "qsave data check --magic a.jsonl", "qsave data check"]
)
def test_a_wrong_command_would_be_seen(line):
    with pytest.raises((KeyError, UsageError)):
        parse(line)


def test_readme_links_lead_somewhere():
    for readme in (ROOT / "README.md", ROOT / "recipes" / "reward" / "README.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", readme.read_text()):
            assert (readme.parent / target).exists(), target


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE)) <= targets


def test_the_bundled_model_gives_its_stored_scores():
    report = doctor.examine()
    assert report["ok"], report["checks"]
    assert {check["name"] for check in report["checks"]} == {"decode", "model"}
