"""Real clips as backgrounds of the rendered world."""

import numpy as np
import pytest

from qsave_reward.errors import ConfigError
from qsave_reward.video import write_clip
from qsave_reward.world import WorldConfig, in_grammar, world_item, world_plan
from qsave_reward.world.film import film_background


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    films = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for name, length in (("a.mp4", 6), ("b.mp4", 20)):
        still = rng.integers(0, 256, (5, 8, 3), dtype=np.uint8).repeat(24, axis=0).repeat(24, axis=1)
        write_clip(films / name, np.stack([np.roll(still, 4 * k, axis=1) for k in range(length)]), fps=8)
    (films / "notes.txt").write_text("not a film")
    return str(films)


def test_half_of_the_resting_scenes_are_filmed_and_nothing_else_changes(folder):
    config, filmed = WorldConfig(films=folder), 0
    for index in range(60):
        plain, plan = world_plan("train", index), world_plan("train", index, config=config)
        assert plan.scene.groups == plain.scene.groups and plan.scene.places == plain.scene.places
        assert in_grammar(plan.prompt)
        filmed += plan.scene.background == "filmed"
        assert plan.scene.background in ("filmed", plain.scene.background)
        assert plan.scene.background != "filmed" or plan.scene.camera is None
    assert 15 <= filmed <= 40


def test_the_film_is_behind_the_objects_and_the_same_every_time(folder):
    config = WorldConfig(films=folder, clean=True)
    index = next(i for i in range(50) if world_plan("val", i, config=config).scene.background == "filmed")
    first, again = (world_item("val", index, config=config) for _ in range(2))
    plain = world_item("val", index, config=WorldConfig(clean=True))
    assert np.array_equal(first.frames, again.frames)
    assert "filmed background" in first.record.rationale
    # Where the two worlds agree to the pixel, there are objects; everything else is film.
    share = (first.frames == plain.frames).all(axis=-1).mean()
    assert 0.005 < share < 0.5


def test_a_film_is_muted_towards_the_color_and_fits_any_size(folder):
    for height, width, count in ((64, 128, 40), (130, 70, 8)):
        film = film_background(
            folder, (128, 100, 60), count, height=height, width=width, rng=np.random.default_rng(1)
        )
        assert film.shape == (count, height, width, 3) and film.dtype == np.float32
        assert film.min() >= 0 and film.max() <= 255 and film.std() > 5
        assert np.abs(film.mean(axis=(0, 1, 2)) - (128, 100, 60)).max() < 25
        assert (film[0] != film[1]).any()


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="found none"):
        film_background(str(tmp_path), (0, 0, 0), 8, height=64, width=64, rng=np.random.default_rng(0))
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match=r"broken\.mp4"):
        film_background(str(tmp_path), (0, 0, 0), 8, height=64, width=64, rng=np.random.default_rng(0))
