"""Decoders: run inside the worker process only. PyAV for video and GIF, Pillow for other images, decord on
request.

The PyAV way has two passes. The first reads the packets without decoding: the time stamps of all packets that
are to be shown are the true time line, also for cut, B-frame and variable-rate clips. The second decodes from
the start, several frames side by side, checks every frame against that list, and hands over the kept ones. It
is not given packets of frames that are neither kept nor needed for others (`disposable`).
Where the two disagree (damaged or missing frames, no time stamps, or times of decoding), the output of the
decoder itself is listed in a further pass, frame by frame, and that list takes the place of the first one.
"""

from __future__ import annotations

import io
from collections.abc import Set
from contextlib import closing
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from qsave_reward.decoding.containers import IMAGES, open_file, sniff
from qsave_reward.decoding.images import decode_image
from qsave_reward.decoding.libav import (
    ALPHA_IGNORED,
    Reading,
    alpha_decoder,
    looks_encrypted,
    open_container,
    sound_frames,
)
from qsave_reward.decoding.output import Delivery, Emit, Job
from qsave_reward.decoding.pixels import note_traits, to_rgb
from qsave_reward.decoding.promises import TIMED
from qsave_reward.decoding.scan import Track, scan
from qsave_reward.errors import VideoError
from qsave_reward.sampling import Timeline, delay_timeline, stamp_timeline

THREADS = 3
"""Frames of a file that seems sound are decoded side by side; more take memory and are hardly faster."""
_DECORD_BLOCK = 64 << 20  # bytes of RGB taken from decord at a time


class _Disagreement(Exception):
    """The decoder's output is not what the list of packets promised."""


