"""C MuJoCo on a thread pool, reached from inside `jit` by one callback for the whole batch.

On a laptop this is the fast path: one core steps the light skeleton three times as often as MJX does on two. The
muscle arithmetic runs beside `mj_step` in the same compiled loop (numba calls MuJoCo's C function), so a control step
costs one callback however many physics steps it holds.

The callback keeps no state: solver warm start goes in and out, gravity and pushes are inputs, and every job owns its
model and data, so the same inputs give the same outputs whatever ran before.
"""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import mujoco
import numba
import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.device import DeviceProfile
from mjx_exo.musculoskeletal.compiled import CompiledBody
from mjx_exo.musculoskeletal.muscle import muscle_functions
from mjx_exo.musculoskeletal.skeleton import sensor_slices
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.physics.c_mujoco import kept_njit, mj_step, njit
from mjx_exo.physics.interface import (
    LIMIT_DAMPING_NM_S,
    LIMIT_STIFFNESS_NM,
    ROOT_QPOS,
    ROOT_QVEL,
    Drive,
    EngineConfig,
    PhysicsState,
    Readings,
    actuator_bandwidth_hz,
)

_FORCE = sensor_slices()["foot_force"]


@njit
def _select(condition, if_true, if_false):
    return if_true if condition else if_false


# On scalars, numba's `np.where` allocates arrays; everything else is numpy's own.
_SCALARS = SimpleNamespace(where=_select, minimum=np.minimum, maximum=np.maximum, exp=np.exp)
_curves = muscle_functions(_SCALARS, njit)
_activate, _tension = _curves.activate, _curves.tension


@numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _products(matrix, table, values):
    """values[side] = matrix @ table[side]; its own loop, because BLAS costs twice as much at this size.

    Only here may sums be taken in another order: without that the loop would not be vectorised.
    """
    for c in range(matrix.shape[0]):
        right, left = np.float32(0.0), np.float32(0.0)
        for k in range(matrix.shape[1]):
            right += matrix[c, k] * table[0, k]
            left += matrix[c, k] * table[1, k]
        values[0, c], values[1, c] = right, left


@njit
def _limb_moments(
    q, v, signs, joint_index, centre, half, parent, variable, matrix, crossings, scale, muscle_start, prm, activation,
    table, values, force, length_out, velocity_out, moment, damping,
):  # fmt: skip
    """Adds the muscle moments (Nm) of a limb on both sides, and their velocity slope (Nm·s/rad), to [J] arrays."""
    joints = joint_index.shape[1]
    muscles = matrix.shape[0] - crossings.shape[0]
    x = np.empty(joints, np.float32)
    for side in range(2):
        for j in range(joints):
            value = (signs[side, j] * q[joint_index[side, j]] - centre[j]) / half[j]
            x[j] = min(max(value, -1.0), 1.0)
        table[side, 0] = 1.0
        for k in range(1, len(parent)):
            table[side, k] = table[side, parent[k]] * x[variable[k]]
    _products(matrix, table, values)
    speed, slope = np.empty(muscles), np.empty(muscles)
    for side in range(2):
        start = muscle_start + side * muscles
        speed[:] = 0.0
        for c in range(crossings.shape[0]):
            j = crossings[c, 1]
            arm = scale * values[side, muscles + c]
            speed[crossings[c, 0]] -= arm * signs[side, j] * v[joint_index[side, j]]
        for m in range(muscles):
            i = start + m
            length = scale * values[side, m]
            force[i], slope[m] = _tension(
                activation[i], length, speed[m], prm[0, i], prm[1, i], prm[2, i], prm[3, i], prm[4, i], prm[5, i],
                prm[6, i], prm[7, i],
            )  # fmt: skip
            length_out[i] = (length - prm[2, i]) / prm[1, i]
            velocity_out[i] = speed[m] / prm[1, i]
        for c in range(crossings.shape[0]):
            m, j = crossings[c, 0], crossings[c, 1]
            arm = scale * values[side, muscles + c]
            moment[joint_index[side, j]] += signs[side, j] * arm * force[start + m]
            damping[joint_index[side, j]] += arm * arm * slope[m]


