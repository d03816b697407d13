"""What a checkpoint directory holds beside the weights: `qsave.json`, and how names are resolved.

A checkpoint is what transformers saves (config, safetensors, tokenizer) plus `qsave.json`, which pins
the prompt version and the frame plan the weights were trained with and says in words what they are good
for.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.prompt import HOLISTIC_VERSION, PROMPT_VERSION
from qsave_reward.slowfast import FramePlan
from qsave_reward.types import Provenance

METADATA_FILE = "qsave.json"
HOLISTIC_TYPE = "qsave_holistic"
BUNDLED = {name: Path(__file__).parent / "weights" / name for name in ("tiny", "holistic-tiny")}


@dataclass(frozen=True)
class Metadata:
    """Contents of `qsave.json`.

    Attributes:
        frame_plan: the plan the weights were trained with.
        revision: first 12 hex digits of the SHA-256 of the weight files.
        prompt_version: must equal that of the package, `prompt_version_of`.
        trained_on: one sentence for people: what data, hence what the scores mean.
        prompt_words: every word of the prompts seen in training, or `None` when they were open-ended;
            a prompt with other words gets a warning.
    """

    frame_plan: FramePlan
    revision: str
    prompt_version: str
    trained_on: str
    prompt_words: frozenset[str] | None = None

    def provenance(self, name: str) -> Provenance:
        """What scores of a model with this metadata carry; `name` is what it was loaded by."""
        return Provenance(name, self.revision, self.prompt_version, asdict(self.frame_plan))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of `prompt` that never occurred in training, sorted."""
        if self.prompt_words is None:
            return []
        return sorted(set(words(prompt)) - self.prompt_words)

    def warnings(self, prompt: str) -> tuple[str, ...]:
        """What a score of a clip with this prompt carries."""
        if not (unknown := self.unknown_words(prompt)):
            return ()
        return (
            f"text alignment means little here: the prompt has words this model never saw "
            f"({', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}). {self.trained_on}",
        )


def words(text: str) -> list[str]:
    """Lower-case words of a text; anything that is not a letter or digit separates."""
    return re.findall(r"[^\W_]+", text.lower())


def find_checkpoint(name: str | Path) -> Path:
    """Directory of a bundled model ("tiny", "holistic-tiny"), a local path, or a repository on the hub.

    Raises:
        ConfigError: (`code="unknown_model"`) when it is none of these or cannot be fetched.
    """
    if name in BUNDLED:
        return BUNDLED[str(name)]
    if str(name) and Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"unknown model {str(name)!r}: expected {', '.join(map(repr, BUNDLED))}, a directory that holds "
            f"{METADATA_FILE}, or a hub id that can be reached ({type(error).__name__})",
            code="unknown_model",
        ) from error


def is_holistic(directory: Path) -> bool:
    """Whether a checkpoint is of a `HolisticScorer`, by the `model_type` in its config.json."""
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == HOLISTIC_TYPE


def prompt_version_of(directory: Path) -> str:
    """The version of the text that this package shows to a checkpoint's kind of model."""
    return HOLISTIC_VERSION if is_holistic(directory) else PROMPT_VERSION


def read_metadata(directory: Path) -> Metadata:
    """Read and check `qsave.json`.

    Raises:
        ConfigError: when it is missing, malformed, or of another prompt version (`code="prompt_version"`).
    """
    path = directory / METADATA_FILE
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{directory} has no {METADATA_FILE}: expected a checkpoint saved by a recipe of this project; "
            "a base model has to be trained first (recipes/reward)",
            code="not_a_checkpoint",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no JSON that can be read: {error}", code="not_a_checkpoint") from error
    expected = {field.name for field in fields(Metadata)}
    if not isinstance(raw, dict) or set(raw) != expected:
        raise ConfigError(f"{path} must hold the keys {sorted(expected)}", code="not_a_checkpoint")
    if raw["prompt_version"] != (known := prompt_version_of(directory)):
        raise ConfigError(
            f"{directory} was trained with prompt version {raw['prompt_version']!r}, this package speaks "
            f"{known!r}; its scores would mean nothing. Install the matching release or train again",
            code="prompt_version",
        )
    try:
        plan = FramePlan(**raw["frame_plan"])
    except TypeError as error:
        raise ConfigError(f"{path} holds a frame plan of another release: {error}") from error
    seen = raw["prompt_words"]
    if seen is not None and not (isinstance(seen, list) and all(isinstance(word, str) for word in seen)):
        raise ConfigError(
            f"{path}: expected prompt_words to be a list of words or null", code="not_a_checkpoint"
        )
    return Metadata(**{**raw, "frame_plan": plan, "prompt_words": None if seen is None else frozenset(seen)})


def write_metadata(
    directory: Path, plan: FramePlan, *, trained_on: str, prompt_words: frozenset[str] | None
) -> Metadata:
    """Write `qsave.json` beside weights that were just saved; the revision is the weights' hash."""
    digest = hashlib.sha256()
    for weights in sorted(directory.glob("*.safetensors")):
        with weights.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    metadata = Metadata(
        frame_plan=plan,
        revision=digest.hexdigest()[:12],
        prompt_version=prompt_version_of(directory),
        trained_on=trained_on,
        prompt_words=prompt_words,
    )
    raw = asdict(metadata)
    raw["prompt_words"] = None if prompt_words is None else sorted(prompt_words)
    (directory / METADATA_FILE).write_text(json.dumps(raw, indent=1) + "\n")
    return metadata
