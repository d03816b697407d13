"""Images that are files of their own: what EXIF data and animated PNG ask of a viewer."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image
from video_files import numbered, numbers

from qsave_reward.video import read_clip

HEIGHT, WIDTH = 48, 160


def stored(kind, orientation, count=1):
    """Bytes of `count` images whose EXIF data state an orientation; and the images as they are stored."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    images = [Image.fromarray(numbered(5 + i, height=HEIGHT, width=WIDTH)) for i in range(count)]
    data = io.BytesIO()
    options = {"save_all": True, "append_images": images[1:], "duration": 100} if count > 1 else {}
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "PNG": {}}[kind]
    images[0].save(data, kind, exif=exif, **options, **lossless)
    return data.getvalue(), np.stack([np.asarray(image) for image in images])


TURNED = {
    1: lambda frames: frames,
    2: lambda frames: frames[:, :, ::-1],
    3: lambda frames: frames[:, ::-1, ::-1],
    6: lambda frames: np.rot90(frames, -1, axes=(1, 2)),
    8: lambda frames: np.rot90(frames, 1, axes=(1, 2)),
    99: lambda frames: frames,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("kind", "count"), [("JPEG", 1), ("WEBP", 1), ("WEBP", 3), ("PNG", 1)])
def test_the_orientation_of_exif_is_applied(kind, count, orientation):
    data, images = stored(kind, orientation, count)
    clip = read_clip(data)
    expected = TURNED[orientation](images)
    assert clip.frames.shape == expected.shape
    assert np.abs(clip.frames.astype(int) - expected).max() < (40 if kind == "JPEG" else 1)
    assert not any("EXIF" in warning for warning in clip.warnings)


def test_damaged_exif_does_not_cost_the_image():
    data = io.BytesIO()
    Image.fromarray(numbered(5)).save(data, "WEBP", exif=b"Exif\0\0XX\0\0nothing like it")
    clip = read_clip(data.getvalue())
    assert numbers(clip.frames) == [5] and any("EXIF" in warning for warning in clip.warnings)


@pytest.mark.parametrize("hidden", [True, False])
def test_the_image_for_viewers_without_animation_is_not_a_frame(hidden):
    images = [Image.fromarray(numbered(i)) for i in range(5)]
    data = io.BytesIO()
    delays = [200, 300, 400, 100] if hidden else [500, 200, 300, 400, 100]
    images[0].save(
        data, "PNG", save_all=True, append_images=images[1:], default_image=hidden, duration=delays
    )
    clip = read_clip(data.getvalue())
    assert numbers(clip.frames) == list(range(int(hidden), 5)) and clip.warnings == ()
    assert clip.times.tolist() == pytest.approx(np.cumsum([0, *delays[:-1]]) / 1000)
    assert clip.duration == pytest.approx(sum(delays) / 1000)