def decode(source: str | bytearray, header: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Decode one file.

    Args:
        source: path, or the bytes of a file.
        header: the request, see `pipe`.
        emit: receives each kept frame.

    Returns:
        `times`, `duration`, `warnings`.

    Raises:
        VideoError: see `video.read_clip`.
    """
    job = Job.from_header(header, emit)
    limit = job.limits.max_bytes
    with io.BytesIO(source) if isinstance(source, bytearray) else open_file(source, max_bytes=limit) as file:
        head = file.read(400)
        kind = sniff(head)
        file.seek(0)
        if kind == "gif":  # libav does not tell the size of a canvas it refuses
            job.check_size(*(int.from_bytes(head[at : at + 2], "little") for at in (6, 8)))
        if kind in IMAGES:
            return decode_image(file, kind, job)
        track = scan(file, kind, job)
        if job.decoder == "decord":
            return _read_with_decord(track, job)
        if None not in track.stamps:
            try:
                stamps = _in_order(track)
                return _read(
                    track, job, stamps, disposable=track.disposable, threads=THREADS, alpha=track.alpha
                )
            except _Disagreement:
                pass
        return _read_as_decoded(track, job)


def _read(
    track: Track,
    job: Job,
    stamps: list[int | None],
    *,
    disposable: Set[int | None] = frozenset(),
    threads: int = 1,
    alpha: bool = False,
) -> dict[str, Any]:
    """Decode from the start and hand over the kept frames.

    Args:
        stamps: time stamps of the frames in the order in which the decoder must put them out.
        disposable: time stamps of frames that need not be decoded unless they are kept.
        threads: of the decoder, see `sound_frames`.
        alpha: whether to decode with `alpha_decoder`, where there is one.

    Raises:
        _Disagreement: it does not.
        VideoError: what `Delivery` refuses; `corrupt`.
    """
    delivery = _delivery(track, job, stamps)
    left_out = disposable - {stamps[position] for position in delivery.wanted}
    awaited = iter([(place, stamp) for place, stamp in enumerate(stamps) if stamp not in left_out])
    scaler = VideoReformatter()
    with _reopen(track, job) as container:
        stream = _stream(container, track)
        note_traits(stream, delivery.note)
        decoder = alpha_decoder(stream) if alpha else None
        if track.alpha and decoder is None:
            delivery.note(ALPHA_IGNORED)
        decoded = sound_frames(
            container,
            stream,
            Reading(),
            max_pixels=job.limits.max_pixels,
            threads=threads,
            left_out=left_out,
            decoder=decoder,
        )
        with closing(decoded) as frames:
            for _, frame in frames:
                position, stamp = next(awaited, (-1, None))
                if position < 0 or frame.pts != stamp:
                    raise _Disagreement
                if delivery.wants(position):
                    job.check_size(frame.width, frame.height)
                    delivery.give(to_rgb(frame, scaler, delivery.note))
                    if delivery.done:
                        return delivery.report()
    raise _Disagreement


def _read_as_decoded(track: Track, job: Job) -> dict[str, Any]:
    """List what the decoder puts out, then read by that list."""
    reading = Reading()
    with _reopen(track, job) as container:
        stream = _stream(container, track)
        limit = job.limits.max_source_frames + 1
        with closing(sound_frames(container, stream, reading, max_pixels=job.limits.max_pixels)) as frames:
            listed = [(place, frame.pts) for place, frame in islice(frames, limit)]
    stamps = [pts for _, pts in takewhile(lambda entry: entry[0] < reading.damaged_from, listed)]
    if track.delays:
        del stamps[len(track.delays) :]
    if not reading.troubles:  # some packets show nothing, such as VP8's hidden reference frames
        track = replace(track, promised=track.promised - len(track.stamps) + len(stamps))
    if not stamps and looks_encrypted(track.file):
        raise VideoError("the video is encrypted; pass a decrypted copy", code="encrypted")
    try:
        return _read(track, job, stamps)
    except _Disagreement as e:
        raise VideoError("the file is damaged: it decodes differently each time", code="corrupt") from e


def _read_with_decord(track: Track, job: Job) -> dict[str, Any]:
    """Read every frame in order with decord (its seeking is what goes wrong) and compare the count."""
    import decord

    stamps = _in_order(track) if None not in track.stamps else track.stamps
    delivery = _delivery(track, job, stamps)
    if track.alpha:
        delivery.note(ALPHA_IGNORED)
    track.file.seek(0)
    try:
        reader = decord.VideoReader(track.file, num_threads=1)
        if len(reader) != len(stamps):
            raise VideoError(
                f"decord finds {len(reader)} frames where the file holds {len(stamps)}; use decoder='pyav'",
                code="decord_failed",
            )
        block = 1
        position = 0
        while not delivery.done:
            batch = reader.get_batch(range(position, min(position + block, len(stamps)))).asnumpy()
            for offset, picture in enumerate(batch):
                if delivery.wants(position + offset):
                    job.check_size(picture.shape[1], picture.shape[0])
                    delivery.give(picture)
            position += len(batch)
            block = max(1, min(32, _DECORD_BLOCK // batch[0].nbytes))
    except decord.DECORDError as e:
        reason = str(e).strip().splitlines()[-1]
        raise VideoError(
            f"decord cannot read the file, use decoder='pyav': {reason}", code="decord_failed"
        ) from e
    return delivery.report()


def _delivery(track: Track, job: Job, stamps: list[int | None]) -> Delivery:
    """Refuse a file of which less than half can be read; otherwise prepare to deliver what can."""
    count = len(stamps)
    promised = f"{'about ' if track.demuxer in TIMED else ''}{track.promised}"
    if count == 0 or 2 * count < track.promised:
        raise VideoError(
            f"the file is damaged: only the first {count} of {promised} frames can be read"
            if count
            else "no frame can be decoded: the file is damaged or encrypted",
            code="corrupt",
        )

    def clock() -> Timeline:
        if len(track.delays) >= count:
            return delay_timeline(track.delays[:count])
        return stamp_timeline(stamps, track.time_base, packets=track.stamps, last=track.last)

    delivery = Delivery(job, count, clock)
    for note in track.notes:
        delivery.note(note)
    if count < track.promised:
        delivery.note(
            f"the file is damaged: only {count} of {promised} frames can be read; the rest is missing"
        )
    return delivery


def _reopen(track: Track, job: Job) -> InputContainer:
    return open_container(track.file, track.demuxer, max_pixels=job.limits.max_pixels)


def _stream(container: InputContainer, track: Track) -> VideoStream:
    stream = container.streams[track.index]
    assert isinstance(stream, VideoStream)
    return stream


def _in_order(track: Track) -> list[int | None]:
    return sorted(track.stamps, key=lambda stamp: stamp or 0)
