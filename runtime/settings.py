"""What a session is run with, and how policy, profile and wearer become the guard's limits."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from mjx_exo.conventions import SignalContract
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from runtime.channels import channels_of
from runtime.policy import Policy
from runtime.stages import GuardConfig
from runtime.wishes import OWN_CHOICE, Leg

DEFAULT_MASS_KG = 75.0
BIAS_HEADROOM = 1.5  # a bias beyond this share of the profile's is a broken sensor or a moving wearer


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run of the loop."""

    port: str
    wearer_mass_kg: float = DEFAULT_MASS_KG
    torque_scale: float = 0.0  # 0..1
    duration_s: float = math.inf
    log: Path | None = None
    dry_run: bool = False
    skip_commissioning: bool = False
    arm: bool = False  # once, as soon as ready
    real_time: bool = True
    live: str | None = None
    baud: int | None = None  # None: the profile's
    timeout_s: float = 3.0
    soft_start_s: float = 2.0
    walk: tuple[Leg, ...] = OWN_CHOICE  # for a virtual wearer


def choose_profile(policy: Policy, name_or_path: str | None, rate_hz: float | None) -> DeviceProfile:
    """The named profile, or the one the policy was made for; `rate_hz` is the device's where it differs."""
    return at_rate(DeviceProfile.load(name_or_path or policy.contract.profile), rate_hz)


def at_rate(profile: DeviceProfile, rate_hz: float | None) -> DeviceProfile:
    """The profile of a device that samples at another rate (None: its own); raises UserError for an illegal one."""
    if rate_hz is None:
        return profile
    table = profile.to_dict()
    table["link"]["rate_hz"] = rate_hz
    table["imu"]["rate_hz"] = max(rate_hz, profile.imu.rate_hz)
    return dataclasses.replace(profile, link=DeviceProfile.from_dict(table, "--rate").link)


def check_policy(policy: Policy, profile: DeviceProfile) -> None:
    """Raises UserError with one sentence when this policy is not for this device.

    A device that samples an integer multiple of the student's rate is decimated; a slower one is refused.
    """
    policy.check(loop_contract(profile, policy.contract.rate_hz))


def loop_contract(profile: DeviceProfile, student_hz: float) -> SignalContract:
    """What the loop gives a student and takes from it on this device; raises UserError for a rate it cannot make."""
    device_hz = profile.link.rate_hz
    factor = device_hz / student_hz if student_hz > 0 else 0.0
    if round(factor) < 1 or abs(factor - round(factor)) > 1e-6:
        raise UserError(
            f"wrong rate: the device samples at {device_hz:g} Hz, the student needs {student_hz:g} Hz or an integer "
            "multiple of it"
        )
    channels = channels_of(profile.imu.sensors)
    return dataclasses.replace(
        profile.contract(), gyro_channels=channels, gyro_signs=(1,) * len(channels), rate_hz=student_hz
    )


def guard_config(settings: Settings, policy: Policy, profile: DeviceProfile) -> GuardConfig:
    """The guard's limits for this wearer; raises UserError for a mass or a scale out of range."""
    profile.check_wearer_mass(settings.wearer_mass_kg)
    return GuardConfig(
        limits=profile.limits(settings.wearer_mass_kg),
        wearer_mass_kg=settings.wearer_mass_kg,
        rate_hz=policy.contract.rate_hz,
        window=policy.window,
        channels=policy.channels,
        gyro_range_rad_s=profile.imu.range_rad_s,
        bias_limit_rad_s=BIAS_HEADROOM * profile.imu.bias_rad_s,
        torque_scale=settings.torque_scale,
        dry_run=settings.dry_run,
        skip_commissioning=settings.skip_commissioning,
        ramp_s=settings.soft_start_s,
    )
