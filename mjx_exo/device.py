"""The device profile: one TOML file from which simulation, training, ONNX metadata and the runtime take their numbers.

A limit that is typed twice is a limit that will differ. Masses load the simulated wearer, torque limits clamp both the
training environment and the guard on the device (`limit_torque` is the same source for JAX and NumPy), sensor figures
disturb the student's training, and the link's numbers are checked in the handshake.
No JAX and no MuJoCo here: the runtime imports this on a small computer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mjx_exo.conventions import SignalContract
from mjx_exo.errors import UserError

DEVICES_DIR = Path(__file__).resolve().parent / "devices"
SENSORS = ("gyro_sagittal", "gyro_three_axes", "accelerometer", "hip_encoder")  # what each side may carry
PLACEMENTS = ("lateral", "front", "back")


def _number(low: float, high: float, unit: str) -> Any:
    """A required numeric field (or vector of them) with its legal range and unit."""
    return dataclasses.field(metadata={"low": low, "high": high, "unit": unit})


def _choice(*allowed: str) -> Any:
    """A required text field (or list of texts) with the allowed values."""
    return dataclasses.field(metadata={"allowed": allowed})


@dataclasses.dataclass(frozen=True)
class Mass:
    """What the wearer carries and where. Offsets are (x forward, y, z up) in m, standing."""

    waist_kg: float = _number(0.0, 15.0, "kg")
    thigh_kg: float = _number(0.0, 5.0, "kg")  # each side
    waist_offset_m: tuple[float, float, float] = _number(-0.5, 0.5, "m")  # from the midpoint of the hips, y left
    thigh_offset_m: tuple[float, float, float] = _number(-0.6, 0.6, "m")  # from the hip centre, y outward on both sides

    @property
    def total_kg(self) -> float:
        """Waist plus both thighs."""
        return self.waist_kg + 2.0 * self.thigh_kg


@dataclasses.dataclass(frozen=True)
class Torque:
    """Limits of each side's actuator; flexion positive, symmetric about zero."""

    limit_nm: float = _number(0.1, 60.0, "Nm")
    limit_nm_per_kg: float = _number(0.001, 1.0, "Nm/kg")
    rate_limit_nm_s: float = _number(1.0, 1000.0, "Nm/s")
    power_limit_w: float = _number(1.0, 1000.0, "W")


@dataclasses.dataclass(frozen=True)
class Actuator:
    """How the applied torque follows the commanded one."""

    bandwidth_hz: float = _number(0.5, 200.0, "Hz")  # first order, -3 dB
    delay_s: float = _number(0.0, 0.2, "s")
    transmission_ratio: float = _number(0.1, 500.0, "")
    transmission_efficiency: float = _number(0.1, 1.0, "")
    strength_tolerance: float = _number(0.0, 0.5, "")  # applied torque is off by up to this share

    @property
    def lag_s(self) -> float:
        """By how long a ramp of applied torque trails the commanded one: delay and first-order lag."""
        return self.delay_s + 1.0 / (2.0 * math.pi * self.bandwidth_hz)


@dataclasses.dataclass(frozen=True)
class Imu:
    """The thigh gyroscopes: what they measure, how well, and how they sit."""

    rate_hz: float = _number(50.0, 1000.0, "Hz")
    sensors: tuple[str, ...] = _choice(*SENSORS)
    range_rad_s: float = _number(4.0, 70.0, "rad/s")  # saturation, either way
    noise_rad_s_sqrt_hz: float = _number(0.0, 0.05, "rad/s/sqrt(Hz)")
    bias_rad_s: float = _number(0.0, 0.5, "rad/s")  # as delivered, before the standing calibration
    bias_after_calibration_rad_s: float = _number(0.0, 0.2, "rad/s")
    scale_tolerance: float = _number(0.0, 0.2, "")
    misalignment_rad: float = _number(0.0, 0.6, "rad")  # of the sensitive axis from medio-lateral
    below_hip_m: float = _number(0.0, 0.5, "m")
    placement: str = _choice(*PLACEMENTS)
    latency_s: float = _number(0.0, 0.1, "s")
    jitter_s: float = _number(0.0, 0.05, "s")
    lost_share: float = _number(0.0, 0.2, "")

    @property
    def noise_rad_s(self) -> float:
        """Standard deviation of one sample: noise density over the band up to half the sample rate."""
        return self.noise_rad_s_sqrt_hz * math.sqrt(self.rate_hz / 2.0)


