"""From a decoded libav frame to upright RGB."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from qsave_reward.frames import over_white

Note = Callable[[str], None]

_HDR_CURVES = {16: "PQ", 18: "HLG"}  # AVColorTransferCharacteristic


def note_traits(stream: VideoStream, note: Note) -> None:
    """Report what is left as stored: anamorphic pixels and HDR transfer curves."""
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        note(
            f"pixels are not square ({aspect.numerator}:{aspect.denominator}); frames are returned as stored"
        )
    curve = _HDR_CURVES.get(stream.codec_context.color_trc)
    if curve:
        note(f"HDR video ({curve}) is returned without tone mapping; colours look flat")


def to_rgb(frame: VideoFrame, scaler: VideoReformatter, note: Note) -> NDArray[np.uint8]:
    """Convert as `ffmpeg` does by default: matrix and range from the frame's tags, BT.601 where it has none.

    Returns:
        uint8 [H, W, 3], transparency over white, turned and mirrored as the display matrix says.
    """
    transparent = any(component.is_alpha for component in frame.format.components)
    # One thread: by default every conversion starts one for each processor of the machine.
    converted = scaler.reformat(frame, format="rgba" if transparent else "rgb24", threads=1)
    picture = cast(NDArray[np.uint8], converted.to_ndarray())
    return _upright(over_white(picture) if transparent else picture, frame, note)


def _upright(picture: NDArray[np.uint8], frame: VideoFrame, note: Note) -> NDArray[np.uint8]:
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18.1 cannot list side data of a kind it has no name for (MV-HEVC)
        if frame.rotation % 90:
            note("the rotation tag is not a multiple of 90 degrees; ignored")
        return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    if data is None:
        return picture
    # Stored column and row (p, q) are shown at x = a p + c q, y = b p + d q (plus a shift).
    matrix = np.frombuffer(bytes(cast(Buffer, data)), dtype=np.int32)[:9].reshape(3, 3)[:2, :2] / 65536.0
    turn = np.rint(matrix).astype(int)
    if (
        np.abs(matrix - turn).max() > 1e-3
        or sorted(np.abs(turn).ravel()) != [0, 0, 1, 1]
        or not turn.any(0).all()
    ):
        note("the rotation tag is not a multiple of 90 degrees; ignored")
        return picture
    (a, b), (c, d) = turn
    if a == 0:
        picture = picture.transpose(1, 0, 2)
    if a + c < 0:
        picture = picture[:, ::-1]
    if b + d < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
