"""What a virtual wearer is asked to do, so that it commissions and walks like a person who reads the screen.

A real device ignores these frames; the loop sends them only to a device that says it is simulated.
"""

from __future__ import annotations

import math

from mjx_exo.errors import UserError
from runtime.guard import Guard
from runtime.messages import Request, RequestKind
from runtime.stages import Stage

REPEAT_S = 6.0  # what did not happen is asked for again: the request may have been lost
OWN_CHOICE = ((0.0, 0.0, math.inf),)  # speed 0: walk as the virtual device was told at its start

Leg = tuple[float, float, float]  # speed m/s, slope rad, seconds


def parse_walk(text: str | None) -> tuple[Leg, ...]:
    """`SPEED[@SLOPE_DEG][:SECONDS],…` → legs; the last one without seconds lasts. Raises UserError."""
    if not text:
        return OWN_CHOICE
    legs = []
    for part in text.split(","):
        motion, _, seconds = part.partition(":")
        speed, _, slope = motion.partition("@")
        try:
            leg = (float(speed), math.radians(float(slope or 0.0)), float(seconds) if seconds else math.inf)
        except ValueError:
            leg = (math.nan, math.nan, math.nan)
        if not (0.0 < leg[0] <= 3.0 and abs(leg[1]) <= math.radians(15.0) and leg[2] > 0.0):
            raise UserError(f"--walk: {part!r} is not SPEED[@SLOPE_DEG][:SECONDS] with 0..3 m/s, -15..15°")
        legs.append(leg)
    return tuple(legs)


class Wishes:
    """Turns the guard's stage into requests, each sent once, and again when nothing comes of it."""

    def __init__(self, legs: tuple[Leg, ...]):
        self._legs = legs
        self._walk_began_s: float | None = None
        self._last: tuple[int, float, float] | None = None
        self._asked_s = -math.inf

    def next(self, now_s: float, guard: Guard) -> Request | None:
        """The request to send now, if any."""
        wish = self._wish(now_s, guard)
        fulfilled = guard.walking.walking if wish is not None and wish[0] == RequestKind.WALK else False
        again = now_s - self._asked_s > REPEAT_S and not fulfilled
        if wish is None or (wish == self._last and not again):
            return None
        self._last, self._asked_s = wish, now_s
        return Request(*wish)

    def _wish(self, now_s: float, guard: Guard) -> tuple[int, float, float] | None:
        if guard.stage == Stage.CALIBRATE:
            return (RequestKind.STAND, 0.0, 0.0)
        if guard.stage == Stage.COMMISSION:
            side = guard.commissioning.expected
            return (RequestKind.LIFT_LEFT if side == "left" else RequestKind.LIFT_RIGHT, 0.0, 0.0)
        if guard.stage in (Stage.READY, Stage.RAMP, Stage.ACTIVE, Stage.SOFT_STOP):
            return (RequestKind.WALK, *self._leg(now_s))
        return None

    def _leg(self, now_s: float) -> tuple[float, float]:
        if self._walk_began_s is None:
            self._walk_began_s = now_s
        elapsed_s = now_s - self._walk_began_s
        for speed, slope, seconds in self._legs:
            if elapsed_s < seconds:
                return speed, slope
            elapsed_s -= seconds
        return self._legs[-1][:2]
