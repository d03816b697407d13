"""Options of a recipe: one dataclass, filled from `--config FILE` and the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

from transformers import HfArgumentParser

from qsave_reward.config import expand_config
from qsave_reward.errors import ConfigError

Options = TypeVar("Options")


def parse_options(kind: type[Options], argv: Sequence[str] | None = None) -> Options:
    """One `kind` from arguments (default: the command line); later ones win over the file.

    Raises:
        ConfigError: for a wrong file, an unknown name or a wrong value.
        SystemExit: with code 2, for a wrong type or a wrong choice.
    """
    arguments = expand_config(list(sys.argv[1:] if argv is None else argv))
    parser = HfArgumentParser(kind, allow_abbrev=False)
    try:
        return parser.parse_args_into_dataclasses(arguments)[0]
    except ValueError as error:
        raise ConfigError(str(error)) from error
