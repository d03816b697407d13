"""Report cards as one HTML page: the clip, what the model saw of it, its scores and its defects in time.

The page needs no network, no script and no other file, works in light and dark and on a phone, and treats all
text in it (prompts, file names, answers of a model) as hostile.

    report = Report()
    report.add(scored, plan_chunks(scored.clip, model.frame_plan))
    report.write("report.html")
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from qsave_reward.data import write_lines
from qsave_reward.errors import QSaveError
from qsave_reward.media import data_uri, playable_file, preview, still
from qsave_reward.paths import absolute_path
from qsave_reward.prompt import DIMENSION_NAMES
from qsave_reward.scoring import Scored
from qsave_reward.slowfast import Chunk
from qsave_reward.types import LEVELS, Defect, DimensionScore

EMBED_FILE = 8_000_000
"""Largest clip, in bytes, that is put into the page as it is."""

EMBED_TOTAL = 64_000_000
"""When the embedded clips together reach this many bytes, further ones are only linked."""

STRIP_HEIGHT, STRIP_WIDTH = 170, 300
"""Largest display size of a slow chunk, in CSS pixels."""

PAGE_WIDTH = 1000
"""Width that a strip fills when that does not enlarge its slow chunks beyond their display size."""


@dataclass(frozen=True)
class Strip:
    """The chunks of a clip side by side, to scale, and the time axis this makes.

    Attributes:
        thumbs: for each chunk `uri`, `time` (seconds), `slow`, `share` (% of the width), `aspect`, `size`.
        width: natural width in CSS pixels.
        edges: times in seconds at the left edge of the first column, between columns, and at the right edge.
        shares: the same edges as fractions of the width, 0 to 1.
    """

    thumbs: tuple[dict[str, Any], ...]
    width: int
    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def position(self, seconds: float) -> float:
        """Where a time lies, in % of the width: linear inside each column."""
        return 100 * float(np.interp(seconds, self.edges, self.shares))


def make_strip(chunks: Sequence[Chunk], duration: float) -> Strip:
    """Lay out chunks (at least one) of a clip of `duration` seconds."""
    tallest, widest = max(chunk.height for chunk in chunks), max(chunk.width for chunk in chunks)
    fill = PAGE_WIDTH / sum(chunk.width for chunk in chunks)
    scale = min(STRIP_HEIGHT / tallest, STRIP_WIDTH / widest, max(fill, STRIP_HEIGHT / tallest / 3))
    widths = [max(12.0, chunk.width * scale) for chunk in chunks]
    thumbs = []
    for chunk, width in zip(chunks, widths, strict=True):
        pixels = (max(1, round(1.5 * chunk.width * scale)), max(1, round(1.5 * chunk.height * scale)))
        thumbs.append(
            {
                "uri": still(chunk.frames[0], pixels),
                "time": chunk.time,
                "slow": chunk.slow,
                "share": 100 * width / sum(widths),
                "aspect": chunk.width / chunk.height,
                "size": f"{chunk.width}×{chunk.height}",
            }
        )
    times = [chunk.time for chunk in chunks]
    between = [(before + after) / 2 for before, after in zip(times, times[1:], strict=False)]
    shares = np.cumsum([0.0, *widths]) / sum(widths)
    return Strip(
        thumbs=tuple(thumbs),
        width=round(sum(widths)),
        edges=(0.0, *between, max(duration, times[-1])),
        shares=tuple(shares.tolist()),
    )


class Report:
    """Collects cards; holds thumbnails and encoded clips, not decoded frames."""

    def __init__(self) -> None:
        self._cards: list[dict[str, Any]] = []
        self._embedded = 0

    def add(self, scored: Scored, chunks: Sequence[Chunk] = ()) -> None:
        """Add one card.

        Args:
            scored: the clip with its result.
            chunks: what the model saw of it.
        """
        (name, path, prompt), result, clip = scored
        strip = None if clip is None or not chunks else make_strip(chunks, clip.duration)
        card: dict[str, Any] = {
            "file": clean(name),
            "prompt": clean(prompt),
            "path": absolute_path(path),
            "media": self._media(scored),
            "strip": strip,
            "error": None,
            "score": None,
        }
        if isinstance(result, QSaveError):
            card["error"] = {key: clean(text) for key, text in result.to_dict().items()}
        else:
            card["score"] = result
            card["overall"] = {"value": result.overall, "level": level_word(result.overall)}
            card["rows"] = [_score_row(dimension, score) for dimension, score in result.scores.items()]
            card["lanes"] = [_lane(defect, strip) for defect in sorted(result.defects or (), key=_lane_order)]
            card["reasoning"] = None if result.reasoning is None else clean(result.reasoning)
            card["warnings"] = [clean(warning) for warning in result.warnings]
        self._cards.append(card)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page.

        Raises:
            ConfigError: when `path` cannot be written.
        """
        links = [relative_link(card["path"], path) for card in self._cards]
        scored = [card["score"] for card in self._cards if card["score"] is not None]
        provenances = [
            provenance
            for i, provenance in enumerate(score.provenance for score in scored)
            if provenance not in [earlier.provenance for earlier in scored[:i]]
        ]
        text = fill_template(
            "report.html.j2",
            cards=list(zip(self._cards, links, strict=True)),
            n_failed=len(self._cards) - len(scored),
            names=DIMENSION_NAMES,
            levels=LEVELS,
            provenances=provenances,
        )
        write_lines(path, [text])

    def _media(self, scored: Scored) -> dict[str, Any] | None:
        """The clip itself when browsers play it and it is small, else an animated preview, else nothing."""
        clip, room = scored.clip, EMBED_TOTAL - self._embedded
        if clip is None or room <= 0:
            return None
        height, width = clip.frames.shape[1:3]
        shape = {"width": width, "height": height}
        found = playable_file(scored.job.path, min(EMBED_FILE, room))
        if found is None:
            uri = preview(clip)
            self._embedded += len(uri)
            return {"kind": "preview", "uri": uri, **shape}
        data, mime = found
        self._embedded += len(data)
        poster = still(clip.frames[0], _fit(width, height)) if mime.startswith("video/") else None
        return {"kind": mime.split("/")[0], "uri": data_uri(data, mime), "poster": poster, **shape}


