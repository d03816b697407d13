"""Still and animated images: Pillow for WebP, PNG and JPEG; and the delays of a GIF, which libav does not
tell."""

from __future__ import annotations

import contextlib
from typing import Any, BinaryIO

from PIL import ExifTags, Image, ImageOps

from qsave_reward.decoding.output import Delivery, Job
from qsave_reward.decoding.pixels import Note
from qsave_reward.errors import VideoError
from qsave_reward.frames import image_to_rgb
from qsave_reward.sampling import delay_timeline


def decode_image(file: BinaryIO, format_name: str, job: Job) -> dict[str, Any]:
    """Decode `"WEBP"`, `"PNG"` or `"JPEG"`; returns the report of `Delivery`."""
    try:
        with Image.open(file, formats=[format_name]) as image:
            job.check_size(*image.size)
            count = int(getattr(image, "n_frames", 1))
            job.check_count(count)
            # The first image of an animated PNG may be one that only viewers without animation show.
            hidden = int(count > 1 and getattr(image, "default_image", False))
            delays = []
            for position in range(hidden, count):
                image.seek(position)
                image.load()  # WebP states a delay only then
                delays.append(float(image.info.get("duration", 0)) / 1000.0)
            delivery = Delivery(job, count - hidden, lambda: delay_timeline(delays))
            turned = _is_turned(image, delivery.note)
            for position in delivery.wanted:
                image.seek(hidden + position)
                delivery.give(image_to_rgb(ImageOps.exif_transpose(image) if turned else image))
            return delivery.report()
    except Image.DecompressionBombError as e:
        raise VideoError(f"{e}; scale the image down", code="too_large") from e
    except (OSError, SyntaxError, ValueError, EOFError) as e:  # what Pillow's readers raise on damaged files
        raise VideoError(f"the image is damaged: {e}", code="corrupt") from e


def _is_turned(image: Image.Image, note: Note) -> bool:
    """Whether EXIF data say that the image is shown turned or mirrored."""
    try:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # whatever Pillow stumbles over there, the pixels are sound
        note("the EXIF data are damaged; a rotation they may state is ignored")
        return False


def delays_of_gif(data: bytes) -> list[float]:
    """Seconds each complete image of a GIF is shown, as written in the file; 0.0 where nothing is.

    libav puts 0.1 s in place of a missing delay, so that a file without times looks like one at 10 fps; and
    it does not mind an image that is cut short.
    """
    delays: list[float] = []
    delay = 0.0
    with contextlib.suppress(IndexError):  # a cut file ends wherever it ends
        position = 13 + _table_bytes(data[10])
        while data[position] in b"\x21\x2c":
            is_image = data[position] == 0x2C
            if is_image:
                position += 11 + _table_bytes(data[position + 9])
            else:
                if data[position + 1] == 0xF9:
                    delay = int.from_bytes(data[position + 4 : position + 6], "little") / 100
                position += 2
            while data[position]:  # sub-blocks
                position += 1 + data[position]
            position += 1
            if is_image:
                delays.append(delay)
                delay = 0.0
    return delays


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
