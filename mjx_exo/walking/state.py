"""What an environment's state consists of, and what passes between the parts of one control step."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from flax import struct
from jax import Array

from mjx_exo.physics.interface import PhysicsState, Readings
from mjx_exo.walking.commands import Command


@dataclasses.dataclass(frozen=True)
class Actor:
    """One actor's sizes and which of its inputs are scaled by hand."""

    name: str
    observation_size: int
    privileged_size: int
    action_size: int
    observation_fixed: tuple[bool, ...]
    privileged_fixed: tuple[bool, ...]


class Exo(NamedTuple):
    """The device's controller side: what was asked last and what is still on its way. Flexion positive."""

    wanted_nm: Array  # [N, 2], what the policy asked for last
    requested_nm: Array  # [N, 2], what the limiter made of it
    applied_nm: Array  # [N, 2], what the controller commands its actuators now, before delay and actuator lag
    delayed_nm: Array  # [N, D, 2], oldest first
    hip_velocity_rad_s: Array  # [N, 2], of the sample before


class Decision(NamedTuple):
    """What drives one control step."""

    excitation: Array  # [N, M], 0…1
    action: Array  # [N, A], right before left
    bend: Array  # [N], relative speed of the gait clock
    command: Command
    key: Array
    reset_key: Array


class Curriculum(NamedTuple):
    """What hardens with training; scalars."""

    strictness: Array  # 0…1
    widen: Array  # 0…1, how much of the command ranges is open


class EnvState(struct.PyTreeNode):
    """Everything needed to go on exactly. Checkpoints find their arrays by these names."""

    physics: PhysicsState
    sensors: Array  # [N, S] the newest sensor values of `readings`
    readings: Readings
    command: Command
    exo: Exo
    curriculum: Curriculum
    phase: Array  # [N] gait clock of the right leg, 0…1
    speed_filtered_m_s: Array  # [N] forward
    pacing_m_s: Array  # [N] what the walker aims at beyond the commanded speed
    previous_action: Array  # [N, A] of the human actor, right before left
    time_s: Array  # [N] since the episode began
    key: Array
    observation: dict[str, Array]  # per actor [N, observation_size]
    privileged: dict[str, Array]  # per actor [N, privileged_size]
    reward: dict[str, Array]  # per actor [N]
    terminated: Array  # [N] 0 or 1
    truncated: Array  # [N] 0 or 1, never with `terminated`
    metrics: dict[str, Array]  # [N] each
