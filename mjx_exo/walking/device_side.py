"""The device's controller as the simulation plays it: its ticks, the limiter, and the way to the actuator."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mjx_exo.device import DeviceProfile, limit_torque, velocity_ahead
from mjx_exo.walking.state import Exo

LATEST_ANSWER_S = 0.01
"""An answer reaches the controller up to this long after its sample was taken, and at the latest with the next one."""
SMOOTHING_S = 0.07
"""Time constant of the low-pass behind a learned actor.

Exploration and learning then move the torque slowly and far, instead of fast and little. In trials on two seeds, people
saved 5.0 % of the metabolic rate, 3.4 % of the activation and 12 % of the positive power without it and with half the
`STEEPNESS`; with both, 7.4, 5.4 and 17 %. A tenfold price on changes of the torque on top saved less (5.6, 2.7, 17),
and so did 0.12 s with twice this steepness (6.6, 3.2, 18).
"""
STEEPNESS = 1.0  # of the way from an action to a share of the torque limit, at zero
GOLDEN = 0.5 * (5.0**0.5 - 1.0)  # its multiples are spread evenly over 0 to 1, however many


class DeviceSide:
    """An active device on N wearers of `body_mass_kg` [N]; torques in Nm, right and left, flexion positive.

    As on the device, the limiter measures from the torque that the newest sample says is applied and allows what the
    rate limit does until the next answer arrives, one period and the lateness of answers later; the controller moves
    towards the newest answer at that rate. The N links are late by times spread evenly over 0 to `LATEST_ANSWER_S`, the
    first by none.
    """

    def __init__(self, profile: DeviceProfile, body_mass_kg: Array, control_dt_s: float):
        self.ticks = max(1, round(control_dt_s * profile.link.rate_hz))  # of the controller in one control step
        self.tick_s = control_dt_s / self.ticks
        self.delay_ticks = max(1, round(profile.actuator.delay_s * profile.link.rate_hz))
        limits = jax.tree.map(jnp.asarray, profile.limits(body_mass_kg))
        self.limits = limits._replace(limit_nm=limits.limit_nm[:, None])
        spread = np.modf(np.arange(len(body_mass_kg)) * GOLDEN)[0][:, None]
        self.late_s = jnp.asarray(spread * min(LATEST_ANSWER_S, self.tick_s), jnp.float32)  # [N, 1]

    def torque(self, action: Array) -> Array:
        """What an exoskeleton action [N, 2] in right–left order aims at, [N, 2]."""
        return jnp.tanh(STEEPNESS * action) * self.limits.limit_nm

    @staticmethod
    def smoothed(wanted_nm: Array, aim_nm: Array, time_s: float) -> Array:
        """The torque [N, 2] that a learned actor wants, `time_s` later: nearer to what it aims at, [N, 2]."""
        return wanted_nm + (1.0 - math.exp(-time_s / SMOOTHING_S)) * (aim_nm - wanted_nm)

    def pass_on(self, exo: Exo, wanted_nm: Array, hip_velocity_rad_s: Array) -> tuple[Exo, Array]:
        """One tick: the wanted torque [N, 2] goes through the limiter and on its way; out comes what arrives [N, 2]."""
        answer_s = self.tick_s + self.late_s  # from the sample until the next answer arrives
        velocity = velocity_ahead(hip_velocity_rad_s, exo.hip_velocity_rad_s, self.tick_s, answer_s + self.limits.lag_s)
        requested = limit_torque(self.limits, wanted_nm, exo.applied_nm, velocity, answer_s)
        applied = self._towards(exo.requested_nm, exo.applied_nm, self.late_s)  # while the answer is on its way
        applied = self._towards(requested, applied, self.tick_s - self.late_s)
        arrived = exo.delayed_nm[:, 0]
        delayed = jnp.concatenate([exo.delayed_nm[:, 1:], applied[:, None]], 1)
        return Exo(wanted_nm, requested, applied, delayed, hip_velocity_rad_s), arrived

    def _towards(self, command_nm: Array, applied_nm: Array, time_s: Array) -> Array:
        step = self.limits.rate_limit_nm_s * time_s
        return applied_nm + jnp.clip(command_nm - applied_nm, -step, step)
