"""Public data sets in the form their authors publish: files already on this machine -> records or pairs.

    read_videofeedback(path)          VideoFeedback         five aspects, 1 to 4
    read_videofeedback2(path)         VideoFeedback2        three scores, 1 to 5, with reasons
    read_t2vqa_db(path)               T2VQA-DB              one MOS, 0 to 100
    read_qeval_video(path)            Q-Eval-Video, the data of NTIRE 2025 XGC Track 2    one MOS, 1 to 5
    read_fetv(results, prompts)       FETV                  three raters, three scores, 1 to 5
    read_videogen_rewardbench(path)   VideoGen-RewardBench  pairs
    read_genai_bench(path)            GenAI-Bench, video    pairs

Every score is one that people gave. A scale other than 1 to 5 is stretched linearly onto it, end to end. What
was judged on no dimension of ours becomes `overall` or is left out, as each reader says. Nothing is
downloaded: `videos` is the folder of the clips, put before the names that the set gives.

Every reader raises `ConfigError` when a file cannot be read, is empty or has an entry of another form; the
message names the file, the line, what was expected and what came.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsave_reward.entries import bar_lines, objects, read_entries
from qsave_reward.errors import ConfigError
from qsave_reward.fields import optional_text, score, show, text
from qsave_reward.preferences import Preference, read_genai_bench, read_videogen_rewardbench
from qsave_reward.tables import FilePath
from qsave_reward.types import DIMENSIONS, Record

__all__ = [
    "Preference",
    "read_fetv",
    "read_genai_bench",
    "read_qeval_video",
    "read_t2vqa_db",
    "read_videofeedback",
    "read_videofeedback2",
    "read_videogen_rewardbench",
]


def read_videofeedback(path: FilePath, *, videos: str = "") -> list[Record]:
    """VideoFeedback (arXiv 2406.15252; `TIGER-Lab/VideoFeedback`): Parquet, a JSON array or JSON lines.

    An entry has `id`, `text prompt` and a column for each of five aspects, scored 1 (bad) to 4 (as real).
    `visual quality` becomes `visual_quality`, `temporal consistency` (of objects and of motion)
    `dynamic_quality` and `text-to-video alignment` `text_alignment`, each as 1 + (score - 1) * 4 / 3. Left
    out are `dynamic degree`, an amount of motion and not a quality, and `factual consistency`, none of our
    dimensions. The clip of an entry is `ID.mp4`, as in the archives of the set.
    """
    aspects = dict(
        zip(("visual quality", "temporal consistency", "text-to-video alignment"), DIMENSIONS, strict=True)
    )

    def build(row: Mapping[str, Any]) -> Record:
        name = text(row, "id")
        mos = {ours: 1 + (score(row, theirs, low=1, high=4) - 1) * 4 / 3 for theirs, ours in aspects.items()}
        return Record(os.path.join(videos, f"{name}.mp4"), text(row, "text prompt"), mos, id=name)

    return read_entries(path, objects(path, ("id", "text prompt", *aspects)), build=build)


def read_videofeedback2(path: FilePath, *, videos: str = "") -> list[Record]:
    """VideoFeedback2 (arXiv 2509.22799; `TIGER-Lab/VideoFeedback2`): a JSON array, JSON lines or Parquet.

    Both published forms are read: entries with `video_name`, `prompt`, `visual_score`, `t2v_score`,
    `phy_score` and `thinking` (the test set), and conversations with `videos` (the training set), whose
    answer closes with the three scores. They keep their values, 1 to 5: visual quality is `visual_quality`,
    text-to-video alignment `text_alignment`, physical/common-sense consistency `dynamic_quality`. The last is
    the nearest, not the same: it asks whether what happens is plausible, and smoothness counts as visual
    quality there. The thoughts become `rationale`; a model wrote those of the training set from the raters'
    comments.
    """

    def build(row: Mapping[str, Any]) -> Record:
        row = _conversation(row) if row.get("conversations") is not None else row
        name = text(row, "video_name")
        return Record(
            os.path.join(videos, optional_text(row, "video") or f"{name}.mp4"),
            text(row, "prompt"),
            {
                "visual_quality": score(row, "visual_score", low=1, high=5),
                "dynamic_quality": score(row, "phy_score", low=1, high=5),
                "text_alignment": score(row, "t2v_score", low=1, high=5),
            },
            rationale=optional_text(row, "thinking") if row.get("thinking") else None,
            id=name,
        )

    columns = ("video_name", "prompt", "visual_score", "t2v_score", "phy_score", "thinking")
    return read_entries(path, objects(path, (*columns, "conversations", "videos")), build=build)


def read_t2vqa_db(path: FilePath, *, videos: str = "") -> list[Record]:
    """T2VQA-DB (arXiv 2403.11956): `info.txt`, lines `file|prompt|MOS` with one MOS of 0 to 100.

    It becomes `overall` as 1 + MOS / 25: the raters weighed alignment and fidelity into one number.
    """

    def build(entry: tuple[str, str, str]) -> Record:
        file, prompt, mos = entry
        return Record(
            os.path.join(videos, file), prompt, overall=1 + _written(mos, "MOS", low=0, high=100) / 25
        )

    return read_entries(path, bar_lines(path), build=build)


def read_qeval_video(path: FilePath, *, videos: str = "", scored: bool = True) -> list[Record]:
    """Q-Eval-Video as given out for NTIRE 2025 XGC Track 2 (arXiv 2506.02875): lines `file|prompt|MOS`.

    The one MOS, 1 to 5, becomes `overall`. The validation and test lists are `file|prompt`: read them with
    `scored=False`.
    """

    def build(entry: tuple[str, str, str]) -> Record:
        file, prompt, mos = entry
        return Record(
            os.path.join(videos, file),
            prompt,
            overall=_written(mos, "MOS", low=1, high=5) if scored else None,
        )

    return read_entries(path, bar_lines(path, scored=scored), build=build)


def read_fetv(
    results: FilePath, prompts: FilePath, *, clip: str = "{generator}/videos/{index}.mp4"
) -> list[Record]:
    """FETV (arXiv 2311.01813; github llyx97/FETV and llyx97/FETV_eval): three raters, three scores of 1 to 5.

    `static_quality` is `visual_quality`, `temporal_quality` `dynamic_quality`, `alignment` `text_alignment`.
    A score of `mos` is the mean over the raters, whose values, in the order of their folders, are `ratings`.
    The fine-grained alignment scores are left out. Among the generators is `ground-truth`: real clips.

    Args:
        results: the folder `manual_eval_results`; in it a folder `human*` for each rater, in each of those a
            file `manual_eval_results_GENERATOR.json` for each generator, one object a line with the number of
            a prompt and its scores.
        prompts: `fetv_data.json`, one prompt a line, numbered from 0.
        clip: where the clip of a generator and a number is. The clips of some generators are GIFs.
    """
    prompt_list = read_entries(prompts, objects(prompts, ("prompt",)), build=lambda row: text(row, "prompt"))
    raters = [Path(results, name) for name in _names(results, r"human.*")]
    records = []
    for file in _names(raters[0], r"manual_eval_results_.+\.json"):
        generator = file.removeprefix("manual_eval_results_").removesuffix(".json")
        # The set's two names of one generator: this in the ratings, the other in the clips.
        generator = generator.replace("damo-text2video", "modelscope-t2v")
        sheets = [_rating_sheet(rater / file, len(prompt_list)) for rater in raters]
        for rater, sheet in zip(raters, sheets, strict=True):
            if odd := sheet.keys() ^ sheets[0].keys():
                raise ConfigError(
                    f"{rater / file}: expected the clips that {raters[0].name} rated, differs in {min(odd)}"
                )
        for index in sorted(sheets[0]):
            columns = zip(*(sheet[index] for sheet in sheets), strict=True)
            ratings = dict(zip(DIMENSIONS, columns, strict=True))
            records.append(
                Record(
                    clip.replace("{generator}", generator).replace("{index}", str(index)),
                    prompt_list[index],
                    {name: math.fsum(values) / len(values) for name, values in ratings.items()},
                    ratings,
                    generator=generator,
                    id=f"{generator}/{index}",
                )
            )
    return records


def _conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A training entry of VideoFeedback2 in the form of a test entry."""
    turns: Any = row["conversations"]
    clips: Any = row.get("videos")
    try:
        question, answer = (turn["value"] for turn in turns)
        (video,) = clips
        # The prompt stands between two sentences of a question that is otherwise the same in every entry.
        prompt, closed, _ = question.partition("its text prompt:")[2].partition("Based on the video content")
        thinking = answer.partition("<think>")[2].partition("</think>")[0].strip()
        scores = re.search(
            r"\(1\) visual quality: *([\d.]+)\s*\(2\) text-to-video alignment: *([\d.]+)\s*"
            r"\(3\) physical/common-sense consistency: *([\d.]+)\s*$",
            answer,
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"expected a question, an answer and one clip, got {show(turns)} and {show(clips)}"
        ) from error
    if not closed or scores is None:
        found = answer[-120:] if closed else question
        raise ConfigError(
            f"expected a text prompt and an answer closing with three scores, got {show(found)}"
        )
    return {
        "video": video,
        "video_name": Path(str(video)).stem,
        "prompt": prompt.strip(),
        **{
            name: _written(digits, name, low=1, high=5)
            for name, digits in zip(("visual_score", "t2v_score", "phy_score"), scores.groups(), strict=True)
        },
        "thinking": thinking,
    }


