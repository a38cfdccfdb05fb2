"""The gait clock: when each leg should stand and swing.

Its frequency follows the commanded speed by construction. For standing it runs on, step by step, until a heel lands
beside the other with the weight between heels and toes, as people come to a stop, and is held there; a walk begins with
the swing of the other leg. Who loses balance while standing takes another step.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.commands import standing
from mjx_exo.walking.features import Kinematics
from mjx_exo.walking.pacing import aim
from mjx_exo.walking.state import EnvState

_CLOCK_HZ, _CLOCK_SPEED = 0.91, 1.25  # stride frequency at a speed; it grows with the square root of the speed
# Below 1.25 m/s it falls off along this line instead. By the root it is 0.63 Hz at 0.6 m/s, where a step is 0.8 s of
# balance on one leg: uphill at 6 degrees two in five fell within 20 s, with 0.75 Hz one in eight.
_SLOW_HZ, _SLOW_HZ_PER_M_S = 0.61, 0.24
_LAST_STEP_HZ = 0.9  # in the last steps before standing; at 0.7 and at 1.1 fewer came to stand
_LAST_STEPS_M_S = (0.1, 0.35)  # how fast one should still be in them
_BESIDE_M = 0.2  # heels that are no further apart than this, forwards, stand beside each other
_AT_STRIKE = 1e-4  # phase is single precision
_COM_BEHIND_M = 0.05  # the centre of mass of the standing published body lies this far behind the pelvis' origin
_LEGS_SHARE = 0.1  # how much of it follows the feet when they are put forward
_BRAKE_M_S = 1.3  # times the slope: so much slower than standing still is asked of who comes to a stop downhill
_SWAY_RAD_S = 3.2  # eigenfrequency of a standing person as an inverted pendulum (Hof, Gazendam & Sinke 2005)
_STEADY = (0.0, 1.0)  # where the extrapolated centre of mass may be without another step: from heels to toes


def clock_frequency_hz(speed_m_s: Array) -> Array:
    """Stride frequency [N] in Hz of the gait clock at commanded speeds [N] (by construction, not learned)."""
    root = _CLOCK_HZ * jnp.sqrt(jnp.maximum(speed_m_s, 0.0) / _CLOCK_SPEED)
    return jnp.maximum(root, _SLOW_HZ + _SLOW_HZ_PER_M_S * speed_m_s)


def beside(k: Kinematics) -> Array:
    """[N] True where the heels are beside each other."""
    return jnp.abs(k.heel_m[:, 0, 0] - k.heel_m[:, 1, 0]) <= _BESIDE_M


def balance(k: Kinematics, slope_rad: Array) -> Array:
    """[N] Where the extrapolated centre of mass lies along the feet: 0 at the heels, 1 at the tips of the toes.

    It is the centre of mass plus its velocity over the eigenfrequency of the pendulum that a standing person is; beyond
    0 or 1 no moment of the ankles saves from a step (Hof, Gazendam & Sinke, J. Biomech. 38, 2005). slope_rad: [N].
    """
    pelvis, heels, toes = k.position_m[:, 0], k.heel_m[..., 0].mean(-1), k.toe_m[..., 0].mean(-1)
    com = pelvis - _COM_BEHIND_M + _LEGS_SHARE * (heels - pelvis) - k.position_m[:, 2] * jnp.tan(slope_rad)
    return (com + k.velocity_m_s[:, 0] / _SWAY_RAD_S - heels) / jnp.maximum(toes - heels, 0.1)


def may_stand(k: Kinematics, slope_rad: Array) -> Array:
    """[N] True where no further step is due: the heels are beside each other and the weight is above the feet."""
    where = balance(k, slope_rad)
    return beside(k) & (where >= _STEADY[0]) & (where <= _STEADY[1])


def held(state: EnvState, k: Kinematics) -> Array:
    """[N] True where the clock is held because the walker should stand."""
    return standing(state.command.speed_m_s) & _at_strike(state.phase) & may_stand(k, state.command.slope_rad)


def arriving(state: EnvState, k: Kinematics) -> Array:
    """[N] True in the last steps before standing."""
    return standing(state.command.speed_m_s) & ~held(state, k)


def told_speed(state: EnvState, k: Kinematics) -> Array:
    """Speed [N] in m/s that a walker is told: its aim, and in the last steps downhill a little less than none.

    Told to stand still there, a fifth of them went on stepping below -4 degrees; with this, one in fourteen.
    """
    brake = _BRAKE_M_S * jnp.minimum(state.command.slope_rad, 0.0)
    return aim(state.command, state.pacing_m_s) + jnp.where(arriving(state, k), brake, 0.0)


def expected_speed(state: EnvState, k: Kinematics) -> Array:
    """Speed [N] in m/s that a walker is judged against: its aim, or in the last steps any slow one forwards.

    Who is to brake at once does so in the middle of a step, with the weight behind the feet, and falls backwards.
    """
    last_steps = jnp.clip(state.speed_filtered_m_s, *_LAST_STEPS_M_S)
    return jnp.where(arriving(state, k), last_steps, aim(state.command, state.pacing_m_s))


def advance_clock(phase: Array, speed_m_s: Array, bend: Array, may_stand: Array, dt_s: float) -> Array:
    """Phase [N] of the right leg, 0…1, one control step later.

    speed_m_s: [N] commanded. bend: [N] relative speed of the clock that the policy asked for. may_stand: [N] bool.
    """
    walking = (phase + dt_s * bend * clock_frequency_hz(speed_m_s)) % 1.0
    strike = 0.5 * (jnp.floor(2.0 * phase) + 1.0)
    finishing = jnp.minimum(phase + dt_s * _LAST_STEP_HZ, strike) % 1.0
    return jnp.where(standing(speed_m_s), jnp.where(_at_strike(phase) & may_stand, phase, finishing), walking)


def _at_strike(phase: Array) -> Array:
    return (2.0 * phase) % 1.0 < _AT_STRIKE
