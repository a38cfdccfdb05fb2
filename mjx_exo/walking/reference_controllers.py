"""The controllers that learned assistance has to be compared with, as pure batched functions.

- `delayed_feedback` (Lim 2019, T-RO 35:1055): torque from the difference of the hips' sines a fixed time ago.
- `delayed_moment` (Molinaro 2024, Nature; Molinaro, Kang, Young): a share of the biological hip moment, later.
- `bursts` (Young 2017, Front Bioeng Biotechnol 5:4): one extension and one flexion burst per stride, by gait phase;
  best on average at 90 % (extension) and 50 % (flexion) of the cycle.

All three see what the study's wearer has to give (`ReferenceInputs`), keep an explicit state and answer once per device
period in Nm per kg of body mass, [N, 2] right and left, flexion positive. They know nothing of the device: limits, rate
and lag of the profile apply to them exactly as to a learned actor. Parameters are scalars or [N], so that a batch can
hold a whole search; `SEARCH` gives every controller the same number of candidates.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mjx_exo.conventions import EXO_HZ
from mjx_exo.errors import UserError

EXO_DT_S = 1.0 / EXO_HZ
MAX_DELAY_S = 0.5  # length of the delay lines

Array = jax.Array


class ReferenceInputs(NamedTuple):
    """What a reference controller may look at, each [N, 2], right and left."""

    hip_angle_rad: Array  # flexion positive
    hip_moment_nm_kg: Array  # biological (muscle and passive, device excluded), flexion positive
    foot_load_bw: Array  # vertical ground force, body weights


class DelayLine(NamedTuple):
    """The last values of a signal, newest first; zeros until it has filled."""

    samples: Array  # [N, K, C]


def delay_line(num_envs: int, channels: int, dt_s: float) -> DelayLine:
    """An empty line that can look back `MAX_DELAY_S`."""
    return DelayLine(jnp.zeros((num_envs, round(MAX_DELAY_S / dt_s) + 2, channels)))


def delay_step(line: DelayLine, value: Array, delay_s: Array | float, dt_s: float) -> tuple[DelayLine, Array]:
    """Pushes `value` [N, C] and returns the signal `delay_s` (scalar or [N]) ago, linear between samples, [N, C]."""
    samples = jnp.concatenate([value[:, None], line.samples[:, :-1]], axis=1)
    steps = jnp.clip(jnp.broadcast_to(jnp.asarray(delay_s) / dt_s, value.shape[:1]), 0.0, samples.shape[1] - 2)
    index = jnp.floor(steps).astype(jnp.int32)
    rows = jnp.arange(value.shape[0])
    late = (steps - index)[:, None]
    return DelayLine(samples), (1.0 - late) * samples[rows, index] + late * samples[rows, index + 1]


def _per_env(value: Array | float) -> Array:
    """A scalar or [N] parameter, shaped to multiply [N, 2]."""
    return jnp.asarray(value)[..., None]


class DelayedFeedbackParameters(NamedTuple):
    """Gain κ, Nm/kg per unit of y (|y| ≤ 2; positive assists), and delay Δt, s."""

    gain_nm_kg: Array | float = 0.1
    delay_s: Array | float = 0.25


def delayed_feedback_init(num_envs: int, dt_s: float = EXO_DT_S) -> DelayLine:
    """State of the controller with an empty past, which answers zero."""
    return delay_line(num_envs, 1, dt_s)


def delayed_feedback_step(
    state: DelayLine,
    inputs: ReferenceInputs,
    parameters: DelayedFeedbackParameters,
    dt_s: float = EXO_DT_S,
) -> tuple[DelayLine, Array]:
    """One period: y = sin q_R − sin q_L; right −κ·y(t − Δt), left +κ·y(t − Δt), flexion positive.

    The published law reads τ_R = +κ·y(t − Δt) with torque counted towards *extension*: a leg that was most flexed a
    quarter of a stride ago is now extending fastest, and there the device helps. Counted towards flexion the sign
    turns; a test checks that a positive gain does positive work on both hips.
    """
    sines = jnp.sin(inputs.hip_angle_rad)
    state, late = delay_step(state, sines[:, :1] - sines[:, 1:], parameters.delay_s, dt_s)
    return state, _per_env(parameters.gain_nm_kg) * jnp.concatenate([-late, late], axis=1)


class DelayedMomentParameters(NamedTuple):
    """Share of the biological moment, pure delay in s, and the low-pass that smooths the moment first, Hz.

    The filter (6 Hz, as the labels of published moment estimators) adds 1/(2πf) = 27 ms to the delay.
    """

    scale: Array | float = 0.2
    delay_s: Array | float = 0.1
    cutoff_hz: Array | float = 6.0


class DelayedMomentState(NamedTuple):
    """Filtered moment [N, 2] and its past."""

    filtered: Array
    line: DelayLine


def delayed_moment_init(num_envs: int, dt_s: float = EXO_DT_S) -> DelayedMomentState:
    """State of the controller with an empty past, which answers zero."""
    return DelayedMomentState(jnp.zeros((num_envs, 2)), delay_line(num_envs, 2, dt_s))


def delayed_moment_step(
    state: DelayedMomentState,
    inputs: ReferenceInputs,
    parameters: DelayedMomentParameters,
    dt_s: float = EXO_DT_S,
) -> tuple[DelayedMomentState, Array]:
    """One period: torque [N, 2], Nm/kg: scale · low-passed biological hip moment of `delay_s` ago, each side alone."""
    weight = 1.0 - jnp.exp(-2.0 * jnp.pi * _per_env(parameters.cutoff_hz) * dt_s)
    filtered = state.filtered + weight * (inputs.hip_moment_nm_kg - state.filtered)
    line, late = delay_step(state.line, filtered, parameters.delay_s, dt_s)
    return DelayedMomentState(filtered, line), _per_env(parameters.scale) * late


HEEL_STRIKE_LOAD_BW = 0.2  # a scuff of the swinging foot stays below
QUIET_S = 0.08  # unloaded for so long before a load counts as heel strike
STRIDE_RANGE_S = (0.4, 2.0)  # other intervals are not walking
LONG_AGO_S = 10.0


class GaitPhase(NamedTuple):
    """Each foot's stride clock, every field [N, 2]."""

    since_strike_s: Array  # stops counting at LONG_AGO_S, where it also starts
    unloaded_s: Array
    stride_s: Array  # smoothed stride time; 0 while unknown


