"""Commands and configurations of the text-to-video recipe are understood by its scripts."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from best_of_n import BestOfOptions
from evaluate import EvaluateOptions
from options import parse_options
from pretrain_tiny import Options as PretrainOptions
from train_options import TrainOptions

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "text_to_video"
CONFIGS = ROOT / "configs" / "text_to_video"
KINDS = {
    "train.py": TrainOptions,
    "evaluate.py": EvaluateOptions,
    "best_of_n.py": BestOfOptions,
    "pretrain_tiny.py": PretrainOptions,
}
SHOWN = re.compile(r"recipes/text_to_video/(\w+\.py)((?: +[^\s#`].*?)?)(?= +#|`|$)", re.MULTILINE)


def shown():
    pages = [RECIPE / "README.md", *sorted(CONFIGS.glob("*.yaml"))]
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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_read_and_says_whether_it_has_been_run(path):
    more = [] if "output_dir" in yaml.safe_load(path.read_text()) else ["--output_dir", "OUT"]
    options = parse_options(TrainOptions, ["--config", str(path), *more])
    assert options.sampling().num_frames % 4 == 1 or options.pipeline.startswith("Lightricks")
    head = path.read_text().splitlines()[:6]
    assert any("Not yet run" in line or "minute" in line or "hour" in line for line in head)
