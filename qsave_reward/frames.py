"""Frames that are already in memory: PIL images, NumPy arrays, torch tensors, and lists of them.

Torch is never imported here; a tensor is recognised by the module its owner has loaded.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from qsave_reward.errors import VideoError

_TOLERANCE = 1e-3
"""How far floats may leave [0, 1] before they are refused; a decoder's rounding stays below it."""

_LAYOUTS = "expected [T,H,W,3] or [T,3,H,W] (RGB)"


def count_frames(video: Any) -> int:
    """Number of frames in `video`, which must be a list or a rank-4 array.

    Raises:
        VideoError: `bad_type`, `bad_shape`, `no_frames`.
    """
    if not isinstance(video, list | tuple):
        shape = _shape(video)
        if len(shape) == 5 and shape[0] == 1:
            raise VideoError(f"{_LAYOUTS}, got a batch of one, {shape}; pass video[0]", code="bad_shape")
        if len(shape) == 5:
            raise VideoError(f"{_LAYOUTS}, got a batch, {shape}; read one clip at a time", code="bad_shape")
        if len(shape) != 4:
            raise VideoError(f"{_LAYOUTS}, got {shape}; a single frame needs video[None]", code="bad_shape")
    if len(video) == 0:
        raise VideoError("expected at least one frame, got none", code="no_frames")
    return len(video)


def take_frames(video: Any, index: NDArray[np.intp]) -> NDArray[np.uint8]:
    """The chosen frames as a new array.

    Accepts uint8, or floats in [0, 1] which become `round(255 * x)`. Channels come last or second; when the
    last axis is 3, it is the channels. Transparent PIL images are laid over white. Only the chosen frames are
    looked at, except that all frames of a list must have one size.

    Args:
        video: what `count_frames` accepts.
        index: int [n], positions to take.

    Returns:
        uint8 [n, H, W, 3].

    Raises:
        VideoError: `bad_type`, `bad_shape`, `bad_dtype`, `bad_values`, `frame_sizes`, `corrupt`.
    """
    if isinstance(video, list | tuple):
        sizes = {_shape(frame) for frame in video}
        if len(sizes) > 1:
            raise VideoError(f"expected frames of one size, got {sorted(sizes)[:4]}", code="frame_sizes")
        array = np.stack([_to_numpy(video[i]) for i in index])
    else:
        array = _to_numpy(video[index.tolist()])
    if array.ndim != 4:
        raise VideoError(f"{_LAYOUTS}, got {array.shape}", code="bad_shape")
    if array.shape[3] != 3:
        if array.shape[1] != 3:
            raise VideoError(_shape_advice(array.shape), code="bad_shape")
        array = array.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(_to_uint8(array))


def over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay uint8 [..., 4] RGBA over white, as the page a rater looks at would; returns uint8 [..., 3]."""
    if rgba[..., 3].min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    colour, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def image_to_rgb(image: Any) -> NDArray[np.uint8]:
    """A PIL image of any 8-bit mode as uint8 [H, W, 3], transparency over white.

    Raises:
        VideoError: `bad_dtype` for 16-bit, 32-bit and float images.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise VideoError(
            f"expected an 8-bit image, got PIL mode {image.mode!r}; convert it first", code="bad_dtype"
        )
    if image.mode == "La":  # Pillow knows only this way from it
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        return over_white(np.array(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _shape_advice(shape: tuple[int, ...]) -> str:
    return f"{_LAYOUTS}, got {shape}; swap the axes of [3,T,H,W], drop alpha, repeat grey three times"


def _is_image(value: Any) -> bool:
    image = sys.modules.get("PIL.Image")
    return image is not None and isinstance(value, image.Image)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _shape(value: Any) -> tuple[int, ...]:
    if _is_image(value):
        return (value.height, value.width, 3)
    if isinstance(value, np.ndarray) or _is_tensor(value):
        return tuple(value.shape)
    raise VideoError(
        "expected a path, bytes, a Clip, or frames as PIL images, NumPy arrays or torch tensors, "
        f"got {type(value).__name__}",
        code="bad_type",
    )


def _to_numpy(value: Any) -> NDArray[Any]:
    if _is_image(value):
        try:
            return image_to_rgb(value)
        except (VideoError, MemoryError):
            raise
        except Exception as e:  # Pillow reads the file only now; of a closed one it raises an AssertionError
            raise VideoError(
                "a PIL image is damaged or cut short, or its file was closed before it was read "
                f"({type(e).__name__} {e}); call its load() while the file is open",
                code="corrupt",
            ) from e
    if _is_tensor(value):
        tensor = value.detach().cpu()
        # NumPy has no bfloat16, and every bfloat16 is a float32.
        return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())
    return np.asarray(value)


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return cast(NDArray[np.uint8], array)
    if not np.issubdtype(array.dtype, np.floating):
        raise VideoError(
            f"expected uint8 in 0..255 or floats in 0..1, got {array.dtype}; cast with .astype('uint8')",
            code="bad_dtype",
        )
    if array.size == 0:  # has no extremes; `Clip` says what is wrong with its sides
        return array.astype(np.uint8)
    if not np.isfinite(array).all():
        raise VideoError(
            "the frames contain NaN or infinity; fix the generator or drop the clip", code="bad_values"
        )
    low, high = float(array.min()), float(array.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        advice = "(x + 1) / 2 maps [-1, 1]" if low < 0 and high <= 1 + _TOLERANCE else "divide 0..255 by 255"
        raise VideoError(f"expected floats in 0..1, got {low:.4g}..{high:.4g}; {advice}", code="bad_values")
    # float16 cannot hold the product to a grey level; float64 stays as it is.
    wide = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    levels: NDArray[np.uint8] = np.rint(np.clip(wide, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels
