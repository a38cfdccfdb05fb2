"""Reward terms of the exoskeleton actor: what the wearer spends, what the device takes over of it, how it does that.

Nothing here shapes the torque over the gait cycle: no phase, no profile, no reference controller. `relief` says what a
person's effort cannot say before the person has adapted: muscles that have got used to the device make the moment that
is left over, m − τ for a hip that needs m, so the squared moment falls by 2·m·τ for a small torque. Paid for power and
squared activations alone, a device pushed as hard as it could in the direction of motion, in late stance against the
hip flexors, and these worked harder than without it. What muscles spend and how active they are is worth the more, the
less noise it drowns in: a device that looks a second and more ahead (`discount`) learns little from either. In trials
on one seed, with half this price of metabolic rate, none of activation and more paid for power, people saved 4.7 % of
the metabolic rate and 2 % of the activation, and their hip muscles were 5 % more active than without a device; with
both prices, and `agreement` at 2, all three fell: by 5.1, 6 and 4 %. Not measured one by one.

Behind the low-pass of `device_side`, two seeds, `relief` at 12 and at 22 saved 7.4 and 7.4 % of the metabolic rate, 5.4
and 4.7 of the activation, 2.9 and 4.2 of that of the hip muscles, 17 and 19 of the positive power, with 95 and 90 % of
the device's work in the direction of motion; what is set lies in between, because that share has to stay above 90.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from mjx_exo.walking.commands import standing

TERMS = ("metabolic", "activation", "joint_power", "relief", "heat", "agreement", "smoothness", "standing", "alive")

_METABOLIC = -1.2  # per W/kg that all muscles together spend
_ACTIVATION = -40.0  # per mean activation of all muscles, each counting alike
_JOINT_POWER = -0.15  # per W/kg of positive biological joint power
_RELIEF = 18.0  # per (Nm/kg)² of device torque times biological hip moment, both hips together
_HEAT = -30.0  # per (Nm/kg)² of squared device torque, both hips together: what a motor loses grows with its square
_AGREEMENT = 2.5  # per W/kg of positive device power
_BRAKING = 3.0  # what a W/kg of negative device power costs, relative to what a positive one gains
_SMOOTHNESS = -3.0  # per squared change of the wanted torque, in torque limits: what a student has to imitate
_STANDING = -10.0  # per squared torque request, in torque limits, while the wearer is to stand still
_ALIVE = 13.0  # more than everything else costs, or falling early would pay
_METABOLIC_W_KG = 40.0  # catching oneself costs this much for a moment; more is no worse


def reward_terms(
    before: Any, after: Any, limits: Any, body_mass_kg: Array, hip_moment_nm_kg: Array, metabolic_w_kg: Array
) -> dict[str, Array]:
    """Weighted terms [N] of one control step; `before` and `after` are environment states.

    `hip_moment_nm_kg` [N, 2]: of muscles and passive structures, flexion positive.
    `metabolic_w_kg` [N]: what all muscles together spend.
    """
    readings = after.readings
    positive = readings.exo_positive_power_w.sum(-1) / body_mass_kg
    negative = (readings.exo_positive_power_w - readings.exo_power_w).sum(-1) / body_mass_kg
    change = (after.exo.wanted_nm - before.exo.wanted_nm) / limits.limit_nm
    torque_nm_kg = after.physics.exo_torque_nm / body_mass_kg[:, None]
    return {
        "metabolic": _METABOLIC * jnp.minimum(metabolic_w_kg, _METABOLIC_W_KG),
        "activation": _ACTIVATION * after.physics.activation.mean(-1),
        "joint_power": _JOINT_POWER * readings.positive_power_w.sum(-1) / body_mass_kg,
        "relief": _RELIEF * (torque_nm_kg * hip_moment_nm_kg).sum(-1),
        "heat": _HEAT * (torque_nm_kg**2).sum(-1),
        "agreement": _AGREEMENT * (positive - _BRAKING * negative),
        "smoothness": _SMOOTHNESS * (change**2).sum(-1),
        "standing": _STANDING
        * standing(after.command.speed_m_s)
        * ((after.exo.requested_nm / limits.limit_nm) ** 2).sum(-1),
        "alive": jnp.full_like(body_mass_kg, _ALIVE),
    }