def gait_phase_init(num_envs: int) -> GaitPhase:
    """No heel strike seen yet."""
    zeros = jnp.zeros((num_envs, 2))
    return GaitPhase(jnp.full_like(zeros, LONG_AGO_S), zeros, zeros)


def gait_phase_step(state: GaitPhase, foot_load_bw: Array, dt_s: float = EXO_DT_S) -> tuple[GaitPhase, Array, Array]:
    """Advances the clocks by one period.

    A heel strike is a load above `HEEL_STRIKE_LOAD_BW` after `QUIET_S` without; the stride time follows it half-way.

    Returns:
      The state, the phase 0…1 from heel strike [N, 2], and whether it is known [N, 2]: two strikes a walking stride
      apart have been seen and the present stride is not overdue.
    """
    loaded = foot_load_bw > HEEL_STRIKE_LOAD_BW
    strike = loaded & (state.unloaded_s >= QUIET_S - 1e-6)
    interval_s = jnp.minimum(state.since_strike_s + dt_s, LONG_AGO_S)
    walking = (interval_s >= STRIDE_RANGE_S[0]) & (interval_s <= STRIDE_RANGE_S[1])
    smoothed = jnp.where(state.stride_s > 0.0, 0.5 * (state.stride_s + interval_s), interval_s)
    stride_s = jnp.where(strike, jnp.where(walking, smoothed, 0.0), state.stride_s)
    since_strike_s = jnp.where(strike, 0.0, interval_s)
    unloaded_s = jnp.where(loaded, 0.0, state.unloaded_s + dt_s)
    elapsed = since_strike_s / jnp.where(stride_s > 0.0, stride_s, 1.0)
    known = (stride_s > 0.0) & (elapsed < 1.2)
    return GaitPhase(since_strike_s, unloaded_s, stride_s), jnp.where(known, elapsed % 1.0, 0.0), known


