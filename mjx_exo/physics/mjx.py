"""MJX: the whole batch on the accelerator, nothing on the host.

The same light skeleton, muscles and readings as the native engine. With `impl="jax"` the joints' implicit damping is
solved here rather than by MJX's own integrator: the muscles' torques go in as applied forces and need no actuators, and
the second factorization waits for the first (see `_after_damping`).

Wearers are models of one structure; the numbers that differ are stacked and every environment takes its wearer's. With
a device mesh the physics of an environment stays on its device; nothing is exchanged inside a step.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from mjx_exo.conventions import SIDE_SUFFIX, SIDES
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.musculoskeletal.compiled import CompiledBody
from mjx_exo.musculoskeletal.muscle import MuscleParameters
from mjx_exo.musculoskeletal.skeleton import sensor_slices
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.physics import batched_muscles
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

with contextlib.redirect_stdout(io.StringIO()):  # it prints that Warp is missing, which is no news here
    from mujoco import mjx

IMPLEMENTATIONS = ("jax", "warp")
_FORCE = sensor_slices()["foot_force"]
# Of 6400 walking steps, Warp's solver stopped short in 350 after 4 iterations and in none after 8.
_WARP_ITERATIONS = 8
_PYRAMID_EDGES = 4  # constraint rows of a contact with friction in the plane


def warp_installed() -> bool:
    """Whether MuJoCo Warp can be used from MJX."""
    return importlib.util.find_spec("warp") is not None


class Joints(NamedTuple):
    """What acts on T hinges of N environments during one physics step."""

    torque_nm: Array  # [N, T]
    damping_nm_s: Array  # [N, T], treated implicitly: −damping · velocity at the end of the step


class Motion(NamedTuple):
    """State of the skeleton of N environments."""

    qpos: Array  # [N, nq]
    qvel: Array  # [N, nv]
    warmstart: Array  # [N, nv]


class _PerWearer(NamedTuple):
    """Numbers that differ between wearers, one row each."""

    leaves: tuple[np.ndarray, ...]  # [K, …] of the model
    scale: np.ndarray  # [K], path lengths
    passive: np.ndarray  # [K], share of the body's passive joint damping and stiffness
    muscles: MuscleParameters  # each [K, M]


class MjxEngine:
    """See the module's docstring. Environments of one wearer are neighbours: `wearer_of` is sorted."""

    def __init__(
        self,
        body: CompiledBody,
        num_envs: int,
        wearers: tuple[Wearer, ...] = (Wearer(),),
        config: EngineConfig = EngineConfig(),
        worn: DeviceProfile | None = None,
        impl: str = "jax",
        mesh: Mesh | None = None,
    ):
        """Raises `UserError` for an unknown or missing implementation, or environments that do not divide by devices.

        Args:
          impl: "jax", or "warp" where MuJoCo Warp is installed.
          mesh: devices that share the environments; None keeps everything on JAX's default device.
        """
        _check(impl, num_envs, mesh)
        self.body, self.config, self.wearers, self.num_envs = body, config, wearers, num_envs
        self.impl, self.mesh = impl, mesh
        self.wearer_of = np.sort(np.arange(num_envs) % len(wearers))
        xmls = [body.model_xml(w, config.timestep_s, config.contact, worn) for w in wearers]
        models = [_skeleton(xml, impl) for xml in xmls]
        self.nq, self.nv = models[0].nq, models[0].nv
        self.nsensor = max(s.stop for s in sensor_slices().values())
        self.muscles, self.joints = len(body.muscle_names), len(body.joint_names)
        self._model, self._varying, leaves = _stack([_put_model(m, impl) for m in models])
        self._per_wearer = _PerWearer(
            leaves=leaves,
            scale=np.array([body.length_scale(w) for w in wearers]),
            passive=np.array([w.passive for w in wearers]),
            muscles=MuscleParameters(*map(np.stack, zip(*(body.muscle_parameters(w) for w in wearers), strict=True))),
        )
        self._limbs = tuple(batched_muscles.limb_arrays(body, limb) for limb in body.limbs)
        self._data = _as_numpy(self._make_data(models[0]))
        self._foot_of_geom = _foot_of_geom(models[0])
        hinges = body.hinges
        self._limits = np.array([h.range_rad for h in hinges])
        self._passive = np.array([(h.stiffness_nm, h.damping_nm_s) for h in hinges])
        self._hip = np.zeros((2, self.joints))
        for s, side in enumerate(SIDES):
            self._hip[s, body.joint_names.index(f"hip_flexion{SIDE_SUFFIX[side]}")] = 1.0
        self._exo_alpha = 1.0 - math.exp(-2.0 * math.pi * actuator_bandwidth_hz(worn) * config.timestep_s)
        self._compiled = jax.jit(self._on_devices, static_argnames="steps")

    def shapes(self) -> tuple[PhysicsState, Readings]:
        """`jax.ShapeDtypeStruct` of what `step` returns."""
        n, m, j = self.num_envs, self.muscles, self.joints

        def array(*shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((n, *shape), jnp.result_type(float))

        state = PhysicsState(array(self.nq), array(self.nv), array(m), array(self.nv), array(2), array(0))
        readings = Readings(
            array(self.nsensor), array(2, 3), array(m), array(m), array(m), array(j), array(j), array(j), array(j),
            array(2), array(2),
        )  # fmt: skip
        return state, readings

    def step(self, state: PhysicsState, drive: Drive, steps: int) -> tuple[PhysicsState, Readings]:
        """Advances all environments by `steps` physics steps; usable inside `jit` and `scan`."""
        state, drive = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), (state, drive))
        return self._compiled(state, drive, jnp.asarray(self.wearer_of), steps=steps)

    def step_numpy(self, state: PhysicsState, drive: Drive, steps: int) -> tuple[PhysicsState, Readings]:
        """The same with numpy arrays out, outside `jit`."""
        return jax.tree.map(np.asarray, self.step(state, drive, steps))

    # ---------------------------------------------------------------- one call

    def _on_devices(self, state: PhysicsState, drive: Drive, wearer_of: Array, steps: int) -> Any:
        # Tensor cores would round path lengths and mass matrices to ten bits.
        advance = jax.default_matmul_precision("highest")(partial(self._advance, steps=steps))
        if self.mesh is not None:
            spec = PartitionSpec(self.mesh.axis_names)
            advance = jax.shard_map(
                advance, mesh=self.mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
            )
        return advance(state, drive, wearer_of)

    def _advance(self, state: PhysicsState, drive: Drive, wearer_of: Array, steps: int) -> Any:
        dtype = state.qpos.dtype
        mine = self._of_wearers(wearer_of, dtype)
        parameters = MuscleParameters(*(p.T for p in mine.muscles))
        limits, passive, hip = (jnp.asarray(a, dtype) for a in (self._limits, self._passive, self._hip))
        low, high = limits[:, :1], limits[:, 1:]
        dynamics = self._dynamics(mine.leaves, drive)
        excitation, command, dt = drive.excitation.T, drive.exo_command_nm.T, self.config.timestep_s

        def physics_step(carry: tuple, _: None) -> tuple[tuple, None]:
            motion, activation, exo, instant, sums = carry
            q, v = motion.qpos[:, ROOT_QPOS:].T, motion.qvel[:, ROOT_QVEL:].T
            muscle = batched_muscles.body_output(self._limbs, q, v, activation, mine.scale, parameters)
            exo = exo + self._exo_alpha * (command - exo)
            excess = jnp.maximum(q - high, 0.0) + jnp.minimum(q - low, 0.0)
            beyond = excess != 0.0
            limit = jnp.where(beyond, -LIMIT_STIFFNESS_NM * excess - LIMIT_DAMPING_NM_S * v, 0.0)
            # The spring of a limit acts at the angle of the end of the step: stiffness × dt × velocity, half explicit.
            stiffening = jnp.where(beyond, dt * LIMIT_STIFFNESS_NM, 0.0)
            damping = muscle.damping_nm_s + jnp.where(beyond, LIMIT_DAMPING_NM_S, 0.0) + stiffening
            torque = muscle.moment_nm + limit - stiffening * v + hip.T @ exo
            passive_moment = limit - mine.passive * (passive[:, :1] * q + passive[:, 1:] * v)
            exo_power = exo * (hip @ v)
            motion, sensors = dynamics(motion, Joints(torque.T, damping.T))
            new = (
                sensors[:, _FORCE].T, muscle.force_n, muscle.moment_nm, passive_moment, limit,
                jnp.maximum((muscle.moment_nm + passive_moment) * v, 0.0), exo_power, jnp.maximum(exo_power, 0.0),
            )  # fmt: skip
            activation = batched_muscles.activate(activation, excitation, parameters, dt)
            instant = (sensors, muscle.fibre_length, muscle.fibre_velocity)
            return (motion, activation, exo, instant, jax.tree.map(jnp.add, sums, new)), None

        n, rows = state.qpos.shape[0], [6, self.muscles, *[self.joints] * 4, 2, 2]
        instant = tuple(jnp.zeros(s, dtype) for s in ((n, self.nsensor), (self.muscles, n), (self.muscles, n)))
        start = (
            Motion(state.qpos, state.qvel, state.warmstart), state.activation.T, state.exo_torque_nm.T, instant,
            tuple(jnp.zeros((r, n), dtype) for r in rows),
        )  # fmt: skip
        end, _ = jax.lax.scan(physics_step, start, length=steps)
        motion, activation, exo, (sensors, length, velocity), sums = end
        foot, force, *means = (total.T / steps for total in sums)
        after = PhysicsState(motion.qpos, motion.qvel, activation.T, motion.warmstart, exo.T, jnp.zeros((n, 0), dtype))
        readings = Readings(sensors, foot.reshape(n, 2, 3), force, length.T, velocity.T, *means)
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, dtype), (after, readings))

    def _of_wearers(self, wearer_of: Array, dtype: Any) -> _PerWearer:
        """Every environment's own numbers; one row for all where there is one wearer."""
        if len(self.wearers) == 1:
            return jax.tree.map(lambda x: jnp.asarray(x[:1], dtype), self._per_wearer)
        return jax.tree.map(lambda x: jnp.take(jnp.asarray(x, dtype), wearer_of, axis=0), self._per_wearer)

    # ---------------------------------------------------------------- one physics step

    def _dynamics(self, leaves: tuple[Array, ...], drive: Drive) -> Callable[[Motion, Joints], tuple[Motion, Array]]:
        """What moves the skeleton by one physics step, given what acts on its joints; also gives sensors [N, 36]."""
        one = self._warp_step if self.impl == "warp" else self._forward
        model_axis = None if len(self.wearers) == 1 else 0
        if model_axis is None:
            leaves = tuple(leaf[0] for leaf in leaves)
        batched = jax.vmap(one, in_axes=(model_axis, 0, 0, 0, 0))

        def step(motion: Motion, joints: Joints) -> tuple[Motion, Array]:
            result = batched(leaves, drive.gravity_m_s2, drive.push_n, motion, joints)
            if self.impl == "warp":
                return result
            inertia, damping, force, acceleration, sensors = result
            damped = _after_damping(inertia, self.config.timestep_s * damping, force, acceleration)
            moved = _integrate(motion.qpos, motion.qvel, damped, self.config.timestep_s)
            return Motion(*moved, acceleration), sensors

        return step

    def _model_of(self, leaves: tuple[Array, ...], gravity_m_s2: Array) -> mjx.Model:
        everything, structure = jax.tree.flatten(_as_jax(self._model))
        for index, leaf in zip(self._varying, leaves, strict=True):
            everything[index] = leaf
        return jax.tree.unflatten(structure, everything).tree_replace({"opt.gravity": gravity_m_s2})

    def _placed(self, push_n: Array, motion: Motion) -> mjx.Data:
        """One environment's data at a state, with the push on the pelvis (body 1)."""
        data = _as_jax(self._data)
        return data.replace(
            qpos=motion.qpos,
            qvel=motion.qvel,
            qacc_warmstart=motion.warmstart,
            xfrc_applied=data.xfrc_applied.at[1, :3].set(push_n),
        )

    def _forward(self, leaves: tuple[Array, ...], gravity: Array, push: Array, motion: Motion, joints: Joints) -> tuple:
        """One environment: inertia matrix, damping of all velocities, force, acceleration without damping, sensors."""
        model = self._model_of(leaves, gravity)
        root = jnp.zeros(ROOT_QVEL, motion.qvel.dtype)
        data = self._placed(push, motion).replace(qfrc_applied=jnp.concatenate([root, joints.torque_nm]))
        data = mjx.forward(model, data)
        damping = model.dof_damping + jnp.concatenate([root, joints.damping_nm_s])
        sensors = data.sensordata
        sensors = jnp.concatenate([sensors[: _FORCE.start], self._foot_forces(data), sensors[_FORCE.start :]])
        return mjx.full_m(model, data), damping, data.qfrc_smooth + data.qfrc_constraint, data.qacc, sensors

    def _foot_forces(self, data: mjx.Data) -> Array:
        """Ground reaction on the right and left foot [6] (N, world), from the edges of the friction pyramids."""
        contact = data._impl.contact
        edges = data._impl.efc_force.reshape(len(contact.geom), _PYRAMID_EDGES)
        along = jnp.stack(
            [
                edges.sum(-1),
                contact.friction[:, 0] * (edges[:, 0] - edges[:, 1]),
                contact.friction[:, 1] * (edges[:, 2] - edges[:, 3]),
            ],
            -1,
        )
        world = jnp.einsum("ca,cax->cx", along, contact.frame)
        feet = jnp.asarray(self._foot_of_geom, world.dtype)[contact.geom].sum(1)  # [contacts, 2]
        return jnp.einsum("cf,cx->fx", feet, world).ravel()

    def _warp_step(self, leaves: tuple[Array, ...], gravity: Array, push: Array, motion: Motion, joints: Joints) -> Any:
        """One environment through MuJoCo Warp's own integrator, which knows damping as a gain on joint velocity."""
        v = motion.qvel[ROOT_QVEL:]
        control = jnp.concatenate([joints.torque_nm + joints.damping_nm_s * v, -joints.damping_nm_s])
        data = mjx.step(self._model_of(leaves, gravity), self._placed(push, motion).replace(ctrl=control))
        return Motion(data.qpos, data.qvel, data.qacc_warmstart), data.sensordata

    def _make_data(self, model: mujoco.MjModel) -> mjx.Data:
        if self.impl == "jax":
            return mjx.make_data(model, device=_here(), impl="jax")
        contacts = int((model.geom_type == mujoco.mjtGeom.mjGEOM_SPHERE).sum())
        local = self.num_envs if self.mesh is None else self.num_envs // self.mesh.size
        return mjx.make_data(
            model, device=_here(), impl="warp", naconmax=local * contacts, njmax=contacts * _PYRAMID_EDGES
        )


