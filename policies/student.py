"""The network that goes on the device: a causal dilated TCN from the thigh gyroscopes to hip torque.

Why it looks like this. Left and right are one network: it is applied to (own side, other side) for each leg in turn,
so mirroring the wearer mirrors the torque exactly, by construction and not by training. Nothing is padded: an output
rests on `receptive_field` true samples, so padding can never become a part of the policy, and the three ways to
evaluate it agree: `sequence` (training: every tick of a recording), `window` (the device: one tick, only the positions
that the last output needs, about six times cheaper) and `stream` (one tick from cached convolutions). Input scaling and
the torque limit are inside, so raw rad/s go in and a torque that the device may apply comes out.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mjx_exo.conventions import SignalContract
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError


class Signal(NamedTuple):
    """One thing that each side measures, in anatomical axes, so that both sides count it the same way."""

    name: str
    unit: str
    scale: float  # enters the network as 1: about the root mean square in brisk walking (thigh_gyro) or of that order
    mirror_sign: int = 1


SENSOR_SIGNALS = {
    "gyro_sagittal": (Signal("thigh_gyro", "rad/s", 2.0),),
    "gyro_three_axes": (
        Signal("thigh_gyro", "rad/s", 2.0),
        Signal("thigh_gyro_adduction", "rad/s", 1.0),
        Signal("thigh_gyro_rotation", "rad/s", 1.0),
    ),
    "accelerometer": (
        Signal("thigh_accel_forward", "m/s^2", 9.81),
        Signal("thigh_accel_inward", "m/s^2", 9.81),
        Signal("thigh_accel_up", "m/s^2", 9.81),
    ),
    "hip_encoder": (Signal("hip_flexion", "rad", 0.5), Signal("hip_flexion_velocity", "rad/s", 2.0)),
}
"""What a sensor of the device profile adds to the student's input; positive is flexion, adduction, internal rotation,
forward, towards the other leg, up. `gyro_three_axes` contains `gyro_sagittal`."""
_UNITS = {signal.name: signal.unit for signals in SENSOR_SIGNALS.values() for signal in signals}


def sensors_of(signals: tuple[str, ...]) -> tuple[str, ...]:
    """The sensors that `signals` come from, in the order of `SENSOR_SIGNALS`: those of which none is missing."""
    found = [name for name, given in SENSOR_SIGNALS.items() if {signal.name for signal in given} <= set(signals)]
    return tuple(name for name in found if name != "gyro_sagittal" or "gyro_three_axes" not in found)


def signals_of(sensors: tuple[str, ...]) -> tuple[Signal, ...]:
    """The signals of a profile's sensors in the order of `SENSOR_SIGNALS`, each once."""
    unknown = [sensor for sensor in sensors if sensor not in SENSOR_SIGNALS]
    if unknown:
        raise UserError(f"sensor {unknown[0]!r}: the student knows {', '.join(SENSOR_SIGNALS)}")
    listed = [signal for name, signals in SENSOR_SIGNALS.items() if name in sensors for signal in signals]
    return tuple(dict.fromkeys(listed))


