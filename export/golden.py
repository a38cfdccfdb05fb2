"""Windows on which two computations of a student are compared, and the comparison.

Agreement on noise proves little about a gait and agreement on one gait little about a start or a fall, so there are
three kinds: what the student saw in training (kept beside it), made-up walking over speeds with starts, stops and
standing, and noise far outside anything a thigh does.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, cast

import jax
import numpy as np
import onnxruntime as ort

from export.graph import SAMPLE_INPUT, TORQUE_OUTPUT, WINDOW_INPUT
from policies.storage import SavedStudent
from policies.student import Student, StudentConfig

# Thigh angular velocity over a stride: share of the first harmonic, phase in rad. Rough; any gait-like signal would do.
_HARMONICS = ((1.0, 0.0), (0.45, 0.9), (0.2, 2.1), (0.1, -0.7))


BATCH = 500
"""Windows that Flax answers at once: ten thousand would take half a gigabyte."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far two computations of the same windows are apart."""

    windows: int
    max_abs_diff_nm_per_kg: float
    recorded_share: float  # of the windows, those that come from recorded signals

    def within(self, tolerance: float) -> bool:
        """False for anything beyond the tolerance, not-a-number included."""
        return self.max_abs_diff_nm_per_kg <= tolerance


def walking_signals(config: StudentConfig, count: int, samples: int, seed: int = 0) -> np.ndarray:
    """[count, samples, input_channels] made-up walking in SI, float32, legs in anti-phase.

    0.6 to 1.2 strides per second; every fourth stands (noise and a bias only), every other one starts or stops.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / config.rate_hz
    out = np.empty((count, samples, len(config.signals), 2))
    for i in range(count):
        stride = 2.0 * math.pi * (rng.uniform(0.6, 1.2) * t + rng.uniform())
        gate = np.ones(samples) if i % 2 == 0 else _start_or_stop(rng, t)
        size = 0.0 if i % 4 == 3 else rng.uniform(0.5, 1.3)
        for j, scale in enumerate(config.input_scale):
            own = rng.uniform(-1.0, 1.0) * (j > 0)
            for side in (0, 1):
                phase = stride + math.pi * side + own
                wave = sum(share * np.cos(k * phase + shift) for k, (share, shift) in enumerate(_HARMONICS, 1))
                noise = rng.normal(rng.uniform(-0.02, 0.02), 0.01, samples)
                out[i, :, j, side] = scale * (size * gate * wave + noise)
    return out.reshape(count, samples, -1).astype(np.float32)


def _start_or_stop(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    rising = 1.0 / (1.0 + np.exp(-(t - rng.uniform(t[0], t[-1])) / 0.1))
    return rising if rng.uniform() < 0.5 else 1.0 - rising


def parity_windows(student: SavedStudent, count: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """[count, window_samples, input_channels] float32 of all three kinds, and the share of recorded ones."""
    config, rng = student.config, np.random.default_rng(seed)
    length = config.window_samples
    recorded = _at_least(student, length)
    from_recorded = 0 if len(recorded) == 0 else (count + 1) // 2
    from_noise = max(1, count // 20) if count > 1 else 0
    made_up = walking_signals(config, max(1, count // 20), 4 * length, seed)
    noise_size = 10.0 ** rng.uniform(-2, 2, (from_noise, 1, 1)) * np.repeat(config.input_scale, 2)
    windows = [
        _cut(rng, recorded, from_recorded, length),
        _cut(rng, made_up, count - from_recorded - from_noise, length),
        noise_size * rng.normal(size=(from_noise, length, config.input_channels)),
    ]
    return np.concatenate([np.asarray(part, np.float32) for part in windows]), from_recorded / count


def _at_least(student: SavedStudent, samples: int) -> np.ndarray:
    """The recorded signals if they are that long, else none, [0, samples, input_channels]."""
    if student.examples.shape[1] >= samples:
        return student.examples
    return np.zeros((0, samples, student.config.input_channels), np.float32)


def _cut(rng: np.random.Generator, signals: np.ndarray, count: int, length: int) -> np.ndarray:
    """`count` windows at random places of `signals` [n, T, channels]."""
    if count == 0:
        return np.zeros((0, length, signals.shape[2]), np.float32)
    which = rng.integers(len(signals), size=count)
    first = rng.integers(signals.shape[1] - length + 1, size=count)
    return np.stack([signals[i, t : t + length] for i, t in zip(which, first, strict=True)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(config: StudentConfig, method: str, params: Any, signals: np.ndarray) -> jax.Array:
    return cast(jax.Array, Student(config).apply(params, signals, method=method))  # an array, as nothing is mutable


def flax_torques(student: SavedStudent, windows: np.ndarray) -> np.ndarray:
    """[n, 2] Nm/kg that the Flax network answers to windows [n, window_samples, input_channels]."""
    parts = [windows[first : first + BATCH] for first in range(0, len(windows), BATCH)]
    return np.concatenate([np.asarray(_apply(student.config, "__call__", student.params, part)) for part in parts])


def onnx_torques(session: ort.InferenceSession, windows: np.ndarray) -> np.ndarray:
    """[n, 2] Nm/kg that an exported file answers, window by window as on the device; either form."""
    if session.get_inputs()[0].name == WINDOW_INPUT:
        return np.concatenate([session.run([TORQUE_OUTPUT], {WINDOW_INPUT: window[None]})[0] for window in windows])
    return np.stack([stream(session, window)[-1] for window in windows])


def stream(session: ort.InferenceSession, signals: np.ndarray, reset_at: int | None = None) -> np.ndarray:
    """Torques [T, 2] of a streaming file fed with signals [T, input_channels] from a reset; `reset_at` resets again."""
    sizes = {node.name: node for node in session.get_inputs() if node.name != SAMPLE_INPUT}
    kinds = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    fresh = {name: np.zeros(node.shape, kinds[node.type]) for name, node in sizes.items()}
    outputs = [TORQUE_OUTPUT, *(f"next_{name}" for name in fresh)]
    state, torques = fresh, []
    for t, sample in enumerate(signals):
        state = fresh if t == reset_at else state
        torque, *values = session.run(outputs, {SAMPLE_INPUT: sample[None], **state})
        state = dict(zip(fresh, values, strict=True))
        torques.append(torque[0])
    return np.stack(torques)


def window_parity(student: SavedStudent, session: ort.InferenceSession, count: int, seed: int = 0) -> Parity:
    """Flax against the window form over `count` windows."""
    windows, recorded = parity_windows(student, count, seed)
    difference = np.abs(onnx_torques(session, windows) - flax_torques(student, windows))
    return Parity(count, float(np.max(difference)), recorded)


def streaming_parity(student: SavedStudent, session: ort.InferenceSession, count: int, seed: int = 0) -> Parity:
    """Flax's window form against the streaming form over at least `count` ticks, each run reset once in the middle.

    While a field is incomplete the torque must be exactly zero; that counts as a difference too.
    """
    config, field = student.config, student.config.receptive_field
    long = 4 * config.window_samples
    half = long // 2
    runs = max(1, -(-count // (long - 2 * (field - 1))))
    recorded = _at_least(student, long)
    signals = np.concatenate([recorded[: runs // 2, :long], walking_signals(config, runs, long, seed)])[:runs]
    differences = []
    for run in signals:
        expected = np.zeros((long, 2), np.float32)
        for first in (0, half):
            piece = run[None, first : first + half]
            expected[first + field - 1 : first + half] = _apply(config, "sequence", student.params, piece)[0]
        differences.append(np.max(np.abs(stream(session, run, reset_at=half) - expected)))
    return Parity(runs * (long - 2 * (field - 1)), float(np.max(differences)), min(len(recorded), runs // 2) / runs)