def _written(digits: str, field: str, *, low: float, high: float) -> float:
    """A score that stands in a text."""
    # Not all that float() takes is a score: "nan", "1_0", digits of other scripts.
    if not re.fullmatch(r"\s*\d+(\.\d*)?([eE][+-]?\d+)?\s*", digits, re.ASCII):
        raise ConfigError(f"field {field!r}: expected a score from {low:g} to {high:g}, got {show(digits)}")
    return score({field: float(digits)}, field, low=low, high=high)


def _names(folder: FilePath, pattern: str) -> list[str]:
    """Sorted names in a folder that have the given form; at least one."""
    try:
        names = sorted(name for name in os.listdir(folder) if re.fullmatch(pattern, name))
    except OSError as error:
        raise ConfigError(f"cannot read the folder {os.fspath(folder)!r}: {error.strerror}") from error
    if not names:
        raise ConfigError(f"{os.fspath(folder)}: expected names of the form {pattern}, found none")
    return names


def _rating_sheet(path: Path, n_prompts: int) -> dict[int, tuple[float, ...]]:
    """Scores of one rater for the clips of one generator, in the order of `DIMENSIONS`, by prompt number."""
    sheet: dict[int, tuple[float, ...]] = {}

    def build(row: Mapping[str, Any]) -> None:
        for key, scores in row.items():
            known = re.fullmatch("[0-9]{1,9}", key) and int(key) < n_prompts
            if not known or not isinstance(scores, dict):
                raise ConfigError(
                    f"expected the number of a prompt, 0 to {n_prompts - 1}, and its scores, "
                    f"got {show(key)}: {show(scores)}"
                )
            if int(key) in sheet:
                raise ConfigError(f"prompt {key} was rated already on an earlier line")
            names = ("static_quality", "temporal_quality", "alignment")
            sheet[int(key)] = tuple(score(scores, name, low=1, high=5) for name in names)

    read_entries(path, objects(path, ()), build=build)
    return sheet
