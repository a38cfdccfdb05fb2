"""An exported student of any input set as what drives the device in simulation.

`controllers.OnnxStudent` knows the two gyroscope channels that every device has. A student of richer inputs brings the
profile of its device with it (`device.toml` beside the file), and gets the virtual sensors which that profile names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from mjx_exo.controllers import OnnxStudent
from mjx_exo.conventions import GYRO_CHANNELS, SignalContract
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.onnx_file import GOLDEN_TOLERANCE_NM_PER_KG, open_onnx
from mjx_exo.student_sensing import SensingState, StudentSensors
from mjx_exo.walking import sensors
from mjx_exo.walking.env import WalkingEnv
from mjx_exo.walking.state import EnvState
from policies.student import check_measures

DEVICE_FILE = "device.toml"


def load_controller(path: str | Path, device: str = "") -> OnnxStudent:
    """An exported file for the device profile `device` (the file's own where empty).

    Raises `UserError` with one line for everything that `OnnxStudent.load` refuses, and for a profile whose sensors the
    student does not have.
    """
    path = Path(path)
    file = open_onnx(path)
    contract = SignalContract.from_dict(file.metadata, str(path))
    signals = tuple(name.removesuffix("_r") for name in contract.gyro_channels[::2])
    beside = path.parent / DEVICE_FILE
    profile = DeviceProfile.load(beside) if beside.is_file() else None
    if profile is None or profile.name != contract.profile:
        profile = DeviceProfile.load(device or contract.profile)
    check_measures(profile, signals)
    if contract.gyro_channels == GYRO_CHANNELS:
        return OnnxStudent.load(path, device)
    form = file.metadata.get("form", "window")
    if form != "window":
        raise UserError(f"{path}: is the {form} form; the simulation runs whole windows, export those")
    if profile.profile_hash() != contract.profile_hash:
        raise UserError(f"{path}: was exported for another version of device profile {profile.name!r}")
    student = SensedStudent(file.session, contract, profile, str(path))
    worst = float(np.max(np.abs(student.answer(file.windows) - file.torques)))
    if not worst <= GOLDEN_TOLERANCE_NM_PER_KG:
        raise UserError(f"{path}: golden vectors differ by {worst:.2g} Nm/kg, at most 1e-5; the file is damaged")
    return student


@struct.dataclass
class SensedMemory:
    """As `controllers.StudentMemory`, with all of a student's sensors."""

    parameters: sensors.SensorParameters
    sensor: SensingState
    window: Array  # [N, window, C] SI, oldest first
    seen: Array  # [N] samples since the start of the episode
    key: Array


class SensedStudent(OnnxStudent):
    """An exported file that takes more than the sagittal gyroscopes."""

    def _sensors(self, env: WalkingEnv) -> StudentSensors:
        signals = tuple(name.removesuffix("_r") for name in self.contract.gyro_channels[::2])
        return StudentSensors(env, signals, self.profile)

    def init(self, env: WalkingEnv, state: EnvState, key: Array) -> Any:
        """Sensors of its own for each of N environments; an empty window."""
        draw_key, sensor_key, key = jax.random.split(key, 3)
        parameters = sensors.draw_sensor(draw_key, self.profile, env.num_envs)
        return SensedMemory(
            parameters=parameters,
            sensor=self._sensors(env).init(parameters, sensor_key, state),
            window=jnp.zeros((env.num_envs, self.contract.window, len(self.contract.gyro_channels))),
            seen=jnp.zeros(env.num_envs, jnp.int32),
            key=key,
        )

    def step(self, env: WalkingEnv, memory: Any, moment: EnvState) -> tuple[Array, Any]:
        """See `controllers.DeviceController`."""
        key, sense_key = jax.random.split(memory.key)
        sensor, signals = self._sensors(env).step(memory.parameters, memory.sensor, sense_key, moment)
        window = jnp.concatenate([memory.window[:, 1:], signals[:, None]], axis=1)
        seen = memory.seen + 1
        shape = jax.ShapeDtypeStruct((env.num_envs, 2), jnp.float32)
        answered = jax.pure_callback(self.answer, shape, window, vmap_method="sequential")
        torque = jnp.where((seen >= self.contract.window)[:, None], answered, 0.0)
        return torque * env.body_mass_kg[:, None], memory.replace(sensor=sensor, window=window, seen=seen, key=key)

    def restart(self, env: WalkingEnv, memory: Any, state: EnvState, done: Array) -> Any:
        """See `controllers.DeviceController`; the sensors stay the same ones, their past does not."""
        key, sensor_key = jax.random.split(memory.key)
        here = self._sensors(env)
        sensor = here.reset(memory.sensor, here.init(memory.parameters, sensor_key, state), done)
        return memory.replace(sensor=sensor, seen=jnp.where(done, 0, memory.seen), key=key)
