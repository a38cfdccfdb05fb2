"""Distillation without an environment: the store slices what belongs together, and the student learns a filter."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

from mjx_exo.errors import UserError
from mjx_exo.learning import dagger, windows
from mjx_exo.learning.dagger import DaggerConfig, Perturbation
from mjx_exo.learning.dagger_files import DaggerFiles
from mjx_exo.learning.windows import Rollout
from policies.student import Student, StudentConfig, init_params, init_stream

STUDENT = StudentConfig(
    torque_limit_nm_per_kg=0.25, channels=16, kernel_size=3, dilations=(1, 2, 4, 8), window_samples=31
)
FIELD = STUDENT.receptive_field
QUICK = DaggerConfig(
    rounds=6, steps_per_round=100, batch_stretches=8, outputs_per_stretch=50, capacity_samples=400, learning_rate=5e-3
)
NUM_ENVS, TICKS = 8, 120


def counted(first: int, ticks: int, num_envs: int = 2, resets=()) -> Rollout:
    """A rollout whose signals are the number of the tick (right) and of the environment (left)."""
    tick = jnp.broadcast_to(jnp.arange(first, first + ticks, dtype=jnp.float32)[:, None], (ticks, num_envs))
    env = jnp.broadcast_to(jnp.arange(num_envs, dtype=jnp.float32), (ticks, num_envs))
    reset = jnp.zeros((ticks, num_envs), bool)
    for t, n in resets:
        reset = reset.at[t - first, n].set(True)
    return Rollout(jnp.stack([tick, env], -1), jnp.stack([tick, env], -1), jnp.ones_like(reset), reset)


def test_stretches_are_consecutive_ticks_of_one_environment_through_the_rings_end():
    store = windows.empty_store(50, 2, 2)
    for first in (0, 30, 60):
        store = windows.append(store, counted(first, 30), field=5)
    batch = windows.draw_stretches(store, jax.random.key(0), 400, outputs=10, field=5)
    assert batch.signals.shape == (400, 14, 2)
    np.testing.assert_array_equal(np.diff(batch.signals[..., 0], axis=1), 1.0)
    np.testing.assert_array_equal(np.ptp(batch.signals[..., 1], axis=1), 0.0)
    np.testing.assert_array_equal(batch.signals[:, 4:], batch.torque)
    assert batch.usable.all()
    ticks = np.asarray(batch.signals[..., 0])
    assert ticks.min() == 40.0  # the fifty newest of ninety
    assert ticks.max() == 89.0
    assert set(np.asarray(batch.signals[:, 0, 1])) == {0.0, 1.0}


def test_only_ticks_with_a_whole_field_of_their_own_episode_are_usable():
    store = windows.empty_store(100, 2, 2)
    store = windows.append(store, counted(0, 30, resets=[(20, 1)]), field=5)
    store = windows.append(store, counted(30, 30, resets=[(31, 0)]), field=5)
    unusable = [np.flatnonzero(~np.asarray(store.usable[:60, n])).tolist() for n in (0, 1)]
    assert unusable == [[0, 1, 2, 3, 31, 32, 33, 34], [0, 1, 2, 3, 20, 21, 22, 23]]
    rollout = counted(60, 30)
    rollout = rollout._replace(valid=rollout.valid.at[:, 1].set(False))
    store = windows.append(store, rollout, field=5)
    assert store.usable[60:90, 0].all()
    assert not store.usable[60:90, 1].any()


def test_a_partly_filled_store_gives_only_what_was_written():
    store = windows.append(windows.empty_store(500, 2, 2), counted(1, 20), field=5)
    batch = windows.draw_stretches(store, jax.random.key(0), 100, outputs=10, field=5)
    assert np.asarray(batch.signals[..., 0]).min() == 1.0
    assert np.asarray(batch.signals[..., 0]).max() == 20.0


def target(signals: jax.Array) -> jax.Array:
    """[T, N, 2] to [T, N, 2]: a mirrored causal filter of the leg's own signal 12 samples ago and the other's 4 ago."""
    delayed = lambda d: jnp.concatenate([jnp.zeros_like(signals[:d]), signals[:-d]])  # noqa: E731
    return 0.2 * jnp.tanh(0.5 * delayed(12) - 0.25 * delayed(4)[..., ::-1])


def filter_task(params, carry, key, student_share):
    """A collector: sines of random rate, amplitude and phase that restart in some environments."""
    del params, student_share
    keys = jax.random.split(key, 3)
    hz = jax.random.uniform(keys[0], (NUM_ENVS, 1), minval=0.6, maxval=1.4)
    size = jax.random.uniform(keys[1], (NUM_ENVS, 1), minval=0.5, maxval=3.0)
    start = jax.random.uniform(keys[2], (NUM_ENVS, 1), maxval=2 * math.pi)
    t = jnp.arange(TICKS + 12)[:, None, None] / STUDENT.rate_hz
    signals = size * jnp.sin(2 * math.pi * hz * t + start + jnp.array([0.0, math.pi]))
    reset = jnp.zeros((TICKS, NUM_ENVS), bool).at[0].set(True)
    return carry + 1, Rollout(signals[12:], target(signals)[12:], jnp.ones_like(reset), reset)


@functools.cache
def filter_round():
    return dagger.make_round(QUICK, STUDENT, filter_task)


@functools.cache
def trained(rounds: int = QUICK.rounds):
    run = filter_round()
    state = dagger.init_state(QUICK, STUDENT, jax.random.key(0), jnp.zeros(()), NUM_ENVS)
    history = []
    for _ in range(rounds):
        state, metrics = run(state)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def test_the_student_learns_a_causal_filter_it_is_shown():
    state, history = trained()
    assert history[0]["r"] < 0.9
    assert history[-1]["r"] > 0.98
    assert history[-1]["rmse_nm_per_kg"] < 0.02
    assert 0.9 < history[-1]["amplitude_ratio"] < 1.1
    assert history[-1]["loss"] < 0.1 * history[0]["rmse_nm_per_kg"] / 0.25
    assert history[-1]["learning_rate"] < 1e-6 < history[0]["learning_rate"]
    assert int(state.carry) == QUICK.rounds
    _, fresh = filter_task(None, 0, jax.random.key(99), 1.0)
    metrics = dagger.score(STUDENT, state.params, fresh, jnp.full((NUM_ENVS,), -1))
    assert metrics["r"] > 0.98
    assert metrics["usable_share"] == 1.0


def test_teacher_drives_first_and_the_student_takes_over():
    shares = [entry["student_share"] for entry in trained()[1]]
    assert shares[0] == 0.0
    assert all(later > earlier for earlier, later in itertools.pairwise(shares))
    assert shares[-1] > 0.99


def test_a_saved_and_restored_state_goes_on_exactly():
    run = filter_round()
    state, _ = trained(2)
    state = jax.tree.map(jnp.copy, state)
    saved = serialization.to_bytes(state.replace(key=jax.random.key_data(state.key)))
    blank = dagger.init_state(QUICK, STUDENT, jax.random.key(5), jnp.zeros(()), NUM_ENVS)
    restored = serialization.from_bytes(blank.replace(key=jax.random.key_data(blank.key)), saved)
    restored = restored.replace(key=jax.random.wrap_key_data(restored.key))
    there, _ = run(state)
    here, _ = run(jax.tree.map(jnp.asarray, restored))
    jax.tree.map(np.testing.assert_array_equal, here.params, there.params)
    jax.tree.map(np.testing.assert_array_equal, here.store, there.store)


def test_loss_by_hand_counts_usable_ticks_slope_and_consistency():
    params = jax.tree.map(jnp.zeros_like, init_params(STUDENT, jax.random.key(0)))  # commands zero
    labels = jnp.array([[[0.25, 0.0], [0.25, 0.25], [0.0, 0.0]]])
    usable = jnp.array([[True, True, False]])
    batch = windows.Stretches(jnp.zeros((1, FIELD + 2, 2)), labels, usable)
    plain = DaggerConfig(slope_weight=0.0)
    key = jax.random.key(0)
    loss = jax.jit(dagger.loss, static_argnums=(1, 2))
    np.testing.assert_allclose(loss(params, plain, STUDENT, batch, key), 3 / 4, rtol=1e-6)
    # Between the two usable ticks the left label climbs by the whole limit: (0.05 s x 100 Hz x 1)^2, mean of two sides.
    sloped = DaggerConfig(slope_weight=0.1)
    np.testing.assert_allclose(loss(params, sloped, STUDENT, batch, key), 3 / 4 + 0.1 * 25 / 2, rtol=1e-6)
    consistent = DaggerConfig(slope_weight=0.0, consistency_weight=1.0, perturbation=Perturbation(noise=0.1))
    np.testing.assert_allclose(loss(params, consistent, STUDENT, batch, key), 3 / 4, rtol=1e-6)
    moving = init_params(STUDENT, jax.random.key(0))
    moving["params"]["head"]["kernel"] = 100.0 * moving["params"]["head"]["kernel"]
    without = DaggerConfig(slope_weight=0.0, perturbation=Perturbation(noise=0.1))
    assert loss(moving, consistent, STUDENT, batch, key) > loss(moving, without, STUDENT, batch, key)
    smooth = DaggerConfig(slope_weight=0.0, smoothness_weight=1.0, perturbation=Perturbation(noise=0.1))
    assert loss(moving, smooth, STUDENT, batch, key) > loss(moving, without, STUDENT, batch, key)
    # A shift of the signals alone moves the answer but makes it no rougher.
    shifted = DaggerConfig(slope_weight=0.0, smoothness_weight=1.0, perturbation=Perturbation(offset=0.1))
    constant = batch._replace(signals=jnp.ones_like(batch.signals))
    bare = DaggerConfig(slope_weight=0.0, perturbation=Perturbation(offset=0.1))
    smooth_loss, bare_loss = (loss(moving, c, STUDENT, constant, key) for c in (shifted, bare))
    np.testing.assert_allclose(smooth_loss, bare_loss, rtol=1e-4)


def test_perturbation_has_the_size_it_says():
    signals = jnp.ones((500, 40, 2))
    for perturbation, low, high in [
        (Perturbation(gain=0.1), 0.9, 1.1),
        (Perturbation(offset=0.05), 0.9, 1.1),  # the gyroscope's scale is 2 rad/s
    ]:
        out = np.asarray(dagger.perturb(perturbation, STUDENT, signals, jax.random.key(0)))
        assert low <= out.min() < low + 0.01
        assert high - 0.01 < out.max() <= high + 1e-6
        np.testing.assert_array_equal(np.ptp(out, axis=1), 0.0)
    noisy = dagger.perturb(Perturbation(noise=0.1), STUDENT, signals, jax.random.key(0))
    assert float(jnp.std(noisy)) == pytest.approx(0.2, rel=0.02)


def test_a_student_that_drives_meets_and_learns_its_own_states():
    """A plant whose signal answers the torque that was applied, driven through the student's streaming form."""

    def drive(params, carry, key, student_share):
        phase, signal, stream = carry
        driven = jax.random.uniform(key, (NUM_ENVS, 1)) < student_share

        def tick(carry, _):
            phase, signal, stream = carry
            stream, torque = Student(STUDENT).apply(params, stream, signal, method="stream")
            label = 0.2 * jnp.tanh(0.5 * signal)
            applied = jnp.where(driven, torque, label)
            phase = phase + 2 * math.pi * 0.01
            free = 2.0 * jnp.sin(phase[:, None] + jnp.array([0.0, math.pi]))
            return (phase, free + 2.0 * applied, stream), (signal, label)

        carry, (signals, labels) = jax.lax.scan(tick, (phase, signal, stream), None, TICKS)
        reset = jnp.zeros((TICKS, NUM_ENVS), bool)
        return carry, Rollout(signals, labels, jnp.ones_like(reset), reset)

    carry = (jnp.linspace(0.0, 6.0, NUM_ENVS), jnp.zeros((NUM_ENVS, 2)), init_stream(STUDENT, NUM_ENVS))
    run = dagger.make_round(QUICK, STUDENT, drive)
    state = dagger.init_state(QUICK, STUDENT, jax.random.key(1), carry, NUM_ENVS)
    for _ in range(QUICK.rounds):
        state, metrics = run(state)
    assert metrics["r"] > 0.99
    assert metrics["rmse_nm_per_kg"] < 0.015


