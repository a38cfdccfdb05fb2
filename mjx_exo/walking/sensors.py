"""The thigh gyroscopes as a strapped-on, cheap, delayed sensor reports them, not as the simulation knows them.

The student is only worth something if nothing has to be tuned on the wearer, so it is trained on sensors that sit a
little wrong, slip, wobble on soft tissue, are off in scale and bias, drift, hiss, saturate, come late and sometimes not
at all. Figures of the part come from the device profile, figures of the strap from `SensorRanges`; every environment
draws its own sensors. All functions are pure and batched: N environments, sides [right, left].

Inside this module angular velocity is in ANATOMICAL axes (flexion, adduction, internal rotation), positive alike on
both sides: one piece of arithmetic serves both legs, and a mirrored wearer gives the mirrored signal.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from mjx_exo import standing
from mjx_exo.device import DeviceProfile

LONGEST_HOLD = 2
"""Lost samples in a row that are held, in training as in the loop; the loop ramps to zero at the third."""
LONGEST_LATENCY_S = 0.06
"""The signal's history reaches this far back; longer latencies are cut to it."""
CALIBRATION_S = 4.0
"""How long a wearer stands before walking: at least two estimates of the bias, of which the last counts."""


@dataclasses.dataclass(frozen=True)
class SensorRanges:
    """How widely sensors are drawn around the profile's figures. Ranges are uniform, lowest and highest."""

    noise_factor: tuple[float, float] = (0.5, 2.0)
    """Times the profile's noise density."""
    calibrated: bool = True
    """Whether the wearer stood still first and the bias was estimated, so that only what the sway left of it stays."""
    drift_rad_s_sqrt_s: tuple[float, float] = (0.0, 5e-4)
    """Random walk of the bias: its standard deviation after one second."""
    misalignment_factor: tuple[float, float] = (0.0, 1.0)
    """Times the profile's misalignment: how far the sensitive axis is tilted, in any direction."""
    slip_share: tuple[float, float] = (0.0, 0.3)
    """Standard deviation of the slow mounting shift, in shares of the profile's misalignment."""
    slip_time_s: float = 60.0
    """Correlation time of that shift."""
    wobble_hz: tuple[float, float] = (6.0, 14.0)
    """Natural frequency of the housing on soft tissue; of the order reported for skin-mounted sensors (background)."""
    wobble_damping: tuple[float, float] = (0.2, 0.6)
    """Its damping ratio, below 1."""
    wobble_coupling: tuple[float, float] = (0.0, 0.3)
    """Share of the thigh's angular acceleration that the housing does not follow at once; 0 is bolted to the bone."""
    latency_factor: tuple[float, float] = (0.5, 2.0)
    """Times the profile's latency."""
    latency_extra_s: tuple[float, float] = (0.0, 0.01)
    """On top, for what the loop and the link add."""
    lost_factor: tuple[float, float] = (0.0, 5.0)
    """Times the profile's share of lost samples."""


@struct.dataclass
class SensorParameters:
    """What was drawn, per environment; constant in an episode, free to be replaced for a sweep.

    mounting: [N, 2, 3] rotation vector of the housing, rad, anatomical axes. scale: [N, 2, 3] factor per axis.
    bias: [N, 2, 3] rad/s at the start. wobble_rad_s, wobble_damping, wobble_coupling: [N, 2].
    slip_rad, drift_rad_s_sqrt_s, noise_rad_s, range_rad_s, latency_s, jitter_s, lost_share: [N].
    """

    mounting: jax.Array
    scale: jax.Array
    bias: jax.Array
    wobble_rad_s: jax.Array
    wobble_damping: jax.Array
    wobble_coupling: jax.Array
    slip_rad: jax.Array
    drift_rad_s_sqrt_s: jax.Array
    noise_rad_s: jax.Array
    range_rad_s: jax.Array
    latency_s: jax.Array
    jitter_s: jax.Array
    lost_share: jax.Array
    slip_time_s: float = struct.field(pytree_node=False, default=60.0)
    history: int = struct.field(pytree_node=False, default=8)


@struct.dataclass
class SensorState:
    """What changes from sample to sample, all leading with N.

    omega: [N, 2, 3] the thigh's last angular velocity, rad/s.
    wobble, wobble_rate: [N, 2, 3] angle and rate of the housing on the thigh, rad and rad/s.
    slip: [N, 2, 3] rad. drift: [N, 2, 3] rad/s.
    past: [N, history, 2, 3] the signal before any delay, newest last, rad/s.
    delivered: [N, 2, 3] the last sample that arrived, rad/s. held: [N] how many in a row were lost.
    """

    omega: jax.Array
    wobble: jax.Array
    wobble_rate: jax.Array
    slip: jax.Array
    drift: jax.Array
    past: jax.Array
    delivered: jax.Array
    held: jax.Array


