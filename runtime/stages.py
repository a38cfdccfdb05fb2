"""The guard's words: stages, settings, and what it says about a frame and a torque."""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple

from mjx_exo.conventions import GYRO_CHANNELS
from mjx_exo.device import TorqueLimits
from mjx_exo.errors import UserError


class Stage(enum.IntEnum):
    """Where a session stands; torque may differ from zero only in RAMP, ACTIVE and SOFT_STOP."""

    BOOT = 0
    LINK = 1
    CALIBRATE = 2
    COMMISSION = 3
    READY = 4
    RAMP = 5
    ACTIVE = 6
    SOFT_STOP = 7
    FAULT = 8


MOVING = (Stage.RAMP, Stage.ACTIVE, Stage.SOFT_STOP)


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """What the guard keeps; limits are those of one wearer on one device."""

    limits: TorqueLimits  # Nm, Nm/s, W per side
    wearer_mass_kg: float
    rate_hz: float  # of the student
    window: int  # samples the student needs
    channels: tuple[str, ...] = GYRO_CHANNELS
    gyro_range_rad_s: float = 17.45
    bias_limit_rad_s: float = 0.13
    torque_scale: float = 0.0  # 0..1 of what the policy asks
    dry_run: bool = False
    skip_commissioning: bool = False  # dry runs only
    ramp_s: float = 2.0
    soft_stop_s: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 <= self.torque_scale <= 1.0:
            raise UserError(f"torque scale = {self.torque_scale:g} is outside 0..1")
        if not 1.0 <= self.ramp_s <= 3.0:
            raise UserError(f"soft start = {self.ramp_s:g} s is outside 1..3 s")
        if self.skip_commissioning and not self.dry_run:
            raise UserError("commissioning can be skipped in a dry run only: it is the one proof that right is right")


class Observation(NamedTuple):
    """What one sensor frame means. `rows` rows end in `values` (see `feed.window_rows`), after emptying on `flush`."""

    rows: int
    flush: bool
    fresh: bool
    values: tuple[float, ...]  # channels in window order, gyroscope bias taken off


class Decision(NamedTuple):
    """The torque to send, (right, left) in Nm, and why it is what it is."""

    torque_nm: tuple[float, float]
    intent_nm: tuple[float, float]  # policy × mass × scale × gain, before limits; what a dry run would have done
    gain: float
    limited: bool
    armed: bool


class GuardEvent(NamedTuple):
    """Something worth telling and logging."""

    time_s: float
    stage: Stage
    text: str
