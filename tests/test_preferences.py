"""Readers of pairs, each on a small file in the form its authors publish."""

from __future__ import annotations

import json

import pytest
from list_files import lines, table, write

from qsave_reward.errors import ConfigError
from qsave_reward.preferences import Preference, read_genai_bench, read_videogen_rewardbench

PAIRS = (
    "path_A,path_B,A_model,B_model,prompt,VQ,MQ,TA,Overall,fps_A,fps_B,num_frames_A,num_frames_B\n"
    'videos/a/1.mp4,videos/b/1.mp4,gen3,kling,"A cat, two\nlines",A,B,same,A,24.0,30.0,120,150\n'
    "videos/a/2.mp4,videos/b/2.mp4,gen3,,x,same,,B,,24.0,30.0,120,150\n"
)


def test_videogen_rewardbench(tmp_path) -> None:
    path = write(tmp_path / "videogen-rewardbench.csv", PAIRS)
    first, second = read_videogen_rewardbench(path, videos="d")
    assert first == Preference(
        "A cat, two\nlines",
        "d/videos/a/1.mp4",
        "d/videos/b/1.mp4",
        {"visual_quality": "A", "dynamic_quality": "B", "text_alignment": "tie", "overall": "A"},
        "gen3",
        "kling",
    )
    assert second.choices == {"visual_quality": "tie", "text_alignment": "B"}
    assert second.generator_b is None


VOTE = {
    "prompt": "a cat",
    "left_model": "LaVie",
    "left_video": "https://huggingface.co/datasets/x/resolve/main/7d0e.mp4",
    "right_model": "pika",
    "right_video": "local/7d0e.mp4",
    "vote_type": "leftvote",
}


@pytest.mark.parametrize(("name", "form"), [("test-00000-of-00001.parquet", table), ("t.jsonl", lines)])
def test_genai_bench(tmp_path, name, form) -> None:
    votes = ("leftvote", "rightvote", "tievote", "bothbad_vote")
    path = form(tmp_path / name, [{**VOTE, "vote_type": vote} for vote in votes])
    pairs = read_genai_bench(path, videos="v")
    assert [pair.choices["overall"] for pair in pairs] == ["A", "B", "tie", "tie"]
    assert pairs[0] == Preference(
        "a cat", "v/LaVie/7d0e.mp4", "v/local/7d0e.mp4", {"overall": "A"}, "LaVie", "pika"
    )


@pytest.mark.parametrize(
    ("read", "content", "complaint"),
    [
        (read_videogen_rewardbench, "", "line 1: expected the columns path_A"),
        (read_videogen_rewardbench, "path_A,path_B\na,b\n", r"line 1: expected the columns .*\['path_A'"),
        (read_videogen_rewardbench, PAIRS.splitlines()[0], "expected at least one entry"),
        (read_videogen_rewardbench, PAIRS + "a,b\n", "line 5: expected 13 values"),
        (
            read_videogen_rewardbench,
            PAIRS.replace(",A,B,same", ",A,C,same"),
            "line 3: field 'MQ': .* got 'C'",
        ),
        (read_videogen_rewardbench, PAIRS + 'a,"b\n', "line .*: expected CSV"),
        (read_videogen_rewardbench, PAIRS.replace(",x,", ", ,"), "line 4: field 'prompt': expected text"),
        (read_genai_bench, json.dumps({**VOTE, "vote_type": "A"}), "'vote_type': expected one of leftvote"),
        (read_genai_bench, json.dumps({**VOTE, "vote_type": ["A"]}), r"'vote_type': .* got \['A'\]"),
        (read_genai_bench, json.dumps({**VOTE, "left_model": ""}), "field 'left_model': expected text"),
    ],
)
def test_an_entry_of_another_form_is_named(tmp_path, read, content, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        read(write(tmp_path / "list.txt", content))
    assert "list.txt" in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("choices", [{"overall": "C"}, {"sound": "A"}, {"overall": None}, {"overall": ["A"]}])
def test_preferences_are_checked(choices) -> None:
    with pytest.raises(ConfigError):
        Preference("x", "a.mp4", "b.mp4", choices)
