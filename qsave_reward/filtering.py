"""Keep the good ones of many generated clips: score, choose, write what was kept and why the rest was not.

    from qsave_reward.clip_list import read_clip_list
    from qsave_reward.selection import Selection, parse_keep

    best = Selection(parse_keep("top:0.25"), floors={"visual_quality": 2.5})
    filter_clips(model, read_clip_list("clips.jsonl"), out="best", selection=best)

The folder `out` gets

    scores.jsonl     the score log (`score_log`); a run that was killed goes on from it
    kept.jsonl       the lines of the input that were kept, in their order
    rejected.jsonl   the others, with `reason`: a `code` of `selection.REASONS` and its particulars
    pairs.jsonl      on request, `selection.pair_up`: prompt, chosen, rejected, margin, values, scores
    summary.json     `Summary`, written last

A path that is relative in the input is relative to `out` in these files, so that each can be the input of the
next command. A second run chooses anew from the same scores.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, TypeAlias

from qsave_reward.clip_list import ClipList
from qsave_reward.data import make_folder, write_lines
from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.logged_scoring import score_unknown
from qsave_reward.paths import rebased_path
from qsave_reward.score_log import LoggedClip, ScoreLog, open_log
from qsave_reward.scoring import Job, file_stamp
from qsave_reward.selection import REASONS, Candidate, Pair, Selection, pair_up, reject, values
from qsave_reward.tables import FilePath, fresh_file
from qsave_reward.types import DIMENSIONS, VideoScore

if TYPE_CHECKING:
    from qsave_reward.checkpoint_scorer import CheckpointScorer

OUTPUTS = ("kept.jsonl", "rejected.jsonl", "pairs.jsonl", "summary.json")
"""Files beside the score log."""

Done: TypeAlias = Callable[[int, Sequence[VideoScore | QSaveError]], None]
"""Takes results of jobs that follow one another, whole batches of them, and the place of the first job."""

Bulk: TypeAlias = Callable[[Sequence[Job], Done], None]
"""Scores many jobs: hands the results of all to `Done`, part by part, in any order of parts."""


@dataclass(frozen=True)
class Summary:
    """What a run of `filter_clips` did; the same for the same clips, model and selection.

    Attributes:
        input: the list of clips, relative to the folder of the outputs unless it was given absolute.
        n: clips in it.
        kept: clips kept.
        rejected: how many were not, for each of `selection.REASONS`.
        failures: of those that could not be scored, how many had each error code.
        lowest_kept: the lowest value of a kept clip, 1 to 5; `None` when there is none.
        best_not_kept: the highest value of a clip that passed the floors and was not kept, or `None`.
        pairs: number of pairs, `None` when nobody asked for them.
        selection: `Selection.to_dict`.
        provenance: of the scores.
    """

    input: str
    n: int
    kept: int
    rejected: Mapping[str, int]
    failures: Mapping[str, int]
    lowest_kept: float | None
    best_not_kept: float | None
    pairs: int | None
    selection: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


class _Choice(NamedTuple):
    """What was chosen, with an entry for each clip in the first three."""

    candidates: Sequence[Candidate]
    values: Sequence[float | None]
    reasons: Sequence[Mapping[str, Any] | None]
    pairs: Sequence[Pair] | None


def filter_clips(
    model: CheckpointScorer,
    clips: ClipList,
    *,
    out: FilePath,
    selection: Selection,
    pairs: bool = False,
    batch_size: int = 4,
    bulk: Bulk | None = None,
    progress: Callable[[int], object] | None = None,
) -> Summary:
    """Score clips, or take their scores from the log of an earlier run, and write what is kept; see above.

    Args:
        model: scores in direct mode, each clip once; a clip whose file or prompt changed, once more.
        clips: any number; they are read a batch at a time, and of each a few numbers stay in memory.
        out: folder of the outputs, made if it is not there.
        selection: what to keep.
        pairs: also write `pairs.jsonl`.
        batch_size: clips read and scored at a time. It changes scores by rounding errors at most.
        bulk: scores all unknown clips together, such as `ray_filtering.score_in_bulk`; path and prompt of
            each are in memory meanwhile. Then `model` gives its provenance, and scores clips that changed.
        progress: called with the number of clips done since the last call.

    Raises:
        ConfigError: when `out` is in use by another process, holds scores of another model or files of
            another origin, or cannot be written; when the list changes meanwhile.
    """
    if batch_size < 1:
        raise ConfigError(f"expected a batch size of at least 1, got {batch_size}")
    folder = os.path.realpath(out)
    _check_outputs(clips, Path(folder))
    make_folder(folder)
    with open_log(os.path.join(out, "scores.jsonl"), model.provenance) as log:
        advance = progress or (lambda _: None)
        if bulk is not None:
            _fill(log, clips, bulk, out=folder, batch_size=batch_size, advance=advance)
        candidates = []
        for batch in _score(model, clips, log, out=folder, batch_size=batch_size):
            candidates += batch
            if bulk is None:
                advance(len(batch))
        choice = _Choice(
            candidates,
            values(candidates, selection),
            reject(candidates, selection),
            pair_up(candidates, selection) if pairs else None,
        )
        summary = _summary(
            choice, selection, shown=rebased_path(clips.path, os.getcwd(), folder), model=model
        )
        _write(choice, clips, folder)
        write_lines(os.path.join(folder, "summary.json"), [json.dumps(summary.to_dict(), indent=2)])
    return summary


def _check_outputs(clips: ClipList, folder: Path) -> None:
    """Refuse a folder that would lose something: the input, or files that this function did not write."""
    source = Path(os.path.realpath(clips.path))
    if source.parent == folder and source.name in (*OUTPUTS, "scores.jsonl"):
        raise ConfigError(f"{clips.path!r} is the input and would be overwritten; choose another --out")
    found = [name for name in OUTPUTS if (folder / name).exists()]
    if found and not (folder / "scores.jsonl").exists():
        raise ConfigError(
            f"{str(folder)!r} has {found[0]} but no scores.jsonl, so it is of another origin; "
            "choose another --out"
        )


def _batches(clips: ClipList, out: str, batch_size: int) -> Iterator[list[tuple[Job, LoggedClip]]]:
    """The clips in batches, the same whatever is known: company changes a score by a rounding error."""
    folder, numbered = clips.folder, enumerate(clips)
    while batch := list(islice(numbered, batch_size)):
        jobs = [Job(clip.video, os.path.join(folder, clip.video), clip.prompt) for _, clip in batch]
        yield [
            (job, LoggedClip(i, rebased_path(clip.video, folder, out), clip.prompt, *file_stamp(job.path)))
            for (i, clip), job in zip(batch, jobs, strict=True)
        ]


def _fill(
    log: ScoreLog,
    clips: ClipList,
    bulk: Bulk,
    *,
    out: str,
    batch_size: int,
    advance: Callable[[int], object],
) -> None:
    """Have the clips scored that the log does not know. What is logged stays, however this ends."""
    batches = _batches(clips, out, batch_size)
    new = [(job, state) for batch in batches for job, state in batch if log.find(state) is None]
    advance(clips.count - len(new))

    def done(first: int, results: Sequence[VideoScore | QSaveError]) -> None:
        for start in range(0, len(results), batch_size):
            some = results[start : start + batch_size]
            log.append([state for _, state in new[first + start : first + start + len(some)]], some)
        advance(len(results))

    if new:
        bulk([job for job, _ in new], done)


def _score(
    model: CheckpointScorer, clips: ClipList, log: ScoreLog, *, out: str, batch_size: int
) -> Iterator[list[Candidate]]:
    """The clips with their scores, in batches; those that the log does not know are scored."""
    prompts: dict[str, int] = {}
    for batch in _batches(clips, out, batch_size):
        scores = score_unknown(model, batch, log)
        yield [
            Candidate(prompts.setdefault(state.prompt, len(prompts)), *score)
            for (_, state), score in zip(batch, scores, strict=True)
        ]


def _summary(choice: _Choice, selection: Selection, *, shown: str, model: CheckpointScorer) -> Summary:
    codes = Counter(reason["code"] for reason in choice.reasons if reason is not None)
    errors = Counter(clip.error["code"] for clip in choice.candidates if clip.error is not None)
    kept, left = [], []
    for value, reason in zip(choice.values, choice.reasons, strict=True):
        if reason is None and value is not None:
            kept.append(value)
        elif reason is not None and value is not None and reason["code"] != "below_floor":
            left.append(value)
    return Summary(
        input=shown,
        n=len(choice.candidates),
        kept=len(kept),
        rejected={code: codes[code] for code in REASONS},
        failures=dict(sorted(errors.items())),
        lowest_kept=min(kept, default=None),
        best_not_kept=max(left, default=None),
        pairs=None if choice.pairs is None else len(choice.pairs),
        selection=selection.to_dict(),
        provenance=asdict(model.provenance),
    )


def _write(choice: _Choice, clips: ClipList, out: str) -> None:
    """The files of lines. None is replaced before all could be written."""
    chosen, folder = choice.pairs or (), clips.folder
    places = dict.fromkeys([i for pair in chosen for i in (pair.chosen, pair.rejected)], ("", ""))
    with ExitStack() as files:
        kept, rejected = (_fresh(files, os.path.join(out, name)) for name in OUTPUTS[:2])
        reasons = iter(choice.reasons)
        for i, clip in enumerate(clips):
            reason = next(reasons, None)  # too few for a list that grew, which is noticed at its end
            row = {**clip.row, "video": rebased_path(clip.video, folder, out)}
            if i in places:
                places[i] = row["video"], clip.prompt
            if reason is None:
                kept.write(json.dumps(row) + "\n")
            else:
                rejected.write(json.dumps({**row, "reason": reason}) + "\n")
        if choice.pairs is not None:
            file = _fresh(files, os.path.join(out, "pairs.jsonl"))
            for pair in choice.pairs:
                file.write(json.dumps(_pair_row(pair, choice, places)) + "\n")
        Path(out, "summary.json").unlink(missing_ok=True)  # it closes the files that it belongs to
    if choice.pairs is None:
        Path(out, "pairs.jsonl").unlink(missing_ok=True)  # of another selection


def _fresh(files: ExitStack, path: str) -> TextIO:
    temporary = files.enter_context(fresh_file(path))
    return files.enter_context(open(temporary, "w", encoding="utf-8"))


def _pair_row(pair: Pair, choice: _Choice, places: Mapping[int, tuple[str, str]]) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": places[pair.chosen][1]}
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    row |= {side: places[i][0] for side, i in sides.items()} | {"margin": pair.margin}
    row |= {f"score_{side}": choice.values[i] for side, i in sides.items()}
    for side, i in sides.items():
        row[f"scores_{side}"] = dict(zip(DIMENSIONS, choice.candidates[i].means or (), strict=True))
    return row
