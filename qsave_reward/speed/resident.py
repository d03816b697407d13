"""Memory of this process as the system counts it."""

from __future__ import annotations

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
