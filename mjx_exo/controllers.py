"""Controllers that do not learn, in the loop of the simulated wearer: reference controllers, an exported student.

A learned exoskeleton actor acts through the environment's own action; everything else that can drive a device keeps a
memory of its own and answers once per period of the device. `ControlledEnv` carries that memory inside the state, so
the human beside it can be trained, checkpointed and evaluated exactly as in every other task. Limits, rate, delay and
lag of the device profile apply to these controllers as to a learned one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime as ort
from flax import struct
from jax import Array

from mjx_exo.conventions import GYRO_CHANNELS, SignalContract
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.onnx_file import GOLDEN_TOLERANCE_NM_PER_KG, open_onnx
from mjx_exo.walking import sensors
from mjx_exo.walking.env import WalkingEnv
from mjx_exo.walking.reference_controllers import ReferenceInputs, reference_controller, reset_where
from mjx_exo.walking.state import EnvState


class DeviceController(Protocol):
    """What drives the hips of N environments; `memory` is a pytree."""

    def init(self, env: WalkingEnv, state: EnvState, key: Array) -> Any:
        """Memory at the start of N episodes that begin in `state`."""
        ...

    def step(self, env: WalkingEnv, memory: Any, moment: EnvState) -> tuple[Array, Any]:
        """One period of the device: wanted torque [N, 2] in Nm, right and left, flexion positive; and the memory."""
        ...

    def restart(self, env: WalkingEnv, memory: Any, state: EnvState, done: Array) -> Any:
        """The memory where `done` [N] episodes have just begun anew in `state`."""
        ...


class ControlledState(EnvState):
    """An environment's state and the memory of what drives the device."""

    memory: Any


class ControlledEnv(WalkingEnv):
    """A walking environment whose device a given controller drives; the human is its only actor."""

    def __init__(self, env: WalkingEnv, controller: DeviceController):
        """Raises `UserError` if nobody wears an active device in `env`."""
        if not env.active:
            raise UserError(f"device mode '{env.config.device_mode}' cannot be driven; allowed: active")
        super().__init__(env.config, env.engine, env.profile)
        self.controller = controller
        self.actors = tuple(actor for actor in self.actors if actor.name == "human")

    def reset(self, key: Array) -> ControlledState:
        """A fresh state of all N environments, the controller's memory included."""
        key, memory_key = jax.random.split(key)
        state = super().reset(key)
        fields = {name: getattr(state, name) for name in EnvState.__dataclass_fields__}
        return ControlledState(**fields, memory=self.controller.init(self, state, memory_key))

    def step(self, state: ControlledState, action: dict[str, Array]) -> ControlledState:
        """One control step; `action["human"]` is [N, A], and the controller answers at every tick of the device."""

        def drive(memory: Any, moment: EnvState) -> tuple[Array, Any]:
            return self.controller.step(self, memory, moment)

        after, memory = self.step_driven(state, action["human"], drive, state.memory)
        done = (after.terminated + after.truncated) > 0
        return after.replace(memory=self.controller.restart(self, memory, after, done))

    def hip_angle_rad(self, state: EnvState) -> Array:
        """Hip flexion [N, 2], right and left."""
        return state.physics.qpos[:, 7:][:, self.walkers.legs[:, self.walkers.hip]]

    def foot_load_bw(self, state: EnvState) -> Array:
        """Vertical ground force [N, 2] in body weights, the worn device's weight included."""
        return state.readings.foot_force_n[:, :, 2] / self.walkers.body_weight_n[:, None]


class ReferenceDriver:
    """A reference controller with its parameters: scalars, or one value per environment [N]."""

    def __init__(self, name: str, parameters: Any = None):
        """Raises `UserError` for an unknown name."""
        self._controller = reference_controller(name)
        self.name = name
        self.parameters = self._controller.parameters if parameters is None else parameters

    def init(self, env: WalkingEnv, state: EnvState, key: Array) -> Any:
        """An empty past of N environments."""
        del state, key
        return self._controller.init(env.num_envs, env.tick_s)

    def step(self, env: WalkingEnv, memory: Any, moment: EnvState) -> tuple[Array, Any]:
        """See `DeviceController`."""
        inputs = ReferenceInputs(env.hip_angle_rad(moment), env.hip_moment_nm_kg(moment), env.foot_load_bw(moment))
        memory, torque = self._controller.step(memory, inputs, self.parameters, env.tick_s)
        return torque * env.body_mass_kg[:, None], memory

    def restart(self, env: WalkingEnv, memory: Any, state: EnvState, done: Array) -> Any:
        """See `DeviceController`."""
        return reset_where(done, memory, self.init(env, state, env))


