"""Before torque is allowed: a gyroscope's bias while standing, and proof that right is right and plus is plus.

Steady walking looks the same with the two sensors swapped or with both upside down, half a stride later. So the wearer
lifts the right thigh, then the left, and the sensor that answers must be the one that was asked, with a positive sign.
"""

from __future__ import annotations

import math
from collections import deque

from mjx_exo.conventions import SIDES

STANDING_S = 1.5
STANDING_STD_RAD_S = 0.12  # sway of quiet standing is well below
LIFT_RAD = 0.35  # about 20 degrees
OTHER_SHARE = 0.5  # the standing thigh moves less than this share of the lifted one
STILL_RAD_S = 0.25
STILL_S = 0.3


class StandingCalibration:
    """Mean of each gyroscope over a stretch of quiet standing."""

    def __init__(self, rate_hz: float, bias_limit_rad_s: float):
        self._limit = bias_limit_rad_s
        self._rows: deque[tuple[float, float]] = deque(maxlen=max(2, round(STANDING_S * rate_hz)))
        self.hint = "stand still"

    def update(self, right_rad_s: float, left_rad_s: float) -> tuple[float, float] | None:
        """The bias (right, left) in rad/s as soon as the last STANDING_S were quiet, else None."""
        self._rows.append((right_rad_s, left_rad_s))
        if len(self._rows) < self._rows.maxlen:
            return None
        bias = []
        for side, values in zip(SIDES, zip(*self._rows, strict=True), strict=True):
            mean = math.fsum(values) / len(values)
            spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
            if spread > STANDING_STD_RAD_S:
                self.hint = f"stand still: the {side} thigh moves ({spread:.2f} rad/s)"
                return None
            if abs(mean) > self._limit:
                self.hint = (
                    f"the {side} gyroscope reads {mean:+.2f} rad/s at rest, more than the profile's bias allows "
                    f"({self._limit:.2f} rad/s): stand still, or have the sensor looked at"
                )
                return None
            bias.append(mean)
        return bias[0], bias[1]


class Commissioning:
    """Right lift, then left lift. `expected` is the side that is asked for, None when done; `failure` a sentence."""

    def __init__(self, rate_hz: float):
        self._period_s = 1.0 / rate_hz
        self._still_rows = round(STILL_S * rate_hz)
        self.expected: str | None = SIDES[0]
        self.failure: str | None = None
        self.hint = self._ask()
        self._angle = [0.0, 0.0]
        self._still = 0
        self._answered = False

    @property
    def done(self) -> bool:
        """Both lifts were answered by the right side with the right sign."""
        return self.expected is None and self.failure is None

    def restart_lift(self) -> None:
        """Forgets a half-seen lift (samples were lost); what has been proved stays proved."""
        self._angle = [0.0, 0.0]
        self._still = 0

    def update(self, right_rad_s: float, left_rad_s: float) -> None:
        """Takes one evenly spaced row of bias-free gyroscope values, flexion positive."""
        if self.expected is None or self.failure is not None:
            return
        rates = (right_rad_s, left_rad_s)
        self._angle = [angle + rate * self._period_s for angle, rate in zip(self._angle, rates, strict=True)]
        self._still = self._still + 1 if max(map(abs, rates)) < STILL_RAD_S else 0
        if not self._answered:
            self._look()
        if self._still >= self._still_rows:
            self._rest()

    def _look(self) -> None:
        sizes = [abs(angle) for angle in self._angle]
        moved = sizes.index(max(sizes))
        if sizes[moved] < LIFT_RAD:
            return
        side, wanted = SIDES[moved], self.expected
        if sizes[1 - moved] > OTHER_SHARE * sizes[moved]:
            self.hint = f"both thighs moved; stand still, then lift only your {wanted} thigh"
        elif side != wanted:
            self.failure = (
                f"swapped sides: you were asked to lift the {wanted} thigh and the {side} gyroscope answered; "
                "swap the two sensor cables (or lift the other thigh next time)"
            )
        elif self._angle[moved] < 0.0:
            self.failure = (
                f"flipped sign: the {side} gyroscope counts a lifted thigh as negative; it sits upside down or mirrored"
            )
        else:
            self._answered = True
            self.hint = f"good; put your {side} foot down and stand still"

    def _rest(self) -> None:
        """Standing again: angles start at zero, and after a good lift the next side is due."""
        if self._answered:
            self._answered = False
            self.expected = SIDES[1] if self.expected == SIDES[0] else None
        self._angle = [0.0, 0.0]
        self.hint = self._ask()

    def _ask(self) -> str:
        if self.expected is None:
            return "sides and signs are right"
        return f"lift your {self.expected.upper()} thigh and put it down"
