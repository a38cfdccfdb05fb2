"""The published model behind the same interface as the compiled bodies: tendons, wrapping, constraints and all.

It is what the compiled bodies are held against: the same environment and the same policy run on it unchanged. It is an
order of magnitude slower, so nobody trains on it. One callback serves the whole batch; no state is kept between calls.
"""

from __future__ import annotations

import copy
import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor

import jax
import mujoco
import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.bodies import PUBLISHED_TO_WORLD
from mjx_exo.musculoskeletal.compiled import CompiledBody
from mjx_exo.musculoskeletal.muscle import parameters_from_mujoco
from mjx_exo.musculoskeletal.skeleton import sensor_slices
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.physics.c_mujoco import kept_njit, mj_step, njit
from mjx_exo.physics.interface import Drive, EngineConfig, PhysicsState, Readings, actuator_bandwidth_hz
from mjx_exo.physics.published_model import TO_PUBLISHED, build_published

TIMESTEPS_S = (0.001, 0.002)  # shortest and longest step: its muscles and constraints are too stiff for more
_SENSORS = max(s.stop for s in sensor_slices().values())
_FORCE = sensor_slices()["foot_force"]


@njit
def _hinge_moments(generalised, hinge_dof, sign, slave_dof, master, slope, moment):
    """Moments about our hinges [J] of generalised forces [nv], dependent joints chained in."""
    for j in range(len(hinge_dof)):
        moment[j] = generalised[hinge_dof[j]]
    for d in range(len(slave_dof)):
        moment[master[d]] += slope[d] * generalised[slave_dof[d]]
    for j in range(len(hinge_dof)):
        moment[j] *= sign[j]


@kept_njit
def _advance(
    model_address, data_address, view, layout, muscles, steps, exo_alpha, exo_joint,
    qpos, qvel, activation, warm, exo, excitation, exo_command, wrench, gravity,
    o_qpos, o_qvel, o_activation, o_warm, o_exo, o_sensor, o_foot, o_force, o_length, o_velocity, o_muscle, o_passive,
    o_limit, o_positive, o_exo_power, o_exo_positive,
):  # fmt: skip
    """Steps the environments of one worker in published coordinates; readings in our joints and signs."""
    (
        d_qpos, d_qvel, d_act, d_warm, d_ctrl, d_wrench, d_applied, d_sensor, d_force, d_length, d_velocity, d_actuator,
        d_passive, m_gravity,
    ) = view  # fmt: skip
    hinge_qpos, hinge_dof, sign, middle, slave_dof, master, polynomial, sensor_start, limit_start = layout
    actuators, act_address, optimal, rest = muscles
    joints, share = len(hinge_dof), 1.0 / steps
    velocity, limit = np.empty(joints), np.empty(joints)
    muscle, passive = np.empty(joints), np.empty(joints)
    slope = np.empty(len(slave_dof))
    for e in range(qpos.shape[0]):
        d_qpos[:] = qpos[e]
        d_qvel[:] = qvel[e]
        d_warm[:] = warm[e]
        m_gravity[:] = gravity[e]
        d_wrench[:] = wrench[e]
        d_applied[:] = 0.0
        for m in range(len(actuators)):
            d_act[act_address[m]] = activation[e, m]
            d_ctrl[actuators[m]] = min(max(excitation[e, m], 0.0), 1.0)
        torque_r, torque_l = float(exo[e, 0]), float(exo[e, 1])
        for _ in range(steps):
            torque_r += exo_alpha * (exo_command[e, 0] - torque_r)
            torque_l += exo_alpha * (exo_command[e, 1] - torque_l)
            d_applied[hinge_dof[exo_joint[0]]] = sign[exo_joint[0]] * torque_r
            d_applied[hinge_dof[exo_joint[1]]] = sign[exo_joint[1]] * torque_l
            for j in range(joints):
                velocity[j] = sign[j] * d_qvel[hinge_dof[j]]
                # A limit pushes towards the middle; its sensor gives the size only.
                limit[j] = sign[j] if d_qpos[hinge_qpos[j]] < middle[j] else -sign[j]
            for d in range(len(slave_dof)):
                x = d_qpos[hinge_qpos[master[d]]]
                p = polynomial[d]
                slope[d] = p[1] + x * (2.0 * p[2] + x * (3.0 * p[3] + x * 4.0 * p[4]))
            mj_step(model_address, data_address)
            _hinge_moments(d_actuator, hinge_dof, sign, slave_dof, master, slope, muscle)
            _hinge_moments(d_passive, hinge_dof, sign, slave_dof, master, slope, passive)
            for j in range(joints):
                limit[j] *= d_sensor[limit_start + j]
                o_muscle[e, j] += share * muscle[j]
                o_passive[e, j] += share * (passive[j] + limit[j])
                o_limit[e, j] += share * limit[j]
                o_positive[e, j] += share * max((muscle[j] + passive[j] + limit[j]) * velocity[j], 0.0)
            power_r, power_l = torque_r * velocity[exo_joint[0]], torque_l * velocity[exo_joint[1]]
            o_exo_power[e, 0] += share * power_r
            o_exo_power[e, 1] += share * power_l
            o_exo_positive[e, 0] += share * max(power_r, 0.0)
            o_exo_positive[e, 1] += share * max(power_l, 0.0)
            for k in range(6):
                o_foot[e, k] += share * d_sensor[sensor_start + _FORCE.start + k]
            for m in range(len(actuators)):
                o_force[e, m] -= share * d_force[actuators[m]]
        for m in range(len(actuators)):
            o_length[e, m] = (d_length[actuators[m]] - rest[m]) / optimal[m]
            o_velocity[e, m] = d_velocity[actuators[m]] / optimal[m]
            o_activation[e, m] = d_act[act_address[m]]
        o_qpos[e] = d_qpos
        o_qvel[e] = d_qvel
        o_warm[e] = d_warm
        o_exo[e, 0] = torque_r
        o_exo[e, 1] = torque_l
        o_sensor[e] = d_sensor[sensor_start : sensor_start + _SENSORS]


