"""The messages between the host and the controller on the device: what they mean, without how they become bytes.

Every message is a named tuple; pairs are (right, left), flexion positive, SI units, torque in Nm. `sequence` counts the
frames of one type from one sender, modulo 2^32. `frames.py` turns them into bytes and back; `PROTOCOL.md` is the
specification of both.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

PROTOCOL_VERSION = 2
MAX_BODY_BYTES = 192  # header + payload + CRC; below 254, so that COBS costs exactly one byte
MAX_ENCODED_BYTES = MAX_BODY_BYTES + 1
MAX_TTL_MS = 50  # longest time to live a torque command may ask for
LONGEST_ANSWER_US = 0xFFFF  # what `applied_after_us` can say; no command lives that long
NAME_BYTES = 32
FIRMWARE_BYTES = 16

Pair = tuple[float, float]
Six = tuple[float, float, float, float, float, float]


class FrameType(enum.IntEnum):
    """Second byte of every frame. Below 128 host to device, from 128 device to host."""

    HELLO = 1
    TORQUE = 2
    ARM = 3
    DISARM = 4
    STOP = 5
    REQUEST = 6
    HELLO_ACK = 128
    SENSOR = 129


class SensorFlag(enum.IntFlag):
    """Header flags of a sensor frame: the state of the device when the sample was taken."""

    ARMED = 0x0001
    LATCHED = 0x0002  # the controller stopped for `latch_reason` and holds zero until armed by hand
    DRIVER_FAULT = 0x0004
    EMERGENCY_STOP = 0x0008
    LIMITED = 0x0010  # the controller changed the last command by its own clamps
    OVER_TEMPERATURE = 0x0020
    SIMULATED = 0x0040  # a virtual device, not a machine on a person


class TorqueFlag(enum.IntFlag):
    """Header flags of a torque frame."""

    ARMED = 0x0001  # the host means this torque; without it the controller applies zero
    DRY_RUN = 0x0002  # the host logs what it would do; the controller applies zero


class ArmFlag(enum.IntFlag):
    """Header flags of an arm frame."""

    CLEAR_LATCH = 0x0001  # a person has seen the latched fault and re-arms on purpose


class StopFlag(enum.IntFlag):
    """Header flags of a stop frame."""

    IMMEDIATE = 0x0001  # zero at once instead of the controller's short release ramp


class SensorField(enum.IntFlag):
    """Which optional groups follow the fixed part of a sensor frame, in this order."""

    JOINT_VELOCITY = 0x0001
    MEASURED_TORQUE = 0x0002
    TEMPERATURE = 0x0004
    GYRO3 = 0x0008
    ACCELEROMETER = 0x0010
    HIP_ANGLE = 0x0020


class ControllerState(enum.IntEnum):
    """What the controller is doing."""

    WAITING = 0  # no host has greeted it yet
    DISARMED = 1
    ARMED = 2
    LATCHED = 3


class LatchReason(enum.IntEnum):
    """Why a controller latched (sensor frames, hello answers) or why the host stopped (stop frames)."""

    NONE = 0
    WATCHDOG = 1
    HOST_STOP = 2
    EMERGENCY_STOP = 3
    DRIVER_FAULT = 4
    BAD_COMMAND = 5
    NEW_SESSION = 6
    OVER_TEMPERATURE = 7
    CLOCK = 8


LATCH_TEXT: dict[int, str] = {
    LatchReason.NONE: "no fault",
    LatchReason.WATCHDOG: "no fresh torque command arrived within the time to live",
    LatchReason.HOST_STOP: "the host sent stop",
    LatchReason.EMERGENCY_STOP: "the emergency stop was pressed",
    LatchReason.DRIVER_FAULT: "a motor driver reported a fault",
    LatchReason.BAD_COMMAND: "a torque command was not a finite number",
    LatchReason.NEW_SESSION: "another host greeted the device while it was armed",
    LatchReason.OVER_TEMPERATURE: "an actuator is too hot",
    LatchReason.CLOCK: "the controller's clock ran backwards or its loop was late",
}


class StopReason(enum.IntEnum):
    """Why the host stops; the controller latches HOST_STOP for all of them and keeps the code for its own log."""

    USER = 0
    SIGNAL = 1
    GUARD_FAULT = 2
    EXCEPTION = 3
    LINK_FAULT = 4
    FINISHED = 5


class HelloResult(enum.IntEnum):
    """The controller's answer to a hello."""

    ACCEPTED = 0
    WRONG_PROTOCOL = 1
    WRONG_RATE = 2
    WRONG_PROFILE = 3
    WRONG_MASS = 4
    WRONG_LIMITS = 5


