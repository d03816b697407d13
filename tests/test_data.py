"""Records on disk: exact round trips, precise complaints, nothing half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.data import (
    normalise_prompt,
    read_records,
    read_requests,
    split_by_prompt,
    write_records,
)
from qsave_reward.errors import ConfigError
from qsave_reward.types import DIMENSIONS, Defect, Record

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)
SCORES = st.floats(1, 5)
SPANS = st.one_of(
    st.just((None, None)), st.tuples(st.floats(0, 99), st.floats(0, 99)).map(lambda span: tuple(sorted(span)))
)
DEFECTS = st.builds(
    lambda dimension, label, severity, span: Defect(dimension, label, severity, *span),
    st.sampled_from(DIMENSIONS),
    TEXT,
    st.floats(0, 1),
    SPANS,
)
RECORDS = st.builds(
    Record,
    video=TEXT,
    prompt=TEXT,
    mos=st.dictionaries(st.sampled_from(DIMENSIONS), SCORES),
    ratings=st.dictionaries(st.sampled_from(DIMENSIONS), st.lists(SCORES).map(tuple)),
    overall=st.none() | SCORES,
    defects=st.none() | st.lists(DEFECTS, max_size=3).map(tuple),
    rationale=st.none() | TEXT,
    generator=st.none() | TEXT,
)


@pytest.mark.parametrize("name", ["records.jsonl", "records.parquet"])
@given(records=st.lists(RECORDS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_round_trip_keeps_every_field(name, records, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("data") / name
    write_records(path, records)
    assert read_records(path) == records


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_minimal_lines_blank_lines_byte_order_mark_and_own_metadata(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"video": "a.mp4", "prompt": "x", "width": 3, "ratings": null}\r\n\r\n'
        b'{"video": "b.mp4", "prompt": "\xe7\x8c\xab\xe2\x80\xa8"}\n'
    )
    first, second = read_records(path)
    assert first == Record(video="a.mp4", prompt="x")
    assert second.prompt == "猫\u2028"


GOOD = '{"video": "a.mp4", "prompt": "x"}'


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: expected one JSON object"),
        ("[1]", r"line 2: expected a JSON object, got \[1\]"),
        ("[" * 100_000, "line 2: expected one JSON object"),
        ('{"prompt": "x"}', "line 2: field 'video' is missing; the line has 'prompt'"),
        ('{"video": "a.mp4"}', "field 'prompt' is missing"),
        ('{"video": 3, "prompt": "x"}', "field 'video': expected text, got 3"),
        ('{"video": "a.mp4", "prompt": "  "}', "field 'prompt': expected text, got '  '"),
        ('{"video": "a.mp4", "prompt": "\\ud800"}', "broken character"),
        ('{"video": "a", "prompt": "x", "mos": [3]}', r"field 'mos': expected an object.* got \[3\]"),
        (
            '{"video": "a", "prompt": "x", "mos": {"visual_quality": "4"}}',
            "'mos.visual_quality': expected a number",
        ),
        ('{"video": "a", "prompt": "x", "mos": {"visual_quality": NaN}}', "expected a number, got nan"),
        ('{"video": "a", "prompt": "x", "mos": {"visual_quality": true}}', "expected a number, got True"),
        ('{"video": "a", "prompt": "x", "mos": {"visual_quality": 0}}', r"line 2: MOS .* \[1, 5\], got 0.0"),
        (
            '{"video": "a", "prompt": "x", "overall": 1' + "0" * 400 + "}",
            "'overall': expected a number, got 1000",
        ),
        ('{"video": "a", "prompt": "x", "mos": {"sound": 3}}', "unknown dimension 'sound'"),
        ('{"video": "a", "prompt": "x", "ratings": {"visual_quality": 3}}', "expected a list of numbers"),
        ('{"video": "a", "prompt": "x", "ratings": {"visual_quality": [3, "z"]}}', r"visual_quality\[1\]"),
        ('{"video": "a", "prompt": "x", "defects": {}}', "field 'defects': expected a list or null"),
        ('{"video": "a", "prompt": "x", "defects": ["blur"]}', r"'defects\[0\]': expected an object"),
        (
            '{"video": "a", "prompt": "x", "defects": [{"dimension": "visual_quality", "label": "blur"}]}',
            r"'defects\[0\]': field 'severity': expected a number, got None",
        ),
        (
            '{"video": "a", "prompt": "x", "defects": [{"dimension": "visual_quality", "label": "blur", '
            '"severity": 1, "start": 2, "end": 1}]}',
            r"'defects\[0\]': .* need 0 <= start <= end",
        ),
    ],
)
def test_a_wrong_line_is_named_with_field_expected_and_got(tmp_path, line, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_records(write(tmp_path / "r.jsonl", GOOD, line))
    assert "r.jsonl" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_ids_are_unique(tmp_path) -> None:
    line = '{"video": "a.mp4", "prompt": "x", "id": "7"}'
    with pytest.raises(ConfigError, match="line 3: field 'id': '7' was used already on line 1"):
        read_records(write(tmp_path / "r.jsonl", line, "", line))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe{\x00}\x00"])
def test_files_that_are_not_jsonl(tmp_path, content) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    for read in (read_records, read_requests):
        with pytest.raises(ConfigError, match=r"r\.jsonl"):
            read(path)


def test_missing_file_and_folder(tmp_path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path, "a\0b"):
        with pytest.raises(ConfigError, match="cannot read"):
            read_records(path)


def test_requests_need_only_video_and_prompt(tmp_path) -> None:
    line = json.dumps({"video": "clips/a.mp4", "prompt": "x", "mos": "high", "ratings": {"type": "pairwise"}})
    assert read_requests(write(tmp_path / "r.jsonl", line)) == [("clips/a.mp4", "x")]
    assert read_requests(write(tmp_path / "r.jsonl", '{"video": "a.mp4", "prompt": ""}')) == [("a.mp4", "")]
    with pytest.raises(ConfigError, match="line 1: field 'prompt': expected text, got None"):
        read_requests(write(tmp_path / "r.jsonl", '{"video": "a.mp4", "prompt": null}'))


def test_writing_is_all_or_nothing(tmp_path) -> None:
    path = tmp_path / "r.jsonl"
    write_records(path, [Record("a.mp4", "x")])
    before = path.read_bytes()

    def broken():
        yield Record("b.mp4", "y")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def test_writing_where_no_file_can_be(tmp_path) -> None:
    for path in (tmp_path, tmp_path / "none" / "r.jsonl", Path("/dev/null")):
        with pytest.raises(ConfigError):
            write_records(path, [Record("a.mp4", "x")])
    assert Path("/dev/null").is_char_device()


def test_writing_through_a_link_keeps_the_link(tmp_path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    write_records(tmp_path / "link.jsonl", [Record("a.mp4", "x")])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert len(read_records(tmp_path / "real.jsonl")) == 1


PROMPTS = [f"a red circle passes {i} blue squares" for i in range(2000)]


def test_splits_share_no_prompt_and_keep_their_order() -> None:
    records = [Record(f"{i}.mp4", PROMPTS[i % 500]) for i in range(1000)]
    parts = split_by_prompt(records)
    assert list(parts) == ["train", "val", "test"]
    assert sorted(int(r.video[:-4]) for part in parts.values() for r in part) == list(range(1000))
    prompts = [{record.prompt for record in part} for part in parts.values()]
    assert sum(map(len, prompts)) == 500
    for part in parts.values():
        assert part == sorted(part, key=lambda record: int(record.video[:-4]))


def test_splits_meet_their_shares_and_follow_the_seed() -> None:
    records = [Record("a.mp4", prompt) for prompt in PROMPTS]
    sizes = {name: len(part) for name, part in split_by_prompt(records).items()}
    assert sizes == {"train": 1594, "val": 215, "test": 191}  # a change moves the prompts of every user
    assert split_by_prompt(records, seed=1)["val"] != split_by_prompt(records)["val"]
    # What part a prompt is in depends on nothing else.
    alone = split_by_prompt(records[5:6])
    assert next(name for name, part in alone.items() if part) == next(
        name for name, part in split_by_prompt(records[::-1]).items() if records[5] in part
    )


def test_prompts_that_differ_in_form_only_stay_together() -> None:
    forms = ["A  red circle\tmoves.", "a red circle moves", "a red circle moves!", "ａ red circle moves "]
    assert {normalise_prompt(form) for form in forms} == {"a red circle moves"}
    assert normalise_prompt(" ... ") == "..."
    parts = split_by_prompt([Record("a.mp4", form) for form in forms], {"a": 0.5, "b": 0.5})
    assert sorted(map(len, parts.values())) == [0, 4]


@given(
    shares=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    prompts=st.lists(TEXT, max_size=5),
    seed=st.integers(),
)
@settings(max_examples=60, deadline=None)
def test_any_shares_divide_any_prompts(shares, prompts, seed) -> None:
    named = {str(i): share / sum(shares) for i, share in enumerate(shares)}
    parts = split_by_prompt([Record("a.mp4", prompt) for prompt in prompts], named, seed=seed)
    assert list(parts) == list(named)
    assert sum(map(len, parts.values())) == len(prompts)
    assert all(named[name] > 0 for name, part in parts.items() if part)


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}, {"a": 2.0}])
def test_wrong_shares(shares) -> None:
    with pytest.raises(ConfigError, match="share"):
        split_by_prompt([Record("a.mp4", "x")], shares)
