"""What the README says is run, and the bundled model gives its stored scores."""

import re
import shlex
from pathlib import Path

import click
import typer

from qsave_reward import doctor
from qsave_reward.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_readme_example_runs(monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 4
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})
    overall, dynamic = map(float, capsys.readouterr().out.split()[:2])
    assert 1 <= overall <= 5 and 1 <= dynamic <= 5


def test_the_readme_commands_exist():
    commands = typer.main.get_command(app)
    lines = re.findall(r"^qsave .*$", README, flags=re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        context = click.Context(commands)
        commands.get_command(context, name).make_context(name, list(arguments))


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