def anatomical_rates(omega_thigh: jax.Array) -> jax.Array:
    """Angular velocity in the thighs' own frames, (x forward, y left, z up when standing), as anatomical rates.

    omega_thigh: [..., 2, 3] rad/s, [right, left]. Returns [..., 2, 3]: flexion, adduction, internal rotation, positive
    alike on both sides. Flexion swings the knee forward, which is a turn about -y on either side.
    """
    outward = jnp.array([1.0, -1.0])
    x, y, z = omega_thigh[..., 0], omega_thigh[..., 1], omega_thigh[..., 2]
    return jnp.stack([-y, x * outward, z * outward], axis=-1)


def draw_sensor(
    key: jax.Array, profile: DeviceProfile, num_envs: int, ranges: SensorRanges | None = None
) -> SensorParameters:
    """Sensors for `num_envs` wearers (N), from the profile's figures and the ranges around them."""
    ranges, imu = ranges or SensorRanges(), profile.imu
    names = ("tilt", "direction", "twist", "scale", "bias", "hz", "damping", "coupling", "slip", "drift", "noise")
    keys = dict(zip((*names, "late", "extra", "lost"), jax.random.split(key, len(names) + 3), strict=True))

    def uniform(name: str, bounds: tuple[float, float], *shape: int) -> jax.Array:
        return jax.random.uniform(keys[name], (num_envs, *shape), minval=bounds[0], maxval=bounds[1])

    tilt = imu.misalignment_rad * uniform("tilt", ranges.misalignment_factor, 2)
    direction = uniform("direction", (-math.pi, math.pi), 2)
    twist = imu.misalignment_rad * ranges.misalignment_factor[1] * uniform("twist", (-1.0, 1.0), 2)
    bias = imu.bias_rad_s * uniform("bias", (-1.0, 1.0), 2, 3)
    if ranges.calibrated:
        bias = bias - estimated_bias(profile, jax.random.fold_in(keys["bias"], 1), bias)
    every = jnp.ones((num_envs,))
    return SensorParameters(
        mounting=jnp.stack([twist, tilt * jnp.cos(direction), tilt * jnp.sin(direction)], axis=-1),
        scale=1.0 + imu.scale_tolerance * uniform("scale", (-1.0, 1.0), 2, 3),
        bias=bias,
        wobble_rad_s=2.0 * math.pi * uniform("hz", ranges.wobble_hz, 2),
        wobble_damping=uniform("damping", ranges.wobble_damping, 2),
        wobble_coupling=uniform("coupling", ranges.wobble_coupling, 2),
        slip_rad=imu.misalignment_rad * uniform("slip", ranges.slip_share),
        drift_rad_s_sqrt_s=uniform("drift", ranges.drift_rad_s_sqrt_s),
        noise_rad_s=imu.noise_rad_s * uniform("noise", ranges.noise_factor),
        range_rad_s=imu.range_rad_s * every,
        latency_s=imu.latency_s * uniform("late", ranges.latency_factor) + uniform("extra", ranges.latency_extra_s),
        jitter_s=imu.jitter_s * every,
        lost_share=imu.lost_share * uniform("lost", ranges.lost_factor),
        slip_time_s=ranges.slip_time_s,
        history=_history(profile.link.rate_hz),
    )


def sway_rad_s(profile: DeviceProfile) -> float:
    """Standard deviation of a standing thigh's angular velocity with which the bias is found as well as `profile` says.

    It is the profile's `bias_after_calibration_rad_s`, the other way round through the residual of `mjx_exo.standing`.
    """
    return profile.imu.bias_after_calibration_rad_s * math.sqrt(standing.STANDING_S / standing.SWAY_CORRELATION_S)


def sway_step(key: jax.Array, sway: jax.Array, spread_rad_s: jax.Array | float, dt_s: float) -> jax.Array:
    """Angular velocity of a swaying thigh one sample later, rad/s, any shape: an Ornstein-Uhlenbeck step.

    Its mean over a quiet stretch has the standard error that `mjx_exo.standing` counts with.
    """
    keep = math.exp(-dt_s / (0.5 * standing.SWAY_CORRELATION_S))
    return keep * sway + spread_rad_s * math.sqrt(1.0 - keep * keep) * jax.random.normal(key, sway.shape)


