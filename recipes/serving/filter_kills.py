"""Does `qsave filter` end as if nothing had happened when it is killed? A run with kill -9 and one without.

    python recipes/serving/filter_kills.py --clips 2000 --kills 3 --out outputs/filter_kills

Renders clips of the world, filters them once in peace and once killed at random moments and started again,
and compares what was written byte by byte. Each clip is noted down just before the model scores it, so that
clips scored twice are counted where it happens: those of the batch in flight at a kill must be, no other.

Four clips in a row share a prompt here, so that there are pairs to compare; what the scores mean is of no
concern. Exit code 1 when a promise is broken. The folder `--out` gets `result.json` beside the clips and the
outputs of both runs; what an earlier check left there is replaced.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from counted_filter import LOG, Kill, finish, kill_at, met, positions, start

from qsave_reward.data import make_folder, write_lines
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.filtering import OUTPUTS
from qsave_reward.types import DIMENSIONS

COMPANIONS = 4
"""Clips that share a prompt."""
RULES = ("--keep", "top:0.25", "--min", "overall=2", "--pairs")


@dataclass(frozen=True)
class Verdict:
    """The killed run beside the peaceful one.

    Attributes:
        same: for each output, whether it is the same byte by byte.
        same_choice: whether the same clips were kept.
        largest_difference: of a score of one clip in the two runs, in score points.
        scored_twice: clips handed to the model more than once.
        needlessly: clips handed over more often than once and once for each kill that met them in flight.
        logged_wrongly: clips with more than one line in the log, or with none.
    """

    same: dict[str, bool]
    same_choice: bool
    largest_difference: float
    scored_twice: tuple[int, ...]
    needlessly: tuple[int, ...]
    logged_wrongly: tuple[int, ...]

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(self.same.values()) and not self.needlessly and not self.logged_wrongly


def write_list(world: Path, target: Path, number: int) -> None:
    """The first clips of an exported world, `COMPANIONS` in a row with the prompt of their first."""
    lines = (world / "records.jsonl").read_text(encoding="utf-8").splitlines()[:number]
    rows = [json.loads(line) for line in lines]
    for i, row in enumerate(rows):
        shared = {"video": f"{world.name}/{row['video']}", "prompt": rows[i - i % COMPANIONS]["prompt"]}
        rows[i] = {"id": row["id"], **shared}
    write_lines(target, map(json.dumps, rows))


def compare(
    peaceful: Path, killed: Path, *, handed: Sequence[int], kills: Sequence[Kill], number: int
) -> Verdict:
    """Compare the folders of the two runs.

    Args:
        peaceful, killed: what `qsave filter --out` wrote.
        handed: positions of the clips that the killed runs handed to the model, as often as it was done.
        kills: what each kill met.
        number: of clips.
    """
    names = (*OUTPUTS, LOG)
    same = {name: (peaceful / name).read_bytes() == (killed / name).read_bytes() for name in names}
    logs = [_rows(folder / LOG) for folder in (peaceful, killed)]
    ours, theirs = ({row["position"]: row["scores"] for row in rows} for rows in logs)
    times = Counter(row["position"] for row in logs[1])
    handed_over, lost = Counter(handed), Counter(i for kill in kills for i in kill.in_flight)
    return Verdict(
        same=same,
        same_choice=len({tuple(r["id"] for r in _rows(f / OUTPUTS[0])) for f in (peaceful, killed)}) == 1,
        largest_difference=max(
            abs(ours[i][name]["mean"] - theirs[i][name]["mean"])
            for i in ours.keys() & theirs.keys()
            for name in DIMENSIONS
        ),
        scored_twice=tuple(i for i in range(number) if handed_over[i] > 1),
        needlessly=tuple(i for i in range(number) if handed_over[i] > 1 + lost[i]),
        logged_wrongly=tuple(i for i in range(number) if times[i] != 1),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def filter_in_peace(out: Path, arguments: Sequence[str]) -> dict[str, int]:
    """One run without a kill; the position of each clip by its digest."""
    record = out / "peaceful.txt"
    finish(start(record, *arguments, "--out", out / "peaceful"))
    return positions(record)


def filter_and_kill(
    out: Path, arguments: Sequence[str], *, order: dict[str, int], moments: Sequence[tuple[int, float]]
) -> tuple[list[Kill], list[int]]:
    """A run that is killed at each moment and started again.

    Args:
        out: folder of the check.
        arguments: of `qsave`, but for `--out`.
        order: what `filter_in_peace` returns.
        moments: `clips` and `share` of `kill_at`.

    Returns:
        what each kill met; the position of each clip that was handed to the model, as often as it was.
    """
    record, log, kills = out / "killed.txt", out / "killed" / LOG, []
    for clips, share in moments:
        before = len(record.read_text().split()) if record.exists() else 0
        kill_at(start(record, *arguments, "--out", out / "killed"), log, clips=clips, share=share)
        kills.append(met(log, record, order, before))
        print(f"killed with {kills[-1].logged} clips in the log", file=sys.stderr)
    finish(start(record, *arguments, "--out", out / "killed"))
    return kills, [order[digest] for digest in record.read_text().split()]


def check(out: Path, *, clips: int, kills: int, model: str, seed: int) -> tuple[Verdict, dict[str, Any]]:
    """Render, run, compare; the verdict, and all there is to tell."""
    make_folder(out)
    render = [sys.executable, "-c", "from qsave_reward.cli import main; main()", "world"]
    if subprocess.run([*render, "--out", out / "world", "--n", str(clips)]).returncode != 0:
        raise ConfigError("qsave world failed; its message is above")
    write_list(out / "world", out / "clips.jsonl", clips)
    for name in ("peaceful", "killed"):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / f"{name}.txt").unlink(missing_ok=True)
    arguments = ["filter", str(out / "clips.jsonl"), *RULES, "--model", model]
    began = time.monotonic()
    order = filter_in_peace(out, arguments)
    seconds = {"peaceful": time.monotonic() - began}
    rng = random.Random(seed)
    # One in each part of the list; the last fifth is left out, so that no run ends before its kill.
    moments = [(int(0.8 * clips * (k + rng.random()) / kills), rng.random()) for k in range(kills)]
    began = time.monotonic()
    found, handed = filter_and_kill(out, arguments, order=order, moments=moments)
    seconds["killed"] = time.monotonic() - began
    verdict = compare(out / "peaceful", out / "killed", handed=handed, kills=found, number=clips)
    summary = json.loads((out / "killed" / "summary.json").read_text())
    head = {"provenance": summary["provenance"], "clips": clips, "kept": summary["kept"]}
    head |= {"pairs": summary["pairs"], "seconds": seconds, "kills": [asdict(kill) for kill in found]}
    return verdict, head | asdict(verdict)


def table(told: dict[str, Any]) -> list[str]:
    """Markdown: what the kills met, and what came of it."""
    lines = ["| kill | clips in the log | in flight | torn bytes |", "|---|---|---|---|"]
    for i, kill in enumerate(told["kills"], start=1):
        lines.append(f"| {i} | {kill['logged']} | {len(kill['in_flight'])} | {kill['torn']} |")
    lines += ["", "| peaceful and killed run | |", "|---|---|"]
    lines += [f"| {name} | {'same bytes' if same else 'DIFFERENT'} |" for name, same in told["same"].items()]
    lines.append(f"| clips kept | {'the same' if told['same_choice'] else 'OTHERS'}, {told['kept']} |")
    lines.append(f"| largest difference of a score | {told['largest_difference']:.3g} |")
    lines.append(f"| scored twice | {len(told['scored_twice'])} |")
    lines.append(f"| more often than in flight at a kill | {len(told['needlessly'])} |")
    lines.append(f"| not exactly once in the log | {len(told['logged_wrongly'])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    args = parser.parse_args()
    if args.kills < 1 or args.clips < 20 * args.kills:
        raise ConfigError(f"expected a kill, and 20 clips for each, got {args.kills} and {args.clips} clips")
    verdict, told = check(args.out, clips=args.clips, kills=args.kills, model=args.model, seed=args.seed)
    write_lines(args.out / "result.json", [json.dumps(told, indent=1)])
    provenance = told["provenance"]
    revision = f"{provenance['model']}, revision {provenance['revision']}"
    print(f"{revision}: {args.clips} clips, {args.kills} kills\n")
    print("\n".join(table(told)))
    if not verdict.kept:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except QSaveError as error:
        sys.exit(f"error: {error}")