def _check(impl: str, num_envs: int, mesh: Mesh | None) -> None:
    if impl not in IMPLEMENTATIONS:
        raise UserError(f"unknown MJX implementation '{impl}'; known: {', '.join(IMPLEMENTATIONS)}")
    if impl == "warp" and not warp_installed():
        raise UserError("MJX implementation 'warp' is not installed; install the extra 'gpu', or use 'jax'")
    if mesh is not None and num_envs % mesh.size:
        raise UserError(f"num_envs = {num_envs} cannot be shared by {mesh.size} devices; a multiple of {mesh.size} can")


def _skeleton(xml: str, impl: str) -> mujoco.MjModel:
    """The skeleton in the form an implementation takes.

    On JAX it reads no net contact forces, and here it needs no actuators. Warp knows no automatic reset, and so refuses
    the flag that switches it off; and its line search takes more iterations to come as far as the others do.
    """
    if impl == "warp":
        model = mujoco.MjModel.from_xml_string(xml)
        model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        model.opt.iterations = max(model.opt.iterations, _WARP_ITERATIONS)
        return model
    root = ElementTree.fromstring(xml)
    sensors = root.find("sensor")
    for element in sensors.findall("contact"):
        sensors.remove(element)
    root.remove(root.find("actuator"))
    return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))


