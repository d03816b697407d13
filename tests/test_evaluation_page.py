"""The page of an evaluation: complete in itself, safe with hostile text, points where they should be."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from fake_model import FakeModel
from test_evaluate import FROZEN, data, grouped_items, some_items
from test_report import HOSTILE, Page

from qsave_reward.data import write_records
from qsave_reward.errors import ConfigError
from qsave_reward.evaluate import EvalData, evaluate, load_data, write_page
from qsave_reward.evaluate.data import FROM_RATINGS, FROM_WORLD
from qsave_reward.evaluate.plots import LEFT, SIDE, TOP, generator_plot, score_plot, spread_plot
from qsave_reward.evaluate.summary import Columns, columns
from qsave_reward.types import Record
from qsave_reward.video import write_clip


def written(evaluation, tmp_path) -> tuple[str, Page]:
    write_page(evaluation, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_page_has_numbers_plots_and_worst_cases_and_needs_nothing_else(tmp_path) -> None:
    done = evaluate(FakeModel(), load_data("world:test", limit=12), mode="reasoned")
    text, page = written(done, tmp_path)
    for name in ("Visual quality", "Dynamic quality", "Text alignment", "Overall"):
        assert name in text
    for name in ("visual_quality", "dynamic_quality", "text_alignment", "overall"):
        assert f"{done.results[name]['srcc']:.3f}" in text
    for label in ("noise ceiling", "generator mean", "constant", "random", "span IoU", "PLCC fitted"):
        assert label in text
    # Three plots a dimension (the overall score has no spread), three cases each with a moving picture.
    assert page.tags.count("svg") == 3 * 3 + 2
    assert sum(source.startswith("data:image/webp") for source in page.sources) == 12
    assert sum(source.startswith("data:image/jpeg") for source in page.sources) == 12 * 6
    assert "It looks dark." in text and "Named:" in text and "weights 0123" in text
    assert all(source.startswith("data:") for source in page.sources)
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not page.handlers and not re.search(r"(?i)https?:|@import|url\(", text)
    assert "default-src 'none'" in text and "nan" not in text


def ceiling_cells(source: str, tmp_path) -> tuple[list[str], str]:
    """SRCC and PLCC in the line of the first ceiling, and the whole page."""
    items = some_items()
    loaded = EvalData("mine", items, len(items), {"dynamic_quality": 0.912}, source)
    text, _ = written(evaluate(FakeModel(), loaded), tmp_path)
    lines = re.findall(r"<td>noise ceiling</td>(.*?)</tr>", text, re.DOTALL)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", lines[1])
    return [cells[0], cells[2]], text


def test_the_ceiling_is_shown_as_the_correlation_that_it_is(tmp_path) -> None:
    cells, text = ceiling_cells(FROM_WORLD, tmp_path)
    assert cells == ["0.912", ""] and f"Noise ceiling: {FROM_WORLD}." in text
    cells, text = ceiling_cells(FROM_RATINGS, tmp_path)
    assert cells == ["", "0.912"] and f"Noise ceiling of the PLCC: {FROM_RATINGS}." in text


def test_an_interval_that_is_missing_hides_no_other_number_of_the_generators(tmp_path) -> None:
    items = [(replace(r, generator="abcd"[k % 4]), video) for k, (r, video) in enumerate(some_items())]
    text, _ = written(evaluate(FakeModel(), data(items)), tmp_path)
    assert (
        "4 generators; chance" in text and "; an interval needs at least 5 generators, got 4</small>" in text
    )


def test_the_worst_cases_are_the_largest_errors_in_order(tmp_path) -> None:
    items = grouped_items(16)
    wrong = [(replace(record, prompt=f"item {i}"), video) for i, (record, video) in enumerate(items)]
    errors = np.array(
        [abs(record.mos["visual_quality"] - 1 - 4 * v.frames.mean() / 255) for record, v in wrong]
    )
    text, _ = written(evaluate(FakeModel(), data(wrong)), tmp_path)
    first = text[text.index("The largest errors") : text.index("Dynamic quality</h2>")]
    assert re.findall(r"“(item \d+)”", first) == [f"item {i}" for i in np.argsort(-errors)[:3]]
    # These clips are in no file: the page says so and shows the rest.
    assert "cannot be read again" in first and "Predicted" in first


def test_clips_of_a_file_are_shown_with_a_link(tmp_path) -> None:
    (tmp_path / "clips").mkdir()
    records = []
    for i in range(6):
        write_clip(tmp_path / "clips" / f"{i} a.mp4", np.full((8, 32, 48, 3), 40 * i, dtype=np.uint8), fps=8)
        records.append(Record(f"clips/{i} a.mp4", "x", {"visual_quality": 1.5 + i / 2}, defects=(FROZEN,)))
    write_records(tmp_path / "r.jsonl", records)
    text, page = written(evaluate(FakeModel(), load_data(str(tmp_path / "r.jsonl"))), tmp_path)
    assert len(page.links) == 3 and set(page.links) <= {f"./clips/{i}%20a.mp4" for i in range(6)}
    assert "cannot be read" not in text


def test_hostile_text_stays_text(tmp_path) -> None:
    text = HOSTILE.replace("\ud800", "")
    items = [
        (replace(record, prompt=text, generator=text, id=f"{HOSTILE} {i}"), video)
        for i, (record, video) in enumerate(some_items())
    ]
    items.append((replace(items[0][0], video=HOSTILE), "nowhere.mp4"))
    done = replace(evaluate(FakeModel(), data(items)), data=HOSTILE)
    text, page = written(done, tmp_path)
    assert "script" not in page.tags and not page.handlers
    assert "&lt;script&gt;alert(1)" in text and "{{ 7*7 }}" in text
    assert all(link.startswith("./") for link in page.links)


def test_failed_items_and_undefined_numbers_are_said(tmp_path) -> None:
    items = some_items()
    items.append((items[0][0], "nowhere.mp4"))
    text, _ = written(evaluate(FakeModel(), data(items)), tmp_path)
    assert "of which 1 could not be scored" in text and "(not_found)" in text
    assert "all 12 true scores equal 5" in text
    nothing = data([(Record("a", "x", {"visual_quality": 2.0}), "nowhere.mp4")] * 2)
    text, page = written(evaluate(FakeModel(), nothing), tmp_path)
    assert "svg" not in page.tags and "2 clips, of which 2" in text


def test_a_page_that_cannot_be_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_page(evaluate(FakeModel(), data(some_items(3))), tmp_path / "none" / "page.html")


def test_places_on_the_plots() -> None:
    done = evaluate(FakeModel(), data(grouped_items()))
    found = columns(done.predictions, "visual_quality")
    plot = score_plot(found)
    assert [text for _, text in plot.ticks] == ["1", "2", "3", "4", "5"]
    x, y, _, _ = plot.points[7]
    assert x == pytest.approx(LEFT + SIDE * (found.predicted[7] - 1) / 4)
    assert y == pytest.approx(TOP + SIDE * (5 - found.truth[7]) / 4)
    assert len(plot.points) == 48 and len(plot.curve.split()) == 61
    makers = done.results["generator_level"]["visual_quality"]["generators"]
    level = generator_plot(makers)
    assert [label[3] for label in sorted(level.labels, key=lambda label: -label[1])] == sorted(makers)
    spread = spread_plot(done.results["calibration"]["visual_quality"]["bins"])
    assert spread.ticks[0] == (0.0, "0.0") and len(spread.points) == 8


def test_names_of_generators_do_not_cover_each_other() -> None:
    makers = {f"generator number {i}": {"n": 3, "predicted": 3 + i / 100, "truth": 3.0} for i in range(5)}
    makers["far"] = {"n": 3, "predicted": 1.0, "truth": 1.0}
    rows = sorted(y for _, y, ends, _ in generator_plot(makers).labels if ends)
    assert len(rows) == 5 and min(np.diff(rows)) >= 12


def test_of_very_many_points_an_even_selection_is_drawn() -> None:
    done = evaluate(FakeModel(), data(some_items(2)))
    many = np.linspace(1, 5, 10001)
    plot = score_plot(Columns(many, many, many, [], [], [done.predictions[0]] * 10001))
    assert len(plot.points) == 2501 and "4th of 10001" in plot.title
