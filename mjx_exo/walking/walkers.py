"""What stays the same about the N walkers while they walk: where their joints are in an array, sizes, masses."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from mjx_exo.device import DeviceProfile
from mjx_exo.physics.interface import Engine
from mjx_exo.walking.commands import GRAVITY_M_S2


class Walkers:
    """Constants of the N environments' walkers; `worn` is the device on them, or None.

    legs: [2, J] indices of leg joints, right and left, in the joint vector; hip, hip_rotation, knee, ankle: columns.
    trunk: indices of the other joints. leg_muscles, trunk_muscles: how many muscles both legs, and the trunk, have.
    muscle_groups: a group's name per muscle. muscle_share: [M] volume relative to the mean muscle's.
    wearer_of: [N] index of each environment's wearer. body_mass_kg: [N] without the device. body_weight_n: [N] with it.
    wearer: [N, 3] height, mass and strength relative to the body's own, times 5. standing_m: [N] pelvis height.
    """

    def __init__(self, engine: Engine, standing_height_m: np.ndarray, worn: DeviceProfile | None):
        body = engine.body
        names, groups = body.muscle_names, 2 * body.muscle_groups
        self.muscle_groups = groups + ("other",) * (len(names) - len(groups))
        self.leg_muscles = len(groups)
        self.trunk_muscles = 0 if body.trunk is None else len(body.trunk.paths.muscles)
        self.legs = body.leg_joint_index()
        muscles = body.muscle_parameters()
        volume = muscles.peak_force_n * muscles.optimal_length_m
        self.muscle_share = jnp.asarray(volume / volume.mean(), jnp.float32)
        self.trunk = np.array([i for i in range(len(body.joint_names)) if i not in set(self.legs.ravel())], dtype=int)
        joints = body.leg.paths.joints
        self.hip, self.hip_rotation = joints.index("hip_flexion"), joints.index("hip_rotation")
        self.knee, self.ankle = joints.index("knee_flexion"), joints.index("ankle_dorsiflexion")
        of = np.asarray(engine.wearer_of)
        self.wearer_of = jnp.asarray(engine.wearer_of)
        masses = np.array([w.mass_kg or body.mass_kg for w in engine.wearers])
        self.body_mass_kg = jnp.asarray(masses[of], jnp.float32)
        heights = np.array([body.length_scale(w) for w in engine.wearers])
        strength = np.array([w.strength for w in engine.wearers])
        wearer = np.stack([heights - 1.0, masses / body.mass_kg - 1.0, strength - 1.0], -1) * 5.0
        self.wearer = jnp.asarray(wearer[of], jnp.float32)
        self.standing_m = jnp.asarray(standing_height_m)[self.wearer_of]
        self.body_weight_n = (self.body_mass_kg + (0.0 if worn is None else worn.mass.total_kg)) * GRAVITY_M_S2
