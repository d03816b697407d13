"""First pass over a file: choose the video track and list its packets, without decoding."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

from av.packet import Packet
from av.video.stream import VideoStream

from qsave_reward.decoding.disposable import is_disposable, length_bytes
from qsave_reward.decoding.images import delays_of_gif
from qsave_reward.decoding.libav import (
    ALPHA_IGNORED,
    READ_ERRORS,
    damaged,
    has_alpha,
    is_cut_off,
    open_container,
    video_streams,
)
from qsave_reward.decoding.output import Job
from qsave_reward.decoding.promises import TIMED, Met, promised_frames
from qsave_reward.errors import VideoError

_ALPHA_OF_AVIF = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"  # ISO/IEC 23000-22, 7.3.5.2


@dataclass(frozen=True)
class Track:
    """The video track of a file, as its packets describe it.

    Attributes:
        stamps: presentation times of the packets that are to be shown, in ticks, in the order of the file.
        promised: frames the file claims to hold, at least `len(stamps)`.
        last: seconds of the last packet, `None` when unknown.
        delays: seconds of each complete frame of a GIF, else empty.
        disposable: time stamps of frames that no other frame is predicted from.
        alpha: whether transparency is stored beside the frames, see `libav.alpha_decoder`.
    """

    file: BinaryIO
    demuxer: str
    index: int
    time_base: Fraction
    stamps: list[int | None]
    promised: int
    last: float | None
    delays: list[float]
    disposable: Set[int | None]
    alpha: bool
    notes: tuple[str, ...]


@dataclass
class _Packets:
    """What is noted of the packets of one track.

    `end` is the second at which the last frame ends, `cut_off` whether the file ends inside a frame.
    """

    length_bytes: int
    stamps: list[int | None] = field(default_factory=list)
    hidden: int = 0
    disposable: set[int | None] = field(default_factory=set)
    last: float = 0.0
    end: float = 0.0
    cut_off: bool = False

    def add(self, packet: Packet[Any]) -> None:
        if packet.is_discard:  # a cut clip's lead-in, decoded and not shown
            self.hidden += 1
            return
        self.stamps.append(packet.pts)
        if self.length_bytes and is_disposable(packet, self.length_bytes):
            self.disposable.add(packet.pts)
        self.last = float((packet.duration or 0) * packet.time_base)
        self.end = max(self.end, _end(packet))


def scan(file: BinaryIO, demuxer: str, job: Job) -> Track:
    """Choose the video track and list its packets."""
    notes: list[str] = []
    with open_container(file, demuxer, max_pixels=job.limits.max_pixels) as container:
        candidates = video_streams(container)
        met = {stream.index: _Packets(length_bytes(stream)) for stream in candidates}
        reach = 0.0
        try:
            # The other tracks show how far a file goes that only says how far it should.
            for packet in container.demux(list(container.streams) if demuxer in TIMED else candidates):
                if packet.size == 0:
                    continue
                reach = max(reach, _end(packet))
                if packet.stream_index in met and is_cut_off(packet, container):
                    met[packet.stream_index].cut_off = True
                elif packet.stream_index in met:
                    met[packet.stream_index].add(packet)
                    job.check_count(len(met[packet.stream_index].stamps))
        except READ_ERRORS as e:
            notes.append(f"the file breaks off: {damaged(e)}")
        best = container.streams.best("video")
        if not isinstance(best, VideoStream) or best.index not in met or not met[best.index].stamps:
            best = max(candidates, key=lambda stream: len(met[stream.index].stamps))
        packets = met[best.index]
        count = len(packets.stamps)
        if best.codec_context.codec_tag == "encv":
            raise VideoError("the video is encrypted; pass a decrypted copy", code="encrypted")
        if count == 0:
            raise VideoError("the video track holds no frames", code="no_frames")
        if best.width and best.height:
            job.check_size(best.width, best.height)
        notes += _notes_on_tracks(file, sum(bool(track.stamps) for track in met.values()))
        delays = _delays(file, job) if demuxer == "gif" else []
        complete = min(count, len(delays)) if demuxer == "gif" else count
        time_base = best.time_base or Fraction(1)
        first = float(min((stamp for stamp in packets.stamps if stamp is not None), default=0) * time_base)
        seen = Met(count, packets.hidden, first=first, end=packets.end, reach=reach, cut_off=packets.cut_off)
        promised = promised_frames(file, demuxer, container, best, seen, notes.append)
        return Track(
            file=file,
            demuxer=demuxer,
            index=best.index,
            time_base=time_base,
            stamps=packets.stamps[:complete],
            promised=max(count + packets.cut_off, promised),
            last=packets.last or None,
            delays=delays,
            disposable=packets.disposable,
            alpha=has_alpha(best),
            notes=tuple(notes),
        )


def _end(packet: Packet[Any]) -> float:
    """Seconds at which a packet ends; 0.0 where it has no time."""
    return 0.0 if packet.pts is None else float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _notes_on_tracks(file: BinaryIO, tracks: int) -> list[str]:
    file.seek(0)
    if file.read(12)[4:] in (b"ftypavif", b"ftypavis"):
        # The tracks of an AVIF are one film: its first frame, all its frames, and the transparency of both.
        return [ALPHA_IGNORED] if _ALPHA_OF_AVIF in file.read(1 << 20) else []
    return [f"{tracks} video tracks; the main one was read"] if tracks > 1 else []


def _delays(file: BinaryIO, job: Job) -> list[float]:
    file.seek(0)
    return delays_of_gif(file.read(job.limits.max_bytes))
