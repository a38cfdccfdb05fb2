"""A walker made of the norm curves: what a recording of healthy walking looks like, for demonstrations and tests.

Everything that judges gait must find nothing to complain about here, and a person who wants to bring their own data can
write this one out and see the columns filled. Muscles switch on when the module table says; moments run through the
middle of the human ranges. It is drawn, not simulated: forces and moments do not balance.
"""

from __future__ import annotations

import numpy as np

from mjx_exo.conventions import MUSCLE_GROUPS, SIDES, joint_name
from mjx_exo.gait import norms
from mjx_exo.gait.muscles import window_mask
from mjx_exo.gait.recording import GRAVITY_M_S2, Recording
from mjx_exo.gait.sticks import planar_points

PELVIS_TILT_RAD = np.deg2rad(9.0)
ASSIST_SHARE = 0.2
"""The example's device follows the hip's own moment at this share …"""
ASSIST_DELAY_S = 0.1
"""… and this much later."""


def normal_walking(
    duration_s: float = 12.0,
    rate_hz: float = 100.0,
    speed_m_s: float = 1.25,
    stride_time_s: float = 1.1,
    body_mass_kg: float = 75.0,
    slope_rad: float = 0.0,
) -> Recording:
    """Steady, symmetric walking; the first right heel strike is at 0.3 s, the left follows half a stride later."""
    time = np.arange(round(duration_s * rate_hz) + 1) / rate_hz
    right = 100.0 * (time - 0.3) / stride_time_s
    phases = (right, right + 50.0)
    hip_moment = [_hip_moment(phase) for phase in phases]
    assist_phase = [phase - 100.0 * ASSIST_DELAY_S / stride_time_s for phase in phases]

    angles, moments, names = [], [], []
    for side, phase in zip(SIDES, phases, strict=True):
        for joint in norms.JOINT_CURVES:
            names.append(joint_name(joint, side))
            angles.append(np.deg2rad(norms.curve(joint, phase).mean))
            moments.append(_moment(joint, phase))
    force = np.zeros((time.size, 2, 3))
    for foot, phase in enumerate(phases):
        force[:, foot, 2] = norms.curve("vertical_force", phase).mean * body_mass_kg * GRAVITY_M_S2
        force[:, foot, 0] = -0.2 * np.sin(2 * np.pi * (phase % 100.0) / 62.0) * force[:, foot, 2]

    hip = np.stack([angles[0], angles[3]], axis=1)
    activation = np.stack([_activation(group, phase) for phase in phases for group in MUSCLE_GROUPS], axis=1)
    position = np.zeros((time.size, 3))
    position[:, 0], position[:, 2] = speed_m_s * time, 0.93
    orientation = np.zeros((time.size, 3))
    orientation[:, 1] = PELVIS_TILT_RAD
    drawn = Recording(
        time_s=time,
        body_mass_kg=body_mass_kg,
        joint_names=tuple(names),
        joint_angle_rad=np.stack(angles, axis=1),
        biological_moment_nm_kg=np.stack(moments, axis=1),
        limit_moment_nm_kg=np.zeros((time.size, len(names))),
        exo_torque_nm_kg=ASSIST_SHARE * np.stack([_hip_moment(phase) for phase in assist_phase], axis=1),
        exo_command_nm_kg=ASSIST_SHARE * np.stack(hip_moment, axis=1),
        thigh_gyro_rad_s=np.gradient(hip, time, axis=0),
        ground_force_n=force,
        muscle_names=tuple(joint_name(group, side) for side in SIDES for group in MUSCLE_GROUPS),
        muscle_groups=MUSCLE_GROUPS * 2,
        activation=activation,
        metabolic_power_w=40.0 * activation,
        metabolic_rest_w=1.2 * body_mass_kg,
        pelvis_position_m=position,
        pelvis_velocity_m_s=np.broadcast_to([speed_m_s, 0.0, 0.0], (time.size, 3)).copy(),
        pelvis_orientation_rad=orientation,
        command_speed_m_s=speed_m_s,
        slope_rad=slope_rad,
        label="example",
    )
    return _with_feet(drawn)


def _with_feet(drawn: Recording) -> Recording:
    """Adds points for stick figures and heel positions, the feet 5 cm to either side of the middle."""
    planar = planar_points(drawn)
    assert planar is not None, "the example has all angles"
    names, points = planar
    points = points.copy()
    for index, name in enumerate(names):
        points[:, index, 1] += {"r": -0.05, "l": 0.05}.get(name[-1] if name[-2] == "_" else "", 0.0)
    heels = points[:, [names.index("heel_r"), names.index("heel_l")]]
    fields = {name: getattr(drawn, name) for name in drawn.__dataclass_fields__}
    return Recording(**fields | {"point_names": names, "point_position_m": points, "foot_position_m": heels})


def _hip_moment(phase: np.ndarray) -> np.ndarray:
    return _moment("hip_flexion", phase)


def _moment(joint: str, phase: np.ndarray) -> np.ndarray:
    """[T] Nm/kg through the middles of the human ranges at 0, 25, 50 and 75 %."""
    rows = np.array(norms.MOMENT_RANGES_NM_KG[joint], float)
    return norms.periodic_curve(rows[:, 0], rows[:, 1:].mean(axis=1), phase)


def _activation(group: str, phase: np.ndarray) -> np.ndarray:
    """[T] 0.03 when off, 0.4 when on, with soft edges; muscles that the table does not know stay off."""
    mask = window_mask(group)
    if mask is None:
        return np.full(phase.shape, 0.03)
    soft = np.convolve(np.tile(mask.astype(float), 3), np.ones(5) / 5, mode="same")[100:200]
    return 0.03 + 0.37 * norms.periodic_curve(np.arange(100.0), soft, phase)
