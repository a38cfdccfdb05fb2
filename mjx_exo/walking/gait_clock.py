"""The gait clock: when each leg should stand and swing.

Its frequency follows the commanded speed by construction. For standing it runs on, step by step, until a heel lands
beside the other, as people come to a stop, and is held there; a walk begins with the swing of the other leg.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.commands import standing
from mjx_exo.walking.features import Kinematics
from mjx_exo.walking.state import EnvState

_CLOCK_HZ, _CLOCK_SPEED = 0.91, 1.25  # stride frequency at a speed; it grows with the square root of the speed
_LAST_STEP_HZ = 0.7  # while the last steps before standing are made
_LAST_STEPS_M_S = (0.1, 0.35)  # how fast one should still be in them
_BESIDE_M = 0.15  # heels that are no further apart than this, forwards, stand beside each other
_AT_STRIKE = 1e-4  # phase is single precision


def clock_frequency_hz(speed_m_s: Array) -> Array:
    """Stride frequency [N] in Hz of the gait clock at commanded speeds [N] (by construction, not learned)."""
    return _CLOCK_HZ * jnp.sqrt(jnp.maximum(speed_m_s, 0.2) / _CLOCK_SPEED)


def beside(k: Kinematics) -> Array:
    """[N] True where the heels are beside each other."""
    return jnp.abs(k.heel_m[:, 0, 0] - k.heel_m[:, 1, 0]) <= _BESIDE_M


def held(state: EnvState, k: Kinematics) -> Array:
    """[N] True where the clock is held because the walker should stand."""
    return standing(state.command.speed_m_s) & _at_strike(state.phase) & beside(k)


def expected_speed(state: EnvState, k: Kinematics) -> Array:
    """Speed [N] in m/s that a walker is judged against: the commanded one, or in the last steps any slow one forwards.

    Who is to brake at once does so in the middle of a step, with the weight behind the feet, and falls backwards.
    """
    arriving = standing(state.command.speed_m_s) & ~held(state, k)
    return jnp.where(arriving, jnp.clip(state.speed_filtered_m_s, *_LAST_STEPS_M_S), state.command.speed_m_s)


def advance_clock(phase: Array, speed_m_s: Array, bend: Array, feet_beside: Array, dt_s: float) -> Array:
    """Phase [N] of the right leg, 0…1, one control step later.

    speed_m_s: [N] commanded. bend: [N] relative speed of the clock that the policy asked for. feet_beside: [N] bool.
    """
    walking = (phase + dt_s * bend * clock_frequency_hz(speed_m_s)) % 1.0
    strike = 0.5 * (jnp.floor(2.0 * phase) + 1.0)
    finishing = jnp.minimum(phase + dt_s * _LAST_STEP_HZ, strike) % 1.0
    return jnp.where(standing(speed_m_s), jnp.where(_at_strike(phase) & feet_beside, phase, finishing), walking)


def _at_strike(phase: Array) -> Array:
    return (2.0 * phase) % 1.0 < _AT_STRIKE