class PublishedEngine:
    """See the module's docstring. There is one published body, so there is one wearer: the published one.

    `PhysicsState.internal` is [N, 1 + 2·D]: 1 if it counts, then the D dependent coordinates and their velocities.
    """

    def __init__(
        self,
        body: CompiledBody,
        num_envs: int,
        wearers: tuple[Wearer, ...] = (Wearer(),),
        config: EngineConfig = EngineConfig(timestep_s=TIMESTEPS_S[1]),
        worn: DeviceProfile | None = None,
    ):
        _check(wearers, config)
        self.body, self.config, self.wearers, self.num_envs = body, config, wearers, num_envs
        self.wearer_of = np.zeros(num_envs, dtype=int)
        self.threads = config.threads or len(os.sched_getaffinity(0))
        self.published = build_published(body, config.timestep_s, worn)
        model, c = self.published.model, self.published.coordinates
        self._layout = (
            c.hinge_qpos, c.hinge_dof, c.sign, c.middle_rad, c.slave_dof, c.master, c.polynomial,
            self.published.sensor_start, self.published.limit_start,
        )  # fmt: skip
        parameters = parameters_from_mujoco(model, list(c.actuators))
        addresses = model.actuator_actadr[c.actuators].astype(np.int64)
        self._muscles = (c.actuators, addresses, parameters.optimal_length_m, parameters.rest_length_m)
        self._exo_joint = np.array([body.joint_names.index(f"hip_flexion_{s[0]}") for s in SIDES])
        self._exo_alpha = 1.0 - math.exp(-2.0 * math.pi * actuator_bandwidth_hz(worn) * config.timestep_s)
        pieces = np.array_split(np.arange(num_envs), min(num_envs, self.threads))
        self._workers = [(slice(p[0], p[-1] + 1), own := copy.copy(model), mujoco.MjData(own)) for p in pieces]
        at_once = len(self._workers)
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="published") if at_once > 1 else None

    def shapes(self) -> tuple[PhysicsState, Readings]:
        """`jax.ShapeDtypeStruct` of what `step` returns."""
        return self._shapes

    @functools.cached_property
    def _shapes(self) -> tuple[PhysicsState, Readings]:
        n, m, j = self.num_envs, len(self.body.muscle_names), len(self.body.joint_names)
        nv, dependents = self.published.model.nv, len(self.published.coordinates.master)

        def array(*shape):
            return jax.ShapeDtypeStruct((n, *shape), np.float32)

        state = PhysicsState(array(7 + j), array(6 + j), array(m), array(nv), array(2), array(1 + 2 * dependents))
        readings = Readings(
            array(_SENSORS), array(2, 3), array(m), array(m), array(m), array(j), array(j), array(j), array(j),
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
        state = PhysicsState(*(np.asarray(x, dtype=np.float64) for x in state))
        drive = Drive(*(np.asarray(x, dtype=np.float64) for x in drive))
        coordinates = self.published.coordinates
        q, v = coordinates.to_published(state.qpos, state.qvel, *self._dependents(state))
        inputs = (
            q, v, state.activation, state.warmstart, state.exo_torque_nm, drive.excitation, drive.exo_command_nm,
            self._push(state, drive), drive.gravity_m_s2 @ TO_PUBLISHED.T,
        )  # fmt: skip
        new, readings = jax.tree.map(lambda s: np.zeros(s.shape), self._shapes)
        outputs = (
            np.zeros_like(q), np.zeros_like(v), new.activation, new.warmstart, new.exo_torque_nm, readings.sensors,
            readings.foot_force_n.reshape(self.num_envs, 6), *readings[2:],
        )  # fmt: skip

        def run(worker) -> None:
            rows, model, data = worker
            view = (
                data.qpos, data.qvel, data.act, data.qacc_warmstart, data.ctrl,
                data.xfrc_applied[self.published.pelvis], data.qfrc_applied, data.sensordata, data.actuator_force,
                data.actuator_length, data.actuator_velocity, data.qfrc_actuator, data.qfrc_passive, model.opt.gravity,
            )  # fmt: skip
            _advance(
                model._address, data._address, view, self._layout, self._muscles, steps, self._exo_alpha,
                self._exo_joint, *(x[rows] for x in inputs), *(x[rows] for x in outputs),
            )  # fmt: skip

        if self._pool is None:
            for worker in self._workers:
                run(worker)
        else:
            list(self._pool.map(run, self._workers))
        return self._ours(outputs[0], outputs[1], new, readings)

    def _dependents(self, state: PhysicsState) -> tuple[np.ndarray, np.ndarray]:
        """Dependent coordinates and velocities [N, D] of a state; on their polynomials where it does not know them."""
        place, speed = self.published.coordinates.dependents(state.qpos[:, 7:], state.qvel[:, 6:])
        known = state.internal[:, :1] > 0.5
        kept_place, kept_speed = np.split(state.internal[:, 1:], 2, axis=1)
        return np.where(known, kept_place, place), np.where(known, kept_speed, speed)

    def _push(self, state: PhysicsState, drive: Drive) -> np.ndarray:
        """Wrench [N, 6] on the published pelvis that pushes where the skeleton's pelvis is pushed."""
        force = drive.push_n @ TO_PUBLISHED.T
        vector = state.qpos[:, 4:7] @ TO_PUBLISHED.T
        arm = np.broadcast_to(self.published.push_arm_m, force.shape)
        turned = 2.0 * _cross(vector, arm)
        arm = arm + state.qpos[:, 3:4] * turned + _cross(vector, turned)
        return np.concatenate([force, _cross(arm, force)], axis=1)

    def _ours(self, q, v, new: PhysicsState, readings: Readings) -> tuple[PhysicsState, Readings]:
        """State and readings in our coordinates, float32."""
        coordinates = self.published.coordinates
        qpos, qvel = coordinates.from_published(q, v)
        internal = np.concatenate(
            [np.ones((self.num_envs, 1)), q[:, coordinates.slave_qpos], v[:, coordinates.slave_dof]], axis=1
        )
        gyro = sensor_slices()["thigh_gyro"]
        vectors = readings.sensors.reshape(self.num_envs, -1, 3)
        vectors[:, gyro.stop // 3 :] = vectors[:, gyro.stop // 3 :] @ PUBLISHED_TO_WORLD.T
        readings = readings._replace(foot_force_n=readings.foot_force_n @ PUBLISHED_TO_WORLD.T)
        state = new._replace(qpos=qpos, qvel=qvel, internal=internal)
        return jax.tree.map(lambda x: x.astype(np.float32), (state, readings))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products [N, 3]; for few rows numpy's own takes five times as long."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def _check(wearers: tuple[Wearer, ...], config: EngineConfig) -> None:
    if tuple(wearers) != (Wearer(),):
        raise UserError("the published body has one size: engine 'published' takes the published wearer only")
    low, high = TIMESTEPS_S
    if not low <= config.timestep_s <= high:
        raise UserError(f"physics step = {config.timestep_s:g} s; engine 'published' allows {low:g} to {high:g} s")
