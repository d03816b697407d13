"""The commands that the text-to-video recipe shows are understood by the scripts they name."""

import re
import shlex
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from best_of_n import BestOfOptions
from evaluate import EvaluateOptions
from options import parse_options
from pretrain_tiny import Options as PretrainOptions
from train_options import TrainOptions

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "text_to_video"
KINDS = {
    "train.py": TrainOptions,
    "evaluate.py": EvaluateOptions,
    "best_of_n.py": BestOfOptions,
    "pretrain_tiny.py": PretrainOptions,
}
SHOWN = re.compile(r"recipes/text_to_video/(\w+\.py)((?: +[^\s#`].*?)?)(?= +#|`|$)", re.MULTILINE)


def shown():
    pages = [RECIPE / "README.md", *sorted((ROOT / "configs" / "text_to_video").glob("*.yaml"))]
    for page in pages:
        text = "\n".join(line.removeprefix("#").strip() for line in page.read_text().splitlines())
        text = text.replace("\\\n", " ")
        for script, words in SHOWN.findall(text):
            if words.strip():
                yield pytest.param(script, shlex.split(words), id=f"{page.stem}: {script}{words}")


@pytest.mark.parametrize(("script", "words"), list(shown()))
def test_a_command_is_understood(script, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if script in KINDS:
        words = [*words, "--output_dir", "OUT"] if script == "train.py" else words
        parse_options(KINDS[script], words)
    else:
        assert (RECIPE / script).exists()


def test_there_are_commands_for_every_script():
    assert {case.values[0] for case in shown()} >= {"train.py", "evaluate.py", "best_of_n.py"}
