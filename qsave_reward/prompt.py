"""The text of the conversation: question, score line, written report, and parsing of answers.

This module is the only owner of the text that the model reads and writes. A change here changes what a
checkpoint means: raise `PROMPT_VERSION`, and checkpoints of another version are refused.

The answer comes in two forms. *Direct*: only the score line, with a neutral placeholder in each slot;
the scores are read off the logits just before the slots. *Reasoned*: a report between `<think>` tags,
then the score line with the level words filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsave_reward.errors import AnswerError, ConfigError
from qsave_reward.types import DIMENSIONS, LEVELS, Defect

PROMPT_VERSION = "1"
HOLISTIC_VERSION = "holistic-1"
"""Of the text of the other scorer, `qsave_reward.holistic.text`."""

PLACEHOLDER = "unknown"
"""Stands in the slots of a direct answer; must be one token (after a space), as the level words must."""

SEVERITIES = ("slight", "moderate", "severe")
_SEVERITY_BOUNDS = (0.4, 0.7)
_SEVERITY_VALUES = (0.25, 0.55, 0.85)

DIMENSION_NAMES = {dimension: dimension.replace("_", " ") for dimension in DIMENSIONS}
NO_DEFECT = "no defect"

_INTRO = "This video was generated from a text prompt.\n"
BEFORE_PROMPT = "\nPrompt: "
"""Stands between video and prompt; a prompt is one line, so its last occurrence is the right one."""
_QUESTION = "{prompt}\nRate visual quality, dynamic quality and text alignment as {levels}."
_SCORE_LINE = ", ".join(f"{name}: {{{dimension}}}" for dimension, name in DIMENSION_NAMES.items())
_SCORE_PATTERN = re.compile(
    ", ".join(f"{name}: (?P<{dimension}>{'|'.join(LEVELS)})" for dimension, name in DIMENSION_NAMES.items())
)
_DEFECT_PATTERN = re.compile(
    rf"(?P<label>[a-z][a-z \-]*[a-z]) \((?P<severity>{'|'.join(SEVERITIES)})"
    r"(?:, (?P<start>[0-9]{1,6}\.[0-9])-(?P<end>[0-9]{1,6}\.[0-9]) s)?\)"
)
_DEFECT_END = re.compile(r"(?<=\)), ")


@dataclass(frozen=True)
class Report:
    """A parsed reasoned answer.

    Attributes:
        reasoning: everything the model wrote between the think tags.
        defects: the attributed faults found in it.
        levels: the level, 1 to 5, that was written for each dimension.
    """

    reasoning: str
    defects: tuple[Defect, ...]
    levels: Mapping[str, int]


def check_prompt(prompt: str) -> None:
    """A ConfigError when a prompt has no visible character (`code="empty_prompt"`) or a broken one."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError(
            f"expected the text the video was generated from, got {prompt!r}; "
            "text alignment has no meaning without it",
            code="empty_prompt",
        )
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise ConfigError(f"expected a prompt of whole characters, got {ascii(prompt)}", code="broken_prompt")


def build_messages(times: Sequence[float], prompt: str) -> list[dict[str, Any]]:
    """The question as chat messages: one `<t seconds>` text and one image slot for each chunk, then the
    prompt.

    Args:
        times: seconds of each chunk, in order.
        prompt: the text the clip was generated from. Control tokens in it are defused.

    Raises:
        ConfigError: as `check_prompt` does.
    """
    check_prompt(prompt)
    content: list[dict[str, Any]] = [{"type": "text", "text": _INTRO}]
    for time in times:
        content.append({"type": "text", "text": f"<{time:.1f} seconds>"})
        content.append({"type": "image"})
    question = _QUESTION.format(prompt=_defuse(prompt), levels=", ".join(LEVELS[:-1]) + f" or {LEVELS[-1]}")
    content.append({"type": "text", "text": BEFORE_PROMPT + question})
    return [{"role": "user", "content": content}]


def _defuse(prompt: str) -> str:
    """One line, without anything that the tokenizer would read as a control token or a think tag."""
    prompt = " ".join(prompt.split())
    return re.sub(r"<(?=\||/?think)", "< ", prompt)


