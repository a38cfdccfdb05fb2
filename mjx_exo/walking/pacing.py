"""How a walker keeps to a commanded speed: as long as it is slower, it aims higher, as people on a treadmill do.

What a walker earns for the last few hundredths of a metre per second never quite pays for their effort, so alone it
stays a little slow, above all in slow walks and on steep slopes. The aim is what it sees and is rewarded for; the
command is what it is judged by. An integral takes out what is constant and nothing else.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.commands import SLOWEST_WALK_M_S, Command, standing

PACING_LIMIT_M_S = 0.15  # how far aim and command may differ


def advance_pacing(
    pacing_m_s: Array, command: Command, speed_filtered_m_s: Array, rate_per_s: float, dt_s: float
) -> Array:
    """Aim beyond the command [N], one control step later; 0 while standing, unchanged while the command changes."""
    error = jnp.clip(command.speed_m_s - speed_filtered_m_s, -PACING_LIMIT_M_S, PACING_LIMIT_M_S)
    steady = command.speed_m_s == command.speed_target_m_s
    moved = pacing_m_s + dt_s * rate_per_s * jnp.where(steady, error, 0.0)
    return jnp.where(standing(command.speed_m_s), 0.0, jnp.clip(moved, -PACING_LIMIT_M_S, PACING_LIMIT_M_S))


def aim(command: Command, pacing_m_s: Array) -> Array:
    """[N] in m/s, the speed that a walker is told; pacing alone makes nobody walk more slowly than the slowest walk."""
    slowest = jnp.minimum(command.speed_m_s, SLOWEST_WALK_M_S)
    told = jnp.maximum(command.speed_m_s + pacing_m_s, slowest)
    return jnp.where(standing(command.speed_m_s), command.speed_m_s, told)
