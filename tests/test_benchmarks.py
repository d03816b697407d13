"""Readers of public data sets, each on a small file in the form its authors publish."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from list_files import array, lines, table, write

from qsave_reward.benchmarks import (
    read_genai_bench,
    read_qeval_video,
    read_t2vqa_db,
    read_videofeedback,
    read_videofeedback2,
    read_videogen_rewardbench,
)
from qsave_reward.data import read_records, write_records
from qsave_reward.errors import ConfigError
from qsave_reward.types import Record

FEEDBACK = [
    {
        "id": "p110924",
        "images": ["p110924_00.jpg", "p110924_01.jpg"],
        "text prompt": "a corgi runs | fast, 4k",
        "video link": "https://huggingface.co/datasets/x/resolve/main/p/p110924.mp4",
        "visual quality": 1,
        "temporal consistency": 2,
        "dynamic degree": 3,
        "text-to-video alignment": 4,
        "factual consistency": 1,
        "conversations": [
            {"from": "human", "value": "Suppose you are an expert ..."},
            {"from": "gpt", "value": "visual quality: 1\ntemporal consistency: 2\n"},
        ],
    },
    {
        "id": "2003190",
        "images": [],
        "text prompt": "b",
        "video link": "",
        "visual quality": 4,
        "temporal consistency": 4,
        "dynamic degree": 4,
        "text-to-video alignment": 4,
        "factual consistency": 4,
        "conversations": [],
    },
]


@pytest.mark.parametrize(
    ("name", "form"), [("test-00000.parquet", table), ("data_annotated.json", array), ("data.jsonl", lines)]
)
def test_videofeedback(tmp_path, name, form) -> None:
    first, second = read_videofeedback(form(tmp_path / name, FEEDBACK), videos="clips")
    assert (first.video, first.id, first.prompt) == (
        "clips/p110924.mp4",
        "p110924",
        "a corgi runs | fast, 4k",
    )
    assert first.mos == pytest.approx(
        {"visual_quality": 1, "dynamic_quality": 1 + 4 / 3, "text_alignment": 5}
    )
    assert second.mos == {"visual_quality": 5, "dynamic_quality": 5, "text_alignment": 5}
    assert first.overall is None and first.ratings == {}


TEST_ENTRY = {
    "video_name": "004882_h",
    "video_url": "https://x/lavie_base/004882_h.mp4",
    "prompt": "A man jogs on a treadmill.",
    "visual_score": 3,
    "t2v_score": 4,
    "phy_score": 2,
    "thinking": "The man is clear.\nThe belt is not.",
}
QUESTION = (
    "\n<video>\n\nYou are an expert.\n(2) the elements mentioned in the text prompt, such as characters\n\n"
    "Here we provide an AI video and its text prompt: \n{prompt}\n\nBased on the video content and the "
    "dimension definitions, please evaluate the video quality.\n"
)
ANSWER = (
    "\n<think>\n{thinking}\n</think>\n\n(1) visual quality: {v}\n(2) text-to-video alignment: {t}\n"
    "(3) physical/common-sense consistency: {p}\n"
)


def conversation(prompt: str = "a cat", thinking: str = "fine", v="5", t="1", p="2.5") -> dict:
    return {
        "conversations": [
            {"from": "human", "value": QUESTION.format(prompt=prompt)},
            {"from": "gpt", "value": ANSWER.format(thinking=thinking, v=v, t=t, p=p)},
        ],
        "videos": ["videos/001510_u.mp4"],
    }


@pytest.mark.parametrize(
    ("name", "form"), [("data_27k_test.json", array), ("test.jsonl", lines), ("t.parquet", table)]
)
def test_videofeedback2_test_entries(tmp_path, name, form) -> None:
    entries = [TEST_ENTRY, {**TEST_ENTRY, "video_name": "1_a", "thinking": ""}]
    first, second = read_videofeedback2(form(tmp_path / name, entries), videos="videos_27k_1")
    assert first == Record(
        "videos_27k_1/004882_h.mp4",
        "A man jogs on a treadmill.",
        {"visual_quality": 3, "dynamic_quality": 2, "text_alignment": 4},
        rationale="The man is clear.\nThe belt is not.",
        id="004882_h",
    )
    assert (second.id, second.rationale) == ("1_a", None)


@pytest.mark.parametrize(("name", "form"), [("train.json", array), ("t.parquet", table)])
def test_videofeedback2_conversations(tmp_path, name, form) -> None:
    path = form(
        tmp_path / name, [conversation("a cat\nleaps", "(1) visual quality: 2\n\nfine"), conversation()]
    )
    first, second = read_videofeedback2(path)
    assert first == Record(
        "videos/001510_u.mp4",
        "a cat\nleaps",
        {"visual_quality": 5, "dynamic_quality": 2.5, "text_alignment": 1},
        rationale="(1) visual quality: 2\n\nfine",
        id="001510_u",
    )
    assert second.prompt == "a cat"


def test_t2vqa_db_stretches_its_scale(tmp_path) -> None:
    path = write(tmp_path / "info.txt", "0000.mp4|a cat|0\n0001.mp4|a|b, 3|c|50.0\r\n\n0002.mp4|猫|100")
    assert read_t2vqa_db(path, videos="v") == [
        Record("v/0000.mp4", "a cat", overall=1.0),
        Record("v/0001.mp4", "a|b, 3|c", overall=3.0),
        Record("v/0002.mp4", "猫", overall=5.0),
    ]


def test_qeval_video_with_and_without_scores(tmp_path) -> None:
    path = write(
        tmp_path / "train_data.txt",
        "\ufeff1.mp4|3D animation style, an emu is running.|2.3333333333333335\n2.mp4|b|5.0\n",
    )
    assert read_qeval_video(path) == [
        Record("1.mp4", "3D animation style, an emu is running.", overall=2.3333333333333335),
        Record("2.mp4", "b", overall=5.0),
    ]
    path = write(tmp_path / "val_data.txt", "23821.mp4|Timelapse video, a|b.\n")
    assert read_qeval_video(path, scored=False) == [Record("23821.mp4", "Timelapse video, a|b.")]
    with pytest.raises(ConfigError, match="val_data.txt, line 1: field 'MOS': .* from 1 to 5, got 'b.'"):
        read_qeval_video(path)


@pytest.mark.parametrize(
    ("read", "content", "complaint"),
    [
        (read_t2vqa_db, "a.mp4|x|3\nb.mp4|y\n", r"line 2: expected file\|prompt\|MOS, got 'b.mp4\|y'"),
        (read_t2vqa_db, "a.mp4||3\n", r"line 1: expected file\|prompt\|MOS"),
        (read_t2vqa_db, "|x|3\n", r"line 1: expected file\|prompt\|MOS"),
        (read_t2vqa_db, "a.mp4|x|101\n", "line 1: field 'MOS': expected a score from 0 to 100, got 101"),
        (read_t2vqa_db, "a.mp4|x|-1\n", "line 1: field 'MOS'.* got '-1'"),
        (read_qeval_video, "a.mp4|x|0.9\n", "line 1: field 'MOS': expected a score from 1 to 5, got 0.9"),
        (read_qeval_video, "a.mp4|x|nan\n", "line 1: .* got 'nan'"),
        (read_qeval_video, "a.mp4|x|1_0\n", "line 1: .* got '1_0'"),
        (read_qeval_video, "a.mp4|x|٣\n", "line 1: field 'MOS'"),
        (read_qeval_video, "a.mp4|x|\n", "line 1: .* got ''"),
        (read_qeval_video, "a.mp4|x|1e999\n", "line 1: field 'MOS': expected a number, got inf"),
        (read_qeval_video, "\n \n", "expected at least one entry, got an empty file"),
        (read_videofeedback, "[]", "expected at least one entry"),
        (read_videofeedback, "[1, 2", "expected a JSON array or JSON lines"),
        (read_videofeedback, "[" * 100_000, "expected a JSON array or JSON lines"),
        (read_videofeedback, "[1]", "item 1: expected an object, got 1"),
        (read_videofeedback, '{"id": "p1"}\n', "line 1: field 'visual quality': expected a number, got None"),
        (read_videofeedback, '{"id": 7}\n', "line 1: field 'id': expected text, got 7"),
        (
            read_videofeedback,
            json.dumps([FEEDBACK[0], {**FEEDBACK[0], "visual quality": 5}]),
            "item 2: field 'visual quality': expected a score from 1 to 4, got 5",
        ),
        (
            read_videofeedback2,
            json.dumps({**TEST_ENTRY, "phy_score": 0}),
            "line 1: field 'phy_score': expected a score from 1 to 5, got 0",
        ),
        (read_videofeedback2, json.dumps(conversation(v="6")), "field 'visual_score': .* from 1 to 5, got 6"),
        (read_videofeedback2, json.dumps(conversation(t="good")), "closing with three scores"),
        (read_videofeedback2, json.dumps(conversation(p="2 or so")), "closing with three scores"),
        (read_videofeedback2, json.dumps(conversation(v="1.2.3")), "field 'visual_score'"),
        (read_videofeedback2, json.dumps(conversation(prompt=" ")), "field 'prompt': expected text, got ''"),
        (read_videofeedback2, json.dumps({**conversation(), "videos": []}), r"one clip, got .* and \[\]"),
        (
            read_videofeedback2,
            '{"conversations": [{"value": 3}, {"value": "x"}], "videos": ["a"]}',
            "line 1: ",
        ),
        (read_videofeedback2, '{"conversations": 3, "videos": ["a"]}', "expected a question, an answer"),
    ],
)
def test_an_entry_of_another_form_is_named(tmp_path, read, content, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        read(write(tmp_path / "list.txt", content))
    assert "list.txt" in str(caught.value) and len(str(caught.value)) < 600


READERS = (
    read_videofeedback,
    read_videofeedback2,
    read_t2vqa_db,
    read_qeval_video,
    read_videogen_rewardbench,
    read_genai_bench,
)


@pytest.mark.parametrize("read", READERS)
def test_files_that_cannot_be_read(tmp_path, read) -> None:
    (tmp_path / "latin.txt").write_bytes(b"a.mp4|caf\xe9|3\n")
    for path in (tmp_path / "none.txt", tmp_path, tmp_path / "latin.txt", "a\0b"):
        with pytest.raises(ConfigError):
            read(path)


@given(content=st.text(max_size=60) | st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_noise_is_refused_or_read_but_never_anything_else(content, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("noise") / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    for read in READERS:
        try:
            assert read(path)
        except ConfigError as error:
            assert "list.txt" in str(error)


PLAIN = (
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp"))).map(str.strip).filter(bool)
)


RATED_LINES = st.tuples(PLAIN.filter(lambda name: "|" not in name), PLAIN, st.floats(1, 5))


@given(entries=st.lists(RATED_LINES, min_size=1))
@settings(max_examples=60, deadline=None)
def test_bar_lines_come_back_as_written_and_survive_our_own_form(entries, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("bars")
    text = "".join(f"{file}|{prompt}|{mos!r}\n" for file, prompt, mos in entries)
    records = read_qeval_video(write(folder / "train_data.txt", text))
    assert [(record.video, record.prompt, record.overall) for record in records] == entries
    write_records(folder / "records.jsonl", records)
    assert read_records(folder / "records.jsonl") == records