@dataclasses.dataclass(frozen=True)
class Link:
    """The serial line to the controller."""

    baud: int = _number(9600, 12_000_000, "baud")
    time_to_live_ms: int = _number(5, 50, "ms")  # a command older than this is zero torque
    protocol_version: int = _number(1, 255, "")
    rate_hz: float = _number(50.0, 500.0, "Hz")  # sensor frames in, torque frames out


@dataclasses.dataclass(frozen=True)
class Wearer:
    """For whom the device is meant."""

    mass_kg: tuple[float, float] = _number(30.0, 150.0, "kg")  # lightest, heaviest


class TorqueLimits(NamedTuple):
    """Limits for one wearer: floats or arrays that broadcast against the torque. A pytree: it passes through jit."""

    limit_nm: Any
    rate_limit_nm_s: Any
    power_limit_w: Any
    lag_s: Any = 0.0  # by how long the applied torque trails the commanded one


@dataclasses.dataclass(frozen=True)
class DeviceProfile:
    """One hip exoskeleton. `load` reads and checks a file; everything is frozen afterwards."""

    name: str
    mass: Mass
    torque: Torque
    actuator: Actuator
    imu: Imu
    link: Link
    wearer: Wearer

    @classmethod
    def load(cls, name_or_path: str | Path) -> DeviceProfile:
        """The profile called `name` in mjx_exo/devices, or the one in the TOML file at a path.

        Raises UserError with one line naming the file, the field, its value and the legal range.
        """
        path = _profile_path(name_or_path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"device profile {path}: cannot be read ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"device profile {path}: not a TOML file ({error})") from None
        return cls.from_dict(data, str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "device profile") -> DeviceProfile:
        """A profile from nested tables, checked like a file; `source` is named in errors."""
        profile = _build(cls, data, source, "")
        _check_together(profile, source)
        return profile

    def to_dict(self) -> dict[str, Any]:
        """Nested tables with lists for vectors: what the TOML file says."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def profile_hash(self) -> str:
        """16 hex digits over everything that changes physics or sensors.

        The name and the link are left out: renaming a file, another adapter or a device that samples twice as fast
        (the loop decimates) does not make a policy wrong. The contract compares name and rate by themselves.
        """
        content = self.to_dict()
        del content["name"], content["link"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def limits(self, wearer_mass_kg: Any) -> TorqueLimits:
        """Limits for a wearer of that body mass (without device): the smaller of Nm/kg × mass and the device's Nm.

        `wearer_mass_kg` may be an array (one mass per environment); shape follows it.
        """
        xp = array_namespace(wearer_mass_kg)
        per_mass = self.torque.limit_nm_per_kg * wearer_mass_kg
        return TorqueLimits(
            xp.minimum(per_mass, self.torque.limit_nm),
            self.torque.rate_limit_nm_s,
            self.torque.power_limit_w,
            self.actuator.lag_s,
        )

    def check_wearer_mass(self, mass_kg: float) -> None:
        """Raises UserError for a body mass the device is not meant for."""
        low, high = self.wearer.mass_kg
        if not low <= mass_kg <= high:
            raise UserError(f"wearer mass = {mass_kg:g} kg is outside {low:g}..{high:g} kg of profile {self.name!r}")

    def contract(self, window: int = 0) -> SignalContract:
        """The signal contract of this device; `window` in samples where the caller knows it."""
        return SignalContract(
            rate_hz=self.link.rate_hz,
            window=window,
            torque_limit_nm_per_kg=self.torque.limit_nm_per_kg,
            profile=self.name,
            profile_hash=self.profile_hash(),
        )


def available_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the project, sorted."""
    return tuple(sorted(path.stem for path in DEVICES_DIR.glob("*.toml")))


def array_namespace(*arrays: Any) -> Any:
    """The array library of the first argument that is not plain NumPy or a Python number; NumPy when all are."""
    for array in arrays:
        namespace = array.__array_namespace__() if hasattr(array, "__array_namespace__") else np
        if namespace is not np:
            return namespace
    return np


def limit_torque(
    limits: TorqueLimits, desired_nm: Any, last_applied_nm: Any, joint_velocity_rad_s: Any, dt_s: Any
) -> Any:
    """The torque that may be requested now; one source for the simulation (JAX) and the guard (NumPy).

    Arguments:
        limits: from `DeviceProfile.limits`.
        desired_nm: (..., 2) wanted torque [right, left], flexion positive. Not finite counts as zero.
        last_applied_nm: (..., 2) the torque the actuator applied last, from which the rate is measured.
        joint_velocity_rad_s: (..., 2) hip velocity, flexion positive, or None; not finite counts as unknown. The power
            is that of the torque which is applied later, so this is best the velocity of then (`velocity_ahead`).
        dt_s: time since `last_applied_nm` held, scalar or broadcastable; negative or not finite counts as zero.

    Returns (..., 2) Nm. In this order: not finite → 0; magnitude; mechanical power |torque × velocity|; rate from the
    last applied torque. The magnitude limit outranks the rate: a last torque beyond it is first brought to it. A sudden
    velocity, one that its past does not announce, may exceed the power limit until the rate limit lets the torque come
    down.
    """
    xp = array_namespace(desired_nm, last_applied_nm, joint_velocity_rad_s, dt_s, limits.limit_nm)
    limit = xp.asarray(limits.limit_nm)
    torque = xp.clip(xp.where(xp.isfinite(desired_nm), desired_nm, 0.0), -limit, limit)
    if joint_velocity_rad_s is not None:
        speed = xp.where(xp.isfinite(joint_velocity_rad_s), xp.abs(joint_velocity_rad_s), 0.0)
        by_power = xp.where(speed > 1e-6, limits.power_limit_w / xp.maximum(speed, 1e-6), xp.inf)
        torque = xp.clip(torque, -by_power, by_power)
    last = xp.clip(xp.where(xp.isfinite(last_applied_nm), last_applied_nm, 0.0), -limit, limit)
    step = limits.rate_limit_nm_s * xp.maximum(xp.where(xp.isfinite(dt_s), dt_s, 0.0), 0.0)
    return xp.clip(last + xp.clip(torque - last, -step, step), -limit, limit)


def velocity_ahead(velocity_rad_s: Any, before_rad_s: Any, apart_s: Any, ahead_s: Any) -> Any:
    """The joint velocity to limit the power for, of the shape of `velocity_rad_s`: the present one or, if it is faster,
    what that becomes in `ahead_s` when it goes on changing as in the `apart_s` since it was `before_rad_s`.

    A torque requested now is applied `TorqueLimits.lag_s` later and stays until the next request. Where `before_rad_s`
    is not finite or `apart_s` not positive, the present velocity.
    """
    xp = array_namespace(velocity_rad_s, before_rad_s, apart_s, ahead_s)
    known = xp.isfinite(before_rad_s) & (xp.asarray(apart_s) > 0.0)
    change = xp.where(known, velocity_rad_s - before_rad_s, 0.0) / xp.where(known, apart_s, 1.0)
    later = velocity_rad_s + change * ahead_s
    return xp.where(xp.abs(later) > xp.abs(velocity_rad_s), later, velocity_rad_s)


def velocity_pair_ahead(
    velocity_rad_s: tuple[float, float], before_rad_s: tuple[float, float] | None, apart_s: float, ahead_s: float
) -> tuple[float, float]:
    """`velocity_ahead` for one device, in plain numbers; None before the first sample."""
    if before_rad_s is None or not apart_s > 0.0:
        return velocity_rad_s
    right, left = (_one_ahead(velocity_rad_s[i], before_rad_s[i], apart_s, ahead_s) for i in (0, 1))
    return right, left


def _one_ahead(velocity: float, before: float, apart_s: float, ahead_s: float) -> float:
    later = velocity + (velocity - before) / apart_s * ahead_s if math.isfinite(before) else velocity
    return later if abs(later) > abs(velocity) else velocity


def limit_torque_pair(
    limits: TorqueLimits,
    desired_nm: tuple[float, float],
    last_applied_nm: tuple[float, float],
    joint_velocity_rad_s: tuple[float, float] | None,
    dt_s: float,
) -> tuple[float, float]:
    """`limit_torque` for one device, in plain numbers: less time, in a loop that has to answer at once."""
    limit, power = float(limits.limit_nm), float(limits.power_limit_w)
    step = float(limits.rate_limit_nm_s) * (dt_s if math.isfinite(dt_s) and dt_s > 0.0 else 0.0)
    velocity = (None, None) if joint_velocity_rad_s is None else joint_velocity_rad_s
    right, left = (_limit_one(limit, power, step, desired_nm[i], last_applied_nm[i], velocity[i]) for i in (0, 1))
    return right, left


def _limit_one(limit: float, power: float, step: float, desired: float, last: float, velocity: float | None) -> float:
    torque = _within(desired if math.isfinite(desired) else 0.0, limit)
    if velocity is not None and math.isfinite(velocity) and abs(velocity) > 1e-6:
        torque = _within(torque, power / abs(velocity))
    last = _within(last if math.isfinite(last) else 0.0, limit)
    return _within(last + _within(torque - last, step), limit)


def _within(value: float, bound: float) -> float:
    return min(max(value, -bound), bound)


def _profile_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
        if not path.is_file():
            raise UserError(f"device profile {text!r}: no such file")
        return path
    if text not in available_profiles():
        raise UserError(f"device profile {text!r}: unknown; choose {', '.join(available_profiles())} or a .toml file")
    return DEVICES_DIR / f"{text}.toml"


def _build(cls: type, data: Any, source: str, prefix: str) -> Any:
    """One (nested) frozen dataclass from a table: no field missing, none unknown, each checked."""
    if not isinstance(data, Mapping):
        raise UserError(f"{source}: {prefix.rstrip('.') or 'the profile'} = {data!r} must be a table")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise UserError(f"{source}: unknown field {prefix}{unknown[0]}; allowed: {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        where = f"{source}: {prefix}{name}"
        if name not in data:
            raise UserError(f"{where} is missing")
        section = _SECTIONS.get(name) if cls is DeviceProfile else None
        values[name] = _build(section, data[name], source, f"{name}.") if section else _value(field, data[name], where)
    return cls(**values)


def _value(field: dataclasses.Field, value: Any, where: str) -> Any:
    """One checked leaf; vectors become tuples."""
    kind = str(field.type)
    if kind.startswith("tuple"):
        length = None if "..." in kind else kind.count(",") + 1
        if not isinstance(value, (list, tuple)) or not value or (length and len(value) != length):
            raise UserError(f"{where} = {value!r} must be a list of {length or 'one or more'} values")
        return tuple(_scalar(field, v, where) for v in value)
    return _scalar(field, value, where)


def _scalar(field: dataclasses.Field, value: Any, where: str) -> Any:
    rule = field.metadata
    if "low" in rule:
        whole = str(field.type) == "int"
        legal = f"{rule['low']:g}..{rule['high']:g} {rule['unit']}".rstrip()
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise UserError(f"{where} = {value!r} must be a {'whole ' if whole else ''}number in {legal}")
        if not rule["low"] <= value <= rule["high"]:
            raise UserError(f"{where} = {value!r} is outside {legal}")
        return value if whole else float(value)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where} = {value!r} must be a text")
    if "allowed" in rule and value not in rule["allowed"]:
        raise UserError(f"{where} = {value!r} is not one of {', '.join(rule['allowed'])}")
    return value


def _check_together(profile: DeviceProfile, source: str) -> None:
    """Rules that tie two fields."""
    link, imu = profile.link, profile.imu
    if imu.rate_hz < link.rate_hz:
        raise UserError(f"{source}: imu.rate_hz = {imu.rate_hz:g} is below link.rate_hz = {link.rate_hz:g} Hz")
    two_periods_ms = 2000.0 / link.rate_hz
    if link.time_to_live_ms < two_periods_ms:
        raise UserError(
            f"{source}: link.time_to_live_ms = {link.time_to_live_ms} is shorter than two periods "
            f"({two_periods_ms:g} ms at link.rate_hz = {link.rate_hz:g} Hz)"
        )
    if profile.wearer.mass_kg[0] >= profile.wearer.mass_kg[1]:
        raise UserError(f"{source}: wearer.mass_kg = {list(profile.wearer.mass_kg)} must be [lightest, heaviest]")


_SECTIONS = {"mass": Mass, "torque": Torque, "actuator": Actuator, "imu": Imu, "link": Link, "wearer": Wearer}