def check_measures(profile: DeviceProfile, signals: tuple[str, ...]) -> None:
    """Raises UserError unless the device measures exactly the signals that a student takes."""
    offered = tuple(signal.name for signal in signals_of(profile.imu.sensors))
    for names, others, sentence in (
        (offered, signals, "measures {}, which the student does not take"),
        (signals, offered, "does not measure {}, which the student needs"),
    ):
        lacking = [name for name in names if name not in others]
        if lacking:
            what = sentence.format(", ".join(lacking))
            raise UserError(f"profile {profile.name!r} (imu.sensors = {', '.join(profile.imu.sensors)}) {what}")


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """What the student sees, how large it is, and what it may command. Checked when made; never changed."""

    torque_limit_nm_per_kg: float
    """Bound of the output, Nm per kg of body mass."""
    signals: tuple[str, ...] = ("thigh_gyro",)
    """What each side measures; the window has one channel per signal and side, signal by signal, right before left."""
    input_scale: tuple[float, ...] = (2.0,)
    """One per signal: the value that enters the network as 1 (rad/s for a gyroscope)."""
    mirror_signs: tuple[int, ...] = (1,)
    """One per signal: +1 when both sides count it the same way (anatomical axes), -1 when the mirror image flips it."""
    rate_hz: float = 100.0
    """Samples per second, in and out."""
    channels: int = 48
    """Width of every level."""
    kernel_size: int = 5
    """Taps of every convolution."""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Spacing of the taps, one per level; starts at 1, each a multiple of the one before."""
    window_samples: int = 125
    """Samples that the device hands over; at least the receptive field, older ones are not looked at."""
    profile: str = ""
    """Name of the device profile it was made for."""
    profile_hash: str = ""
    """Hash of that profile."""

    def __post_init__(self) -> None:
        for name in ("signals", "input_scale", "mirror_signs", "dilations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("torque_limit_nm_per_kg", "rate_hz"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        _check(self.channels >= 1, "channels", self.channels, "at least 1")
        _check(self.kernel_size >= 2, "kernel_size", self.kernel_size, "at least 2")
        _check(len(self.signals) > 0, "signals", self.signals, "at least one signal")
        _check(all(signal in _UNITS for signal in self.signals), "signals", self.signals, ", ".join(_UNITS))
        _check(len(set(self.signals)) == len(self.signals), "signals", self.signals, "each signal once")
        count = len(self.signals)
        _check(len(self.input_scale) == count, "input_scale", self.input_scale, f"{count} values, one per signal")
        _check(all(scale > 0 for scale in self.input_scale), "input_scale", self.input_scale, "positive values")
        _check(len(self.mirror_signs) == count, "mirror_signs", self.mirror_signs, f"{count} values, one per signal")
        _check(all(sign in (-1, 1) for sign in self.mirror_signs), "mirror_signs", self.mirror_signs, "-1 or 1 each")
        steps = zip(self.dilations, self.dilations[1:], strict=False)
        grows = bool(self.dilations) and self.dilations[0] == 1 and all(b >= a and b % a == 0 for a, b in steps)
        _check(grows, "dilations", self.dilations, "1 first, then multiples of the one before")
        need = f"at least the receptive field of {self.receptive_field} samples"
        _check(self.window_samples >= self.receptive_field, "window_samples", self.window_samples, need)

    @classmethod
    def for_profile(cls, profile: DeviceProfile, **sizes: Any) -> StudentConfig:
        """A student for a device: its sensors, rate, limit and name; `sizes` are fields of this class."""
        signals = signals_of(profile.imu.sensors)
        return cls(
            torque_limit_nm_per_kg=profile.torque.limit_nm_per_kg,
            signals=tuple(signal.name for signal in signals),
            input_scale=tuple(signal.scale for signal in signals),
            mirror_signs=tuple(signal.mirror_sign for signal in signals),
            rate_hz=profile.link.rate_hz,
            profile=profile.name,
            profile_hash=profile.profile_hash(),
            **sizes,
        )

    @property
    def contract(self) -> SignalContract:
        """What goes in and comes out, in the project's words. Signals beyond the gyroscope count as channels too."""
        return SignalContract(
            gyro_channels=self.channel_names,
            gyro_signs=(1,) * self.input_channels,
            rate_hz=self.rate_hz,
            window=self.window_samples,
            torque_limit_nm_per_kg=self.torque_limit_nm_per_kg,
            profile=self.profile,
            profile_hash=self.profile_hash,
        )

    @property
    def receptive_field(self) -> int:
        """Samples that one output depends on."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)

    @property
    def input_channels(self) -> int:
        """Channels of the window: signals times two sides."""
        return 2 * len(self.signals)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The window's channels in order."""
        return tuple(f"{signal}_{side}" for signal in self.signals for side in ("r", "l"))

    @property
    def channel_units(self) -> tuple[str, ...]:
        """The unit of each channel of the window."""
        return tuple(_UNITS[signal] for signal in self.signals for _ in ("r", "l"))

    @property
    def torque_limit_float32(self) -> np.float32:
        """The largest float32 that does not exceed the limit."""
        limit = np.float32(self.torque_limit_nm_per_kg)
        return limit if float(limit) <= self.torque_limit_nm_per_kg else np.nextafter(limit, np.float32(0))


