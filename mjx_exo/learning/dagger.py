"""Distilling the teacher into the student, as far as no environment is needed: DAgger's store, loss and loop.

The student drives, the teacher says what it would have done, the student learns it, again and again: so it learns in
the states into which its own mistakes lead. Who rolls out is a function that is handed in (`Collector`), so the same
loop is tested on a made-up task in seconds. The whole state is one pytree: saved and restored it goes on exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mjx_exo.errors import UserError
from mjx_exo.learning.windows import (
    Rollout,
    Stretches,
    WindowStore,
    append,
    draw_stretches,
    empty_store,
    samples_since_reset,
)
from policies.student import Student, StudentConfig, init_params

SLOPE_TIME_S = 0.05
"""An error in the torque's slope counts like the torque error it makes in this time."""


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Errors added to the signals in training, on top of what the virtual sensors did; in shares of the input scale."""

    gain: float = 0.0
    """Each channel of a stretch is scaled by up to 1 ± this."""
    offset: float = 0.0
    """Each channel of a stretch is shifted by up to ± this."""
    noise: float = 0.0
    """Standard deviation of white noise on every sample."""

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self.gain > 0 or self.offset > 0 or self.noise > 0


@dataclasses.dataclass(frozen=True)
class DaggerConfig:
    """How the student is taught."""

    rounds: int = 20
    """Rounds of rolling out and learning."""
    steps_per_round: int = 150
    """Gradient steps after each roll-out."""
    batch_stretches: int = 32
    """Stretches of the recording in one gradient step."""
    outputs_per_stretch: int = 76
    """Consecutive ticks that are learnt from in each stretch (0.76 s at 100 Hz)."""
    capacity_samples: int = 8000
    """Ticks of every environment that are remembered (80 s at 100 Hz)."""
    learning_rate: float = 2e-3
    """Adam step size after the warm-up; falls to zero along a cosine by the end of the last round."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    teacher_share_factor: float = 0.3
    """Share of environments the teacher drives: 1 in the first round, then multiplied by this every round."""
    slope_weight: float = 0.1
    """Weight of the error in the torque's slope, against steps and jitter."""
    consistency_weight: float = 0.0
    """Weight of how far perturbed signals move the torque; needs a perturbation."""
    smoothness_weight: float = 0.0
    """Weight of how fast that movement changes from tick to tick: jitter that noise would cause."""
    perturbation: Perturbation = Perturbation()
    """Errors added in training."""

    def __post_init__(self) -> None:
        for name in ("rounds", "steps_per_round", "batch_stretches", "capacity_samples"):
            _require(self, name, getattr(self, name) >= 1, "1 or more")
        _require(self, "outputs_per_stretch", self.outputs_per_stretch >= 2, "2 or more")
        for name in ("learning_rate", "max_gradient_norm"):
            _require(self, name, getattr(self, name) > 0, "above 0")
        _require(self, "teacher_share_factor", 0 <= self.teacher_share_factor < 1, "0 up to, but not, 1")
        _require(self, "slope_weight", self.slope_weight >= 0, "0 or more")
        for name in ("consistency_weight", "smoothness_weight"):
            weight = getattr(self, name)
            holds = weight == 0 or (weight > 0 and self.perturbation.active)
            _require(self, name, holds, "0, or above 0 together with a perturbation")


def _require(config: DaggerConfig, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"distillation: {name} = {getattr(config, name)!r}; allowed: {allowed}")


class Collector(Protocol):
    """Rolls out T ticks in N environments and labels them; may be traced under jit.

    `carry` is whatever it needs to go on next time (environment, sensor and student stream states), a pytree whose
    shapes stay. `student_share` in 0..1: that share of the environments is driven by the student with `params`, the
    others by the teacher. Labels are the teacher's everywhere.
    """

    def __call__(self, params: Any, carry: Any, key: jax.Array, student_share: jax.Array) -> tuple[Any, Rollout]: ...


@struct.dataclass
class DaggerState:
    """Everything: saving and restoring this continues as if nothing had happened."""

    params: Any
    optimizer: Any
    store: WindowStore
    carry: Any
    key: jax.Array
    rounds_done: jax.Array


