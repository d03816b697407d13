"""Memory of this process as the system counts it, and as the C library does."""

from __future__ import annotations

import ctypes
from pathlib import Path


def resident_mb(field: str = "VmRSS") -> float | None:
    """Resident memory of this process in 10^6 bytes; `None` where the system cannot tell (not Linux).

    Args:
        field: `VmRSS`, what it holds now, or `VmHWM`, the most since the peak began.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024 / 1e6


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def allocated_mb() -> float | None:
    """What malloc has handed out and not got back, in 10^6 bytes; `None` where it does not tell, as another
    one than glibc's, which leaves glibc with nothing to report.

    Resident memory is this and the pieces that malloc keeps for later, which depend on the order in which
    blocks of different sizes came and went.
    """
    try:
        ask = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    ask.restype = _Mallinfo
    found = ask()
    return float(found.uordblks + found.hblkhd) / 1e6 or None
