"""Sides, names, signs, units and rates, said once, and the contract that checks them.

Published models, papers and devices differ in which leg comes first and which way is positive. Everything here is
right before left, flexion positive on BOTH sides (the left leg is the mirror image), SI and radians. `SignalContract`
carries those choices along with a policy, so that environment, student, ONNX file, loop and controller can be compared
and a mismatch is named in one sentence instead of being felt by a wearer.

World frame: x forward, y left, z up. Slope tilts gravity, the ground stays z = 0; uphill is positive.
Standard library only: the runtime imports this on a small computer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mjx_exo.errors import UserError

SIDES = ("right", "left")
SIDE_SUFFIX = {"right": "_r", "left": "_l"}

# Per leg, from the hip down. Bodies without a subtalar joint leave that one out, the order stays.
LEG_JOINTS = (
    "hip_flexion",
    "hip_adduction",
    "hip_rotation",
    "knee_flexion",
    "ankle_dorsiflexion",
    "subtalar_inversion",
    "mtp_extension",
)
OPTIONAL_LEG_JOINTS = ("subtalar_inversion",)

# What a positive number means, same on both sides. `hip_rotation` is the one name that does not say it.
POSITIVE_DIRECTION = {
    "hip_flexion": "flexion",
    "hip_adduction": "adduction",
    "hip_rotation": "internal rotation",
    "knee_flexion": "flexion",
    "ankle_dorsiflexion": "dorsiflexion",
    "subtalar_inversion": "inversion",
    "mtp_extension": "extension",
    "pelvis_tilt": "anterior tilt",
    "slope": "uphill",
}

# Shared by every body; the 26-muscle body has exactly these plus a side suffix.
MUSCLE_GROUPS = (
    "abd",
    "add",
    "hamstrings",
    "bifemsh",
    "edl",
    "fdl",
    "glutmax",
    "iliopsoas",
    "rectfem",
    "vasti",
    "gastroc",
    "soleus",
    "tibant",
)

# Thigh angular velocity about the medio-lateral axis in an inertial sense (pelvis rotation included).
GYRO_CHANNELS = ("thigh_gyro_r", "thigh_gyro_l")
GYRO_UNIT = "rad/s"
TORQUE_CHANNELS = ("hip_torque_r", "hip_torque_l")
TORQUE_UNIT = "Nm/kg"
DEVICE_TORQUE_UNIT = "Nm"

PHYSICS_MIN_HZ = 200.0
HUMAN_HZ = 50.0
EXO_HZ = 100.0


def joint_name(joint: str, side: str) -> str:
    """`("hip_flexion", "right")` → `"hip_flexion_r"`. Raises KeyError for a side that is not in SIDES."""
    return joint + SIDE_SUFFIX[side]


def leg_joint_names(side: str, subtalar: bool = True) -> tuple[str, ...]:
    """The joints of one leg in the order every compiled body has them."""
    joints = (j for j in LEG_JOINTS if subtalar or j not in OPTIONAL_LEG_JOINTS)
    return tuple(joint_name(j, side) for j in joints)


def side_of(name: str) -> str | None:
    """The side a name's suffix says, or None for a name of the middle (pelvis, torso)."""
    return next((side for side, suffix in SIDE_SUFFIX.items() if name.endswith(suffix)), None)


def mirrored_name(name: str) -> str:
    """The same thing on the other side: `_r` ↔ `_l`; a name of the middle is its own mirror image."""
    side = side_of(name)
    if side is None:
        return name
    other = SIDES[1 - SIDES.index(side)]
    return name[: -len(SIDE_SUFFIX[side])] + SIDE_SUFFIX[other]


