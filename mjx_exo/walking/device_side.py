"""The device's controller as the simulation plays it: its ticks, the limiter, and the way to the actuator."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from mjx_exo.device import DeviceProfile, limit_torque
from mjx_exo.walking.state import Exo


class DeviceSide:
    """An active device on N wearers of `body_mass_kg` [N]; torques in Nm, right and left, flexion positive."""

    def __init__(self, profile: DeviceProfile, body_mass_kg: Array, control_dt_s: float):
        self.ticks = max(1, round(control_dt_s * profile.link.rate_hz))  # of the controller in one control step
        self.tick_s = control_dt_s / self.ticks
        self.delay_ticks = max(1, round(profile.actuator.delay_s * profile.link.rate_hz))
        limits = jax.tree.map(jnp.asarray, profile.limits(body_mass_kg))
        self.limits = limits._replace(limit_nm=limits.limit_nm[:, None])

    def torque(self, action: Array) -> Array:
        """Desired torque [N, 2] of an exoskeleton action [N, 2] in right–left order."""
        return jnp.tanh(0.5 * action) * self.limits.limit_nm

    def pass_on(self, exo: Exo, wanted_nm: Array, hip_velocity_rad_s: Array) -> tuple[Exo, Array]:
        """One tick: the wanted torque [N, 2] goes through the limiter and on its way; out comes what arrives [N, 2]."""
        requested = limit_torque(self.limits, wanted_nm, exo.requested_nm, hip_velocity_rad_s, self.tick_s)
        arrived = exo.delayed_nm[:, 0]
        return Exo(requested, jnp.concatenate([exo.delayed_nm[:, 1:], requested[:, None]], 1)), arrived
