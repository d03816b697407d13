"""Absolute paths name the file that the system would open."""

import os

import pytest

from qsave_reward.paths import absolute_path, rebased_path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "near" / "inner").mkdir(parents=True)
    (tmp_path / "far" / "inner").mkdir(parents=True)
    for name in ("near", "far"):
        (tmp_path / name / "a.txt").write_text(name)
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "inner")
    monkeypatch.chdir(tmp_path / "near")
    return tmp_path


@pytest.mark.parametrize("path", ["a.txt", "./a.txt", "inner/../a.txt", "link/../a.txt", "../near/./a.txt"])
def test_an_absolute_path_names_the_same_file(folder, path):
    absolute = absolute_path(path)
    assert os.path.samefile(absolute, path) and os.path.normpath(absolute) == absolute
    assert os.path.isabs(absolute)


def test_links_that_nothing_leads_up_from_stay(folder):
    assert absolute_path("link/b.txt") == str(folder / "near/link/b.txt")
    assert absolute_path(folder / "near/link") == str(folder / "near/link")


def test_a_name_that_no_file_can_have_is_no_crash(folder):
    assert absolute_path("a\0/../b") == str(folder / "near/b")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.mp4", "../near/a.mp4"),
        ("/films/a.mp4", "/films/a.mp4"),
        ("https://a.org/b.mp4", "https://a.org/b.mp4"),
        ("world:train/4/17", "world:train/4/17"),
        # These are names of files: no recipe reads them as rendered clips.
        ("world:train/4", "../near/world:train/4"),
        ("clips/world:train/4/17", "../near/clips/world:train/4/17"),
        ("world:train/4/17.mp4", "../near/world:train/4/17.mp4"),
    ],
)
def test_relative_paths_follow_the_folder_and_other_names_stay(folder, path, expected):
    assert rebased_path(path, str(folder / "near"), str(folder / "far")) == expected
