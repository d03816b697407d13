"""What fine-tuning changed: saved evaluations of several runs beside one of the pipeline alone.

    python recipes/text_to_video/evaluate.py --save before.json
    python recipes/text_to_video/evaluate.py --lora OUT/last --save after.json
    python recipes/text_to_video/compare.py --before before.json --after nft=after.json,SEED_1.json grpo=...

Prints a Markdown table: the mean before, and for each name the mean change over its runs, with a 95 %
interval over prompts (the same prompts and first noise before and after) and, in brackets, that of each run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluation import FloatArray, interval

from qsave_reward.errors import ConfigError

Saved = Mapping[str, Any]
"""What `evaluate.py --save` wrote."""

SAME = ("sampling", "revisions", "prompts")


def read(path: str) -> Saved:
    """A file that `evaluate.py --save` wrote.

    Raises:
        ConfigError: for anything else.
    """
    try:
        saved: Saved = json.loads(Path(path).read_text())
        if {*SAME, "metrics"} <= saved.keys():
            return saved
        problem = "it lacks " + ", ".join(sorted({*SAME, "metrics"} - saved.keys()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        problem = str(error)
    raise ConfigError(f"expected a file that evaluate.py --save wrote, got {path}: {problem}")


def differences(before: Saved, after: Saved, *, names: tuple[str, str]) -> dict[str, FloatArray]:
    """Change of every metric for each video: name to float64 [P, S], NaN where either has no score.

    Raises:
        ConfigError: for evaluations that differ in prompts, sampling or reward; `names` are said.
    """
    for key in SAME:
        if before[key] != after[key]:
            raise ConfigError(
                f"{names[0]} and {names[1]} differ in {key}, so they cannot be compared; evaluate both "
                "with the same options and reward"
            )
    first, second = table(before), table(after)
    if {name: values.shape for name, values in first.items()} != {n: v.shape for n, v in second.items()}:
        raise ConfigError(f"{names[0]} and {names[1]} differ in their metrics or in the number of videos")
    return {name: second[name] - first[name] for name in first}


def table(saved: Saved) -> dict[str, FloatArray]:
    """Metrics: name to float64 [P, S], NaN for videos without a score."""
    return {name: np.array(rows, dtype=np.float64) for name, rows in saved["metrics"].items()}


def changes(before: Saved, runs: Mapping[str, Saved], *, name: str = "before") -> dict[str, dict[str, Any]]:
    """For every metric `change`, the mean over runs; `interval` of it over prompts; `runs`, that of each."""
    found = [differences(before, after, names=(name, path)) for path, after in runs.items()]
    return {
        metric: {
            "change": float(np.mean([np.nanmean(one[metric]) for one in found])),
            "interval": list(interval(np.concatenate([one[metric] for one in found], axis=1))),
            "runs": [float(np.nanmean(one[metric])) for one in found],
        }
        for metric in found[0]
    }


def markdown(before: Saved, groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The table that is printed."""
    lines = [
        "| " + " | ".join(["metric", "before", *groups]) + " |",
        "|---" * (2 + len(groups)) + "|",
    ]
    for metric, values in table(before).items():
        cells = [metric, f"{np.nanmean(values):.3f}"]
        for rows in groups.values():
            row = rows[metric]
            low, high = row["interval"]
            each = ", ".join(f"{value:+.3f}" for value in row["runs"])
            cells.append(f"{row['change']:+.3f} [{low:+.3f}, {high:+.3f}] ({each})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, metavar="FILE", help="the pipeline alone")
    parser.add_argument(
        "--after", required=True, nargs="+", metavar="NAME=FILE,FILE", help="runs of a setting"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    try:
        before, groups = read(args.before), {}
        for pair in args.after:
            name, equals, paths = pair.partition("=")
            if not (name and equals and paths):
                raise ConfigError(f"expected --after NAME=FILE,FILE, got {pair!r}")
            files = paths.split(",")
            if len(set(files)) < len(files):
                raise ConfigError(f"{name} names a file twice: {paths}")
            groups[name] = changes(before, {path: read(path) for path in files}, name=args.before)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(groups) if args.json else markdown(before, groups))


if __name__ == "__main__":
    main()
