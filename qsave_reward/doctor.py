"""What is installed, what the machine offers, and whether the bundled model gives its stored scores."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qsave_reward.data import read_requests, write_lines
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.types import DIMENSIONS, Scorer, VideoScore

CORE = ("qsave_reward", "torch", "transformers", "av", "numpy", "pillow", "accelerate", "safetensors")
OPTIONAL = (
    "decord",
    "trl",
    "peft",
    "datasets",
    "deepspeed",
    "diffusers",
    "fastapi",
    "uvicorn",
    "gradio",
    "ray",
)

EXAMPLES = Path(__file__).parent / "examples" / "examples.jsonl"
"""The bundled example clips with their prompts."""

EXPECTED_SCORES = Path(__file__).parent / "weights" / "tiny" / "expected_scores.json"
TOLERANCE = 1e-2
"""Largest allowed difference, on the scale 1 to 5, between a stored score and one computed here."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: short name, stable between releases.
        ok: whether it worked.
        detail: what was found, in plain words.
        seconds: how long it took.
    """

    name: str
    ok: bool
    detail: str
    seconds: float


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each package, `None` where it is not installed; nothing is imported."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def examine() -> dict[str, Any]:
    """Look at the machine and try the main parts; JSON-ready.

    Returns:
        `ok` (whether all checks passed), `python`, `platform`, `cpus`, `threads`, `devices`, `packages`,
        `optional`, and `checks`, a list of `Check` as objects.
    """
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": package_versions(CORE),
        "optional": package_versions(OPTIONAL),
    }
    report["threads"], report["devices"] = _devices()
    checks = [_check("decode", _try_decode), _check("model", _try_model)]
    return {
        "ok": all(check.ok for check in checks),
        **report,
        "checks": [asdict(check) for check in checks],
    }


def store_expected_scores(model: Scorer, path: str | os.PathLike[str] = EXPECTED_SCORES) -> None:
    """Score the bundled examples and store the means, for `qsave doctor` on other machines to compare with.

    Raises:
        QSaveError: when an example cannot be scored or `path` cannot be written.
    """
    cards = _score_examples(model)
    stored = {
        "revision": next(iter(cards.values())).provenance.revision,
        "scores": {
            name: {dimension: score.mean for dimension, score in card.scores.items()}
            for name, card in cards.items()
        },
    }
    write_lines(path, [json.dumps(stored, indent=1)])


def compare_scores(model: Scorer, path: str | os.PathLike[str] = EXPECTED_SCORES) -> float:
    """Largest difference between the stored scores of the examples and those of `model`, on the scale 1 to 5.

    Raises:
        ConfigError: when the stored scores are missing, malformed, or of other weights or other examples.
        QSaveError: when an example cannot be scored.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        revision, expected = stored["revision"], stored["scores"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"no stored scores in {os.fspath(path)!r}: {error!r}; install the package again"
        ) from error
    cards = _score_examples(model)
    if set(expected) != set(cards):
        raise ConfigError(f"scores are stored for {sorted(expected)}, the examples are {sorted(cards)}")
    differences: list[float] = []
    for name, card in cards.items():
        if card.provenance.revision != revision:
            raise ConfigError(f"scores are stored for weights {revision}, got {card.provenance.revision}")
        differences += [
            abs(card.scores[dimension].mean - expected[name][dimension]) for dimension in DIMENSIONS
        ]
    return max(differences)


def _score_examples(model: Scorer) -> dict[str, VideoScore]:
    """Direct scores of the bundled examples by file name, one clip at a time."""
    cards: dict[str, VideoScore] = {}
    for name, prompt in read_requests(EXAMPLES):
        card = model.score_batch([EXAMPLES.parent / name], [prompt])[0]
        if isinstance(card, QSaveError):
            raise card
        cards[name] = card
    return cards


def _devices() -> tuple[int | None, list[str]]:
    """Number of torch threads and names of the devices; `(None, [])` when torch does not load.

    A broken driver counts devices and then raises at each; the doctor must live to tell.
    """
    try:
        import torch
    except Exception:
        return None, []
    try:
        gpus = [_gpu(torch, i) for i in range(torch.cuda.device_count())]
    except Exception as error:
        gpus = [f"cuda unusable: {_in_words(error)}"]
    return torch.get_num_threads(), [*gpus, "cpu"]


def _gpu(torch: Any, index: int) -> str:
    try:
        return f"cuda:{index} {torch.cuda.get_device_name(index)}"
    except Exception as error:
        return f"cuda:{index} unusable: {_in_words(error)}"


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _check(name: str, attempt: Any) -> Check:
    begin = time.perf_counter()
    try:
        detail, ok = attempt(), True
    except Exception as error:  # whatever is broken, the other checks and the versions are wanted
        detail, ok = _in_words(error), False
    return Check(name, ok, detail, round(time.perf_counter() - begin, 3))


def _try_decode() -> str:
    """Read a bundled example the way a user's file is read, through the decoding worker."""
    from qsave_reward.video import Sampling, read_clip

    name, _ = read_requests(EXAMPLES)[0]
    clip = read_clip(EXAMPLES.parent / name, Sampling(max_frames=8))
    frames, height, width = clip.frames.shape[:3]
    return f"read {frames} frames of {width}x{height} from {name}"


def _load_tiny() -> Scorer:
    from qsave_reward.model import RewardModel

    return RewardModel.from_pretrained("tiny", device="cpu")


def _try_model() -> str:
    difference = compare_scores(_load_tiny())
    if difference > TOLERANCE:
        raise ConfigError(
            f"scores of the examples differ by {difference:.3g} from the stored ones, allowed {TOLERANCE}; "
            "compare the versions of torch and transformers with constraints.txt"
        )
    return f"scores of the examples differ by at most {difference:.1g} from the stored ones"
