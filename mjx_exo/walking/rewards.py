"""Reward terms of the human actor: named, unweighted, per environment.

No motion capture and no norm curve is in here. The gait clock rewards a loaded, still foot in its stance phase and an
unloaded one in swing, and two loaded, still feet while the clock is held for standing; everything else is what a
walker pays for: effort, limits, impact, not going where asked.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from mjx_exo.physics.interface import Readings
from mjx_exo.walking.commands import standing
from mjx_exo.walking.config import RewardWeights
from mjx_exo.walking.features import Kinematics

STANCE = (0.02, 0.46)  # share of the gait cycle in which a foot should carry load
SWING = (0.50, 0.98)  # share in which it should not
PASSING = (0.68, 0.93)  # share in which the toes should pass well above the floor
# In which share the heel of a foot in the air should be lower than its toes. It ends before the foot is due: as long as
# reaching out was rewarded beyond that, feet landed 4 % of a cycle late, and left the floor late. Rewarded from 0.84
# on, knees are stretched 4 % early, and keep that.
REACHING = (0.875, 0.98)
# Toes above the heel at heel strike: people's feet land at 15 to 20 degrees. Whoever pulls them up further, up to the
# joint's limit, slaps them down.
_TOES_UP_M, _TOES_TOO_FAR_UP_M = 0.05, 0.08
_FOOT_M = 0.2  # from the heel to the toes, which dorsiflexion lifts above the heel by this per radian
_TOE_HEIGHT_M = 0.025  # of the toe joint: published feet with toes and shoes need this much
_CLEAR_M = 0.10  # lateral distance of the feet's middles at which shoes pass each other freely
_ARRIVING = 0.6  # what a step before standing is worth, and its speed, relative to one in a walk
_LANDING = 3.0  # how many steps in the air the moment of landing counts for
_TOUCHED_BW = 0.05  # a foot that carries this much has landed
_STANDING_BW = 0.3  # standing, each foot should carry at least this much
_MIDDLE, _FREE_SWAY = 0.4, 0.1  # where along the feet the weight should be, and how far off costs nothing
_LOADING_BW = 0.2  # change of a foot's load per control step that costs nothing: people take 0.1 s to load a leg
# Passive tissue resists from about here on (Riener & Edrich, J. Biomech. 32, 1999); the model's is slack to its limits.
_CALF_SLACK_RAD = 0.05  # dorsiflexion
_KNEE_SLACK_RAD = 0.14  # flexion; the back of the knee is stretched below it
_HIP_SLACK_RAD = -0.14  # flexion; the front of the hip is stretched below it
_RETURN_RAD_M, _RETURN_RAD = 0.3, 0.2  # course back to the line per metre beside it, and at most
_METABOLIC_W_KG = 40.0  # catching oneself costs this much for a moment; more is no worse
_LOADED_BW = 0.4  # in stance, a foot with this much of body weight counts as fully loaded
_DRAGGED_BW = 0.2  # in swing, one with this much counts as not lifted at all


class RewardInputs(NamedTuple):
    """What the terms are computed from. N environments; [right, left] pairs."""

    kinematics: Kinematics
    readings: Readings
    load_before_bw: Array  # [N, 2] vertical, one control step ago
    activation: Array  # [N, M]
    muscle_share: Array  # [M], of the muscles' volume, mean 1
    action: Array  # [N, A]
    previous_action: Array  # [N, A]
    body_weight_n: Array  # [N]
    speed_filtered_m_s: Array  # [N]
    speed_command_m_s: Array  # [N]
    leg_phase: Array  # [N, 2] gait phase of each leg, 0…1
    held: Array  # [N] True where the clock is held: standing
    arriving: Array  # [N] True in the last steps before standing
    balance: Array  # [N] where the extrapolated centre of mass lies: 0 at the heels, 1 at the toes
    hip_rotation_rad: Array  # [N, 2]
    hip_rad: Array  # [N, 2] flexion
    knee_rad: Array  # [N, 2] flexion
    ankle_rad: Array  # [N, 2] dorsiflexion
    impact_free_bw: Array  # scalar: vertical force per foot that costs nothing
    metabolic_w_kg: Array  # [N] what the muscles spend


def clock_agreement(phase: Array, load_bw: Array, foot_speed_m_s: Array, arriving: Array) -> Array:
    """0…1 per leg: in stance, loaded and still; in swing, unloaded; free in between. All [N, 2]; arriving [N] bool.

    The steps before standing are worth less than standing: who earned as much in them would go on for ever.
    """
    loaded = jnp.clip(load_bw / _LOADED_BW, 0.0, 1.0)
    lifted = 1.0 - jnp.clip(load_bw / _DRAGGED_BW, 0.0, 1.0)
    stance = (phase >= STANCE[0]) & (phase < STANCE[1])
    swing = (phase >= SWING[0]) & (phase < SWING[1])
    still = jnp.exp(-4.0 * foot_speed_m_s**2)
    agreement = jnp.where(stance, loaded * still, jnp.where(swing, lifted, 0.5))
    return agreement * jnp.where(arriving, _ARRIVING, 1.0)[:, None]


def speed_agreement(error_m_s: Array) -> Array:
    """0…1 for going as fast as expected; [N].

    Broad enough to find the way from standing, narrow enough to come close; the cusp at zero, because what is smooth
    there gives the last tenth of the speed away to effort.
    """
    close = 0.3 * jnp.exp(-40.0 * error_m_s**2) + 0.3 * jnp.exp(-10.0 * jnp.abs(error_m_s))
    return 0.4 * jnp.exp(-3.0 * error_m_s**2) + close


def heel_agreement(
    phase: Array, load_bw: Array, load_before_bw: Array, toe_above_heel_m: Array, ankle_rad: Array
) -> Array:
    """Per leg that is about to land, up to 1 with the toes 5 to 8 cm above the heel, and at the landing itself a cost
    for what is missing: who only pays before would slap the toes down in the last moment. All [N, 2].

    ankle_rad: dorsiflexion. What it adds to the toes' height earns nothing: a leg that reaches out does.
    """
    pulled_up_m = _FOOT_M * jnp.maximum(ankle_rad, 0.0)
    too_far = jnp.maximum(toe_above_heel_m - _TOES_TOO_FAR_UP_M, 0.0) / _TOES_UP_M
    up = jnp.clip((toe_above_heel_m - pulled_up_m) / _TOES_UP_M, -3.0, 1.0) - too_far
    in_air = load_bw < _TOUCHED_BW
    reaching = (phase > REACHING[0]) & (phase < REACHING[1]) & in_air
    landing = (load_before_bw < _TOUCHED_BW) & ~in_air
    return reaching * up + _LANDING * landing * (up - 1.0)


def heading_agreement(offset_m: Array, yaw_rad: Array, sideways_m_s: Array, speed_m_s: Array) -> Array:
    """0…1 for going along the line y = 0, or back to it at up to 11 degrees; all [N], left positive."""
    course = -jnp.clip(_RETURN_RAD_M * offset_m, -_RETURN_RAD, _RETURN_RAD) * ~standing(speed_m_s)
    return jnp.exp(-8.0 * (sideways_m_s - speed_m_s * course) ** 2 - 6.0 * (yaw_rad - course) ** 2)


def standing_agreement(load_bw: Array, foot_speed_m_s: Array, balance: Array) -> Array:
    """0…1 per leg: loaded and still, the weight above the middle of the feet. [N, 2]; balance [N]."""
    off = jnp.maximum(jnp.abs(balance - _MIDDLE) - _FREE_SWAY, 0.0)[:, None]
    still = jnp.exp(-4.0 * foot_speed_m_s**2)
    return jnp.clip(load_bw / _STANDING_BW, 0.0, 1.0) * still * jnp.exp(-8.0 * off**2)


def stretch(hip_rad: Array, knee_rad: Array, ankle_rad: Array) -> Array:
    """[N] rad², how far the front of the hip, the back of the knee and the calf are stretched; [N, 2] each.

    Flexion and dorsiflexion positive, both legs together.
    """
    hip = jnp.maximum(_HIP_SLACK_RAD - hip_rad, 0.0)
    knee = jnp.maximum(_KNEE_SLACK_RAD - knee_rad, 0.0)
    calf = jnp.maximum(ankle_rad - _CALF_SLACK_RAD, 0.0)
    return (hip**2 + knee**2 + calf**2).sum(axis=-1)


def fatigue(activation: Array) -> Array:
    """[N] what tires muscles [N, M], small ones as much as large ones, one that works hard more than two that share it.

    With it predicted gaits are more human than with effort or energy, which by volume spare the calves (Ackermann &
    van den Bogert, J. Biomech. 43, 2010: the mean of the cubed activations).
    """
    return (activation**3).mean(axis=-1)


def pitching(angular_velocity_rad_s: Array) -> Array:
    """[N] rad²/s², how fast the trunk nods; its angular velocity [N, 3] in its own frame (forwards, left, up).

    People's pelvis pitches by two or three degrees in a step. A trunk that nods by ten with every swing takes the hip
    angles with it: 10 degrees too much flexion at the end of swing, and as much in the leg that stands meanwhile.
    """
    return angular_velocity_rad_s[:, 1] ** 2


def reward_terms(x: RewardInputs) -> dict[str, Array]:
    """Every term of `RewardWeights`, unweighted, [N] each."""
    k, r = x.kinematics, x.readings
    speed_error = x.speed_filtered_m_s - x.speed_command_m_s
    tilt_sq = k.up[:, 0] ** 2 + k.up[:, 1] ** 2
    load = r.foot_force_n[:, :, 2] / x.body_weight_n[:, None]
    foot_speed = jnp.minimum(
        jnp.linalg.norm(k.heel_velocity_m_s, axis=-1), jnp.linalg.norm(k.toe_velocity_m_s, axis=-1)
    )
    heel_first = heel_agreement(x.leg_phase, load, x.load_before_bw, k.toe_m[..., 2] - k.heel_m[..., 2], x.ankle_rad)
    # The skeleton's legs could pass through each other; a person's cannot.
    gaps = jnp.stack([place[:, 1, 1] - place[:, 0, 1] for place in (k.heel_m, k.toe_m)], -1)
    crowding = jnp.clip((_CLEAR_M - gaps) / _CLEAR_M, 0.0, 2.0)
    toe_height = k.toe_m[..., 2]
    passing = (x.leg_phase > PASSING[0]) & (x.leg_phase < PASSING[1])
    scuffing = passing * jnp.clip((_TOE_HEIGHT_M - toe_height) / _TOE_HEIGHT_M, 0.0, 2.0)
    return {
        "speed": speed_agreement(speed_error) * jnp.where(x.arriving, _ARRIVING, 1.0),
        "heading": heading_agreement(k.position_m[:, 1], k.yaw_rad, k.velocity_m_s[:, 1], x.speed_command_m_s),
        "upright": jnp.exp(-12.0 * tilt_sq),
        "clock": jnp.where(
            x.held[:, None],
            standing_agreement(load, foot_speed, x.balance),
            clock_agreement(x.leg_phase, load, foot_speed, x.arriving),
        ).mean(axis=-1),
        "alive": jnp.ones_like(speed_error),
        "heel_first": jnp.where(x.held[:, None], 0.0, heel_first).sum(axis=-1),
        # By volume: a large muscle costs more than a small one, which keeps the knee from being bent in stance.
        "effort": (x.muscle_share * x.activation**2).mean(axis=-1),
        "fatigue": fatigue(x.activation),
        # Keeping a muscle active costs heat in proportion to volume and activation (Umberger 2003).
        "maintenance": (x.muscle_share * x.activation).mean(axis=-1),
        # About the energy per distance: who walks fast has to spend more. Charged by distance alone, standing and slow
        # walking cost so much that people fell over and went 0.1 m/s too slowly.
        "metabolic": jnp.minimum(x.metabolic_w_kg, _METABOLIC_W_KG) / (0.5 + jnp.maximum(x.speed_command_m_s, 1.0)),
        "limits": jnp.abs(r.limit_moment_nm).sum(axis=-1),
        "impact": (jnp.maximum(load - x.impact_free_bw, 0.0) ** 2).sum(axis=-1),
        "loading": (jnp.maximum(jnp.abs(load - x.load_before_bw) - _LOADING_BW, 0.0) ** 2).sum(axis=-1),
        "stretch": stretch(x.hip_rad, x.knee_rad, x.ankle_rad),
        "rotation": (k.angular_velocity_rad_s**2).sum(axis=-1),
        "pitching": pitching(k.angular_velocity_rad_s),
        "smoothness": ((x.action - x.previous_action) ** 2).mean(axis=-1),
        "hip_rotation": (x.hip_rotation_rad**2).sum(axis=-1),
        "leg_clearance": (crowding**2).sum(axis=-1),
        "toe_clearance": (scuffing**2).sum(axis=-1),
    }


def weighted(
    terms: dict[str, Array], loose: RewardWeights, strict: RewardWeights, strictness: Array
) -> dict[str, Array]:
    """Terms times their weights, which go from loose to strict with `strictness` (0…1, scalar)."""
    loose_by_name, strict_by_name = dataclasses.asdict(loose), dataclasses.asdict(strict)
    return {
        name: value * (loose_by_name[name] + strictness * (strict_by_name[name] - loose_by_name[name]))
        for name, value in terms.items()
    }
