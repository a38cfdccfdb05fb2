"""Which field of a sensor frame each channel of a student's window is.

Names say the quantity and end in the side; values are SI in anatomical axes, so that both sides count the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mjx_exo.conventions import SIDE_SUFFIX, SIDES
from mjx_exo.errors import UserError
from runtime.messages import Sensor

Reader = Callable[[Sensor], float]


def _field(name: str, index: int) -> Reader:
    """Reads one number of a group that a device may lack; NaN when it does."""

    def read(sample: Sensor) -> float:
        group = getattr(sample, name)
        return math.nan if group is None else group[index]

    return read


_PER_SIDE = {  # quantity: (field of the frame, place on the right, distance to the left)
    "thigh_gyro": ("gyro_rad_s", 0, 1),
    "thigh_gyro_adduction": ("gyro3_rad_s", 1, 3),
    "thigh_gyro_rotation": ("gyro3_rad_s", 2, 3),
    "thigh_accel_forward": ("acceleration_m_s2", 0, 3),
    "thigh_accel_inward": ("acceleration_m_s2", 1, 3),
    "thigh_accel_up": ("acceleration_m_s2", 2, 3),
    "hip_flexion": ("hip_angle_rad", 0, 1),
    "hip_flexion_velocity": ("joint_velocity_rad_s", 0, 1),
}

READERS: dict[str, Reader] = {
    quantity + SIDE_SUFFIX[side]: _field(name, first + side_index * step)
    for quantity, (name, first, step) in _PER_SIDE.items()
    for side_index, side in enumerate(SIDES)
}

SENSOR_CHANNELS = {  # what a sensor of the device profile adds to each side, in window order
    "gyro_sagittal": ("thigh_gyro",),
    "gyro_three_axes": ("thigh_gyro", "thigh_gyro_adduction", "thigh_gyro_rotation"),
    "accelerometer": ("thigh_accel_forward", "thigh_accel_inward", "thigh_accel_up"),
    "hip_encoder": ("hip_flexion", "hip_flexion_velocity"),
}


def channels_of(sensors: tuple[str, ...]) -> tuple[str, ...]:
    """Window channels of a profile's sensors: quantity by quantity, right before left, each once."""
    quantities = dict.fromkeys(q for name, qs in SENSOR_CHANNELS.items() if name in sensors for q in qs)
    return tuple(quantity + SIDE_SUFFIX[side] for quantity in quantities for side in SIDES)


def check_channels(names: tuple[str, ...], source: str) -> None:
    """Raises UserError when a policy wants a channel that no device sends."""
    unknown = [name for name in names if name not in READERS]
    if unknown:
        raise UserError(f"{source}: input channel {unknown[0]!r} is unknown; known are {', '.join(READERS)}")


def read_channels(sample: Sensor, names: tuple[str, ...]) -> tuple[float, ...]:
    """The values of one frame in window order; NaN for what the device does not send."""
    return tuple(READERS[name](sample) for name in names)


def missing_group(sample: Sensor, names: tuple[str, ...]) -> str | None:
    """The first channel for which this device sends nothing at all, or None."""
    for name in names:
        field = _PER_SIDE[name.removesuffix(SIDE_SUFFIX[SIDES[0]]).removesuffix(SIDE_SUFFIX[SIDES[1]])][0]
        if getattr(sample, field) is None:
            return name
    return None
