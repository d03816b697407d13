"""Absolute paths name the file that the system would open."""

import os

import pytest

from qsave_reward.paths import absolute_path


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
