"""The HTML report: complete in itself, safe with hostile text, and right about where things are."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeModel, spread
from PIL import Image

import qsave_reward.report as report_module
from qsave_reward.errors import ConfigError, VideoError
from qsave_reward.media import playable_file
from qsave_reward.report import Report, make_strip
from qsave_reward.scoring import Job, Scored
from qsave_reward.slowfast import Chunk, plan_chunks
from qsave_reward.types import DIMENSIONS, Defect, Provenance, VideoScore
from qsave_reward.video import Clip, read_clip, write_clip

HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> {{ 7*7 }} \ud800 \x1b[31m"


def frames(n: int = 16, height: int = 64, width: int = 96) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (n, height, width, 3), dtype=np.uint8)


def card(*defects: Defect, reasoning: str | None = None, warnings: tuple[str, ...] = ()) -> VideoScore:
    scores = {name: spread(mean) for name, mean in zip(DIMENSIONS, (1.5, 3.25, 4.75), strict=True)}
    provenance = Provenance("fake", "0123", "1", {"mode": "slowfast"})
    return VideoScore(scores, provenance, defects=defects, reasoning=reasoning, warnings=warnings)


def scored(path: Path, result, *, name: str | None = None, prompt: str = "a red circle") -> Scored:
    return Scored(Job(name or path.name, str(path), prompt), result, read_clip(path))


@pytest.fixture
def clip_path(tmp_path) -> Path:
    write_clip(tmp_path / "clip.mp4", frames(), fps=8)
    return tmp_path / "clip.mp4"


class Page(HTMLParser):
    """Elements and addresses of a page; fails on tags that are not closed in order."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "poster", "srcset", "data"):
                self.sources.append(value)
            if name == "href":
                self.links.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(report: Report, tmp_path: Path) -> tuple[str, Page]:
    report.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_page_shows_scores_defects_reasons_and_needs_nothing_else(clip_path, tmp_path) -> None:
    report = Report()
    blur = Defect("visual_quality", "blur", 0.85, 0.5, 1.0)
    frozen = Defect("dynamic_quality", "frozen", 0.25)
    result = scored(clip_path, card(frozen, blur, reasoning="It is soft.", warnings=("short clip",)))
    report.add(result, plan_chunks(result.clip, FakeModel().frame_plan))
    text, page = written(report, tmp_path)
    for expected in (
        "clip.mp4",
        "a red circle",
        "1.50",
        "3.25",
        "4.75",
        "3.17",
        "± 0.50",
        "blur",
        "0.5–1.0 s",
    ):
        assert expected in text
    for expected in ("whole clip", "It is soft.", "short clip", "weights 0123", "75.0 %"):
        assert expected in text
    assert text.index("blur") < text.index("frozen")
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not page.handlers
    assert not re.search(r"(?i)https?:|@import|url\(", text)
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text and "viewport" in text


def test_the_video_itself_is_inside(clip_path, tmp_path) -> None:
    report = Report()
    report.add(scored(clip_path, card()))
    text, page = written(report, tmp_path)
    inside = next(source for source in page.sources if source.startswith("data:video/mp4;base64,"))
    assert base64.b64decode(inside.split(",")[1]) == clip_path.read_bytes()
    assert "named none" in text


@pytest.mark.parametrize("place", ["prompt", "name", "reasoning", "warning", "label", "error"])
def test_hostile_text_stays_text(clip_path, tmp_path, place) -> None:
    result: VideoScore | VideoError = card(
        Defect("visual_quality", HOSTILE if place == "label" else "blur", 0.5),
        reasoning=HOSTILE if place == "reasoning" else None,
        warnings=(HOSTILE,) if place == "warning" else (),
    )
    if place == "error":
        result = VideoError(HOSTILE)
    report = Report()
    name, prompt = (HOSTILE if place == wanted else "x" for wanted in ("name", "prompt"))
    report.add(scored(clip_path, result, name=name, prompt=prompt))
    text, page = written(report, tmp_path)
    assert "script" not in page.tags and not page.handlers
    assert "&lt;script&gt;alert(1)" in text and "{{ 7*7 }}" in text


def test_failed_items_are_error_cards_among_the_others(clip_path, tmp_path) -> None:
    report = Report()
    report.add(scored(clip_path, card()))
    report.add(
        Scored(
            Job("gone.mp4", str(tmp_path / "gone.mp4"), "x"),
            VideoError("no such file", code="not_found"),
            None,
        )
    )
    text, page = written(report, tmp_path)
    assert "2 clips, 1 could not be scored" in text
    assert "Not scored (not_found)" in text and "no such file" in text
    assert page.links[:2] == ["#clip-1", "#clip-2"]


