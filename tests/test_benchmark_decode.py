"""`qsave bench decode`: the files, the ratios, and that a wrong frame is seen."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import av
import numpy as np
import pytest
from cli_cases import command

from qsave_reward.speed import decode, decoders, films
from qsave_reward.speed.decode import bench_decode, same_frames
from qsave_reward.speed.decoders import in_process, other_decoders, sequential, with_pyav
from qsave_reward.speed.films import Film, write_film
from qsave_reward.video import Clip, Sampling, read_clip

SHORT = (Film("short", 21, 64, 96, 16, 8), Film("one_key", 21, 64, 96, 16, 21))


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("films")
    paths = [str(folder / f"{film.name}.mp4") for film in SHORT]
    for path, film in zip(paths, SHORT, strict=True):
        write_film(path, film)
    return paths


@pytest.mark.parametrize("number", [0, 1])
def test_films_are_what_they_say(paths, number) -> None:
    film = SHORT[number]
    with av.open(paths[number]) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 96, 64)
        assert stream.average_rate == 16
        frames = list(container.decode(stream))
    assert [i for i, frame in enumerate(frames) if frame.key_frame] == list(range(0, 21, film.keys_every))
    assert any(frame.pict_type == 3 for frame in frames) and len(frames) == 21  # 3: B
    assert [frame.time for frame in frames] == pytest.approx([i / 16 for i in range(21)])
    pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in frames]
    steps = [np.abs(one - other).mean() for one, other in zip(pictures, pictures[1:], strict=False)]
    assert min(steps) > 3  # a neighbour in place of a frame can be told


def test_the_films_of_the_benchmark() -> None:
    shapes = [(film.frames, film.height, film.width) for film in films.FILMS]
    assert shapes == [(81, 480, 832)] * 2 + [(240, 1080, 1920)] * 2
    for normal, single in (films.FILMS[:2], films.FILMS[2:]):
        assert normal.keys_every <= 2 * normal.fps and single.keys_every == single.frames
    assert films.FILMS[3].frames / films.FILMS[3].fps == 10
    index, times = SHORT[0].picked(Sampling(5))
    assert (index, times) == ([0, 5, 10, 15, 20], [0, 5 / 16, 10 / 16, 15 / 16, 20 / 16])


def test_every_decoder_gives_the_frames_of_a_sequential_decode(paths) -> None:
    available, _ = other_decoders()
    assert "pyav" in available
    for path, film in zip(paths, SHORT, strict=True):
        index, times = film.picked(Sampling(5))
        reference = sequential(path, index)
        assert reference.shape == (5, 64, 96, 3) and reference.dtype == np.uint8
        with av.open(path) as container:
            shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert np.array_equal(reference, [shown[i] for i in index])
        assert np.array_equal(with_pyav(path, index), reference)
        assert np.array_equal(in_process(path, Sampling(5)), reference)
        assert same_frames(read_clip(path, Sampling(5)), reference, times=times)
        for read in available.values():
            assert np.abs(read(path, index).astype(int) - reference).mean() < 2


def test_a_wrong_clip_is_not_exact(paths) -> None:
    index, times = SHORT[0].picked(Sampling(5))
    clip, reference = read_clip(paths[0], Sampling(5)), sequential(paths[0], index)
    assert same_frames(clip, reference, times=times)
    neighbour = sequential(paths[0], [0, 5, 11, 15, 20])
    assert not same_frames(replace(clip, frames=neighbour), reference, times=times)
    one_level = clip.frames.copy()
    one_level[3, 10, 10, 1] ^= 1
    assert not same_frames(replace(clip, frames=one_level), reference, times=times)
    late = clip.times + np.array([0, 0, 0, 1 / 16, 0])
    assert not same_frames(replace(clip, times=late), reference, times=times)
    fewer = Clip(clip.frames[:4], clip.times[:4], clip.duration)
    assert not same_frames(fewer, reference, times=times)
    assert not same_frames(clip, reference, times=times[:4])


def test_the_result(monkeypatch) -> None:
    done = []
    found = bench_decode(SHORT, frames=5, rounds=2, progress=done.append).to_dict()
    assert json.loads(json.dumps(found))["exact"] is True and done == [1] * 4
    assert {"decord", "torchcodec", "pyav"} == set(found["skipped"]) | set(found["files"][0]["difference"])
    for file, film in zip(found["files"], SHORT, strict=True):
        assert file["film"]["name"] == film.name and file["bytes"] > 1000 and file["exact"] is True
        others = {name: value for name, value in file["ms"].items() if name in file["difference"]}
        assert set(file["ms"]) == {"read_clip", "in_process", *others}
        assert others[file["fastest"]] == min(others.values()) > 0
        each = [one["read_clip"] / one[file["fastest"]] for one in file["rounds"]]
        assert file["vs_fastest"] == pytest.approx(np.median(each))
        assert file["range"] == (min(each), max(each))
        assert max(file["difference"].values()) < 2
    per_file = found["ratios"]["vs_fastest_per_file"]
    assert per_file == {
        film.name: file["vs_fastest"] for film, file in zip(SHORT, found["files"], strict=True)
    }
    assert found["ratios"]["vs_fastest"] == max(per_file.values())


def test_ratios_by_a_clock_of_their_own(monkeypatch) -> None:
    """Ours takes 3 and 12 s, the others 2 and 4 s on the first file and 8 and 4 s on the second."""
    now, second = 0.0, 0

    def taking(read, seconds):
        def run(*args):
            nonlocal now
            now += seconds[second]
            return read(*args)

        return run

    def write(path, film):
        nonlocal second
        second = SHORT.index(film)
        write_film(path, film)

    others = {"a": taking(with_pyav, (2, 8)), "b": taking(with_pyav, (4, 4))}
    monkeypatch.setattr(decode, "write_film", write)
    monkeypatch.setattr(decode, "read_clip", taking(read_clip, (3, 12)))
    monkeypatch.setattr(decode, "in_process", taking(in_process, (2, 2)))
    monkeypatch.setattr(decode, "other_decoders", lambda: (others, {"c": "not installed"}))
    found = bench_decode(SHORT, frames=5, rounds=3, clock=lambda: now)
    assert found.ratios["vs_fastest_per_file"] == {"short": 1.5, "one_key": 3.0}
    assert found.ratios["vs_fastest"] == 3.0 and found.ratios["in_process_vs_fastest"] == 1.0
    assert [file.fastest for file in found.files] == ["a", "b"] and found.skipped == {"c": "not installed"}
    assert found.files[0].ms == {"read_clip": 3000, "in_process": 2000, "a": 2000, "b": 4000}


def test_a_decoder_that_hands_out_other_frames_is_told(monkeypatch) -> None:
    def late(path, index):
        return with_pyav(path, [min(i + 1, 20) for i in index][:-1] + [20])

    def shifted(path, index):
        return np.concatenate([late(path, index[:-1]), with_pyav(path, index[-1:])])

    monkeypatch.setattr(decode, "other_decoders", lambda: ({"pyav": with_pyav, "late": shifted}, {}))
    (file,) = bench_decode(SHORT[:1], frames=5, rounds=1).files
    assert file.difference["pyav"] == 0 and file.difference["late"] > 2 and file.exact


@pytest.fixture
def qsave(monkeypatch, capsys):
    monkeypatch.setattr(films, "FILMS", SHORT)
    return command(monkeypatch, capsys)


def test_the_command(qsave, monkeypatch) -> None:
    code, out, _ = qsave("bench", "decode", "--rounds", "1", "--json")
    found = json.loads(out)
    assert code == 0 and found["exact"] is True and found["frames"] == 16
    assert isinstance(found["ratios"]["vs_fastest"], float)
    # One frame of one file replaced by its neighbour.
    reads = []

    def swapped(path, sampling):
        clip = read_clip(path, sampling)
        reads.append(path)
        if len(set(reads)) == 2:
            clip.frames[7] = clip.frames[8]
        return clip

    monkeypatch.setattr(decode, "read_clip", swapped)
    code, out, err = qsave("bench", "decode", "--rounds", "1", "--json")
    found = json.loads(out)
    assert code == 1 and found["exact"] is False and "sequential decode" in err
    assert [file["exact"] for file in found["files"]] == [True, False]
    monkeypatch.setattr(decode, "read_clip", read_clip)
    for name in ("decord", "torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = qsave("bench", "decode", "--rounds", "1")
    assert code == 0 and "vs_fastest" in out and "one_key" in out and out.count("skipped, not installed") == 2


def test_a_decoder_that_does_not_load_is_skipped_with_its_reason(monkeypatch, tmp_path) -> None:
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('no FFmpeg\\nlong text')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "decord", None)
    found, missing = decoders.other_decoders()
    assert set(found) == {"pyav"} and missing["torchcodec"] == "does not load: no FFmpeg"
    assert missing["decord"].startswith("not installed: ")
