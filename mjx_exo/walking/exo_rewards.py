"""Reward terms of the exoskeleton actor: the wearer's effort, and a torque that moves with the joint.

Nothing here shapes the torque over the gait cycle: no phase, no profile, no reference controller.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.commands import standing

TERMS = ("effort", "joint_power", "agreement", "smoothness", "standing", "alive")

_EFFORT = -20.0  # per mean squared activation
_JOINT_POWER = -0.15  # per W/kg of positive biological joint power
_AGREEMENT = 2.0  # per W/kg of device power, negative power counting three times
_SMOOTHNESS = -8.0  # per squared change of the wanted torque, in torque limits: what a student has to imitate
_STANDING = -10.0  # per squared torque request, in torque limits, while the wearer is to stand still
_ALIVE = 1.5  # more than everything else costs, or falling early would pay


def reward_terms(before: Any, after: Any, limits: Any, body_mass_kg: Array) -> dict[str, Array]:
    """Weighted terms [N] of one control step; `before` and `after` are environment states."""
    readings = after.readings
    positive = readings.exo_positive_power_w.sum(-1) / body_mass_kg
    negative = (readings.exo_positive_power_w - readings.exo_power_w).sum(-1) / body_mass_kg
    change = (after.exo.wanted_nm - before.exo.wanted_nm) / limits.limit_nm
    return {
        "effort": _EFFORT * (after.physics.activation**2).mean(-1),
        "joint_power": _JOINT_POWER * readings.positive_power_w.sum(-1) / body_mass_kg,
        "agreement": _AGREEMENT * (positive - 3.0 * negative),
        "smoothness": _SMOOTHNESS * (change**2).sum(-1),
        "standing": _STANDING
        * standing(after.command.speed_m_s)
        * ((after.exo.requested_nm / limits.limit_nm) ** 2).sum(-1),
        "alive": jnp.full_like(body_mass_kg, _ALIVE),
    }