def _here() -> jax.Device:
    """A device of this process: MJX takes the first of all processes unless told."""
    return jax.local_devices()[0]


def _put_model(model: mujoco.MjModel, impl: str) -> mjx.Model:
    put = mjx.put_model(model, device=_here(), impl=impl)
    # Warp would print a line for every environment whose solver used all its iterations.
    return put.tree_replace({"opt._impl.warn_overflow": 0}) if impl == "warp" else put


def _stack(models: list[mjx.Model]) -> tuple[mjx.Model, tuple[int, ...], tuple[np.ndarray, ...]]:
    """The first model, which of its leaves differ between the models, and those leaves stacked [K, …]."""
    flat = [[np.asarray(leaf) for leaf in jax.tree.leaves(m)] for m in models]
    columns = list(zip(*flat, strict=True))
    varying = tuple(i for i, column in enumerate(columns) if any(not np.array_equal(column[0], c) for c in column[1:]))
    return _as_numpy(models[0]), varying, tuple(np.stack(columns[i]) for i in varying)


def _as_numpy(tree: Any) -> Any:
    """The same tree with leaves in host memory, so that they belong to no device when a program is traced."""
    return jax.tree.map(np.asarray, tree)


def _as_jax(tree: Any) -> Any:
    """The same tree with traced leaves: MJX takes numpy arrays for structure that must not vary."""
    return jax.tree.map(jnp.asarray, tree)