class BurstParameters(NamedTuple):
    """Peak of both bursts, Nm/kg, and their timing in shares of the gait cycle from heel strike.

    Onsets are those Young 2017 found best on average; the width is ours, about the length of a pneumatic burst
    (background).
    """

    peak_nm_kg: Array | float = 0.1
    shift: Array | float = 0.0  # moves both onsets
    extension_onset: Array | float = 0.90
    flexion_onset: Array | float = 0.50
    width: Array | float = 0.25


def bursts_init(num_envs: int, dt_s: float = EXO_DT_S) -> GaitPhase:
    """State of the controller before its first heel strike, which answers zero."""
    del dt_s
    return gait_phase_init(num_envs)


def burst(phase: Array, onset: Array | float, width: Array | float) -> Array:
    """A sin² bump, 0…1, of the shape of `phase` (0…1): from `onset` for `width` of a cycle, wrapping at its end."""
    into = (phase - onset) % 1.0 / width
    return jnp.where(into < 1.0, jnp.sin(jnp.pi * into) ** 2, 0.0)


def bursts_step(
    state: GaitPhase,
    inputs: ReferenceInputs,
    parameters: BurstParameters,
    dt_s: float = EXO_DT_S,
) -> tuple[GaitPhase, Array]:
    """One period: an extension (negative) and a flexion burst per stride of each leg; zero while phase is unknown."""
    state, phase, known = gait_phase_step(state, inputs.foot_load_bw, dt_s)
    shift, width = _per_env(parameters.shift), _per_env(parameters.width)
    flexion = burst(phase, _per_env(parameters.flexion_onset) + shift, width)
    extension = burst(phase, _per_env(parameters.extension_onset) + shift, width)
    return state, jnp.where(known, _per_env(parameters.peak_nm_kg) * (flexion - extension), 0.0)


@dataclasses.dataclass(frozen=True)
class ReferenceController:
    """A controller by name: `init(num_envs, dt_s)`, `step(state, inputs, parameters, dt_s)` and its defaults."""

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Array]]
    parameters: Any  # a NamedTuple of defaults


REFERENCE_CONTROLLERS: Mapping[str, ReferenceController] = {
    "delayed_feedback": ReferenceController(delayed_feedback_init, delayed_feedback_step, DelayedFeedbackParameters()),
    "delayed_moment": ReferenceController(delayed_moment_init, delayed_moment_step, DelayedMomentParameters()),
    "bursts": ReferenceController(bursts_init, bursts_step, BurstParameters()),
}

# Nine candidates each: three sizes by three timings around the published values.
SEARCH: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "delayed_feedback": {"gain_nm_kg": (0.05, 0.1, 0.2), "delay_s": (0.15, 0.25, 0.35)},
    "delayed_moment": {"scale": (0.1, 0.2, 0.3), "delay_s": (0.05, 0.1, 0.125)},
    "bursts": {"peak_nm_kg": (0.05, 0.1, 0.2), "shift": (-0.05, 0.0, 0.05)},
}


def reference_controller(name: str) -> ReferenceController:
    """The controller called `name`; UserError naming those there are."""
    if name not in REFERENCE_CONTROLLERS:
        raise UserError(f"unknown reference controller {name!r}; known: {', '.join(REFERENCE_CONTROLLERS)}")
    return REFERENCE_CONTROLLERS[name]


def candidates(name: str) -> list[Any]:
    """Every parameter set of a controller's search grid, other parameters at their defaults."""
    defaults, space = reference_controller(name).parameters, SEARCH[name]
    return [defaults._replace(**dict(zip(space, values, strict=True))) for values in itertools.product(*space.values())]


def reset_where(done: Array, state: Any, fresh: Any) -> Any:
    """`fresh` state where `done` [N] is true: an environment that starts anew has no past."""
    return jax.tree.map(
        lambda new, old: jnp.where(done.astype(bool).reshape((-1,) + (1,) * (old.ndim - 1)), new, old), fresh, state
    )