def estimated_bias(profile: DeviceProfile, key: jax.Array, bias: jax.Array) -> jax.Array:
    """What standing still tells about `bias` [N, 2, 3] rad/s: the sum that the loop on the device does, on its figures.

    An estimate that never came, because the wearer never stood quietly, counts as 0.
    """
    rate_hz, spread = profile.link.rate_hz, sway_rad_s(profile)
    axes_first = jnp.swapaxes(bias, 1, 2)  # the estimate is made from [right, left] pairs
    largest = max(standing.LARGEST_BIAS_RAD_S, 1.5 * profile.imu.bias_rad_s)
    start_key, run_key = jax.random.split(key)

    def tick(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        state, sway = carry
        sway_key, noise_key = jax.random.split(key)
        sway = sway_step(sway_key, sway, spread, 1.0 / rate_hz)
        noise = profile.imu.noise_rad_s * jax.random.normal(noise_key, sway.shape)
        return (standing.update(state, axes_first + sway + noise, rate_hz, largest), sway), None

    sway = spread * jax.random.normal(start_key, axes_first.shape)
    keys = jax.random.split(run_key, round(CALIBRATION_S * rate_hz))
    (state, _), _ = jax.lax.scan(tick, (standing.start(axes_first), sway), keys)
    return jnp.swapaxes(state.bias, 1, 2)


def perfect_sensor(num_envs: int, rate_hz: float = 100.0) -> SensorParameters:
    """Sensors that report the true angular velocity at once; a start for sweeps of one error at a time."""
    zero, sides = jnp.zeros((num_envs,)), jnp.zeros((num_envs, 2))
    axes = jnp.zeros((num_envs, 2, 3))
    return SensorParameters(
        mounting=axes,
        scale=1.0 + axes,
        bias=axes,
        wobble_rad_s=sides + 2.0 * math.pi * 10.0,
        wobble_damping=sides + 0.4,
        wobble_coupling=sides,
        slip_rad=zero,
        drift_rad_s_sqrt_s=zero,
        noise_rad_s=zero,
        range_rad_s=zero + jnp.inf,
        latency_s=zero,
        jitter_s=zero,
        lost_share=zero,
        history=_history(rate_hz),
    )


def init(params: SensorParameters, key: jax.Array, omega_thigh: jax.Array | None = None) -> SensorState:
    """The state at the start of an episode, as if the thighs had turned at `omega_thigh` [N, 2, 3] for a while.

    omega_thigh: rad/s in the thighs' frames as in `anatomical_rates`; None is standing still.
    """
    num_envs = params.bias.shape[0]
    still = jnp.zeros((num_envs, 2, 3))
    omega = still if omega_thigh is None else anatomical_rates(omega_thigh)
    slip = params.slip_rad[:, None, None] * jax.random.normal(key, still.shape)
    mounted = params.scale * rotate(params.mounting + slip, omega)
    return SensorState(
        omega=omega,
        wobble=still,
        wobble_rate=still,
        slip=slip,
        drift=still,
        past=jnp.repeat(mounted[:, None], params.history, axis=1),
        delivered=_clip(mounted + params.bias, params),
        held=jnp.zeros((num_envs,), jnp.int32),
    )


def step(
    params: SensorParameters, state: SensorState, key: jax.Array, omega_thigh: jax.Array, dt_s: float
) -> tuple[SensorState, jax.Array]:
    """One sample later. Returns the state and the single-axis reading [N, 2], rad/s, flexion positive, [right, left].

    omega_thigh: [N, 2, 3] true angular velocity of each thigh in its own frame (see `anatomical_rates`), pelvis
    rotation included; dt_s: the sample period.
    """
    state, reading = step_axes(params, state, key, omega_thigh, dt_s)
    return state, reading[..., 0]


def step_axes(
    params: SensorParameters, state: SensorState, key: jax.Array, omega_thigh: jax.Array, dt_s: float
) -> tuple[SensorState, jax.Array]:
    """As `step`, with all three axes: [N, 2, 3] flexion, adduction, internal rotation rate."""
    slip_key, drift_key, jitter_key, noise_key, lost_key = jax.random.split(key, 5)
    omega = anatomical_rates(omega_thigh)
    acceleration = (omega - state.omega) / dt_s
    wobble, wobble_rate = _wobble(params, state.wobble, state.wobble_rate, acceleration, dt_s)
    slip = _slip(params, state.slip, slip_key, dt_s)
    mounted = params.scale * rotate(params.mounting + slip, omega + wobble_rate)
    past = jnp.concatenate([state.past[:, 1:], mounted[:, None]], axis=1)

    walk = params.drift_rad_s_sqrt_s[:, None, None] * math.sqrt(dt_s)
    drift = state.drift + walk * jax.random.normal(drift_key, state.drift.shape)
    noise = params.noise_rad_s[:, None, None] * jax.random.normal(noise_key, state.drift.shape)
    fresh = _clip(_delayed(params, past, jitter_key, dt_s) + params.bias + drift + noise, params)

    lost = jax.random.uniform(lost_key, state.held.shape) < params.lost_share
    lost = lost & (state.held < LONGEST_HOLD)
    delivered = jnp.where(lost[:, None, None], state.delivered, fresh)
    held = jnp.where(lost, state.held + 1, 0)
    return SensorState(omega, wobble, wobble_rate, slip, drift, past, delivered, held), delivered


def reset(state: SensorState, fresh: SensorState, done: jax.Array) -> SensorState:
    """`fresh` (from `init`) where `done` [N] is set, `state` elsewhere."""
    return jax.tree.map(lambda new, old: jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), new, old), fresh, state)