@kept_njit
def _advance(
    model_address, data_address, d_qpos, d_qvel, d_warm, d_applied, d_xfrc, d_sensor, m_gravity, m_damping, steps,
    timestep, exo_alpha, leg, trunk, leg_index, trunk_index, scale, prm, limits, passive, exo_joint,
    qpos, qvel, activation, warm, exo, _internal, excitation, exo_command, push, gravity,
    o_qpos, o_qvel, o_activation, o_warm, o_exo, _o_internal, o_sensor, o_foot, o_force, o_length, o_velocity, o_muscle,
    o_passive, o_limit, o_positive, o_exo_power, o_exo_positive,
):  # fmt: skip
    """Steps the environments of one job. Plain loops: this is the inner loop of all training on a laptop."""
    joints = leg_index.shape[1] * 2 + (trunk_index.shape[1] if trunk_index.shape[0] else 0)
    signs, centre, half, parent, variable, matrix, crossings = leg
    t_signs, t_centre, t_half, t_parent, t_variable, t_matrix, t_crossings = trunk
    leg_muscles = matrix.shape[0] - crossings.shape[0]
    trunk_muscles = t_matrix.shape[0] - t_crossings.shape[0]
    muscles = activation.shape[1]
    table, t_table = np.empty((2, len(parent)), np.float32), np.empty((2, len(t_parent)), np.float32)
    values = np.empty((2, matrix.shape[0]), np.float32)
    t_values = np.empty((2, t_matrix.shape[0]), np.float32)
    act, force = np.empty(muscles), np.empty(muscles)
    moment, damping = np.empty(joints), np.empty(joints)
    share = 1.0 / steps
    for e in range(qpos.shape[0]):
        d_qpos[:] = qpos[e]
        d_qvel[:] = qvel[e]
        d_warm[:] = warm[e]
        act[:] = activation[e]
        m_gravity[:] = gravity[e]
        for k in range(3):
            d_xfrc[1, k] = push[e, k]
        torque_r, torque_l = float(exo[e, 0]), float(exo[e, 1])
        for _step in range(steps):
            q, v = d_qpos[ROOT_QPOS:], d_qvel[ROOT_QVEL:]
            moment[:] = 0.0
            damping[:] = 0.0
            _limb_moments(
                q, v, signs, leg_index, centre, half, parent, variable, matrix, crossings, scale, 0, prm, act, table,
                values, force, o_length[e], o_velocity[e], moment, damping,
            )  # fmt: skip
            if trunk_muscles:
                _limb_moments(
                    q, v, t_signs, trunk_index, t_centre, t_half, t_parent, t_variable, t_matrix, t_crossings, scale,
                    2 * leg_muscles, prm, act, t_table, t_values, force, o_length[e], o_velocity[e], moment, damping,
                )  # fmt: skip
            torque_r += exo_alpha * (exo_command[e, 0] - torque_r)
            torque_l += exo_alpha * (exo_command[e, 1] - torque_l)
            for j in range(joints):
                excess = (
                    q[j] - limits[j, 1]
                    if q[j] > limits[j, 1]
                    else (q[j] - limits[j, 0] if q[j] < limits[j, 0] else 0.0)
                )
                limit = 0.0
                explicit = moment[j] + damping[j] * v[j]
                implicit = damping[j]
                if excess != 0.0:
                    limit = -LIMIT_STIFFNESS_NM * excess - LIMIT_DAMPING_NM_S * v[j]
                    explicit += limit + LIMIT_DAMPING_NM_S * v[j]
                    implicit += LIMIT_DAMPING_NM_S + timestep * LIMIT_STIFFNESS_NM
                # MuJoCo takes −damping·v at the end of the step; what that is at its start is given back as a torque.
                d_applied[ROOT_QVEL + j] = explicit
                m_damping[ROOT_QVEL + j] = passive[j, 1] + implicit
                passive_moment = limit - passive[j, 0] * q[j] - passive[j, 1] * v[j]
                power = (moment[j] + passive_moment) * v[j]
                o_muscle[e, j] += share * moment[j]
                o_passive[e, j] += share * passive_moment
                o_limit[e, j] += share * limit
                o_positive[e, j] += share * max(power, 0.0)
            d_applied[ROOT_QVEL + exo_joint[0]] += torque_r
            d_applied[ROOT_QVEL + exo_joint[1]] += torque_l
            power_r, power_l = torque_r * v[exo_joint[0]], torque_l * v[exo_joint[1]]
            o_exo_power[e, 0] += share * power_r
            o_exo_power[e, 1] += share * power_l
            o_exo_positive[e, 0] += share * max(power_r, 0.0)
            o_exo_positive[e, 1] += share * max(power_l, 0.0)
            for m in range(muscles):
                o_force[e, m] += share * force[m]
                act[m] = _activate(act[m], excitation[e, m], prm[8, m], prm[9, m], timestep)
            mj_step(model_address, data_address)
            for k in range(6):
                o_foot[e, k] += share * d_sensor[_FORCE.start + k]
        o_qpos[e] = d_qpos
        o_qvel[e] = d_qvel
        o_warm[e] = d_warm
        o_activation[e] = act
        o_exo[e, 0] = torque_r
        o_exo[e, 1] = torque_l
        o_sensor[e] = d_sensor


