"""A clock for tests."""

from __future__ import annotations


class Time:
    """A clock that only work moves; with `step`, every look at it does, too."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def work(self, *seconds: float):
        """Work that takes these times, one call after another; returns the number of the call."""
        left = list(enumerate(seconds))

        def run() -> int:
            number, taken = left.pop(0)
            self.now += taken
            return number

        return run
