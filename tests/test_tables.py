"""Records in Parquet tables and in data sets in memory: as strict and as safe as lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qsave_reward.data import read_records, read_requests, records_from_dataset, write_records
from qsave_reward.errors import ConfigError
from qsave_reward.types import Record

RATED = Record("a.mp4", "x", {"visual_quality": 4.5}, {"visual_quality": (4.0, 5.0)}, overall=3.0, id="7")


def table(path: Path, columns: dict) -> Path:
    """A Parquet file as another program would write it."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), path)
    return path


def test_tables_of_others_with_null_dimensions_and_own_columns(tmp_path) -> None:
    path = table(
        tmp_path / "r.PARQUET",
        {
            "video": ["a.mp4", "b.mp4"],
            "prompt": ["x", "y"],
            "mos": [{"visual_quality": 4, "dynamic_quality": None}, None],
            "width": [3, 4],
        },
    )
    assert read_records(path) == [
        Record("a.mp4", "x", {"visual_quality": 4.0}),
        Record("b.mp4", "y"),
    ]
    assert read_requests(path) == [("a.mp4", "x"), ("b.mp4", "y")]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"prompt": ["x"]}, "row 1: field 'video' is missing; the line has 'prompt'"),
        ({"video": ["a", "b"], "prompt": ["x", None]}, "row 2: field 'prompt': expected text, got None"),
        ({"video": [b"a"], "prompt": ["x"]}, "row 1: field 'video': expected text, got b'a'"),
        (
            {"video": ["a"], "prompt": ["x"], "mos": [{"visual_quality": 7.0}]},
            r"row 1: MOS .* \[1, 5\], got 7.0",
        ),
        ({"video": ["a"], "prompt": ["x"], "mos": [{"sound": 3}]}, "row 1: unknown dimension 'sound'"),
        (
            {"video": ["a", "b"], "prompt": ["x", "y"], "id": ["7", "7"]},
            "row 2: .* was used already on row 1",
        ),
        ({"video": [], "prompt": []}, "expected one JSON object a row, got an empty file"),
    ],
)
def test_a_wrong_row_of_a_table_is_named(tmp_path, columns, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_records(table(tmp_path / "r.parquet", columns))
    assert "r.parquet" in str(caught.value)


def test_long_tables_are_read_in_order_over_the_batches(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    records = [Record(f"{i}.mp4", "x", id=str(i)) for i in range(2500)]
    write_records(tmp_path / "r.parquet", records)
    assert read_records(tmp_path / "r.parquet") == records


def test_files_that_are_not_parquet(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    write_records(tmp_path / "good.parquet", [RATED])
    good = (tmp_path / "good.parquet").read_bytes()
    path = tmp_path / "r.parquet"
    for content in (b"", b"PAR1", b'{"video": "a.mp4", "prompt": "x"}', good[:-40], good[:40] + good[80:]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"r\.parquet"):
            read_records(path)
    for missing in (tmp_path / "none.parquet", tmp_path / "folder.parquet"):
        (tmp_path / "folder.parquet").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match="cannot read"):
            read_records(missing)


def test_writing_tables_is_all_or_nothing_too(tmp_path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "r.parquet"
    write_records(path, [RATED])
    before = path.read_bytes()

    def broken():
        yield Record("b.mp4", "y")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_records(path, broken())
    with pytest.raises(ConfigError, match="cannot write"):
        write_records(path, [Record("\udc80.mp4", "a path that is no Unicode")])
    with pytest.raises(ConfigError):
        write_records(tmp_path / "none" / "r.parquet", [RATED])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for use in (read_records, lambda path: write_records(path, [RATED])):
        with pytest.raises(ConfigError, match=r"pip install 'qsave_reward\[train\]'"):
            use(tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []


def test_records_from_a_dataset_in_memory() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [RATED.to_dict(), {**RATED.to_dict(), "video": "b.mp4", "mos": {}, "ratings": {}, "id": None}]
    found = records_from_dataset(datasets.Dataset.from_list(rows))
    assert found == [RATED, Record("b.mp4", "x", overall=3.0)]
    assert records_from_dataset(datasets.Dataset.from_list(rows).select([1])) == found[1:]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([], "at least one row"),
        ({"train": []}, "expected a row.* got 'train'; pass one split"),
        ([{"video": "a.mp4"}], "data set, row 1: field 'prompt' is missing"),
        ([{"video": "a.mp4", "prompt": "x", "id": "7"}] * 2, "data set, row 2: .*already on row 1"),
        ([{"video": {"path": "a.mp4", "bytes": None}, "prompt": "x"}], "row 1: field 'video': expected text"),
    ],
)
def test_data_sets_that_hold_no_records(rows, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        records_from_dataset(rows)