@struct.dataclass
class StudentMemory:
    """What an exported student and its sensors carry from tick to tick."""

    parameters: sensors.SensorParameters
    sensor: sensors.SensorState
    window: Array  # [N, window, 2] rad/s, oldest first
    seen: Array  # [N] samples since the start of the episode
    key: Array


class OnnxStudent:
    """An exported file as the device would run it: virtual gyroscopes in, the graph's torque out.

    Torque is zero until the window holds true samples only, as in the loop on the device.
    """

    def __init__(self, session: ort.InferenceSession, contract: SignalContract, profile: DeviceProfile, source: str):
        self.contract, self.profile, self.source = contract, profile, source
        self._session, self._input = session, session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    @classmethod
    def load(cls, path: str | Path, device: str = "") -> OnnxStudent:
        """Reads and checks a file for the device profile `device` (the file's own where empty).

        Raises `UserError` with one line: no such file, not an export, streaming form, another device, other sensors,
        golden vectors that this computer does not reproduce.
        """
        file = open_onnx(path)
        metadata, contract = file.metadata, SignalContract.from_dict(file.metadata, str(path))
        if metadata.get("form", "window") != "window":
            raise UserError(f"{path}: is the {metadata['form']} form; the simulation runs whole windows, export those")
        if contract.gyro_channels != GYRO_CHANNELS:
            listed = ", ".join(contract.gyro_channels)
            raise UserError(f"{path}: wants {listed}; the virtual sensors give {', '.join(GYRO_CHANNELS)}")
        profile = DeviceProfile.load(device or contract.profile)
        difference = profile.contract(contract.window).difference(contract, f"profile {profile.name}", str(path))
        if difference:
            raise UserError(difference)
        student = cls(file.session, contract, profile, str(path))
        worst = float(np.max(np.abs(student.answer(file.windows) - file.torques)))
        if not worst <= GOLDEN_TOLERANCE_NM_PER_KG:
            raise UserError(f"{path}: golden vectors differ by {worst:.2g} Nm/kg, at most 1e-5; the file is damaged")
        return student

    def answer(self, windows: np.ndarray) -> np.ndarray:
        """Torques [N, 2] in Nm/kg for windows [N, window, 2]; plain numpy."""
        feed = {self._input: np.ascontiguousarray(windows, dtype=np.float32)}
        return np.asarray(self._session.run([self._output], feed)[0], np.float32)

    def init(self, env: WalkingEnv, state: EnvState, key: Array) -> StudentMemory:
        """Sensors of its own for each of N environments; an empty window."""
        draw_key, sensor_key, key = jax.random.split(key, 3)
        parameters = sensors.draw_sensor(draw_key, self.profile, env.num_envs)
        omega = env.kinematics_of(state).thigh_gyro_rad_s
        return StudentMemory(
            parameters=parameters,
            sensor=sensors.init(parameters, sensor_key, omega),
            window=jnp.zeros((env.num_envs, self.contract.window, len(GYRO_CHANNELS))),
            seen=jnp.zeros(env.num_envs, jnp.int32),
            key=key,
        )

    def step(self, env: WalkingEnv, memory: StudentMemory, moment: EnvState) -> tuple[Array, StudentMemory]:
        """See `DeviceController`."""
        key, sense_key = jax.random.split(memory.key)
        omega = env.kinematics_of(moment).thigh_gyro_rad_s
        sensor, signals = sensors.step(memory.parameters, memory.sensor, sense_key, omega, env.tick_s)
        window = jnp.concatenate([memory.window[:, 1:], signals[:, None]], axis=1)
        seen = memory.seen + 1
        shape = jax.ShapeDtypeStruct((env.num_envs, 2), jnp.float32)
        answered = jax.pure_callback(self.answer, shape, window, vmap_method="sequential")
        torque = jnp.where((seen >= self.contract.window)[:, None], answered, 0.0)
        moved = memory.replace(sensor=sensor, window=window, seen=seen, key=key)
        return torque * env.body_mass_kg[:, None], moved

    def restart(self, env: WalkingEnv, memory: StudentMemory, state: EnvState, done: Array) -> StudentMemory:
        """See `DeviceController`; the sensors stay the same ones, their past does not."""
        key, sensor_key = jax.random.split(memory.key)
        fresh = sensors.init(memory.parameters, sensor_key, env.kinematics_of(state).thigh_gyro_rad_s)
        sensor = sensors.reset(memory.sensor, fresh, done)
        return memory.replace(sensor=sensor, seen=jnp.where(done, 0, memory.seen), key=key)


def human_only(act_human: Callable[[Array], Array]) -> Callable[[EnvState], dict[str, Array]]:
    """An `Act` for environments whose device somebody else drives: [N, observation] → [N, A] of the human's policy."""
    return lambda state: {"human": act_human(state.observation["human"])}
