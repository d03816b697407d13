"""The reader of FETV on small folders in the published form: three raters, one file a generator."""

from __future__ import annotations

from pathlib import Path

import pytest
from list_files import lines

from qsave_reward.benchmarks import read_fetv
from qsave_reward.errors import ConfigError
from qsave_reward.types import Record

NAMES = ("static_quality", "temporal_quality", "alignment")


def fetv(folder: Path, sheets: dict[str, dict[str, dict[int, tuple]]]) -> tuple[Path, Path]:
    """The published folders: rater -> generator -> prompt number -> three scores."""
    for rater, generators in sheets.items():
        (folder / "manual_eval_results" / rater).mkdir(parents=True)
        for generator, ratings in generators.items():
            path = folder / "manual_eval_results" / rater / f"manual_eval_results_{generator}.json"
            rows = [
                {str(index): {"video_id": "None", **dict(zip(NAMES, scores, strict=True)), "x": {"color": 3}}}
                for index, scores in ratings.items()
            ]
            lines(path, rows)
    prompts = [
        {"video_id": "video9033", "prompt": "a person jumps from building", "source": "MSRVTT"},
        {"video_id": None, "prompt": "a horse race is happening"},
        {"video_id": "1", "prompt": "people are dancing"},
    ]
    return folder / "manual_eval_results", lines(folder / "fetv_data.json", prompts)


def test_fetv(tmp_path) -> None:
    results, prompts = fetv(
        tmp_path,
        {
            "human0": {"cogvideo": {2: (2, 3, 4), 0: (1, 1, 1)}, "damo-text2video": {1: (5, 5, 5)}},
            "human1": {"cogvideo": {0: (1, 2, 1), 2: (4, 3, 4)}, "damo-text2video": {1: (5, 5, 5)}},
            "human2": {"cogvideo": {0: (1, 5, 1), 2: (3, 3, 4)}, "damo-text2video": {1: (5, 5, 5)}},
        },
    )
    first, second, third = read_fetv(results, prompts)
    assert first.mos["dynamic_quality"] == pytest.approx(8 / 3)
    assert first.ratings["dynamic_quality"] == (1, 2, 5)
    assert second == Record(
        "cogvideo/videos/2.mp4",
        "people are dancing",
        {"visual_quality": 3.0, "dynamic_quality": 3.0, "text_alignment": 4.0},
        {"visual_quality": (2, 4, 3), "dynamic_quality": (3, 3, 3), "text_alignment": (4, 4, 4)},
        generator="cogvideo",
        id="cogvideo/2",
    )
    assert (third.generator, third.video) == ("modelscope-t2v", "modelscope-t2v/videos/1.mp4")
    (*_, third) = read_fetv(results, prompts, clip="gifs/{index}-{generator}.gif")
    assert third.video == "gifs/1-modelscope-t2v.gif"


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        ({"cogvideo": {0: (1, 1, 1)}}, "human1/manual_eval_results_cogvideo.json: .* differs in 1"),
        ({}, "cannot read .*human1/manual_eval_results_cogvideo.json"),
        ({"cogvideo": {0: (1, 1, 1), 3: (1, 1, 1)}}, "line 2: expected the number of a prompt, 0 to 2"),
        (
            {"cogvideo": {0: (1, 6, 1), 1: (1, 1, 1)}},
            "line 1: field 'temporal_quality': .* from 1 to 5, got 6",
        ),
        (
            {"cogvideo": {0: (1, 1, None), 1: (1, 1, 1)}},
            "line 1: field 'alignment': expected a number, got None",
        ),
        ({"cogvideo": {"-0": (1, 1, 1)}}, "expected the number of a prompt"),
        ({"cogvideo": {"9" * 5000: (1, 1, 1)}}, "expected the number of a prompt"),
        ({"cogvideo": {0: (1, 1, 1), "00": (1, 1, 1)}}, "line 2: prompt 00 was rated already"),
    ],
)
def test_fetv_raters_that_do_not_fit(tmp_path, second, complaint) -> None:
    first = {"cogvideo": {0: (1, 1, 1), 1: (2, 2, 2)}}
    with pytest.raises(ConfigError, match=complaint):
        read_fetv(*fetv(tmp_path, {"human0": first, "human1": second}))


def test_fetv_folders_that_are_not_there(tmp_path) -> None:
    results, prompts = fetv(tmp_path, {})
    with pytest.raises(ConfigError, match="cannot read the folder"):
        read_fetv(results, prompts)
    results.mkdir()
    with pytest.raises(ConfigError, match="found none"):
        read_fetv(results, prompts)