def init_state(
    config: DaggerConfig, student: StudentConfig, key: jax.Array, carry: Any, num_envs: int, params: Any = None
) -> DaggerState:
    """The state before the first round. carry: the collector's; params: to go on from a trained student."""
    needed = student.receptive_field - 1 + config.outputs_per_stretch
    _require(config, "capacity_samples", config.capacity_samples >= needed, f"at least {needed}, one stretch")
    params_key, key = jax.random.split(key)
    params = init_params(student, params_key) if params is None else params
    return DaggerState(
        params=params,
        optimizer=_optimizer(config).init(params),
        store=empty_store(config.capacity_samples, num_envs, student.input_channels),
        carry=carry,
        key=key,
        rounds_done=jnp.zeros((), jnp.int32),
    )


def make_round(
    config: DaggerConfig, student: StudentConfig, collect: Collector, jit: bool = True
) -> Callable[[DaggerState], tuple[DaggerState, dict[str, jax.Array]]]:
    """One round as a function of the state: roll out, remember, learn. Returns the new state and scalars.

    The scalars, over the fresh roll-out and BEFORE learning from it: `rmse_nm_per_kg`, `r` (Pearson), `amplitude_ratio`
    (standard deviation of the student's torque over the teacher's), `usable_share`; then `loss` and `learning_rate` of
    the last gradient step, and `student_share`. A rollout must be at least one stretch long.
    """
    field = student.receptive_field

    def one_round(state: DaggerState) -> tuple[DaggerState, dict[str, jax.Array]]:
        collect_key, learn_key, key = jax.random.split(state.key, 3)
        share = 1.0 - config.teacher_share_factor ** state.rounds_done.astype(jnp.float32)
        carry, rollout = collect(state.params, state.carry, collect_key, share)
        _check_rollout(rollout, student, field - 1 + config.outputs_per_stretch)
        metrics = score(student, state.params, rollout, state.store.age)
        store = append(state.store, rollout, field)
        params, optimizer, losses = learn(config, student, state.params, state.optimizer, store, learn_key)
        steps = (state.rounds_done + 1) * config.steps_per_round
        metrics |= {"loss": losses[-1], "learning_rate": _schedule(config)(steps), "student_share": share}
        return DaggerState(params, optimizer, store, carry, key, state.rounds_done + 1), metrics

    return jax.jit(one_round, donate_argnums=0) if jit else one_round


