"""The gait clock: when each leg should stand and swing.

Its frequency follows the commanded speed by construction. For standing it runs on to the next heel strike, so that the
step under way is finished, and is held there; a walk begins with the swing of the other leg.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.commands import standing
from mjx_exo.walking.state import EnvState

_CLOCK_HZ, _CLOCK_SPEED = 0.91, 1.25  # stride frequency at a speed; it grows with the square root of the speed
_LAST_STEP_HZ = 0.7  # while the last step before standing is finished
_AT_STRIKE = 1e-4  # phase is single precision


def clock_frequency_hz(speed_m_s: Array) -> Array:
    """Stride frequency [N] in Hz of the gait clock at commanded speeds [N] (by construction, not learned)."""
    return _CLOCK_HZ * jnp.sqrt(jnp.maximum(speed_m_s, 0.2) / _CLOCK_SPEED)


def held(state: EnvState) -> Array:
    """[N] True where the clock is held because the walker should stand."""
    return standing(state.command.speed_m_s) & _at_strike(state.phase)


def advance_clock(phase: Array, speed_m_s: Array, bend: Array, dt_s: float) -> Array:
    """Phase [N] of the right leg, 0…1, one control step later.

    speed_m_s: [N] commanded. bend: [N] relative speed of the clock that the policy asked for.
    """
    walking = (phase + dt_s * bend * clock_frequency_hz(speed_m_s)) % 1.0
    strike = 0.5 * (jnp.floor(2.0 * phase) + 1.0)
    finishing = jnp.minimum(phase + dt_s * _LAST_STEP_HZ, strike) % 1.0
    return jnp.where(standing(speed_m_s), jnp.where(_at_strike(phase), phase, finishing), walking)


def _at_strike(phase: Array) -> Array:
    return (2.0 * phase) % 1.0 < _AT_STRIKE