def _foot_of_geom(model: mujoco.MjModel) -> np.ndarray:
    """[geoms, 2]: 1 for the spheres of the right and of the left foot."""
    foot = np.zeros((model.ngeom, 2))
    for geom in range(model.ngeom):
        for s, side in enumerate(SIDES):
            foot[geom, s] = model.geom(geom).name.endswith(SIDE_SUFFIX[side])
    return foot


def _after_damping(inertia: Array, damping: Array, force: Array, acceleration: Array) -> Array:
    """Accelerations [N, nv] with damping (inertia units, [N, nv]) at the end of the step.

    Two batched factorizations at once can deadlock XLA's pool on a processor with two cores (jax 0.10.2). Adding a zero
    made from the solver's result makes this one wait for the solver's; multiplication by zero is not folded away,
    because it keeps NaN.
    """
    diagonal = damping + 0.0 * acceleration
    factor = jax.scipy.linalg.cho_factor(inertia + diagonal[:, :, None] * jnp.eye(inertia.shape[-1], dtype=force.dtype))
    return jax.scipy.linalg.cho_solve(factor, force[..., None])[..., 0]


def _integrate(qpos: Array, qvel: Array, acceleration: Array, dt_s: float) -> tuple[Array, Array]:
    """Semi-implicit step: new velocities first, positions with them. The root's rotation is in its own frame."""
    qvel = qvel + dt_s * acceleration
    turn = dt_s * qvel[:, 3:ROOT_QVEL]
    squared = jnp.sum(turn * turn, -1, keepdims=True)
    half = 0.5 * jnp.sqrt(jnp.maximum(squared, 1e-20))
    w2, xyz2 = jnp.cos(half), 0.5 * jnp.sinc(half / jnp.pi) * turn
    w1, xyz1 = qpos[:, 3:4], qpos[:, 4:ROOT_QPOS]
    w = w1 * w2 - jnp.sum(xyz1 * xyz2, -1, keepdims=True)
    xyz = w1 * xyz2 + w2 * xyz1 + jnp.cross(xyz1, xyz2)
    rotation = jnp.concatenate([w, xyz], -1)
    rotation = rotation / jnp.linalg.norm(rotation, axis=-1, keepdims=True)
    place = qpos[:, :3] + dt_s * qvel[:, :3]
    hinges = qpos[:, ROOT_QPOS:] + dt_s * qvel[:, ROOT_QVEL:]
    return jnp.concatenate([place, rotation, hinges], -1), qvel