def direct_answer() -> str:
    """The score line with a placeholder in each slot."""
    return _SCORE_LINE.format_map(dict.fromkeys(DIMENSIONS, PLACEHOLDER))


def score_line(levels: Mapping[str, int]) -> str:
    """The score line for levels 1 to 5 of each dimension."""
    return _SCORE_LINE.format_map({dimension: LEVELS[levels[dimension] - 1] for dimension in DIMENSIONS})


def reasoned_answer(defects: Sequence[Defect], rationale: str | None, levels: Mapping[str, int]) -> str:
    """The full written answer: rationale, one line of defects for each dimension, and the score line."""
    lines = [] if rationale is None else [" ".join(rationale.split())]
    for dimension, name in DIMENSION_NAMES.items():
        found = [_write_defect(defect) for defect in defects if defect.dimension == dimension]
        lines.append(f"{name}: {', '.join(found) if found else NO_DEFECT}")
    return "<think>\n" + "\n".join(lines) + "\n</think>\n" + score_line(levels)


def _write_defect(defect: Defect) -> str:
    word = SEVERITIES[sum(defect.severity >= bound for bound in _SEVERITY_BOUNDS)]
    if defect.start is None or defect.end is None:
        return f"{defect.label} ({word})"
    return f"{defect.label} ({word}, {defect.start:.1f}-{defect.end:.1f} s)"


def parse_report(text: str) -> Report:
    """Parse a reasoned answer.

    Raises:
        AnswerError: when the think tags, a dimension's line or the score line is missing or malformed.
            Nothing is guessed: an answer either has the agreed form or is an error.
    """
    # Plain cuts instead of one pattern: a model may write anything, and the time has to stay linear.
    opened, found, line = text.strip().partition("</think>")
    if not found or not opened.startswith("<think>"):
        raise AnswerError(f"expected <think>...</think> and one score line, got {_shorten(text)}")
    scores = _SCORE_PATTERN.fullmatch(line.strip())
    if scores is None:
        raise AnswerError(
            f"expected {score_line(dict.fromkeys(DIMENSIONS, 3))!r} or the like, got {_shorten(text)}"
        )
    reasoning = opened.removeprefix("<think>").strip()
    defects: list[Defect] = []
    for dimension, name in DIMENSION_NAMES.items():
        lines = [line for line in reasoning.splitlines() if line.startswith(f"{name}: ")]
        if len(lines) != 1:
            raise AnswerError(
                f"expected one line {name!r} in the reasoning, got {len(lines)}: {_shorten(text)}"
            )
        defects.extend(_parse_defects(dimension, lines[0][len(name) + 2 :]))
    levels = {dimension: LEVELS.index(scores[dimension]) + 1 for dimension in DIMENSIONS}
    return Report(reasoning=reasoning, defects=tuple(defects), levels=levels)


def _parse_defects(dimension: str, listed: str) -> list[Defect]:
    if listed.strip() == NO_DEFECT:
        return []
    defects = []
    for part in _DEFECT_END.split(listed.strip()):
        match = _DEFECT_PATTERN.fullmatch(part)
        if match is None:
            raise AnswerError(f"expected defects such as 'blur (severe, 0.3-1.2 s)', got {_shorten(listed)}")
        start, end = (None if match[key] is None else float(match[key]) for key in ("start", "end"))
        if start is not None and end is not None and start > end:
            raise AnswerError(f"a defect cannot end before it starts: {match[0]!r}")
        severity = _SEVERITY_VALUES[SEVERITIES.index(match["severity"])]
        defects.append(Defect(dimension, match["label"], severity, start, end))
    return defects


def rationale_of(reasoning: str) -> str | None:
    """What a report says before its lines of defects, in one line; `None` when it says nothing there."""
    heads = tuple(f"{name}: " for name in DIMENSION_NAMES.values())
    lines = [line for line in reasoning.splitlines() if not line.startswith(heads)]
    return " ".join(" ".join(lines).split()) or None


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 300 else text[:200] + " ... " + text[-80:])
