"""What a physics engine takes and gives, so that the environment does not know which one is running.

All arrays are batched over N environments. Angles and moments follow the project's conventions (flexion positive on
both sides); the root is a free joint: qpos = [x, y, z, quaternion w x y z, hinges], qvel = [linear velocity in the
world, angular velocity in the pelvis frame, hinge velocities].
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

from mjx_exo.device import DeviceProfile
from mjx_exo.musculoskeletal.compiled import CompiledBody
from mjx_exo.musculoskeletal.skeleton import ContactOptions
from mjx_exo.musculoskeletal.wearer import Wearer

ROOT_QPOS = 7
ROOT_QVEL = 6

# Joint limits are passive torques: linear beyond the published range, damped while beyond it.
LIMIT_STIFFNESS_NM = 500.0  # Nm/rad
LIMIT_DAMPING_NM_S = 5.0  # Nm·s/rad


class PhysicsState(NamedTuple):
    """State of N bodies; everything needed to go on."""

    qpos: Any  # [N, nq]
    qvel: Any  # [N, nv]
    activation: Any  # [N, M], 0…1
    warmstart: Any  # [N, nv], solver warm start
    exo_torque_nm: Any  # [N, 2], torque at the hip joints now, flexion positive
    internal: Any  # [N, I], an engine's own further state; zeros mean "derive it from the rest"


class Drive(NamedTuple):
    """What acts on N bodies, constant over one call."""

    excitation: Any  # [N, M], clipped to 0…1
    exo_command_nm: Any  # [N, 2], torque asked of the actuators, flexion positive
    push_n: Any  # [N, 3], force on the pelvis, world
    gravity_m_s2: Any  # [N, 3]


class Readings(NamedTuple):
    """What was measured during one call. Means are over its physics steps."""

    sensors: Any  # [N, 36], see `skeleton.SENSORS`, at the start of the last physics step
    foot_force_n: Any  # [N, 2, 3], mean ground reaction, world
    muscle_force_n: Any  # [N, M], mean tension
    fibre_length: Any  # [N, M], optimal lengths, last
    fibre_velocity: Any  # [N, M], optimal lengths per second, lengthening positive, last
    muscle_moment_nm: Any  # [N, J], mean moment of all muscles about each hinge
    passive_moment_nm: Any  # [N, J], mean moment of limits, passive stiffness and damping
    limit_moment_nm: Any  # [N, J], mean moment of the joint limits alone
    positive_power_w: Any  # [N, J], mean of the positive part of (muscle + passive) × velocity
    exo_power_w: Any  # [N, 2], mean torque × hip flexion velocity
    exo_positive_power_w: Any  # [N, 2], mean of its positive part


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """How a body is simulated."""

    timestep_s: float = 0.005  # physics step
    contact: ContactOptions = ContactOptions()
    threads: int = 0  # native engine: worker threads; 0 takes all cores


class Engine(Protocol):
    """One step interface over several engines."""

    body: CompiledBody
    config: EngineConfig
    wearers: tuple[Wearer, ...]
    wearer_of: Any  # [N] int, which wearer each environment carries
    num_envs: int

    def step(self, state: PhysicsState, drive: Drive, steps: int) -> tuple[PhysicsState, Readings]:
        """Advances all environments by `steps` physics steps; usable inside `jit` and `scan`."""
        ...

    def step_numpy(self, state: PhysicsState, drive: Drive, steps: int) -> tuple[PhysicsState, Readings]:
        """The same on numpy arrays, outside JAX."""
        ...


def actuator_bandwidth_hz(profile: DeviceProfile | None) -> float:
    """Bandwidth of the device's actuators; without a device the value does not matter."""
    return 10.0 if profile is None else profile.actuator.bandwidth_hz