class RequestKind(enum.IntEnum):
    """What a virtual wearer can be asked for. A real device ignores requests."""

    WALK = 0  # value: speed in m/s, second: slope in rad
    STAND = 1
    LIFT_RIGHT = 2
    LIFT_LEFT = 3
    SIT = 4
    QUIT = 5


class Hello(NamedTuple):
    """Host to device: who I am, what I expect, whom you are worn by.

    `session` is a random non-zero number that later frames of this host repeat; `profile_hash` is the number that
    `DeviceProfile.profile_hash` writes in hexadecimal; limits are those the host will keep (Nm, Nm/s).
    """

    session: int
    rate_hz: float
    profile_name: str
    profile_hash: int
    wearer_mass_kg: float
    torque_limit_nm: float
    torque_rate_limit_nm_s: float
    ttl_ms: int = MAX_TTL_MS
    sequence: int = 0


class HelloAck(NamedTuple):
    """Device to host: what I am, the limits I will enforce, and whether I accept you (`HelloResult`)."""

    session: int
    rate_hz: float
    profile_name: str
    profile_hash: int
    wearer_mass_kg: float
    torque_limit_nm: float
    torque_rate_limit_nm_s: float
    ttl_ms: int = MAX_TTL_MS
    result: int = HelloResult.ACCEPTED
    state: int = ControllerState.DISARMED
    latch_reason: int = LatchReason.NONE
    firmware: str = ""
    sequence: int = 0


class Sensor(NamedTuple):
    """Device to host, once per sample.

    gyro_rad_s: sagittal thigh angular velocity; applied_torque_nm: what the controller last commanded its motors after
    its own clamps; applied_echo: `sequence` of the sample that command answered; applied_after_us: how long after that
    sample its answer was taken, by the device's clock (both 0 before the first). Optional groups are None when the
    device has no such sensor: gyro3_rad_s is right then left (flexion, adduction, internal rotation),
    acceleration_m_s2 right then left (forward, medial, up) specific force.
    """

    sequence: int
    device_time_us: int
    gyro_rad_s: Pair
    applied_torque_nm: Pair = (0.0, 0.0)
    applied_echo: int = 0
    applied_after_us: int = 0
    flags: int = 0
    state: int = ControllerState.DISARMED
    latch_reason: int = LatchReason.NONE
    joint_velocity_rad_s: Pair | None = None
    measured_torque_nm: Pair | None = None
    temperature_c: Pair | None = None
    gyro3_rad_s: Six | None = None
    acceleration_m_s2: Six | None = None
    hip_angle_rad: Pair | None = None

    @property
    def armed(self) -> bool:
        return bool(self.flags & SensorFlag.ARMED)

    @property
    def latched(self) -> bool:
        return bool(self.flags & SensorFlag.LATCHED)

    @property
    def driver_fault(self) -> bool:
        return bool(self.flags & SensorFlag.DRIVER_FAULT)

    @property
    def emergency_stop(self) -> bool:
        return bool(self.flags & SensorFlag.EMERGENCY_STOP)


class Torque(NamedTuple):
    """Host to device: the answer to sensor frame `echo`, valid for `ttl_ms` after that sample was taken."""

    session: int
    echo: int
    ttl_ms: int
    torque_nm: Pair
    armed: bool = False
    dry_run: bool = False
    sequence: int = 0


class Arm(NamedTuple):
    """Host to device: a person wants torque. `echo` must be a fresh sample, sent after any latch."""

    session: int
    echo: int
    clear_latch: bool = False
    sequence: int = 0


class Disarm(NamedTuple):
    """Host to device: release to zero and stay there, without a fault."""

    session: int
    sequence: int = 0


class Stop(NamedTuple):
    """Host to device: release to zero and latch. Accepted from any session at any time."""

    reason: int = StopReason.USER
    immediate: bool = False
    sequence: int = 0


class Request(NamedTuple):
    """Host to a virtual device: do something a person would do. A real device ignores it."""

    kind: int
    value: float = 0.0
    second: float = 0.0
    sequence: int = 0


Message = Hello | HelloAck | Sensor | Torque | Arm | Disarm | Stop | Request
