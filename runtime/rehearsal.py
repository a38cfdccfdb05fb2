"""The way from a frame to its answer, gone once more before the frame is there, with nothing sent.

A processor that slept for most of a period goes that way out of cold caches, in two to three times the time it needs
when it has just gone it. The rehearsal decodes the frame that is due as the last one was, asks a guard of its own, and
throws the answer away. That guard is a copy, taken when the stages have come to differ; the true one never hears of it.
"""

from __future__ import annotations

import copy
import math

from runtime.frames import Decoder, encode
from runtime.guard import Guard
from runtime.messages import Pair, Sensor, Torque
from runtime.stages import Stage

COPY_EVERY_S = 0.5  # at most: copying takes as long as ten answers


class Rehearsal:
    """`prepare` after an answer, when there is time; `run` right before the next frame is due."""

    def __init__(self) -> None:
        self._guard: Guard | None = None
        self._copied_s = float("-inf")
        self._decoder = Decoder()
        self._frame = b""

    @property
    def stage(self) -> Stage | None:
        """Of the copy; None while there is none."""
        return None if self._guard is None else self._guard.stage

    def prepare(self, now_s: float, guard: Guard, answered: Sensor, period_s: float) -> None:
        """Takes the frame that will follow `answered`, and the guard's state where it has moved on to another stage."""
        if self.stage != guard.stage:
            if now_s < self._copied_s + COPY_EVERY_S:
                return
            self._guard, self._copied_s = copy.deepcopy(guard), now_s
        following = (answered.sequence + 1) & 0xFFFFFFFF
        time_us = answered.device_time_us + round(1e6 * period_s)
        self._frame = encode(answered._replace(sequence=following, device_time_us=time_us))

    def run(self, now_s: float, student: Pair, session: int, ttl_ms: int) -> None:
        """Goes the way once, and not again before the next `prepare`. student: NaN before it has said anything."""
        if not self._frame:
            return
        frame, self._frame = self._frame, b""
        for message in self._decoder.feed(frame):
            if isinstance(message, Sensor):
                self._guard.observe(now_s, message)
                decision = self._guard.decide(now_s, None if math.isnan(student[0]) else student)
                encode(Torque(session, message.sequence, ttl_ms, decision.torque_nm, decision.armed))
        self._guard.events.clear()

    def forget(self) -> None:
        """The link has gone: what was known is history."""
        self._guard, self._frame = None, b""
