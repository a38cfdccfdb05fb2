"""Reward terms of the exoskeleton actor: the wearer's effort, what it takes over of it, a torque with the motion.

Nothing here shapes the torque over the gait cycle: no phase, no profile, no reference controller. `relief` says what a
person's effort cannot say before the person has adapted: muscles that have got used to the device make the moment that
is left over, m − τ for a hip that needs m, so the squared moment falls by 2·m·τ for a small torque. Without it a device
that meets a steady person seeks power alone: it pushed 200 ms after the hip's own moment, in late stance against it,
and the hip flexors worked harder than without.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.commands import standing

TERMS = ("effort", "joint_power", "relief", "agreement", "smoothness", "standing", "alive")

_EFFORT = -20.0  # per mean squared activation
_JOINT_POWER = -0.15  # per W/kg of positive biological joint power
_RELIEF = 12.0  # per (Nm/kg)² of device torque times biological hip moment, both hips together
_AGREEMENT = 4.0  # per W/kg of device power, negative power counting three times
_SMOOTHNESS = -8.0  # per squared change of the wanted torque, in torque limits: what a student has to imitate
_STANDING = -10.0  # per squared torque request, in torque limits, while the wearer is to stand still
_ALIVE = 1.5  # more than everything else costs, or falling early would pay


def reward_terms(
    before: Any, after: Any, limits: Any, body_mass_kg: Array, hip_moment_nm_kg: Array
) -> dict[str, Array]:
    """Weighted terms [N] of one control step; `before` and `after` are environment states.

    `hip_moment_nm_kg` [N, 2]: of muscles and passive structures, flexion positive.
    """
    readings = after.readings
    positive = readings.exo_positive_power_w.sum(-1) / body_mass_kg
    negative = (readings.exo_positive_power_w - readings.exo_power_w).sum(-1) / body_mass_kg
    change = (after.exo.wanted_nm - before.exo.wanted_nm) / limits.limit_nm
    torque_nm_kg = after.physics.exo_torque_nm / body_mass_kg[:, None]
    return {
        "effort": _EFFORT * (after.physics.activation**2).mean(-1),
        "joint_power": _JOINT_POWER * readings.positive_power_w.sum(-1) / body_mass_kg,
        "relief": _RELIEF * (torque_nm_kg * hip_moment_nm_kg).sum(-1),
        "agreement": _AGREEMENT * (positive - 3.0 * negative),
        "smoothness": _SMOOTHNESS * (change**2).sum(-1),
        "standing": _STANDING
        * standing(after.command.speed_m_s)
        * ((after.exo.requested_nm / limits.limit_nm) ** 2).sum(-1),
        "alive": jnp.full_like(body_mass_kg, _ALIVE),
    }