@pytest.mark.parametrize("name", ["javascript:alert(1)", 'a"onclick="b.mp4', "100% #1?.mp4", "ü 猫.mp4"])
def test_links_are_relative_and_quoted(tmp_path, name) -> None:
    (tmp_path / "clips").mkdir()
    path = tmp_path / "clips" / name.replace("/", "_")
    report = Report()
    report.add(Scored(Job(name, str(path), "x"), VideoError("no"), None))
    _, page = written(report, tmp_path)
    (link,) = page.links
    assert link.startswith("./clips/") and not re.search(r"[\"<> #?]", link)
    assert not page.handlers


def test_clips_that_browsers_cannot_play_get_a_preview_and_a_link(tmp_path) -> None:
    # Odd sizes are stored as 4:4:4, which not every browser plays.
    write_clip(tmp_path / "odd.mp4", frames(6, 63, 95), fps=8)
    report = Report()
    report.add(scored(tmp_path / "odd.mp4", card()))
    text, page = written(report, tmp_path)
    (preview,) = page.sources
    image = Image.open(io.BytesIO(base64.b64decode(preview.removeprefix("data:image/webp;base64,"))))
    assert (image.n_frames, image.size) == (6, (95, 63))
    assert "Sampled frames only" in text and page.links == ["./odd.mp4"]


def test_large_clips_are_not_embedded(clip_path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report_module, "EMBED_FILE", 100)
    report = Report()
    report.add(scored(clip_path, card()))
    assert written(report, tmp_path)[1].sources[0].startswith("data:image/webp")
    monkeypatch.setattr(report_module, "EMBED_TOTAL", 1)
    report.add(scored(clip_path, card()))
    assert len(written(report, tmp_path)[1].sources) == 1


def test_what_browsers_play(tmp_path, clip_path) -> None:
    def mime(data: bytes) -> str | None:
        (tmp_path / "f").write_bytes(data)
        found = playable_file(tmp_path / "f", 10_000_000)
        return found and found[1]

    h264 = clip_path.read_bytes()
    assert mime(h264) == "video/mp4"
    high10 = h264[: (at := h264.index(b"avcC")) + 5] + bytes([110]) + h264[at + 6 :]
    assert mime(high10) is None
    assert mime(h264.replace(b"avc1", b"mp4v")) is None
    assert mime(h264[:40]) is None
    assert mime(b"GIF89a...") == "image/gif"
    assert mime(b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x42\x82\x84webm") == "video/webm"
    assert mime(b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x42\x82\x88matroska") is None
    assert mime(b"") is None
    assert playable_file(tmp_path, 10) is None
    assert playable_file(clip_path, 100) is None
    assert playable_file(tmp_path / "none", 100) is None


def chunk(time: float, *, slow: bool) -> Chunk:
    side = 128 if slow else 64
    return Chunk(frames(2), time, side, 2 * side, slow)


def test_strip_is_to_scale_and_maps_times_to_places() -> None:
    strip = make_strip([chunk(0.5, slow=True), chunk(1.5, slow=False), chunk(2.5, slow=False)], 3.0)
    assert [thumb["share"] for thumb in strip.thumbs] == pytest.approx([50, 25, 25])
    assert strip.edges == (0.0, 1.0, 2.0, 3.0)
    for seconds, place in {0: 0, 0.5: 25, 1: 50, 1.5: 62.5, 2: 75, 3: 100, 9: 100}.items():
        assert strip.position(seconds) == pytest.approx(place)
    still = Image.open(io.BytesIO(base64.b64decode(strip.thumbs[0]["uri"].split(",")[1])))
    assert still.size[0] / still.size[1] == pytest.approx(2, rel=0.02)


def test_a_clip_of_one_frame_has_a_strip(tmp_path) -> None:
    clip = Clip(frames(1), np.zeros(1), 0.0)
    chunks = plan_chunks(clip, FakeModel().frame_plan)
    report = Report()
    result = Scored(
        Job("x", str(tmp_path / "x"), "x"), card(Defect("visual_quality", "blur", 1.0, 0.0, 0.0)), clip
    )
    report.add(result, chunks)
    text, _ = written(report, tmp_path)
    assert "1 chunk at" in text and "nan" not in text


def test_report_that_cannot_be_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        Report().write(tmp_path / "none" / "r.html")