def _check(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise UserError(f"student: {name} = {value!r}; allowed: {allowed}")


class Stream(NamedTuple):
    """What the streaming form carries from tick to tick; its leaves lead with the batch B.

    caches: one per level, [B, 2, (kernel_size-1)*dilation, channels of that level's input].
    age: [B] samples since the reset.
    """

    caches: tuple[jax.Array, ...]
    age: jax.Array


class CausalConv(nn.Module):
    """One unpadded convolution over time, written as a matrix product: on a CPU that is several times faster in XLA.

    In full float32 everywhere, or a GPU's short products would be a difference between training and the exported file.
    """

    features: int
    kernel_size: int
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, dilation: int = 1, stride: int = 1) -> jax.Array:
        """x: [..., T, C] to [..., (T - 1 - (kernel_size-1)*dilation) // stride + 1, features]."""
        init = nn.initializers.variance_scaling(self.scale, "fan_in", "normal")
        kernel = self.param("kernel", init, (self.kernel_size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        last = x.shape[-2] - (self.kernel_size - 1) * dilation
        taps = [x[..., j * dilation : j * dilation + last : stride, :] for j in range(self.kernel_size)]
        flat = kernel.reshape(-1, self.features)
        return jnp.matmul(jnp.concatenate(taps, axis=-1), flat, precision=jax.lax.Precision.HIGHEST) + bias


class Student(nn.Module):
    """See the module. Torque is [right, left] in Nm/kg, flexion positive; signals are in SI, right before left."""

    config: StudentConfig

    def setup(self) -> None:
        config = self.config
        self.levels = [
            CausalConv(config.channels, config.kernel_size, 2.0, name=f"level_{i}")
            for i in range(len(config.dilations))
        ]
        self.hidden = CausalConv(config.channels, 1, 2.0, name="hidden")
        self.head = CausalConv(1, 1, 0.01, name="head")

    def __call__(self, window: jax.Array) -> jax.Array:
        """window: [B, window_samples, input_channels], newest last. Returns torque [B, 2] at the newest sample."""
        config = self.config
        if window.shape[-2] < config.receptive_field:
            raise ValueError(f"window of {window.shape[-2]} samples; the receptive field is {config.receptive_field}")
        x = _both_views(config, window[:, -config.receptive_field :])
        strides = [b // a for a, b in zip(config.dilations, config.dilations[1:], strict=False)] + [1]
        for i, (level, stride) in enumerate(zip(self.levels, strides, strict=True)):
            y = nn.silu(level(x, stride=stride))
            x = y if i == 0 else y + x[..., config.kernel_size - 1 :: stride, :]
        return self._torque(x)[:, 0]

    def sequence(self, signals: jax.Array) -> jax.Array:
        """signals: [B, T, input_channels] with T at least the receptive field R. Returns torque [B, T - R + 1, 2]."""
        config = self.config
        x = _both_views(config, signals)
        for i, (level, dilation) in enumerate(zip(self.levels, config.dilations, strict=True)):
            y = nn.silu(level(x, dilation=dilation))
            x = y if i == 0 else y + x[..., (config.kernel_size - 1) * dilation :, :]
        return self._torque(x)

    def stream(self, stream: Stream, sample: jax.Array) -> tuple[Stream, jax.Array]:
        """sample: [B, input_channels], one tick. Returns the next stream and torque [B, 2].

        Torque is zero until `receptive_field` samples have come since the reset; from there on it equals `__call__`.
        """
        config = self.config
        x = _both_views(config, sample[:, None])
        caches = []
        for i, (level, dilation) in enumerate(zip(self.levels, config.dilations, strict=True)):
            past = jnp.concatenate([stream.caches[i], x], axis=-2)
            caches.append(past[..., 1:, :])
            y = nn.silu(level(past, dilation=dilation))
            x = y if i == 0 else y + x
        age = stream.age + 1
        torque = self._torque(x)[:, 0]
        return Stream(tuple(caches), age), jnp.where((age >= config.receptive_field)[:, None], torque, 0.0)

    def _torque(self, x: jax.Array) -> jax.Array:
        """x: [B, 2, T, channels] to [B, T, 2]."""
        x = self.head(nn.silu(self.hidden(x)))[..., 0]
        return jnp.swapaxes(jnp.tanh(x) * self.config.torque_limit_float32, -1, -2)


def _both_views(config: StudentConfig, signals: jax.Array) -> jax.Array:
    """[B, T, input_channels] to [B, 2, T, input_channels]: scaled, (own, other) as seen from the right and the left."""
    pairs = signals.reshape(*signals.shape[:-1], len(config.signals), 2) / jnp.asarray(config.input_scale)[:, None]
    mirrored = pairs[..., ::-1] * jnp.asarray(config.mirror_signs, signals.dtype)[:, None]
    return jnp.stack([pairs, mirrored], axis=1).reshape(signals.shape[0], 2, *signals.shape[1:])


def init_params(config: StudentConfig, key: jax.Array) -> Any:
    """Fresh parameters; the torque they command is close to zero."""
    return Student(config).init(key, jnp.zeros((1, config.window_samples, config.input_channels)))


def init_stream(config: StudentConfig, batch: int) -> Stream:
    """The streaming state after a reset, for `batch` wearers at once."""
    widths = [config.input_channels] + [config.channels] * (len(config.dilations) - 1)
    lengths = [(config.kernel_size - 1) * dilation for dilation in config.dilations]
    caches = tuple(jnp.zeros((batch, 2, length, width)) for length, width in zip(lengths, widths, strict=True))
    return Stream(caches, jnp.zeros((batch,), jnp.int32))


def reset_stream(stream: Stream, reset: jax.Array) -> Stream:
    """Starts over where `reset` ([B], bool) is set. The age keeps older samples out of any torque."""
    return stream._replace(age=jnp.where(reset, 0, stream.age))
