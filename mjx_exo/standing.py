"""The gyroscopes' bias, estimated while the wearer stands still.

A gyroscope of this class is off by up to 5 °/s as delivered, which is a tenth of what a walking thigh does; a moment of
quiet standing brings it down to a few tenths. The loop on the device and the simulation must do the same sum, so it is
written once, for NumPy and JAX alike (no JAX is imported here), batched over any leading axes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mjx_exo.device import array_namespace

STANDING_S = 1.5
"""Seconds of quiet that one estimate takes."""
QUIET_SPAN_RAD_S = 0.15
"""Quiet is when no channel moves further than this, lowest to highest: above postural sway, far below any step."""
LARGEST_BIAS_RAD_S = 0.2
"""A steady reading beyond this is not a bias of a working sensor and is not taken as one, unless told otherwise."""
SWAY_CORRELATION_S = 0.25
"""Readings closer in time than this repeat each other's sway, so they do not count as separate for the residual."""


class StandingBias(NamedTuple):
    """Leaves lead with the batch; `[..., 2]` is [right, left] in rad/s.

    known: [...] whether an estimate exists.
    bias, residual: [..., 2] the estimate and its standard error, 0 until known.
    refused: [..., 2] the mean of the last quiet stretch if it was too large to be a bias, else 0.
    samples, total, squares, low, high: of the quiet stretch that is being watched.
    """

    known: Any
    bias: Any
    residual: Any
    refused: Any
    samples: Any
    total: Any
    squares: Any
    low: Any
    high: Any

    def correct(self, reading: Any) -> Any:
        """reading: [..., 2] rad/s, less the bias as far as it is known."""
        return reading - self.bias


def start(reading: Any) -> StandingBias:
    """Nothing is known yet; `reading` [..., 2] only gives the shape and the array library."""
    zero = array_namespace(reading).zeros_like(reading)
    return StandingBias(zero[..., 0] > 1.0, zero, zero, zero, zero[..., 0], zero, zero, zero, zero)


def span(state: StandingBias, reading: Any) -> Any:
    """[..., 2] rad/s: how far each channel moved in the stretch being watched, were `reading` [..., 2] part of it."""
    low, high = _extremes(state, reading)
    return high - low


def _extremes(state: StandingBias, value: Any) -> tuple[Any, Any]:
    xp = array_namespace(value, state.bias)
    first = (state.samples == 0)[..., None]
    return xp.where(first, value, xp.minimum(state.low, value)), xp.where(first, value, xp.maximum(state.high, value))


def update(
    state: StandingBias, reading: Any, rate_hz: float, largest_bias_rad_s: float = LARGEST_BIAS_RAD_S
) -> StandingBias:
    """Takes one sample of raw readings [..., 2], rad/s; a new estimate replaces the old after every quiet stretch.

    Not-a-number and movement start the stretch anew; a mean beyond `largest_bias_rad_s` is refused.
    """
    xp = array_namespace(reading, state.bias)
    needed = max(2, round(STANDING_S * rate_hz))
    finite = xp.all(xp.isfinite(reading), axis=-1)
    value = xp.where(finite[..., None], reading, 0.0)
    low, high = _extremes(state, value)
    quiet = xp.all(high - low <= QUIET_SPAN_RAD_S, axis=-1) & finite
    samples = xp.where(quiet, state.samples + 1, xp.where(finite, 1.0, 0.0))
    goes_on = quiet[..., None]
    total = xp.where(goes_on, state.total + value, value)
    squares = xp.where(goes_on, state.squares + value * value, value * value)
    low, high = xp.where(goes_on, low, value), xp.where(goes_on, high, value)

    mean = total / needed
    complete = samples >= needed
    small = xp.all(xp.abs(mean) <= largest_bias_rad_s, axis=-1)
    taken, refused = complete & small, complete & ~small
    spread = xp.sqrt(xp.maximum(squares / needed - mean * mean, 0.0))
    residual = spread * math.sqrt(min(1.0, SWAY_CORRELATION_S / STANDING_S))
    return StandingBias(
        known=state.known | taken,
        bias=xp.where(taken[..., None], mean, state.bias),
        residual=xp.where(taken[..., None], residual, state.residual),
        refused=xp.where(complete[..., None], xp.where(refused[..., None], mean, 0.0), state.refused),
        samples=xp.where(complete, 0.0, samples),
        total=xp.where(complete[..., None], 0.0, total),
        squares=xp.where(complete[..., None], 0.0, squares),
        low=low,
        high=high,
    )


def estimate(readings: np.ndarray, rate_hz: float) -> StandingBias:
    """The state after a recording `readings` [T, ..., 2] in rad/s, from a fresh start."""
    state = start(np.asarray(readings[0], float))
    for reading in readings:
        state = update(state, np.asarray(reading, float), rate_hz)
    return state
