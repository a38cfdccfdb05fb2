"""The body as sticks: where its joints are in the sagittal plane, from angles alone.

A simulation knows the positions of its joints; a laboratory's CSV often has only angles. Stick figures and examples
then use an average adult's segment lengths.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mjx_exo.conventions import SIDE_SUFFIX, SIDES
from mjx_exo.gait.recording import Recording

LENGTHS_M = {
    "trunk": 0.50,
    "thigh": 0.43,
    "shank": 0.43,
    "heel": 0.06,
    "ankle_height": 0.07,
    "foot": 0.16,
    "toes": 0.06,
}
"""Segments of a 1.75 m adult (common knowledge of the field, rounded); the foot is measured from the ankle forward."""

CHAINS = (
    ("torso", "pelvis"),
    *(
        tuple(f"{point}{SIDE_SUFFIX[side]}" for point in ("hip", "knee", "ankle", "heel", "ball", "toe"))
        for side in SIDES
    ),
)
"""Points that are joined in a stick figure, in this order; points that a recording lacks are passed over."""


def planar_points(recording: Recording) -> tuple[tuple[str, ...], np.ndarray] | None:
    """Names [P] and positions [T, P, 3] of a walker in the sagittal plane, pelvis at its recorded place or at x = 0.

    None when hip, knee or ankle angles are missing. The pelvis is set so high that the lower foot touches z = 0.
    """
    samples = recording.time_s.size
    tilt = np.zeros(samples)
    if recording.pelvis_orientation_rad is not None:
        tilt = recording.pelvis_orientation_rad[:, 1]
    pelvis = np.zeros((samples, 3))
    if recording.pelvis_position_m is not None:
        pelvis[:, 0] = recording.pelvis_position_m[:, 0]
    points = {"pelvis": pelvis, "torso": pelvis + LENGTHS_M["trunk"] * _direction(np.pi + 0.0 * tilt)}
    for side in SIDES:
        angles = [
            recording.joint("joint_angle_rad", joint, side)
            for joint in ("hip_flexion", "knee_flexion", "ankle_dorsiflexion")
        ]
        if any(angle is None for angle in angles):
            return None
        toes = recording.joint("joint_angle_rad", "mtp_extension", side)
        leg = _leg(tilt, *angles, np.zeros(samples) if toes is None else toes)
        points |= {f"{name}{SIDE_SUFFIX[side]}": pelvis + offset for name, offset in leg.items()}
    names = tuple(points)
    positions = np.stack([points[name] for name in names], axis=1)
    positions[:, :, 2] -= positions[:, :, 2].min(axis=1, keepdims=True)
    return names, positions


def _leg(
    tilt: np.ndarray, hip: np.ndarray, knee: np.ndarray, ankle: np.ndarray, toes: np.ndarray
) -> dict[str, np.ndarray]:
    """Points of one leg [T, 3] relative to the hip; angles [T] rad, flexion positive."""
    thigh = hip - tilt
    shank = thigh - knee
    foot = shank + ankle
    at_knee = LENGTHS_M["thigh"] * _direction(thigh)
    at_ankle = at_knee + LENGTHS_M["shank"] * _direction(shank)
    sole = at_ankle + LENGTHS_M["ankle_height"] * _direction(foot)
    ball = sole + LENGTHS_M["foot"] * _direction(foot + np.pi / 2)
    return {
        "hip": np.zeros_like(at_knee),
        "knee": at_knee,
        "ankle": at_ankle,
        "heel": sole - LENGTHS_M["heel"] * _direction(foot + np.pi / 2),
        "ball": ball,
        "toe": ball + LENGTHS_M["toes"] * _direction(foot + toes + np.pi / 2),
    }


def _direction(angle: np.ndarray) -> np.ndarray:
    """[T, 3] unit vector that hangs down at 0 and points forward at +90 degrees."""
    return np.stack([np.sin(angle), np.zeros_like(angle), -np.cos(angle)], axis=-1)


def with_points(recording: Recording) -> Recording:
    """The recording with points for stick figures: its own where it has them, else `planar_points`, else unchanged."""
    if recording.point_position_m is not None:
        return recording
    planar = planar_points(recording)
    if planar is None:
        return recording
    return dataclasses.replace(recording, point_names=planar[0], point_position_m=planar[1])
