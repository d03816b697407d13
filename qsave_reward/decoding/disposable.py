"""Frames that no other frame is predicted from: a decoder need not be given those that nobody wants.

In H.264 each slice says whether its picture is a reference (`nal_ref_idc`, ITU-T H.264, 7.4.1). About half of
the frames of an ordinary file are not: most of its B-frames. Without them the decoder's other frames are, bit
for bit, what they are with them. What is damaged in them is not noticed.
"""

from __future__ import annotations

from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

_SLICES = range(1, 6)
"""`nal_unit_type` of coded slices."""


def length_bytes(stream: VideoStream) -> int:
    """How many bytes tell the length of a unit in the stream's packets, as its avcC box says (ISO/IEC
    14496-15, 5.3.3.1); 0 when it is not H.264 in that form."""
    codec = stream.codec_context
    extra = codec.extradata or b""
    if codec.name != "h264" or len(extra) < 7 or extra[0] != 1:
        return 0
    return (extra[4] & 3) + 1


def is_disposable(packet: Packet[Stream], length_bytes: int) -> bool:
    """Whether a packet of H.264 holds slices, and no one of a reference picture."""
    data, at, slices = memoryview(packet), 0, 0
    while at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        unit = data[at + length_bytes]
        if unit & 31 in _SLICES:
            if unit >> 5 & 3:
                return False
            slices += 1
        at += length_bytes + size
    return slices > 0 and at == len(data)
