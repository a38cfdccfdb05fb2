"""Is the wearer walking? Judged from the two thigh gyroscopes alone, because a policy trained on walking means nothing
while its wearer sits, stands, shuffles or stumbles.

A stride is the time between two swing starts of one thigh (the angular velocity rises through a threshold after the
thigh has moved backwards for a while; a heel strike throws it forwards, too, but not after moving back). It counts when
it lasts 0.4–2 s, swings far enough, and the other thigh starts about half a stride away. Several good strides in a row
say yes; misfits, silence or standing still say no, sooner than yes.
"""

from __future__ import annotations

import math

STRIDE_S = (0.4, 2.0)
THRESHOLD_RAD_S = 0.35  # half width of the band that a swing start has to cross, at least
BACK_S = 0.1  # below the band, all together since the last swing: a stance is longer, the end of a swing shorter
BAND_SHARE = 0.15  # and of the recent peak-to-peak: around heel strike a thigh swings back and forth a little
ENVELOPE_S = 2.0  # how long a peak is remembered
SWING_RAD_S = 0.8  # forward swing reaches at least this
RANGE_ON_RAD_S = 1.6  # peak to peak per stride; slow walking (0.7 m/s) has about 2.9, a shuffle about 1
RANGE_OFF_RAD_S = 1.2
PHASE = (0.25, 0.75)  # of the other thigh's swing start within the stride
STILL_RAD_S = 0.35
STILL_S = 0.4
SILENCE_STRIDES = 1.5
FILTER_HZ = 6.0
GOOD_TO_START = 4  # two strides of each leg


class _Thigh:
    """Extremes and swing starts of one side."""

    def __init__(self) -> None:
        self.filtered = 0.0
        self.top = self.bottom = 0.0  # envelope
        self.back = 0  # samples below the band since the last swing start
        self.start: int | None = None
        self.stride = 0  # samples
        self.high = 0.0
        self.low = 0.0

    def update(
        self, value: float, tick: int, blend: float, keep: float, back: float
    ) -> tuple[float, float, float] | None:
        """(stride in samples, peak, trough) when a stride ends here, else None.

        `keep` is the envelope's per sample; `back` how many samples below the band a swing needs before it.
        """
        self.filtered += blend * (value - self.filtered)
        self.high, self.low = max(self.high, self.filtered), min(self.low, self.filtered)
        self.top, self.bottom = max(keep * self.top, self.filtered), min(keep * self.bottom, self.filtered)
        threshold = max(THRESHOLD_RAD_S, BAND_SHARE * (self.top - self.bottom))
        if self.filtered < -threshold:
            self.back += 1
        if self.back < back or self.filtered <= threshold:
            return None
        stride = None if self.start is None else (float(tick - self.start), self.high, self.low)
        self.start, self.back = tick, 0
        self.high = self.low = self.filtered
        return stride


class WalkingDetector:
    """One evenly spaced row at a time; `walking` is the verdict after the last one."""

    def __init__(self, rate_hz: float):
        self._rate_hz = rate_hz
        self._keep = math.exp(-1.0 / (ENVELOPE_S * rate_hz))
        self._back = BACK_S * rate_hz
        self._blend = 1.0 - math.exp(-2.0 * math.pi * FILTER_HZ / rate_hz)
        self.reset()

    def reset(self) -> None:
        """Starts over, not walking."""
        self.walking = False
        self._tick = 0
        self._good = 0
        self._still = 0
        self._thighs = (_Thigh(), _Thigh())

    def update(self, right_rad_s: float, left_rad_s: float) -> bool:
        """Thigh angular velocities, flexion positive. Returns whether the wearer is walking."""
        self._tick += 1
        for side, value in enumerate((right_rad_s, left_rad_s)):
            stride = self._thighs[side].update(value, self._tick, self._blend, self._keep, self._back)
            if stride is not None:
                self._judge(side, *stride)
        still = all(abs(thigh.filtered) < STILL_RAD_S for thigh in self._thighs)
        self._still = self._still + 1 if still else 0
        if self._still > STILL_S * self._rate_hz or self._silent():
            self._good = 0
        if self._good >= GOOD_TO_START:
            self.walking = True
        elif self._good <= 0:
            self.walking = False
        return self.walking

    def _judge(self, side: int, samples: float, high: float, low: float) -> None:
        thigh, other = self._thighs[side], self._thighs[1 - side]
        thigh.stride = int(samples)
        needed = RANGE_OFF_RAD_S if self.walking else RANGE_ON_RAD_S
        in_time = STRIDE_S[0] <= samples / self._rate_hz <= STRIDE_S[1]
        far = high - low >= needed and high >= SWING_RAD_S and low <= -THRESHOLD_RAD_S
        phase = (self._tick - other.start) / samples if other.start is not None else -1.0
        if in_time and far and PHASE[0] <= phase <= PHASE[1]:
            self._good = min(self._good + 1, GOOD_TO_START)
        else:
            self._good -= 2 if self._good > 0 else 0

    def _silent(self) -> bool:
        """A thigh whose next swing is overdue."""
        longest = STRIDE_S[1] * self._rate_hz
        for thigh in self._thighs:
            if thigh.start is not None and thigh.stride:
                if self._tick - thigh.start > min(SILENCE_STRIDES * thigh.stride, longest):
                    return True
            elif self.walking:
                return True
        return False
