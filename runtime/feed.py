"""From sensor frames, which drop, repeat, arrive late or come faster than the student wants, to evenly spaced rows.

The student was trained on samples one period apart; a window in which one is missing means something else. Time is the
device's own (`device_time_us`), never the host's arrival time; the sequence number says what was lost on the way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

MAX_FILL = 2  # missing samples that are bridged; a longer gap empties the window


class Fed(NamedTuple):
    """What one sensor frame means for the window.

    rows: how many rows end in this sample (0: not due, or not fresh); flush: empty the window first;
    fresh: the frame is newer than all before; missed: device frames lost before it.
    """

    rows: int
    flush: bool
    fresh: bool
    missed: int


class SampleFeed:
    """Counts frames and decides which become rows of the window; `policy_rate_hz` divides `device_rate_hz`."""

    def __init__(self, device_rate_hz: float, policy_rate_hz: float):
        self.device_period_s = 1.0 / device_rate_hz
        self.period_s = 1.0 / policy_rate_hz
        self.duplicates = 0  # same sequence number again
        self.old = 0  # older than one already seen
        self.stalled = 0  # a new number but a device clock that did not advance
        self.missed = 0
        self.reset()

    def reset(self) -> None:
        """Forgets where it was (after a reconnect); the counters stay."""
        self._sequence: int | None = None
        self._time_s = 0.0
        self._due_s = 0.0

    def push(self, sequence: int, device_time_us: int) -> Fed:
        """Takes the next frame. Sequence numbers count modulo 2^32."""
        time_s = device_time_us * 1e-6
        if self._sequence is None:
            self._sequence, self._time_s, self._due_s = sequence, time_s, time_s
            return Fed(1, True, True, 0)
        step = (sequence - self._sequence) & 0xFFFFFFFF
        elapsed_s = time_s - self._time_s
        if step == 0 or step >= 0x80000000:
            self.duplicates += step == 0
            self.old += step != 0
            return Fed(0, False, False, 0)
        if elapsed_s <= 0.0:
            self.stalled += 1
            return Fed(0, False, False, 0)
        missed = step - 1
        self.missed += missed
        self._sequence, self._time_s = sequence, time_s
        return self._rows(time_s, missed)

    def _rows(self, time_s: float, missed: int) -> Fed:
        rows = math.floor((time_s - self._due_s + 0.5 * self.device_period_s) / self.period_s)
        if rows > 1 + MAX_FILL:
            self._due_s = time_s
            return Fed(1, True, True, missed)
        self._due_s += rows * self.period_s
        if rows:
            self._due_s += 0.2 * (time_s - self._due_s)
        return Fed(rows, False, True, missed)


def window_rows(last: np.ndarray | None, new: np.ndarray, rows: int) -> list[np.ndarray]:
    """`rows` rows from the one after `last` to `new` itself, missing ones on the straight line between them.

    The loop and the offline replay share it, so that a log gives the torque again. `last` is None after a flush.
    """
    if rows <= 1 or last is None:
        return [new] if rows else []
    step = (new - last) / rows
    return [last + step * i for i in range(1, rows)] + [new]


class FreezeWatch:
    """Notices values that stopped changing: a sensor that answers but no longer measures.

    Noise changes the last bit of a living gyroscope nearly every sample, also when its wearer stands still.
    """

    def __init__(self, channels: int = 2):
        self._values: list[float] = [math.nan] * channels
        self._changed_s = [0.0] * channels

    def update(self, device_time_us: int, values: tuple[float, ...]) -> float:
        """Seconds of device time for which the channel that has been still longest has not changed."""
        time_s = device_time_us * 1e-6
        for i, value in enumerate(values):
            if value != self._values[i]:
                self._values[i] = value
                self._changed_s[i] = time_s
        return time_s - min(self._changed_s)


class SampleAge:
    """How old the newest sample is, by host clock, relative to the fastest delivery seen.

    A backlog (a held-up host, a slow adapter) shows as age although samples keep arriving. The clocks of host and
    device may differ by half a percent; a slower drift than that is not taken for a delay.
    """

    DRIFT = 0.005

    def __init__(self) -> None:
        self._offset_s = math.inf
        self._newest_s = -math.inf
        self._host_s = 0.0

    def arrived(self, host_s: float, device_time_us: int) -> None:
        """A fresh sample has arrived."""
        device_s = device_time_us * 1e-6
        drifted = self._offset_s + self.DRIFT * max(0.0, host_s - self._host_s)
        self._offset_s = min(drifted, host_s - device_s)
        self._newest_s, self._host_s = device_s, host_s

    def __call__(self, host_s: float) -> float:
        """Seconds; infinite before the first sample."""
        if self._newest_s == -math.inf:
            return math.inf
        return host_s - (self._newest_s + self._offset_s)
