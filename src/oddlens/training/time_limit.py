"""Time limits: how long a member may train, so that all that follows its training ends in time as well."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_MEASURING_SHARE = 0.05  # of the time, for measuring how long what follows training will take


class TimeLimit:
    """The time left for training one member, measured again and again while it trains.

    Args:
        deadline: when all must be over, of `time.perf_counter`.
        measure: gives the seconds that what follows training takes at the present speed of the machine.
        sharers: number of members that share the time for training equally: this one, and those trained after it.
    """

    def __init__(self, deadline: float, measure: Callable[[], float], sharers: int = 1) -> None:
        self.deadline, self.measure, self.sharers = deadline, measure, sharers
        self.started = time.perf_counter()
        self.seconds_after = 0.0  # that what follows training takes
        self.next_measurement = self.started
        self.seconds_after = self._measure_again()

    def left(self) -> float:
        """Seconds left for training, below 0 where the time is over."""
        if time.perf_counter() >= self.next_measurement:
            self.seconds_after = (self.seconds_after + self._measure_again()) / 2  # a single batch is a rough measure
        now = time.perf_counter()
        used = now - self.started
        return (used + self.deadline - now - self.seconds_after) / self.sharers - used

    def _measure_again(self) -> float:
        started = time.perf_counter()
        seconds = self.measure()
        now = time.perf_counter()
        self.next_measurement = now + (now - started) / MAX_MEASURING_SHARE
        return seconds
