"""The hinge that stands for a joint whose axis moves.

A knee slides and turns as it bends: in the published models dependent joints follow its angle. The light skeleton has
one hinge there. Left where the joint is in the zero posture, it would put the foot of `myolegs26` 12 mm too high and
that of `myolegs` 40 mm to the side in swing, and lose the work that the ground force does over those ways.
"""

from __future__ import annotations

import mujoco
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from mjx_exo.musculoskeletal.bodies import JointSource, walking_range_rad

_POSTURES = 17


def zero_posture(model: mujoco.MjModel) -> mujoco.MjData:
    """A published model with its hinges at zero and its dependent joints where their equality polynomials want them."""
    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0
    for eq in np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_JOINT):
        data.qpos[model.jnt_qposadr[model.eq_obj1id[eq]]] += model.eq_data[eq][0]
    mujoco.mj_kinematics(model, data)
    return data


def fixed_axis(model: mujoco.MjModel, joint: int, body: int, source: JointSource) -> tuple[np.ndarray, np.ndarray]:
    """Axis (published sign) and a point on it (m, from the body's origin), in the published world, zero posture.

    The joint's own axis where nothing follows it. Otherwise the axis that carries the bodies below, turned by the
    joint's angle, closest to where the published joint carries them over the range of walking.
    """
    data = zero_posture(model)
    axis, origin = data.xaxis[joint].copy(), data.xpos[body].copy()
    follows = (model.eq_type == mujoco.mjtEq.mjEQ_JOINT) & (model.eq_obj2id == joint)
    followers = [e for e in np.flatnonzero(follows) if model.jnt_bodyid[model.eq_obj1id[e]] == body]
    if not followers:
        return axis, np.zeros(3)
    below = [k for k in range(model.nbody) if _is_below(model, k, body) and model.body_mass[k] > 0.0]
    angles = source.sign * np.linspace(*walking_range_rad(source), _POSTURES)
    at_zero, carried = data.xipos[below] - origin, np.empty((_POSTURES, len(below), 3))
    for k, angle in enumerate(angles):
        data.qpos[model.jnt_qposadr[joint]] = angle
        for e in followers:
            place = model.jnt_qposadr[model.eq_obj1id[e]]
            data.qpos[place] = model.qpos0[place] + np.polynomial.Polynomial(model.eq_data[e][:5])(angle)
        mujoco.mj_kinematics(model, data)
        carried[k] = data.xipos[below] - origin

    def misses(x: np.ndarray) -> np.ndarray:
        direction, anchor = x[:3] / np.linalg.norm(x[:3]), x[3:]
        turns = Rotation.from_rotvec(angles[:, None] * direction).as_matrix()
        errors = anchor + np.einsum("kij,bj->kbi", turns, at_zero - anchor) - carried
        # Where on the line the anchor is, and how long its direction, is free: these two terms settle it.
        return np.concatenate([errors.ravel(), 1e-3 * anchor, [np.linalg.norm(x[:3]) - 1.0]])

    solution = least_squares(misses, np.concatenate([axis, np.zeros(3)])).x
    return solution[:3] / np.linalg.norm(solution[:3]), solution[3:]


def _is_below(model: mujoco.MjModel, body: int, ancestor: int) -> bool:
    while body and body != ancestor:
        body = model.body_parentid[body]
    return bool(body)
