"""Before torque is allowed: a gyroscope's bias while standing, and proof that right is right and plus is plus.

Steady walking looks the same with the two sensors swapped or with both upside down, half a stride later. So the wearer
lifts the right thigh, then the left, and the sensor that answers must be the one that was asked, with a positive sign.
"""

from __future__ import annotations

import numpy as np

from mjx_exo import standing
from mjx_exo.conventions import SIDES

LIFT_RAD = 0.35  # about 20 degrees
OTHER_SHARE = 0.5  # the standing thigh moves less than this share of the lifted one
STILL_RAD_S = 0.25
STILL_S = 0.3


class StandingCalibration:
    """The gyroscopes' bias from a stretch of quiet standing (see `mjx_exo.standing`), and what to tell the wearer."""

    def __init__(self, rate_hz: float, bias_limit_rad_s: float):
        self._rate_hz, self._limit = rate_hz, bias_limit_rad_s
        self._state = standing.start(np.zeros(2))
        self.hint = "stand still"

    def update(self, right_rad_s: float, left_rad_s: float) -> tuple[float, float] | None:
        """The bias (right, left) in rad/s as soon as STANDING_S were quiet, else None."""
        reading = np.array([right_rad_s, left_rad_s])
        span = standing.span(self._state, reading)
        self._state = standing.update(self._state, reading, self._rate_hz, self._limit)
        if self._state.known:
            return float(self._state.bias[0]), float(self._state.bias[1])
        moved, strange = int(np.argmax(span)), int(np.argmax(np.abs(self._state.refused)))
        if span[moved] > standing.QUIET_SPAN_RAD_S:
            self.hint = f"stand still: the {SIDES[moved]} thigh moves ({span[moved]:.2f} rad/s)"
        elif self._state.refused[strange]:
            self.hint = (
                f"the {SIDES[strange]} gyroscope reads {self._state.refused[strange]:+.2f} rad/s at rest, more than "
                f"the profile's bias allows ({self._limit:.2f} rad/s): stand still, or have the sensor looked at"
            )
        return None


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