class _Job:
    """Some environments of one wearer, with a model and data of their own."""

    def __init__(self, engine: NativeEngine, xml: str, wearer: Wearer, rows: np.ndarray):
        self.rows = rows
        self.contiguous = slice(int(rows[0]), int(rows[-1]) + 1)
        self.model = mujoco.MjModel.from_xml_string(xml)
        # Muscles act as applied forces and as joint damping, which Euler's method takes implicitly: the same step as
        # `implicitfast` makes with the model's actuators, without their bookkeeping.
        self.model.opt.integrator = mujoco.mjtIntegrator.mjINT_EULER
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ACTUATION
        self.data = mujoco.MjData(self.model)
        self.prm = np.stack([np.asarray(p, dtype=np.float64) for p in engine.body.muscle_parameters(wearer)])
        self.scale = engine.body.length_scale(wearer)
        hinge_joints, hinge_dofs = slice(1, None), slice(ROOT_QVEL, None)
        self.passive = np.stack([self.model.jnt_stiffness[hinge_joints], self.model.dof_damping[hinge_dofs]], -1)


class NativeEngine:
    """See the module's docstring. Environments of one wearer are neighbours: `wearer_of` is sorted."""

    def __init__(
        self,
        body: CompiledBody,
        num_envs: int,
        wearers: tuple[Wearer, ...] = (Wearer(),),
        config: EngineConfig = EngineConfig(),
        worn: DeviceProfile | None = None,
    ):
        self.body, self.config, self.wearers, self.num_envs = body, config, wearers, num_envs
        self.wearer_of = np.sort(np.arange(num_envs) % len(wearers))
        self.threads = config.threads or len(os.sched_getaffinity(0))
        xmls = [body.model_xml(w, config.timestep_s, config.contact, worn) for w in wearers]
        pieces = max(1, math.ceil(2 * self.threads / len(wearers))) if num_envs >= 4 * self.threads else 1
        self._jobs = []
        for k, wearer in enumerate(wearers):
            for rows in np.array_split(np.flatnonzero(self.wearer_of == k), pieces):
                if len(rows):
                    self._jobs.append(_Job(self, xmls[k], wearer, rows))
        first = self._jobs[0].model
        self.nq, self.nv, self.nsensor = first.nq, first.nv, first.nsensordata
        self.muscles, self.joints = len(body.muscle_names), len(body.joint_names)
        at_once = min(self.threads, len(self._jobs))
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="physics") if at_once > 1 else None
        hinges = body.hinges
        self._limits = np.array([h.range_rad for h in hinges])
        self._exo_joint = np.array([body.joint_names.index(f"hip_flexion_{s[0]}") for s in SIDES])
        self._exo_alpha = 1.0 - math.exp(-2.0 * math.pi * actuator_bandwidth_hz(worn) * config.timestep_s)
        self._leg, self._leg_index = _limb_arrays(body, body.leg)
        if body.trunk is None:
            zero, none = np.zeros(0), np.zeros(0, dtype=np.int64)
            matrix, crossings = np.zeros((0, 0), np.float32), np.zeros((0, 2), dtype=np.int64)
            self._trunk = (np.zeros((2, 0)), zero, zero, none, none, matrix, crossings)
            self._trunk_index = np.zeros((0, 0), dtype=np.int64)
        else:
            self._trunk, self._trunk_index = _limb_arrays(body, body.trunk)

    def shapes(self) -> tuple[PhysicsState, Readings]:
        """`jax.ShapeDtypeStruct` of what `step` returns."""
        return self._shapes

    @functools.cached_property
    def _shapes(self) -> tuple[PhysicsState, Readings]:
        n, m, j = self.num_envs, self.muscles, self.joints

        def array(*shape):
            return jax.ShapeDtypeStruct((n, *shape), np.float32)

        state = PhysicsState(array(self.nq), array(self.nv), array(m), array(self.nv), array(2), array(0))
        readings = Readings(
            array(self.nsensor), array(2, 3), array(m), array(m), array(m), array(j), array(j), array(j), array(j),
            array(2), array(2),
        )  # fmt: skip
        return state, readings

    def step(self, state: PhysicsState, drive: Drive, steps: int) -> tuple[PhysicsState, Readings]:
        """Advances all environments; usable inside `jit`."""
        return jax.pure_callback(
            lambda s, d: self.step_numpy(s, d, steps), self.shapes(), state, drive, vmap_method="sequential"
        )

    def step_numpy(self, state: PhysicsState, drive: Drive, steps: int) -> tuple[PhysicsState, Readings]:
        """The same on numpy arrays, outside JAX."""
        inputs = [np.asarray(x, dtype=np.float32) for x in (*state, *drive)]
        new_state, readings = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), self._shapes)
        foot = readings.foot_force_n.reshape(self.num_envs, 6)
        outputs = [*new_state, readings.sensors, foot, *readings[2:]]

        def run(job: _Job) -> None:
            rows = job.contiguous
            data, model = job.data, job.model
            _advance(
                model._address, data._address, data.qpos, data.qvel, data.qacc_warmstart,
                data.qfrc_applied, data.xfrc_applied, data.sensordata, model.opt.gravity, model.dof_damping, steps,
                self.config.timestep_s, self._exo_alpha,
                self._leg, self._trunk, self._leg_index, self._trunk_index, job.scale, job.prm, self._limits,
                job.passive, self._exo_joint, *(x[rows] for x in inputs), *(x[rows] for x in outputs),
            )  # fmt: skip

        if self._pool is None:
            for job in self._jobs:
                run(job)
        else:
            list(self._pool.map(run, self._jobs))
        return new_state, readings


def _limb_arrays(body: CompiledBody, limb) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """A limb's arrays for the compiled loop, and [2, J] joint indices for right and left."""
    p = limb.paths
    signs = np.stack([np.ones(len(p.joints)), limb.left_signs])
    index = np.stack([body.joint_index(limb, side) for side in SIDES]).astype(np.int64)
    arrays = (
        signs, p.centre_rad, p.half_range_rad, p.parent.astype(np.int64), p.variable.astype(np.int64),
        np.ascontiguousarray(p.matrix, dtype=np.float32), p.crossings.astype(np.int64),
    )  # fmt: skip
    return arrays, index