def rotate(rotation: jax.Array, vector: jax.Array) -> jax.Array:
    """Rotates `vector` [..., 3] by the rotation vector `rotation` [..., 3] (axis times angle in rad), exactly."""
    angle2 = jnp.sum(rotation * rotation, axis=-1, keepdims=True)
    angle = jnp.sqrt(jnp.maximum(angle2, 1e-12))
    sine, versine = jnp.sin(angle) / angle, (1.0 - jnp.cos(angle)) / jnp.maximum(angle2, 1e-12)
    once = jnp.cross(rotation, vector)
    return vector + sine * once + versine * jnp.cross(rotation, once)


def _history(rate_hz: float) -> int:
    return math.ceil(LONGEST_LATENCY_S * rate_hz) + 2


def _clip(reading: jax.Array, params: SensorParameters) -> jax.Array:
    limit = params.range_rad_s[:, None, None]
    return jnp.clip(reading, -limit, limit)


def _slip(params: SensorParameters, slip: jax.Array, key: jax.Array, dt_s: float) -> jax.Array:
    """An Ornstein-Uhlenbeck step: the housing wanders about where it was strapped on."""
    keep = math.exp(-dt_s / params.slip_time_s)
    spread = params.slip_rad[:, None, None] * math.sqrt(1.0 - keep * keep)
    return keep * slip + spread * jax.random.normal(key, slip.shape)


def _wobble(
    params: SensorParameters, angle: jax.Array, rate: jax.Array, acceleration: jax.Array, dt_s: float
) -> tuple[jax.Array, jax.Array]:
    """Exact step of `angle'' + 2 ζ ω angle' + ω² angle = -coupling × acceleration`, acceleration constant over dt_s.

    Exact, because 14 Hz against 100 samples per second would make an Euler step add or lose energy.
    """
    omega, zeta = params.wobble_rad_s[..., None], params.wobble_damping[..., None]
    rest = -params.wobble_coupling[..., None] * acceleration / omega**2
    damped = omega * jnp.sqrt(1.0 - zeta**2)
    decay = jnp.exp(-zeta * omega * dt_s)
    cosine, sine = decay * jnp.cos(damped * dt_s), decay * jnp.sin(damped * dt_s) / damped
    offset = angle - rest
    new_angle = rest + (cosine + zeta * omega * sine) * offset + sine * rate
    new_rate = -(omega**2) * sine * offset + (cosine - zeta * omega * sine) * rate
    return new_angle, new_rate


def _delayed(params: SensorParameters, past: jax.Array, key: jax.Array, dt_s: float) -> jax.Array:
    """`past` [N, history, 2, 3] read one latency back, give or take the jitter; linear between samples."""
    jitter = params.jitter_s * jax.random.uniform(key, params.jitter_s.shape, minval=-1.0, maxval=1.0)
    samples = jnp.clip((params.latency_s + jitter) / dt_s, 0.0, params.history - 1.0)
    age = jnp.arange(params.history - 1, -1, -1.0)
    weight = jnp.maximum(0.0, 1.0 - jnp.abs(age - samples[:, None]))
    return jnp.sum(weight[:, :, None, None] * past, axis=1)