def fill_template(name: str, **values: Any) -> str:
    """A page from one of the package's templates; every value is text to be escaped."""
    environment = Environment(
        loader=PackageLoader("qsave_reward"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return "".join(environment.get_template(name).stream(**values))


def relative_link(path: str, page: str | os.PathLike[str]) -> str:
    """Address of a file as a page links to it: relative, so that both may move together."""
    folder = os.path.dirname(os.path.realpath(page))
    return "./" + quote(os.fsencode(os.path.relpath(path, folder)))


def level_word(mean: float) -> str:
    """The level nearest to a score."""
    return LEVELS[min(max(round(mean), 1), len(LEVELS)) - 1]


def _fit(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, 480 / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _score_row(dimension: str, score: DimensionScore) -> dict[str, Any]:
    """Positions on the axis from 1 to 5, in %."""
    low, high = max(1.0, score.mean - score.std), min(5.0, score.mean + score.std)
    return {
        "dimension": dimension,
        "name": DIMENSION_NAMES[dimension],
        "mean": score.mean,
        "std": score.std,
        "level": level_word(score.mean),
        "fill": 25 * (score.mean - 1),
        "low": 25 * (low - 1),
        "spread": 25 * (high - low),
        "probs": [{"level": level, "percent": 100 * p} for level, p in zip(LEVELS, score.probs, strict=True)],
    }


def _lane_order(defect: Defect) -> tuple[int, float]:
    return list(DIMENSION_NAMES).index(defect.dimension), defect.start or 0.0


def _lane(defect: Defect, strip: Strip | None) -> dict[str, Any]:
    """One defect under the strip: where its bar begins and ends, in %, and its words."""
    left, right, span = 0.0, 100.0, "whole clip"
    if defect.start is not None and defect.end is not None:
        span = f"{defect.start:.1f}–{defect.end:.1f} s"
        if strip is not None:
            left, right = strip.position(defect.start), strip.position(defect.end)
    return {
        "dimension": defect.dimension,
        "name": DIMENSION_NAMES[defect.dimension],
        "label": clean(defect.label),
        "severity": defect.severity,
        "opacity": 0.3 + 0.7 * defect.severity,
        "span": span,
        "left": min(left, 99.0),
        "width": max(right - left, 1.0),
    }


def clean(text: str) -> str:
    """Text without halves of character pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
