"""MuJoCo's muscle, written once for every engine.

The published bodies are MuJoCo muscle models, so their curves are the reference and parity with `mujoco` is a test.
The same source serves arrays in JAX (the accelerator path), arrays in numpy (analysis) and, compiled by numba, the
scalar loop of the native engine: `muscle_functions` takes the array module and an optional compiler.

Curves and parameters: MuJoCo documentation, "Muscle actuators" (FLV). Lengths are in optimal lengths L0, velocities in
`vmax`·L0 per second, shortening negative; forces are tension, positive, in units of peak force F0.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


class MuscleParameters(NamedTuple):
    """Constants of M muscles, each an array of shape [M] (a pytree for JAX)."""

    peak_force_n: Any
    optimal_length_m: Any  # L0
    rest_length_m: Any  # path length at which the normalised length is zero
    length_min: Any  # L0, active force is zero below
    length_max: Any  # L0, active force is zero above
    velocity_max: Any  # L0/s
    passive_max: Any  # F0; passive force is half of it halfway to length_max, 1.5 times it at length_max
    eccentric_max: Any  # active force at saturating lengthening, F0
    tau_activation_s: Any
    tau_deactivation_s: Any


def muscle_functions(xp: Any, compile: Callable[[Callable], Callable] = lambda f: f) -> SimpleNamespace:
    """Muscle curves for one array module.

    Args:
      xp: `numpy`, `jax.numpy`, or anything with their `where`, `minimum`, `maximum` and `exp`.
      compile: applied to each function; `numba.njit` for the native engine (scalars then).

    Returns:
      A namespace of elementwise functions: `active_length`, `active_velocity`, `active_velocity_slope`, `passive`,
      `activate` and `tension`.
    """
    where, minimum, maximum, exp = xp.where, xp.minimum, xp.maximum, xp.exp

    @compile
    def active_length(length, length_min, length_max):
        """Active force–length FL in F0; `length` in L0."""
        a = 0.5 * (length_min + 1.0)
        b = 0.5 * (1.0 + length_max)
        rising = (length - length_min) / (a - length_min)
        left = (1.0 - length) / (1.0 - a)
        right = (length - 1.0) / (b - 1.0)
        falling = (length_max - length) / (length_max - b)
        inner = where(length < 1.0, 1.0 - 0.5 * left * left, 1.0 - 0.5 * right * right)
        outer = where(length < a, 0.5 * rising * rising, inner)
        outer = where(length >= b, 0.5 * falling * falling, outer)
        return where((length < length_min) | (length > length_max), 0.0, outer)

    @compile
    def active_velocity(velocity, eccentric_max):
        """Active force–velocity FV in F0; `velocity` in vmax·L0/s, lengthening positive."""
        y = eccentric_max - 1.0
        shortening = where(velocity <= -1.0, 0.0, (velocity + 1.0) * (velocity + 1.0))
        lengthening = where(velocity <= y, eccentric_max - (y - velocity) * (y - velocity) / y, eccentric_max)
        return where(velocity <= 0.0, shortening, lengthening)

    @compile
    def active_velocity_slope(velocity, eccentric_max):
        """d FV / d velocity, never negative."""
        y = eccentric_max - 1.0
        shortening = where(velocity <= -1.0, 0.0, 2.0 * (velocity + 1.0))
        lengthening = where(velocity <= y, 2.0 * (y - velocity) / y, 0.0)
        return where(velocity <= 0.0, shortening, lengthening)

    @compile
    def passive(length, length_max, passive_max):
        """Passive force–length FP in F0, tension positive: half quadratic, then linear from halfway to `length_max`."""
        b = 0.5 * (1.0 + length_max)
        stretch = (length - 1.0) / (b - 1.0)
        beyond = (length - b) / (b - 1.0)
        quadratic = 0.5 * passive_max * stretch * stretch
        linear = passive_max * (0.5 + beyond)
        return where(length <= 1.0, 0.0, where(length <= b, quadratic, linear))

    @compile
    def activate(activation, excitation, tau_activation_s, tau_deactivation_s, dt_s):
        """Activation after `dt_s` under constant excitation (both 0…1).

        MuJoCo's first-order dynamics with its activation-dependent time constant, integrated exactly for the time
        constant at the start of the step, so that steps longer than the time constant stay stable.
        """
        target = minimum(maximum(excitation, 0.0), 1.0)
        speed = 0.5 + 1.5 * minimum(maximum(activation, 0.0), 1.0)
        tau = where(target > activation, tau_activation_s * speed, tau_deactivation_s / speed)
        return activation + (target - activation) * (1.0 - exp(-dt_s / tau))

    @compile
    def tension(activation, length_m, velocity_m_s, peak_n, optimal_m, rest_m, l_min, l_max, v_max, p_max, e_max):
        """Muscle tension in N and its derivative with respect to path velocity in N·s/m (never negative)."""
        length = (length_m - rest_m) / optimal_m
        velocity = velocity_m_s / (optimal_m * v_max)
        gain = peak_n * activation * active_length(length, l_min, l_max)
        force = gain * active_velocity(velocity, e_max) + peak_n * passive(length, l_max, p_max)
        slope = gain * active_velocity_slope(velocity, e_max) / (optimal_m * v_max)
        return force, slope

    return SimpleNamespace(
        active_length=active_length,
        active_velocity=active_velocity,
        active_velocity_slope=active_velocity_slope,
        passive=passive,
        activate=activate,
        tension=tension,
    )


def parameters_from_mujoco(model: Any, actuators: list[int]) -> MuscleParameters:
    """Reads `MuscleParameters` (float64, shape [M]) of the given actuator ids from a published `mujoco.MjModel`.

    MuJoCo defines L0 and the rest length from `lengthrange` and the first two gain parameters:
    L0 = (lr1 − lr0)/(r1 − r0), rest = lr0 − r0·L0.
    """
    gain = np.array(model.actuator_gainprm[actuators], dtype=np.float64)
    length_range = np.array(model.actuator_lengthrange[actuators], dtype=np.float64)
    dynamics = np.array(model.actuator_dynprm[actuators], dtype=np.float64)
    optimal = (length_range[:, 1] - length_range[:, 0]) / (gain[:, 1] - gain[:, 0])
    return MuscleParameters(
        peak_force_n=gain[:, 2].copy(),
        optimal_length_m=optimal,
        rest_length_m=length_range[:, 0] - gain[:, 0] * optimal,
        length_min=gain[:, 4].copy(),
        length_max=gain[:, 5].copy(),
        velocity_max=gain[:, 6].copy(),
        passive_max=gain[:, 7].copy(),
        eccentric_max=gain[:, 8].copy(),
        tau_activation_s=dynamics[:, 0].copy(),
        tau_deactivation_s=dynamics[:, 1].copy(),
    )
