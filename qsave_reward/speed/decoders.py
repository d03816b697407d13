"""Frames of a file by other means than `read_clip`: its decoder without the process around it, and others'.

Each function takes a path and the positions of the frames to keep (strictly increasing) and returns uint8
[n, H, W, 3], RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsave_reward.limits import Limits
from qsave_reward.sampling import Sampling

Frames = NDArray[np.uint8]
Decode = Callable[[str, Sequence[int]], Frames]


def other_decoders() -> tuple[dict[str, Decode], dict[str, str]]:
    """Decoders of others that can be loaded, and of those that cannot, why."""
    found: dict[str, Decode] = {"pyav": with_pyav}
    missing = {}
    for name, load in (("decord", _load_decord), ("torchcodec", _load_torchcodec)):
        try:
            found[name] = load()
        except ImportError as error:
            missing[name] = f"not installed: {error}"
        except (RuntimeError, OSError) as error:  # its own libraries are missing
            missing[name] = f"does not load: {str(error).strip().splitlines()[0]}"
    return found, missing


def in_process(path: str, sampling: Sampling) -> Frames:
    """What a worker of `read_clip` does, here."""
    from qsave_reward.decoding.decode import decode

    pictures: list[Frames] = []
    header = {"sampling": asdict(sampling), "limits": asdict(Limits()), "decoder": "pyav"}
    decode(path, {**header, "fps": None, "times": None}, lambda picture, *_: pictures.append(picture))
    return np.stack(pictures)


def sequential(path: str, index: Sequence[int]) -> Frames:
    """By PyAV in one thread, every frame from the first to the last: the reference."""
    return _pick(path, index, threads="NONE")


def with_pyav(path: str, index: Sequence[int]) -> Frames:
    """By PyAV with as many threads as it likes, one frame after another."""
    return _pick(path, index, threads="AUTO")


def _pick(path: str, index: Sequence[int], *, threads: str) -> Frames:
    import av

    wanted = set(index)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = threads
        if threads == "NONE":
            stream.codec_context.thread_count = 1
        frames = enumerate(container.decode(stream))
        return np.stack([f.to_ndarray(format="rgb24") for number, f in frames if number in wanted])


def _load_decord() -> Decode:
    import decord

    def read(path: str, index: Sequence[int]) -> Frames:
        frames: Frames = decord.VideoReader(path).get_batch(list(index)).asnumpy()
        return frames

    return read


def _load_torchcodec() -> Decode:
    from torchcodec.decoders import VideoDecoder

    def read(path: str, index: Sequence[int]) -> Frames:
        decoder: Any = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=0)
        frames: Frames = decoder.get_frames_at(list(index)).data.numpy()
        return frames

    return read
