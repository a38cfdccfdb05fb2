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

from mjx_exo.walking.features import Feature, mirrored


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
        return sum(self.sizes.values())

    def assemble(self, features: dict[str, Feature], swap: Array) -> Array:
        """[N, size]; legs exchanged where `swap` [N] is true."""
        parts = [mirrored(features[e.feature], swap) for e in self.entries]
        return jnp.concatenate([p.reshape(p.shape[0], -1) for p in parts], axis=-1)

    def describe(self) -> list[tuple[str, int, bool]]:
        """(name, size, scaled by hand) per entry."""
        return [(e.feature, self.sizes[e.feature], e.fixed) for e in self.entries]
