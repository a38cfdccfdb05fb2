"""Reference controllers: hand arithmetic, signs by mechanical work, phase from foot loads, batches and resets."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.walking import reference_controllers as rc

STRIDE_S = 1.1


def inputs(angle=(0.0, 0.0), moment=(0.0, 0.0), load=(0.0, 0.0)):
    return rc.ReferenceInputs(*(jnp.asarray([pair], jnp.float32) for pair in (angle, moment, load)))


def run(controller, steps, parameters=None):
    """Torques [T, 2] of one environment over a list of inputs."""
    parameters = controller.parameters if parameters is None else parameters
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *steps)
    _, torques = jax.lax.scan(lambda state, now: controller.step(state, now, parameters), controller.init(1), stacked)
    return np.asarray(torques[:, 0])


def walking(seconds=5.5):
    """Hip angles (flexed at heel strike), velocities and loads of a symmetric gait at 100 Hz, [T, 2] each."""
    time_s = np.arange(0, seconds, 0.01)
    phase = np.stack([time_s / STRIDE_S, time_s / STRIDE_S + 0.5], 1) % 1.0
    angle = 0.15 + 0.4 * np.cos(2 * np.pi * phase)
    velocity = -0.4 * 2 * np.pi / STRIDE_S * np.sin(2 * np.pi * phase)
    return phase, angle, velocity, np.where(phase < 0.6, 1.0, 0.0)


def test_delayed_feedback_answers_after_exactly_its_delay():
    # sin 30° − sin(−30°) = 1; κ = 0.1; delay 0.03 s = 3 periods: right −0.1 (extension), left +0.1.
    held = [inputs(angle=(math.pi / 6, -math.pi / 6))] * 6
    torque = run(rc.reference_controller("delayed_feedback"), held, rc.DelayedFeedbackParameters(0.1, 0.03))
    np.testing.assert_allclose(torque, [[0, 0]] * 3 + [[-0.1, 0.1]] * 3, atol=1e-7)


def test_delays_between_samples_interpolate():
    line = rc.delay_line(1, 1, 0.01)
    for value in (1.0, 2.0, 4.0):
        line, late = rc.delay_step(line, jnp.full((1, 1), value), 0.015, 0.01)
    np.testing.assert_allclose(late, [[1.5]], rtol=1e-5)  # half-way between 2 (10 ms ago) and 1 (20 ms ago)


def test_delays_differ_by_environment():
    line = rc.delay_line(3, 1, 0.01)
    for value in (1.0, 2.0, 3.0):
        line, late = rc.delay_step(line, jnp.full((3, 1), value), jnp.array([0.0, 0.01, 0.02]), 0.01)
    np.testing.assert_allclose(late[:, 0], [3.0, 2.0, 1.0])


@pytest.mark.parametrize("name", ["delayed_feedback", "bursts"])
def test_positive_gain_does_positive_work_on_both_hips(name):
    phase, angle, velocity, load = walking()
    steps = [inputs(angle=a, load=f) for a, f in zip(angle, load, strict=True)]
    torque = run(rc.reference_controller(name), steps)
    power = (torque * velocity)[330:]
    assert np.all(power.mean(0) > 0)
    np.testing.assert_allclose(power[:, 0].mean(), power[:, 1].mean(), rtol=0.1)
    assert len(phase) == len(torque)


def test_delayed_moment_scales_and_delays_a_step():
    held = [inputs(moment=(0.5, -1.0))] * 12
    parameters = rc.DelayedMomentParameters(0.2, 0.10, math.inf)
    torque = run(rc.reference_controller("delayed_moment"), held, parameters)
    np.testing.assert_allclose(torque[:10], 0.0)
    np.testing.assert_allclose(torque[10:], [[0.1, -0.2]] * 2, rtol=1e-5)


def test_delayed_moment_filter_by_hand():
    # First sample through a 6 Hz one-pole at 100 Hz: 1 − exp(−2π·0.06) = 0.314; then 1 − (1 − 0.314)².
    held = [inputs(moment=(1.0, 0.0))] * 2
    torque = run(rc.reference_controller("delayed_moment"), held, rc.DelayedMomentParameters(1.0, 0.0))
    weight = 1.0 - math.exp(-2 * math.pi * 0.06)
    np.testing.assert_allclose(torque[:, 0], [weight, 1 - (1 - weight) ** 2], rtol=1e-5)


def test_gait_phase_follows_heel_strikes_and_ignores_scuffs():
    phase, _, _, load = walking()
    load[430, 0] = 0.1  # a light scuff in swing (phase 0.9): below the load of a heel strike
    state, step = rc.gait_phase_init(1), jax.jit(rc.gait_phase_step)
    estimates, known = [], []
    for now in load:
        state, estimate, sure = step(state, jnp.asarray(now[None], jnp.float32))
        estimates.append(estimate[0])
        known.append(sure[0])
    estimates, known = np.array(estimates), np.array(known)
    assert not known[:200, 0].any() and known[260:].all()
    error = (estimates - phase + 0.5) % 1.0 - 0.5
    assert np.abs(error[260:]).max() < 0.02
    np.testing.assert_allclose(state.stride_s, STRIDE_S, atol=0.011)


def test_gait_phase_is_unknown_once_the_next_strike_is_overdue():
    _, _, _, load = walking(4.0)
    stopped = np.concatenate([load, np.ones((150, 2))])
    torque = run(rc.reference_controller("bursts"), [inputs(load=f) for f in stopped])
    assert np.abs(torque[300:400]).max() > 0.05
    np.testing.assert_array_equal(torque[-20:], 0.0)


def test_bursts_by_hand():
    # A quarter into a burst sin²(45°) = 0.5, half-way 1, at its end 0; it wraps over heel strike.
    phase = jnp.array([0.5, 0.5625, 0.625, 0.75, 0.0, 0.025])
    np.testing.assert_allclose(rc.burst(phase, 0.5, 0.25), [0, 0.5, 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rc.burst(phase, 0.9, 0.25)[-2:], [math.sin(math.pi * 0.4) ** 2, 1.0], atol=1e-5)


def test_bursts_extend_around_heel_strike_and_flex_around_toe_off():
    phase, angle, _, load = walking()
    steps = [inputs(angle=a, load=f) for a, f in zip(angle, load, strict=True)]
    torque = run(rc.reference_controller("bursts"), steps)[330:]
    late = phase[330:]
    assert late[np.argmin(torque[:, 0]), 0] == pytest.approx(0.025, abs=0.03)
    assert late[np.argmax(torque[:, 1]), 1] == pytest.approx(0.625, abs=0.03)
    assert np.abs(torque).max() <= 0.1 + 1e-6


@pytest.mark.parametrize("name", list(rc.REFERENCE_CONTROLLERS))
def test_every_controller_runs_batched_under_scan_and_starts_at_zero(name):
    controller = rc.reference_controller(name)
    held = rc.ReferenceInputs(jnp.ones((4, 2)), jnp.ones((4, 2)), jnp.zeros((4, 2)))
    first = controller.step(controller.init(4), held, controller.parameters)[1]
    assert first.shape == (4, 2)
    still = rc.ReferenceInputs(*(jnp.zeros((4, 2)),) * 3)
    np.testing.assert_array_equal(controller.step(controller.init(4), still, controller.parameters)[1], 0.0)
    _, torques = jax.lax.scan(
        lambda state, _: controller.step(state, held, controller.parameters), controller.init(4), None, 60
    )
    assert torques.shape == (60, 4, 2) and np.isfinite(torques).all()


@pytest.mark.parametrize("name", list(rc.REFERENCE_CONTROLLERS))
def test_searches_are_equally_large_contain_the_default_and_fit_one_batch(name):
    controller, sets = rc.reference_controller(name), rc.candidates(name)
    assert len(sets) == 9 and len(set(sets)) == 9
    assert controller.parameters in sets
    stacked = jax.tree.map(lambda *values: jnp.array(values), *sets)
    _, angle, _, load = walking(3.0)
    state, step = controller.init(9), jax.jit(controller.step)
    for a, f in zip(angle, load, strict=True):
        now = rc.ReferenceInputs(*(jnp.tile(jnp.asarray(v, jnp.float32), (9, 1)) for v in (a, a, f)))
        state, torque = step(state, now, stacked)
    for row, parameters in list(enumerate(sets))[::4]:
        single = run(controller, [inputs(a, a, f) for a, f in zip(angle, load, strict=True)], parameters)
        np.testing.assert_allclose(torque[row], single[-1], atol=1e-6)


def test_reset_clears_only_the_finished_environment():
    controller = rc.reference_controller("delayed_moment")
    held = rc.ReferenceInputs(jnp.ones((2, 2)), jnp.ones((2, 2)), jnp.ones((2, 2)))
    state = controller.init(2)
    for _ in range(20):
        state, _ = controller.step(state, held, controller.parameters)
    state = rc.reset_where(jnp.array([1.0, 0.0]), state, controller.init(2))
    _, torque = controller.step(state, held, controller.parameters)
    assert (torque[0] == 0).all() and (torque[1] > 0.15).all()


def test_unknown_controller_names_the_known_ones():
    with pytest.raises(UserError, match=r"'lim'.*delayed_feedback, delayed_moment, bursts"):
        rc.reference_controller("lim")
