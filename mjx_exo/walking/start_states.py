"""Start states spread over the gait cycle, already in motion.

Learning from standing ends in a shuffle; learning from postures of the cycle, moving, ends in a walk. Three hand-made
postures of a half cycle and their mirror images are joined by a periodic spline, which gives a posture and its velocity
at any phase. No motion capture is involved.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array
from scipy.interpolate import CubicSpline

from mjx_exo.musculoskeletal.compiled import CompiledBody
from mjx_exo.musculoskeletal.skeleton import ContactOptions
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.physics.interface import ROOT_QPOS, ROOT_QVEL

REFERENCE_SPEED_M_S = 1.25
PHASES = 24
# Who stands on a slope stands upright in space, so there is a posture for each of these; the level is the middle one.
STANDING_SLOPES_RAD = np.radians(np.arange(-10.0, 11.0, 2.0))

# Phase of the leading leg; hip flexion, knee flexion, ankle dorsiflexion of the leading and of the other leg, degrees.
_POSTURES = (
    (0.00, (25.0, 5.0, 0.0), (-14.0, 14.0, 4.0)),
    (0.18, (8.0, 12.0, 4.0), (12.0, 60.0, -2.0)),
    (0.36, (-5.0, 8.0, 9.0), (28.0, 30.0, 0.0)),
)
_JOINTS = ("hip_flexion", "knee_flexion", "ankle_dorsiflexion")
# Standing leans forward: with straight legs and an upright pelvis the centre of mass lies 4 cm in front of the end of
# the heels, so that every sway ends in a fall backwards; this posture puts it 7 to 8 cm there.
_STANDING = (5.0, 6.0, 5.0)  # degrees, both legs; soles flat with the pelvis tilted by what is left over
_SINK_M = 0.002  # the lowest sphere starts this far in the floor, so that it carries load at once


@dataclasses.dataclass(frozen=True)
class StartStates:
    """States of K wearers at P phases of the right leg, walking at `REFERENCE_SPEED_M_S`, then standing on S slopes."""

    phase: np.ndarray  # [P + S], 0…1; 0 for standing
    qpos: np.ndarray  # [K, P + S, nq]
    qvel: np.ndarray  # [K, P + S, nv]; zero for standing
    sensors: np.ndarray  # [K, P + S, 36]
    standing_height_m: np.ndarray  # [K] pelvis height with straight legs


def gait_posture(phase: np.ndarray, frequency_hz: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Joint angles (rad) and velocities (rad/s) over phases of the right leg, by joint name with side."""
    knots, right = [], []
    for start, leading, other in _POSTURES:
        knots += [start, start + 0.5]
        right += [leading, other]
    order = np.argsort(knots)
    knots = np.append(np.array(knots)[order], 1.0)
    values = np.radians(np.array(right)[order])
    spline = CubicSpline(knots, np.concatenate([values, values[:1]]), bc_type="periodic")
    angles, velocities = {}, {}
    for suffix, shift in (("_r", 0.0), ("_l", 0.5)):
        at = (np.asarray(phase) + shift) % 1.0
        for i, joint in enumerate(_JOINTS):
            angles[joint + suffix] = spline(at)[:, i]
            velocities[joint + suffix] = spline(at, 1)[:, i] * frequency_hz
    return angles, velocities


def build_start_states(body: CompiledBody, wearers: tuple[Wearer, ...], frequency_hz: float) -> StartStates:
    """Start states of every wearer on level ground; pelvis height puts the lowest sphere on the floor."""
    phase = np.arange(PHASES) / PHASES
    angles, velocities = gait_posture(phase, frequency_hz)
    names = body.joint_names
    rows = PHASES + len(STANDING_SLOPES_RAD)
    joint_angle, joint_velocity = np.zeros((rows, len(names))), np.zeros((rows, len(names)))
    hip, knee, ankle = np.radians(_STANDING)
    tilt = np.zeros(rows)
    tilt[PHASES:] = ankle + hip - knee + STANDING_SLOPES_RAD
    for suffix in ("_r", "_l"):
        for joint, angle in zip(_JOINTS, (hip, knee, ankle + STANDING_SLOPES_RAD), strict=True):
            joint_angle[PHASES:, names.index(joint + suffix)] = angle
    for name, value in angles.items():
        joint_angle[:PHASES, names.index(name)] = value
        joint_velocity[:PHASES, names.index(name)] = velocities[name]
    qpos, qvel, sensors, heights = [], [], [], []
    for wearer in wearers:
        model = mujoco.MjModel.from_xml_string(body.model_xml(wearer, 0.005, ContactOptions()))
        data = mujoco.MjData(model)
        heights.append(_pelvis_height(model, data))
        states = []
        for k in range(rows):
            mujoco.mj_resetData(model, data)
            data.qpos[ROOT_QPOS:] = joint_angle[k]
            data.qpos[3:7] = math.cos(0.5 * tilt[k]), 0.0, math.sin(0.5 * tilt[k]), 0.0
            data.qpos[2] = _pelvis_height(model, data)
            if k < PHASES:
                data.qvel[0] = REFERENCE_SPEED_M_S
                data.qvel[ROOT_QVEL:] = joint_velocity[k]
            mujoco.mj_forward(model, data)
            states.append((data.qpos.copy(), data.qvel.copy(), data.sensordata.copy()))
        q, v, s = map(np.stack, zip(*states, strict=True))
        qpos.append(q)
        qvel.append(v)
        sensors.append(s)
    return StartStates(
        phase=np.append(phase, np.zeros(rows - PHASES)),
        qpos=np.stack(qpos).astype(np.float32),
        qvel=np.stack(qvel).astype(np.float32),
        sensors=np.stack(sensors).astype(np.float32),
        standing_height_m=np.array(heights, dtype=np.float32),
    )


def _pelvis_height(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """Height that puts the lowest sphere of the posture in `data`, whose pelvis is at zero, on the floor."""
    spheres = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_SPHERE)
    mujoco.mj_kinematics(model, data)
    return float(-_SINK_M - (data.geom_xpos[spheres, 2] - model.geom_size[spheres, 0]).min())


def standing_row(slope_rad: Array) -> Array:
    """[N] rows of `StartStates` for standing on slopes [N]."""
    step = STANDING_SLOPES_RAD[1] - STANDING_SLOPES_RAD[0]
    nearest = jnp.round((slope_rad - STANDING_SLOPES_RAD[0]) / step).astype(jnp.int32)
    return PHASES + jnp.clip(nearest, 0, len(STANDING_SLOPES_RAD) - 1)
