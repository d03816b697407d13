"""The files that decoding is measured on: a moving texture as H.264, written anew for each run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qsave_reward.sampling import Sampling, even_timeline, pick_frames

_PAN = (2, 3)  # pixels a frame, down and to the right
_CELLS = (96, 24, 6)  # sizes of the texture's blobs in pixels
_GRAIN = 4  # grey levels up or down


@dataclass(frozen=True)
class Film:
    """A file to be decoded.

    Attributes:
        name: short.
        frames, height, width, fps: what it holds; sizes are even.
        keys_every: frames from one key frame to the next.
    """

    name: str
    frames: int
    height: int
    width: int
    fps: int
    keys_every: int

    def picked(self, sampling: Sampling) -> tuple[list[int], list[float]]:
        """Positions of the frames that `sampling` keeps, and their times in seconds."""
        times = even_timeline(self.frames, self.fps).times
        index = pick_frames(times, sampling)
        return index.tolist(), times[index].tolist()


FILMS = (
    Film("480p", 81, 480, 832, 16, 16),
    Film("480p_one_key", 81, 480, 832, 16, 81),
    Film("1080p", 240, 1080, 1920, 24, 48),
    Film("1080p_one_key", 240, 1080, 1920, 24, 240),
)
"""The clips of common generators, and 10 s of full HD; each with a key frame every second or two, and with a
single one."""


def write_film(path: str | os.PathLike[str], film: Film) -> None:
    """Encode with x264: B-frames, yuv420p, BT.709, key frames exactly where `film` says."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    random = np.random.default_rng(0)
    size = film.height + _PAN[0] * film.frames, film.width + _PAN[1] * film.frames
    texture = _texture(*size, random=random)
    grain = random.integers(-_GRAIN, _GRAIN + 1, (*size, 1), dtype=np.int16)
    distance = str(film.keys_every)
    keys = {"g": distance, "keyint_min": distance, "sc_threshold": "0"}
    with av.open(os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(film.fps))
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "21", "bf": "3", "threads": "2", **keys}
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709 in each of the lists
        context.color_range = ColorRange.MPEG
        for number in range(film.frames):
            frame = av.VideoFrame.from_ndarray(
                _picture(texture, grain, film=film, number=number), format="rgb24"
            )
            yuv = frame.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))


def _picture(
    texture: NDArray[np.uint8], grain: NDArray[np.int16], *, film: Film, number: int
) -> NDArray[np.uint8]:
    """A window that slides over the texture, a square that crosses it, and grain that goes the other way."""
    top, left = _PAN[0] * number, _PAN[1] * number
    picture = texture[top : top + film.height, left : left + film.width].copy()
    side = film.height // 4
    start = (film.width - side) * number // film.frames
    square = picture[side : 2 * side, start : start + side]
    square[:] = 255 - square[::-1]
    back = len(grain) - film.height - top, grain.shape[1] - film.width - left
    noise = grain[back[0] : back[0] + film.height, back[1] : back[1] + film.width]
    return (picture + noise).clip(0, 255).astype(np.uint8)


def _texture(height: int, width: int, *, random: np.random.Generator) -> NDArray[np.uint8]:
    """Coloured blobs of several sizes; uint8 [height, width, 3]."""
    total = np.zeros((height, width, 3), dtype=np.float32)
    for weight, cell in zip((0.6, 0.3, 0.1), _CELLS, strict=True):
        coarse = random.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
        total += weight * np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
    return total.astype(np.uint8)
