"""Promises about the package as a whole: public names, cheap import, layers, configs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

import qsave_reward

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "qsave_reward"

# Each module may import from its own layer's earlier entries and from the layers above this line only.
LAYERS = [
    ["errors", "types", "limits", "paths"],
    ["sampling", "frames", "decoding", "video", "metrics", "agreement", "prompt", "slowfast"],
    ["fields", "tables", "data", "entries", "preferences", "benchmarks", "data_scan", "data_check"],
    ["results", "wire", "weighting", "ranking", "selection", "clip_list", "data_split"],
    ["config", "grading", "world", "checkpoint"],
    [
        "checkpoint_scorer",
        "slots",
        "processor",
        "fast_vision",
        "model",
        "supervision",
        "server_pool",
        "client",
    ],
    ["holistic", "loading"],
    ["calibration", "reward", "adapters", "best_of"],
    [
        "scoring",
        "score_log",
        "logged_scoring",
        "preference_accuracy",
        "filtering",
        "ntire",
        "evaluate",
        "media",
        "report",
        "doctor",
    ],
    ["shards", "ray_cluster", "ray_worker", "ray_filtering", "ray_scoring", "server", "speed"],
    [
        "terminal",
        "command_options",
        "ray_command",
        "data_command",
        "calibrate_command",
        "ntire_command",
        "pairs_command",
        "selection_command",
        "serve_command",
    ],
    ["bench_command", "cli"],
]


def test_public_names():
    assert sorted(qsave_reward.__all__) == sorted(
        [
            "AnswerError",
            "Calibration",
            "Clip",
            "ConfigError",
            "DIMENSIONS",
            "Defect",
            "DimensionScore",
            "HolisticScorer",
            "LEVELS",
            "QSaveError",
            "Record",
            "RewardClient",
            "RewardModel",
            "Scorer",
            "ServerError",
            "VideoError",
            "VideoReward",
            "VideoScore",
            "advantages",
            "best_of_n",
            "load_scorer",
            "read_clip",
        ]
    )
    for name in qsave_reward.__all__:
        assert getattr(qsave_reward, name) is not None
    with pytest.raises(AttributeError):
        qsave_reward.nothing  # noqa: B018


def test_version_is_the_declared_one():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert qsave_reward.__version__ == declared
    assert f"## {declared}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("module", ["qsave_reward", "qsave_reward.cli", "qsave_reward.video"])
def test_import_is_cheap_and_silent(module):
    code = (
        f"import {module}, sys;"
        "heavy = {'torch', 'transformers', 'trl', 'diffusers', 'peft'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def imported_modules(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it, by their first name below the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qsave_reward"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("qsave_reward.")}
    return found


def test_imports_point_downward():
    order = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}
    files = {path.relative_to(PACKAGE).parts[0].removesuffix(".py"): [] for path in PACKAGE.rglob("*.py")}
    for path in PACKAGE.rglob("*.py"):
        files[path.relative_to(PACKAGE).parts[0].removesuffix(".py")].append(path)
    files.pop("__init__")
    assert sorted(files) == sorted(order), "a new module needs a place in LAYERS"
    for module, paths in files.items():
        for path in paths:
            for target in imported_modules(path) - {module}:
                assert order[target] <= order[module], f"{path.name} imports upward: {target}"


def test_the_library_imports_no_trainer():
    banned = {"trl", "peft", "diffusers", "recipes", "torchvision", "pickle"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & banned, path
