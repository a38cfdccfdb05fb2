"""What each actor sees, as one named table with sizes.

`HUMAN` is proprioceptive and privileged (muscle activations, ground forces); `EXO` is the privileged state the
teacher's torque may depend on and never holds the gait clock, because the device cannot know it; `CRITIC` entries are
added for value functions only. Entries that the environment scales by hand (`fixed`) are left alone by running
normalisation: a command that is constant at first has no variance.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from mjx_exo.walking.features import (
    AXIAL,
    LATERAL,
    PAIR,
    PAIR_POLAR,
    POLAR,
    SCALAR,
    Feature,
    Kinematics,
    mirrored,
    sagittal_gyro,
)
from mjx_exo.walking.gait_clock import held, told_speed
from mjx_exo.walking.state import EnvState
from mjx_exo.walking.walkers import Walkers


class Entry(NamedTuple):
    """One row of the table."""

    feature: str
    fixed: bool = False  # scaled by hand, kept out of running normalisation


_BODY = (
    Entry("pelvis_height"),  # relative to standing
    Entry("up"),  # direction against gravity in the pelvis frame
    Entry("velocity"),  # pelvis, m/s
    Entry("angular_velocity"),  # pelvis, rad/s
    Entry("leg_angles"),  # rad
    Entry("leg_velocities"),  # rad/s
    Entry("trunk_angles"),
    Entry("trunk_velocities"),
    Entry("foot_load"),  # body weights, vertical
    Entry("heel_position"),  # relative to the pelvis, m; height above the floor
    Entry("toe_position"),
)

HUMAN = (
    *_BODY,
    Entry("yaw"),
    Entry("lateral_offset"),
    Entry("activation"),
    Entry("clock", True),
    Entry("speed_command", True),
    Entry("speed_error", True),
    Entry("slope", True),
    Entry("exo_torque", True),
    Entry("wearer", True),
)

EXO = (
    *_BODY,
    Entry("thigh_gyro"),
    Entry("slope", True),
    Entry("exo_torque", True),
    Entry("wearer", True),
)

CRITIC = (
    Entry("yaw"),
    Entry("push", True),
    Entry("time_left", True),
)


class ObservationTable:
    """Sizes and assembly of one actor's observation."""

    def __init__(self, entries: tuple[Entry, ...], example: dict[str, Array]):
        # `example` holds an array (or its shape) per feature. A body without a moving trunk has no trunk angles:
        # empty features leave the table.
        self.entries = tuple(e for e in entries if int(np.prod(example[e.feature].shape[1:])) > 0)
        self.sizes = {e.feature: int(np.prod(example[e.feature].shape[1:])) for e in self.entries}
        self.fixed = tuple(e.fixed for e in self.entries for _ in range(self.sizes[e.feature]))

    @property
    def size(self) -> int:
        """Numbers in the observation."""
        return sum(self.sizes.values())

    def assemble(self, features: dict[str, Feature], swap: Array) -> Array:
        """[N, size]; legs exchanged where `swap` [N] is true."""
        parts = [mirrored(features[e.feature], swap) for e in self.entries]
        return jnp.concatenate([p.reshape(p.shape[0], -1) for p in parts], axis=-1)

    def describe(self) -> list[tuple[str, int, bool]]:
        """(name, size, scaled by hand) per entry."""
        return [(e.feature, self.sizes[e.feature], e.fixed) for e in self.entries]


def walker_features(state: EnvState, k: Kinematics, walkers: Walkers, time_left_s: Array) -> dict[str, Feature]:
    """Everything a table may name, of N walkers; `time_left_s` [N] until the episode's time limit."""
    legs = k.joint_rad[:, walkers.legs]
    leg_velocities = k.joint_velocity_rad_s[:, walkers.legs]
    half_phase = 4.0 * jnp.pi * state.phase
    ground = jnp.array([1.0, 1.0, 0.0])

    def relative(place: Array) -> Array:
        return place - ground * k.position_m[:, None, :]

    activation, told_m_s = state.physics.activation, told_speed(state, k)
    return {
        "pelvis_height": Feature((k.position_m[:, 2:3] / walkers.standing_m[:, None] - 1.0) * 10.0, SCALAR),
        "up": Feature(k.up, POLAR),
        "velocity": Feature(k.velocity_m_s, POLAR),
        "angular_velocity": Feature(k.angular_velocity_rad_s, AXIAL),
        "leg_angles": Feature(legs, PAIR),
        "leg_velocities": Feature(leg_velocities, PAIR),
        "trunk_angles": Feature(k.joint_rad[:, walkers.trunk], LATERAL),
        "trunk_velocities": Feature(k.joint_velocity_rad_s[:, walkers.trunk], LATERAL),
        "foot_load": Feature(state.readings.foot_force_n[:, :, 2] / walkers.body_weight_n[:, None], PAIR),
        "heel_position": Feature(relative(k.heel_m), PAIR_POLAR),
        "toe_position": Feature(relative(k.toe_m), PAIR_POLAR),
        "thigh_gyro": Feature(sagittal_gyro(k.thigh_gyro_rad_s), PAIR),
        "yaw": Feature(k.yaw_rad[:, None], LATERAL),
        "lateral_offset": Feature(k.position_m[:, 1:2], LATERAL),
        "activation": Feature(activation[:, : walkers.leg_muscles].reshape(len(activation), 2, -1), PAIR),
        "clock": Feature(~held(state, k)[:, None] * jnp.stack([jnp.sin(half_phase), jnp.cos(half_phase)], -1), SCALAR),
        "speed_command": Feature(told_m_s[:, None], SCALAR),
        "speed_error": Feature((state.speed_filtered_m_s - told_m_s)[:, None] * 2.0, SCALAR),
        "slope": Feature(state.command.slope_rad[:, None] * 5.0, SCALAR),
        "exo_torque": Feature(state.physics.exo_torque_nm / walkers.body_mass_kg[:, None] * 5.0, PAIR),
        "wearer": Feature(walkers.wearer, SCALAR),
        "push": Feature(state.command.push_n / 50.0, POLAR),
        "time_left": Feature(time_left_s[:, None] / 10.0, SCALAR),
    }
