"""`qsave bench train`: how fast the supervised recipe takes its steps."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qsave_reward.errors import ConfigError
from qsave_reward.speed.timing import machine, spread

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "reward" / "sft.py"
_LOOK = 0.2  # seconds from one look at the running recipe to the next
_LAST_LINES = 5


@dataclass(frozen=True)
class TrainBench:
    """Result of `bench_train`, over the measured steps.

    Attributes:
        s_per_step: median seconds of an optimizer step, from asking for its batches to asking for the next.
        range: shortest and longest step.
        clips_per_s, tokens_per_s: over the time of all steps together; tokens of text and vision, without
            padding, in the rows of a batch.
        data_share: share of that time in which the training process waited for batches, or made them.
        peak_mb: most memory of the training process since its start, in 10^6 bytes: on CUDA what torch had
            allocated there, else what it had resident, without its data workers; `None` where the system
            cannot tell.
        seconds: of each step.
        waiting: seconds of each step before its batches were there.
        warmup: steps before those.
        config: the file.
        overrides: options behind it.
        machine: where.
    """

    s_per_step: float
    range: tuple[float, float]
    clips_per_s: float
    tokens_per_s: float
    data_share: float
    peak_mb: float | None
    seconds: tuple[float, ...]
    waiting: tuple[float, ...]
    warmup: int
    config: str
    overrides: tuple[str, ...]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


def bench_train(
    config: str,
    overrides: Sequence[str] = (),
    *,
    steps: int = 20,
    warmup: int = 5,
    progress: Callable[[int], None] = lambda done: None,
) -> TrainBench:
    """Run `recipes/reward/sft.py` as a process of its own for some steps; what it writes is thrown away.

    Args:
        config: YAML file of the recipe.
        overrides: options of the recipe, which win over the file.
        steps: optimizer steps to measure.
        warmup: steps before them.
        progress: called with the number of steps that have begun since the last call.

    Raises:
        ConfigError: no recipes beside the package, no such file, or a recipe that fails
            (`code="recipe_failed"`).
    """
    if not RECIPE.is_file():
        raise ConfigError(
            f"expected the training recipe {RECIPE.name} in recipes/reward beside the package, found none: "
            "clone the repository, `pip install -e '.[train]'` there, and run this again"
        )
    if not Path(config).is_file():
        raise ConfigError(f"expected the YAML file of a recipe, got {config!r}, which does not exist")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        command = [sys.executable, "-m", "qsave_reward.speed.timed_training"]
        command += [str(report), str(warmup), str(steps), str(RECIPE), "--config", config, *overrides]
        command += ["--output_dir", str(Path(folder) / "out"), "--save_strategy", "no", "--report_to", "none"]
        # More than are run: data workers are as busy at the last step as at the first.
        command += ["--max_steps", str(2 * (warmup + steps))]
        _run(command, log=Path(folder) / "log.txt", look=_counter(report, progress))
        lines = _lines(report)
    return summary(lines, warmup=warmup, config=config, overrides=overrides)


def summary(
    lines: Sequence[dict[str, Any]], *, warmup: int, config: str, overrides: Sequence[str]
) -> TrainBench:
    """Figures from the lines that `timed_training` writes."""
    if not lines or "ended" not in lines[-1]:
        raise ConfigError(
            f"expected {RECIPE.name} to run on, it ended after {len(lines)} steps; leave out what stops it",
            code="recipe_failed",
        )
    *measured, last = lines[warmup:]
    began = [line["asked"] for line in measured]
    seconds = [end - start for start, end in zip(began, [*began[1:], last["ended"]], strict=True)]
    waiting = [line["got"] - line["asked"] for line in measured]
    step, whole = spread(seconds), sum(seconds)
    return TrainBench(
        s_per_step=step.median,
        range=(step.low, step.high),
        clips_per_s=last["clips"] / whole,
        tokens_per_s=last["tokens"] / whole,
        data_share=sum(waiting) / whole,
        peak_mb=last["peak_mb"],
        seconds=tuple(seconds),
        waiting=tuple(waiting),
        warmup=warmup,
        config=config,
        overrides=tuple(overrides),
        machine=machine() | {name: last[name] for name in ("device", "threads")},
    )


def _run(command: Sequence[str], *, log: Path, look: Callable[[], None]) -> None:
    """Run a command to its end; what it prints goes to `log`."""
    with (
        log.open("w") as stream,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            while process.poll() is None:
                time.sleep(_LOOK)
                look()
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        said = log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise ConfigError(
            f"{RECIPE.name} ended with code {process.returncode}; its last lines:\n" + "\n".join(said),
            code="recipe_failed",
        )


def _counter(report: Path, progress: Callable[[int], None]) -> Callable[[], None]:
    """What tells `progress` of the lines that came since the last call."""
    told = 0

    def look() -> None:
        nonlocal told
        count = report.read_bytes().count(b"\n") if report.exists() else 0
        progress(count - told)
        told = count

    return look


def _lines(report: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
