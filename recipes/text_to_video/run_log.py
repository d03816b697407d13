"""The log of a run: one JSON object a line, and the same numbers in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation import finite
from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Appends to `log.jsonl` and `runs/` in a folder.

    Lines later than the step a run goes on from are dropped, since those steps are made again; all of them
    when it begins anew.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self.path = folder / "log.jsonl"
        kept = [row for row in read_log(self.path) if step and row["step"] <= step]
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        part.rename(self.path)
        self._board = SummaryWriter(str(folder / "runs"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add `{"kind": ..., "step": ..., **values}`; numbers that are not finite become null."""
        clean = {name: finite(value) for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **clean}) + "\n")
        for name, value in clean.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        self._board.flush()

    def close(self) -> None:
        """Finish the TensorBoard file."""
        self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a log; none where there is no file."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # torn by a kill
            break
    return rows