def test_impossible_settings_are_named():
    for change, message in [
        ({"rounds": 0}, "rounds"),
        ({"teacher_share_factor": 1.0}, "teacher_share_factor"),
        ({"consistency_weight": 1.0}, "perturbation"),
        ({"smoothness_weight": 1.0}, "perturbation"),
    ]:
        with pytest.raises(UserError, match=message):
            DaggerConfig(**change)
    with pytest.raises(UserError, match="capacity_samples"):
        dagger.init_state(DaggerConfig(capacity_samples=50), STUDENT, jax.random.key(0), None, 1)

    def short(params, carry, key, share):
        return carry, jax.tree.map(lambda leaf: leaf[:40], filter_task(params, carry, key, share)[1])

    with pytest.raises(ValueError, match="shorter than one stretch"):
        dagger.make_round(QUICK, STUDENT, short)(
            dagger.init_state(QUICK, STUDENT, jax.random.key(0), jnp.zeros(()), NUM_ENVS)
        )


def test_a_stopped_distillation_goes_on_from_its_file_and_from_no_other(tmp_path):
    state, history = trained(2)
    settings = {"rounds": QUICK.rounds, "teacher": "a"}
    files = DaggerFiles(tmp_path / "run", settings, resume=False)
    assert files.restore(state) is state
    files.save(state, history[-1])
    with pytest.raises(UserError, match="--resume"):
        DaggerFiles(tmp_path / "run", settings, resume=False)
    blank = dagger.init_state(QUICK, STUDENT, jax.random.key(5), jnp.zeros(()), NUM_ENVS)
    with pytest.raises(UserError, match="other settings"):
        DaggerFiles(tmp_path / "run", {**settings, "teacher": "b"}, resume=True).restore(blank)
    again = DaggerFiles(tmp_path / "run", settings, resume=True)
    restored = again.restore(blank)
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, restored.store, state.store)
    assert int(restored.rounds_done) == 2
    again.save(restored, history[-1])
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2
    again.finish()
    with pytest.raises(UserError, match="nothing to resume"):
        DaggerFiles(tmp_path / "run", settings, resume=True)
