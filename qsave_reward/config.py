"""Strict configuration: one flat dataclass a recipe, one YAML a run, overrides on the command line.

`expand_config` turns `--config run.yaml` into ordinary arguments placed before the user's own, so that
argparse checks names, types and choices of the file as it checks the command line, and later flags win.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from qsave_reward.errors import ConfigError


def expand_config(argv: Sequence[str]) -> list[str]:
    """Replace `--config FILE` by the file's content as arguments.

    A list becomes several values, a mapping JSON, `null` leaves the default.

    Raises:
        ConfigError: when the file is missing, no mapping of names to values, or named twice.

    Example:
        A file with `learning_rate: 1.0e-4` turns `["--config", "run.yaml", "--seed", "3"]` into
        `["--learning_rate", "0.0001", "--seed", "3"]`.
    """
    files = [
        i for i, argument in enumerate(argv) if argument == "--config" or argument.startswith("--config=")
    ]
    if not files:
        return list(argv)
    if len(files) > 1:
        raise ConfigError("--config may be given once; put overrides behind it as ordinary options")
    at = files[0]
    path, rest = argv[at].partition("=")[2], at + 1
    if not path:
        if rest >= len(argv):
            raise ConfigError("--config needs the path of a YAML file")
        path, rest = argv[rest], rest + 1
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"{path} must map option names to values, got {type(content).__name__}")
    expanded: list[str] = []
    for name, value in content.items():
        if value is not None:
            expanded += [f"--{name}", *_as_arguments(value)]
    return [*expanded, *argv[:at], *argv[rest:]]


def _as_arguments(value: object) -> list[str]:
    if isinstance(value, dict):
        return [json.dumps(value)]
    if isinstance(value, list):
        return [str(item) for item in value]
    return [str(value)]
