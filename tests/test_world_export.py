"""`export_world` into places where it cannot go on: a `ConfigError` that says what to do."""

from __future__ import annotations

import pytest

from qsave_reward.errors import ConfigError
from qsave_reward.world import WorldConfig, export_world

SMALL = WorldConfig(height=32, width=32, num_frames=8)


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_a_file_where_the_folder_should_be(tmp_path, place):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        export_world(tmp_path / place, 1, config=SMALL)
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b'{"version": 1,', b"\xff\xfe"])
def test_a_damaged_note_of_the_world(tmp_path, content):
    (tmp_path / "world.json").write_bytes(content)
    with pytest.raises(ConfigError, match="expected .*world.json to say which world"):
        export_world(tmp_path, 1, config=SMALL)
    assert (tmp_path / "world.json").read_bytes() == content


def test_a_folder_in_place_of_the_note_and_other_json(tmp_path):
    (tmp_path / "a" / "world.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match="world.json"):
        export_world(tmp_path / "a", 1, config=SMALL)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "world.json").write_text("[]")
    with pytest.raises(ConfigError, match="another world"):
        export_world(tmp_path / "b", 1, config=SMALL)


def test_a_clip_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qsave_reward.video.write_clip", full)
    with pytest.raises(ConfigError, match="cannot write .*000000.mp4: .*No space left"):
        export_world(tmp_path, 1, config=SMALL)