def learn(
    config: DaggerConfig, student: StudentConfig, params: Any, optimizer: Any, store: WindowStore, key: jax.Array
) -> tuple[Any, Any, jax.Array]:
    """`steps_per_round` gradient steps on the store. Returns params, optimiser state and losses [steps]."""

    def step(carry: tuple[Any, Any], step_key: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
        params, optimizer = carry
        draw_key, loss_key = jax.random.split(step_key)
        field = student.receptive_field
        batch = draw_stretches(store, draw_key, config.batch_stretches, config.outputs_per_stretch, field)
        value, gradient = jax.value_and_grad(loss)(params, config, student, batch, loss_key)
        updates, optimizer = _optimizer(config).update(gradient, optimizer, params)
        return (optax.apply_updates(params, updates), optimizer), value

    keys = jax.random.split(key, config.steps_per_round)
    (params, optimizer), losses = jax.lax.scan(step, (params, optimizer), keys)
    return params, optimizer, losses


def loss(params: Any, config: DaggerConfig, student: StudentConfig, batch: Stretches, key: jax.Array) -> jax.Array:
    """Mean squared torque error over the usable ticks of both sides, in shares of the torque limit, plus what is asked
    for: error of the slope, and how far and how fast a perturbation moves the answer."""
    signals = perturb(config.perturbation, student, batch.signals, key) if config.perturbation.active else batch.signals
    torque = _sequence(student, params, signals)
    error = (torque - batch.torque) / student.torque_limit_nm_per_kg
    total = _masked_mean(error**2, batch.usable)
    both = batch.usable[:, 1:] & batch.usable[:, :-1]
    if config.slope_weight > 0:
        total += config.slope_weight * _masked_mean(_slope(student, error) ** 2, both)
    if config.consistency_weight > 0 or config.smoothness_weight > 0:
        moved = (torque - _sequence(student, params, batch.signals)) / student.torque_limit_nm_per_kg
        total += config.consistency_weight * _masked_mean(moved**2, batch.usable)
        total += config.smoothness_weight * _masked_mean(_slope(student, moved) ** 2, both)
    return total


def _slope(student: StudentConfig, values: jax.Array) -> jax.Array:
    """Change from tick to tick [B, S - 1, 2] of values [B, S, 2], as what it makes in `SLOPE_TIME_S`."""
    return SLOPE_TIME_S * student.rate_hz * (values[:, 1:] - values[:, :-1])


def perturb(perturbation: Perturbation, student: StudentConfig, signals: jax.Array, key: jax.Array) -> jax.Array:
    """signals: [B, T, C] in SI; the same shape with gain, offset and noise errors drawn per stretch and channel."""
    scale = jnp.repeat(jnp.asarray(student.input_scale), 2)
    gain_key, offset_key, noise_key = jax.random.split(key, 3)
    per_stretch = (signals.shape[0], 1, signals.shape[2])
    gain = 1.0 + perturbation.gain * jax.random.uniform(gain_key, per_stretch, minval=-1.0, maxval=1.0)
    offset = perturbation.offset * jax.random.uniform(offset_key, per_stretch, minval=-1.0, maxval=1.0)
    noise = perturbation.noise * jax.random.normal(noise_key, signals.shape)
    return gain * signals + scale * (offset + noise)


def score(
    student: StudentConfig, params: Any, rollout: Rollout, age: jax.Array, envs: int = 16
) -> dict[str, jax.Array]:
    """How well the student answers on a roll-out, over the first `envs` environments and the usable ticks.

    age: [N] samples since the reset before the roll-out's first row. The student has to see a whole field within the
    roll-out, so its first receptive field less one ticks are left out.
    """
    field = student.receptive_field
    since = samples_since_reset(age, rollout.reset.astype(bool))
    usable = (rollout.valid.astype(bool) & (since >= field - 1))[field - 1 :, :envs]
    signals = jnp.swapaxes(rollout.signals[:, :envs], 0, 1)
    torque = jnp.swapaxes(_sequence(student, params, signals), 0, 1)
    label, weight = rollout.torque[field - 1 :, :envs], usable
    mean = _masked_mean(torque, weight), _masked_mean(label, weight)
    own, wanted = torque - mean[0], label - mean[1]
    variance, wanted_variance = _masked_mean(own**2, weight), _masked_mean(wanted**2, weight)
    both = jnp.sqrt(variance * wanted_variance)
    return {
        "rmse_nm_per_kg": jnp.sqrt(_masked_mean((torque - label) ** 2, weight)),
        "r": _masked_mean(own * wanted, weight) / jnp.maximum(both, 1e-12),
        "amplitude_ratio": jnp.sqrt(variance / jnp.maximum(wanted_variance, 1e-12)),
        "usable_share": jnp.mean(usable.astype(jnp.float32)),
    }


def _sequence(student: StudentConfig, params: Any, signals: jax.Array) -> jax.Array:
    return Student(student).apply(params, signals, method="sequence")


def _masked_mean(values: jax.Array, usable: jax.Array) -> jax.Array:
    """Mean of values [..., 2] where usable [...]; 0 if nowhere."""
    weight = usable[..., None].astype(values.dtype)
    return jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight) * values.shape[-1], 1.0)


def _schedule(config: DaggerConfig) -> optax.Schedule:
    steps = config.rounds * config.steps_per_round
    warm_up = min(100, max(1, steps // 10))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warm_up, max(steps, warm_up + 1))


def _optimizer(config: DaggerConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.adam(_schedule(config)))


def _check_rollout(rollout: Rollout, student: StudentConfig, shortest: int) -> None:
    """A collector's mistake is a programmer's: shapes are checked while tracing."""
    ticks, num_envs = rollout.valid.shape
    expected = {
        "signals": (ticks, num_envs, student.input_channels),
        "torque": (ticks, num_envs, 2),
        "reset": (ticks, num_envs),
    }
    for name, shape in expected.items():
        if getattr(rollout, name).shape != shape:
            raise ValueError(f"rollout.{name} has shape {getattr(rollout, name).shape}, expected {shape}")
    if ticks < shortest:
        raise ValueError(f"a rollout of {ticks} samples is shorter than one stretch of {shortest}")
