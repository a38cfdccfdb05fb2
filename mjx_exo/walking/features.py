"""What can be said about a walker at one instant, and its mirror image.

Walking is symmetric between left and right. Every feature carries how it mirrors, so that one policy half serves both
half cycles: where `swap` is set, legs change places and lateral signs flip.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from mjx_exo.musculoskeletal.skeleton import sensor_slices
from mjx_exo.physics.interface import ROOT_QPOS, ROOT_QVEL, PhysicsState

_SENSOR = sensor_slices()

# How a feature mirrors in the sagittal plane.
SCALAR = "scalar"  # unchanged
LATERAL = "lateral"  # sign flips
POLAR = "polar"  # vector x, y, z: y flips
AXIAL = "axial"  # rotation vector: x and z flip
PAIR = "pair"  # [N, 2, …] right, left: places change
PAIR_POLAR = "pair polar"  # [N, 2, 3]: places change and y flips


class Feature(NamedTuple):
    """An array with the batch first, and how it mirrors."""

    value: Array
    mirror: str


def mirrored(feature: Feature, swap: Array) -> Array:
    """The feature as seen by a walker whose legs are exchanged where `swap` [N] is true."""
    value, kind = feature
    if kind == SCALAR:
        return value
    where = swap.reshape((-1,) + (1,) * (value.ndim - 1))
    if kind == LATERAL:
        other = -value
    elif kind == POLAR:
        other = value * jnp.array([1.0, -1.0, 1.0])
    elif kind == AXIAL:
        other = value * jnp.array([-1.0, 1.0, -1.0])
    elif kind == PAIR:
        other = value[:, ::-1]
    elif kind == PAIR_POLAR:
        other = value[:, ::-1] * jnp.array([1.0, -1.0, 1.0])
    else:
        raise ValueError(f"unknown mirror kind {kind}")
    return jnp.where(where, other, value)


def rotation_matrix(quaternion: Array) -> Array:
    """Rotation matrices [N, 3, 3] (body to world) of unit quaternions [N, 4] (w, x, y, z)."""
    w, x, y, z = jnp.moveaxis(quaternion, -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


class Kinematics(NamedTuple):
    """The walker's motion in the project's terms; N environments, right before left."""

    position_m: Array  # [N, 3] pelvis
    velocity_m_s: Array  # [N, 3] pelvis, world
    angular_velocity_rad_s: Array  # [N, 3] pelvis, its own frame
    up: Array  # [N, 3] direction against gravity in the pelvis frame
    yaw_rad: Array  # [N] heading, left positive
    joint_rad: Array  # [N, J]
    joint_velocity_rad_s: Array  # [N, J]
    thigh_gyro_rad_s: Array  # [N, 2, 3] thigh frame
    heel_m: Array  # [N, 2, 3] world
    toe_m: Array  # [N, 2, 3]
    heel_velocity_m_s: Array  # [N, 2, 3]
    toe_velocity_m_s: Array  # [N, 2, 3]


def kinematics(physics: PhysicsState, sensors: Array, gravity_m_s2: Array) -> Kinematics:
    """Kinematics from the state and the last sensor readings [N, 36]."""
    n = sensors.shape[0]
    rotation = rotation_matrix(physics.qpos[:, 3:7])
    up_world = -gravity_m_s2 / jnp.linalg.norm(gravity_m_s2, axis=-1, keepdims=True)

    def pair(name: str) -> Array:
        return sensors[:, _SENSOR[name]].reshape(n, 2, 3)

    return Kinematics(
        position_m=physics.qpos[:, :3],
        velocity_m_s=physics.qvel[:, :3],
        angular_velocity_rad_s=physics.qvel[:, 3:6],
        up=jnp.einsum("nji,nj->ni", rotation, up_world),
        yaw_rad=jnp.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
        joint_rad=physics.qpos[:, ROOT_QPOS:],
        joint_velocity_rad_s=physics.qvel[:, ROOT_QVEL:],
        thigh_gyro_rad_s=pair("thigh_gyro"),
        heel_m=pair("heel_position"),
        toe_m=pair("toe_position"),
        heel_velocity_m_s=pair("heel_velocity"),
        toe_velocity_m_s=pair("toe_velocity"),
    )


def sagittal_gyro(thigh_gyro_rad_s: Array) -> Array:
    """[N, 2] thigh angular velocity about the medio-lateral axis, flexion positive, from [N, 2, 3] in its frame."""
    return -thigh_gyro_rad_s[..., 1]