@dataclasses.dataclass(frozen=True)
class SignalContract:
    """What goes into a student and what comes out of it: names, order, units, signs, sides, rate, window, limit.

    A sign is +1 where positive means flexion of that side. `window`, `torque_limit_nm_per_kg`, `profile` and
    `profile_hash` are left at 0 or "" by a party that does not settle them; those are then not compared.
    """

    gyro_channels: tuple[str, ...] = GYRO_CHANNELS
    gyro_unit: str = GYRO_UNIT
    gyro_signs: tuple[int, ...] = (1, 1)
    torque_channels: tuple[str, ...] = TORQUE_CHANNELS
    torque_unit: str = TORQUE_UNIT
    torque_signs: tuple[int, ...] = (1, 1)
    rate_hz: float = EXO_HZ
    window: int = 0  # samples of gyroscope history the student takes
    torque_limit_nm_per_kg: float = 0.0  # inside the graph; the device's own Nm limit comes on top
    profile: str = ""
    profile_hash: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` gives the same contract back exactly."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "contract") -> SignalContract:
        """Reads what `to_dict` wrote, ignoring keys it does not know (metadata holds more than the contract).

        Raises UserError naming `source` and the field when one is missing or of another type.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in data:
                raise UserError(f"{source}: the signal contract has no field {field.name!r}")
            values[field.name] = _coerce(data[field.name], field.default, f"{source}: contract field {field.name}")
        return cls(**values)

    def difference(self, other: SignalContract, here: str = "this side", there: str = "the other side") -> str | None:
        """One sentence naming the first thing in which two contracts differ, or None when they agree.

        `here` and `there` name the owners of `self` and `other`, e.g. "the loop" and "student.onnx".
        """
        for what, signal in (("gyroscope", "gyro"), ("torque", "torque")):
            sentence = self._signal_difference(other, what, signal, here, there)
            if sentence:
                return sentence
        if abs(self.rate_hz - other.rate_hz) > 1e-9:
            return f"wrong rate: {here} runs at {self.rate_hz:g} Hz, {there} at {other.rate_hz:g} Hz"
        if self.window and other.window and self.window != other.window:
            return f"wrong window: {here} holds {self.window} samples, {there} {other.window}"
        if self.profile and other.profile and self.profile != other.profile:
            return f"wrong device profile: {here} is for {self.profile!r}, {there} for {other.profile!r}"
        if self.profile_hash and other.profile_hash and self.profile_hash != other.profile_hash:
            return (
                f"wrong device profile: {here} and {there} mean different versions of "
                f"{self.profile or 'the profile'} (hash {self.profile_hash} and {other.profile_hash})"
            )
        mine, theirs = self.torque_limit_nm_per_kg, other.torque_limit_nm_per_kg
        if mine and theirs and abs(mine - theirs) > 1e-6 * mine:
            return f"wrong torque limit: {here} allows {mine:g} Nm/kg, {there} {theirs:g} Nm/kg"
        return None

    def _signal_difference(self, other: SignalContract, what: str, signal: str, here: str, there: str) -> str | None:
        mine, theirs = getattr(self, f"{signal}_channels"), getattr(other, f"{signal}_channels")
        if mine != theirs:
            order = f"{here} has {', '.join(mine)}; {there} has {', '.join(theirs)}"
            swapped = tuple(mirrored_name(name) for name in mine) == theirs
            return f"swapped sides: the {what} channels of {order}" if swapped else f"wrong {what} channels: {order}"
        mine, theirs = getattr(self, f"{signal}_unit"), getattr(other, f"{signal}_unit")
        if mine != theirs:
            return f"wrong unit: the {what} is in {mine} for {here}, in {theirs} for {there}"
        mine, theirs = getattr(self, f"{signal}_signs"), getattr(other, f"{signal}_signs")
        names = getattr(self, f"{signal}_channels")
        flipped = [name for name, a, b in zip(names, mine, theirs, strict=False) if a != b]
        if flipped or len(mine) != len(theirs):
            return (
                f"flipped sign: the {what} channel {', '.join(flipped) or names} counts flexion "
                f"{_sign_words(mine, names, flipped)} for {here} and the other way round for {there}"
            )
        return None


def _sign_words(signs: tuple[int, ...], names: tuple[str, ...], flipped: list[str]) -> str:
    first = signs[names.index(flipped[0])] if flipped else 1
    return "positive" if first > 0 else "negative"


def _coerce(value: Any, like: Any, what: str) -> Any:
    """`value` as the type of the default `like`; numbers stay exact, lists become tuples."""
    if isinstance(like, tuple):
        if isinstance(value, (list, tuple)) and all(isinstance(v, type(like[0])) for v in value):
            return tuple(value)
    elif isinstance(like, float):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, type(like)) and not isinstance(value, bool):
        return value
    raise UserError(f"{what} = {value!r} is not like {like!r}")


CONTRACT = SignalContract()
