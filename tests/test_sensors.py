"""The virtual gyroscope: true when nothing is wrong with it, and wrong in the ways and by the amounts it says."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo import standing
from mjx_exo.device import DeviceProfile
from mjx_exo.walking import sensors

DT_S = 0.01
PROFILE = DeviceProfile.load("hip_3200g")


def thighs(samples: int, num_envs: int = 1, seed: int = 0) -> jax.Array:
    """[T, N, 2, 3] smooth angular velocity about all axes, rad/s, thigh frames."""
    t = np.arange(samples)[:, None, None, None] * DT_S
    rng = np.random.default_rng(seed)
    phase, size = rng.uniform(0, 6, (1, num_envs, 2, 3)), rng.uniform(0.5, 3, (1, num_envs, 2, 3))
    return jnp.asarray(size * np.sin(2 * math.pi * t + phase), jnp.float32)


@functools.partial(jax.jit, static_argnums=3)
def record(params, key, omega, axes=False):
    """Readings [T, N, 2] ([T, N, 2, 3] with `axes`) of true rates [T, N, 2, 3] that start in motion."""
    start_key, run_key = jax.random.split(key)
    state = sensors.init(params, start_key, omega[0])

    def tick(state, inputs):
        return sensors.step_axes(params, state, *inputs, DT_S) if axes else sensors.step(params, state, *inputs, DT_S)

    return jax.lax.scan(tick, state, (jax.random.split(run_key, len(omega)), omega))[1]


def test_a_perfect_sensor_reads_flexion_positive_right_before_left():
    omega = jnp.zeros((5, 1, 2, 3)).at[:, 0, 0, 1].set(-1.5).at[:, 0, 1, 1].set(0.5)
    readings = record(sensors.perfect_sensor(1), jax.random.key(0), omega)
    np.testing.assert_array_equal(readings[:, 0], np.tile([1.5, -0.5], (5, 1)))
    omega = thighs(50, 3)
    np.testing.assert_allclose(record(sensors.perfect_sensor(3), jax.random.key(0), omega), -omega[..., 1], atol=1e-6)


def test_anatomical_rates_are_those_of_a_swinging_leg_and_of_its_mirror_image():
    knee = np.array([0.0, 0.0, -0.4])
    towards_other_leg = {0: +1.0, 1: -1.0}
    for side in (0, 1):
        rates = np.eye(3)
        omega = np.zeros((3, 2, 3))
        for axis in range(3):
            for cartesian in np.vstack([np.eye(3), -np.eye(3)]):
                trial = np.zeros((2, 3))
                trial[side] = cartesian
                if np.allclose(sensors.anatomical_rates(jnp.asarray(trial))[side], rates[axis]):
                    omega[axis] = trial
        assert np.cross(omega[0, side], knee)[0] > 0  # flexion carries the knee forward
        assert np.cross(omega[1, side], knee)[1] * towards_other_leg[side] > 0  # adduction towards the other leg
        assert np.cross(omega[2, side], [1.0, 0, 0])[1] * towards_other_leg[side] > 0  # internal rotation, the toes


def test_mirrored_wearer_gives_the_mirrored_signal():
    params = sensors.draw_sensor(jax.random.key(3), PROFILE, 4)
    params = params.replace(noise_rad_s=0 * params.noise_rad_s, drift_rad_s_sqrt_s=0 * params.noise_rad_s)
    params = params.replace(slip_rad=0 * params.noise_rad_s)
    swap = lambda leaf: leaf[:, ::-1] if leaf.ndim > 1 else leaf  # noqa: E731
    omega = thighs(80, 4)
    mirrored_omega = omega[:, :, ::-1] * jnp.array([-1.0, 1.0, -1.0])
    there = record(jax.tree.map(swap, params), jax.random.key(1), mirrored_omega, True)
    np.testing.assert_allclose(there[:, :, ::-1], record(params, jax.random.key(1), omega, True), atol=1e-6)


def test_noise_has_the_spectral_density_of_the_profile():
    params = sensors.perfect_sensor(64).replace(noise_rad_s=jnp.full((64,), PROFILE.imu.noise_rad_s))
    readings = np.asarray(record(params, jax.random.key(0), jnp.zeros((1000, 64, 2, 3))))
    density = np.mean(np.abs(np.fft.rfft(readings, axis=0)[1:-1]) ** 2) * 2 * DT_S / 1000
    assert math.sqrt(density) == pytest.approx(PROFILE.imu.noise_rad_s_sqrt_hz, rel=0.02)
    assert abs(np.corrcoef(readings[1:].ravel(), readings[:-1].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(readings[..., 0].ravel(), readings[..., 1].ravel())[0, 1]) < 0.01


def test_bias_drifts_as_a_random_walk():
    params = sensors.perfect_sensor(256).replace(drift_rad_s_sqrt_s=jnp.full((256,), 0.01))
    readings = np.asarray(record(params, jax.random.key(0), jnp.zeros((401, 256, 2, 3))))
    assert np.std(readings[100] - readings[0]) == pytest.approx(0.01, rel=0.15)
    assert np.std(readings[400] - readings[0]) == pytest.approx(0.02, rel=0.15)


def test_misalignment_mixes_axes_without_changing_the_length():
    angle = math.radians(20.0)
    mounting = jnp.zeros((1, 2, 3)).at[:, :, 2].set(angle)
    params = sensors.perfect_sensor(1).replace(mounting=mounting)
    omega = thighs(30)
    axes = record(params, jax.random.key(0), omega, True)
    true = sensors.anatomical_rates(omega)
    expected = math.cos(angle) * true[..., 0] - math.sin(angle) * true[..., 1]
    np.testing.assert_allclose(axes[..., 0], expected, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(axes, axis=-1), jnp.linalg.norm(true, axis=-1), rtol=1e-5)


@pytest.mark.parametrize(("latency_s", "shift"), [(0.0, 0.0), (0.02, 2.0), (0.035, 3.5), (0.05, 5.0)])
def test_latency_shifts_the_signal(latency_s, shift):
    params = sensors.perfect_sensor(1).replace(latency_s=jnp.array([latency_s]))
    ramp = jnp.zeros((40, 1, 2, 3)).at[..., 1].set(-jnp.arange(40.0)[:, None, None])
    readings = np.asarray(record(params, jax.random.key(0), ramp))[20:, 0, 0]
    np.testing.assert_allclose(readings, np.arange(20.0, 40.0) - shift, atol=1e-4)


def test_jitter_moves_samples_by_no_more_than_it_says():
    params = sensors.perfect_sensor(1).replace(latency_s=jnp.array([0.02]), jitter_s=jnp.array([0.005]))
    ramp = jnp.zeros((300, 1, 2, 3)).at[..., 1].set(-jnp.arange(300.0)[:, None, None])
    late = np.arange(20.0, 300.0) - np.asarray(record(params, jax.random.key(0), ramp))[20:, 0, 0]
    assert 1.499 <= late.min() < 1.6
    assert 2.4 < late.max() <= 2.501


def test_lost_samples_are_held_and_never_more_than_two_in_a_row():
    params = sensors.perfect_sensor(32).replace(lost_share=jnp.full((32,), 0.3))
    count = jnp.zeros((500, 32, 2, 3)).at[..., 1].set(-jnp.arange(500.0)[:, None, None])
    readings = np.asarray(record(params, jax.random.key(0), count))
    age = np.arange(500.0)[:, None] - readings[..., 0]
    np.testing.assert_array_equal(readings[..., 0], readings[..., 1])
    assert age.max() == 2.0
    assert np.mean(age > 0) == pytest.approx((0.3 + 0.09) / 1.39, abs=0.02)


def test_range_saturates_either_way():
    params = sensors.perfect_sensor(1).replace(range_rad_s=jnp.array([2.0]), bias=jnp.full((1, 2, 3), 0.5))
    omega = jnp.zeros((2, 1, 2, 3)).at[0, 0, :, 1].set(-9.0).at[1, 0, :, 1].set(9.0)
    np.testing.assert_array_equal(record(params, jax.random.key(0), omega)[:, 0], [[2.0, 2.0], [-2.0, -2.0]])


def test_strap_wobble_is_the_damped_mass_that_it_says():
    hz, zeta, coupling = 8.0, 0.3, 1.0
    params = sensors.perfect_sensor(1).replace(
        wobble_rad_s=jnp.full((1, 2), 2 * math.pi * hz),
        wobble_damping=jnp.full((1, 2), zeta),
        wobble_coupling=jnp.full((1, 2), coupling),
    )
    natural = 2 * math.pi * hz
    for drive_hz in (1.0, 8.0):
        t = np.arange(600) * DT_S
        omega = np.zeros((600, 1, 2, 3))
        omega[..., 1] = -np.sin(2 * math.pi * drive_hz * t)[:, None, None]
        reading = np.asarray(record(params, jax.random.key(0), jnp.asarray(omega, jnp.float32)))[200:, 0, 0]
        s = 2j * math.pi * drive_hz
        response = 1 - coupling * s**2 / (s**2 + 2 * zeta * natural * s + natural**2)
        measured = 2 * np.mean(reading * np.exp(-s * t[200:])) * 1j
        # The acceleration is held over a sample, which delays it by half of one.
        assert abs(measured) == pytest.approx(abs(response), rel=0.15)
    still = record(params, jax.random.key(0), jnp.zeros((10, 1, 2, 3)).at[..., 1].set(-1.0))
    np.testing.assert_allclose(still, 1.0, atol=1e-6)


def test_drawn_sensors_differ_between_environments_and_stay_in_the_profiles_bounds():
    params = sensors.draw_sensor(jax.random.key(0), PROFILE, 500)
    assert jax.tree.leaves(params)[0].shape[0] == 500
    tilt = np.linalg.norm(params.mounting[..., 1:], axis=-1)
    assert 0.9 * PROFILE.imu.misalignment_rad < tilt.max() <= PROFILE.imu.misalignment_rad * 1.0001
    assert np.abs(params.scale - 1).max() <= PROFILE.imu.scale_tolerance * 1.0001
    assert np.std(params.bias) == pytest.approx(PROFILE.imu.bias_after_calibration_rad_s, rel=0.1)
    assert np.all(np.std(np.asarray(params.latency_s)) > 0)
    raw = sensors.draw_sensor(jax.random.key(0), PROFILE, 500, sensors.SensorRanges(calibrated=False))
    assert np.abs(raw.bias).max() > 0.9 * PROFILE.imu.bias_rad_s
    again = sensors.draw_sensor(jax.random.key(0), PROFILE, 500)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_reset_touches_only_the_environments_that_ended():
    params = sensors.draw_sensor(jax.random.key(0), PROFILE, 3)
    state = sensors.init(params, jax.random.key(1), thighs(1, 3)[0])
    fresh = sensors.init(params, jax.random.key(2))
    mixed = sensors.reset(state, fresh, jnp.array([True, False, False]))
    np.testing.assert_array_equal(mixed.past[0], fresh.past[0])
    np.testing.assert_array_equal(mixed.past[1:], state.past[1:])


def test_standing_still_tells_the_bias_with_an_honest_residual():
    rng = np.random.default_rng(0)
    bias = rng.uniform(-0.08, 0.08, (200, 2))
    frequency_hz = rng.uniform(0.4, 1.2, (200, 2))
    time_s = np.arange(250)[:, None, None] * DT_S
    sway = 0.02 * np.sin(2 * math.pi * frequency_hz * time_s + rng.uniform(0, 6, (200, 2)))
    readings = bias + sway + 0.002 * rng.normal(size=(250, 200, 2))
    state = standing.estimate(readings, 100.0)
    assert state.known.all()
    error = state.bias - bias
    assert np.abs(error).max() < 0.015
    assert 0.3 < np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(state.residual**2)) < 3.0
    np.testing.assert_allclose(state.correct(bias), -error)


def test_the_bias_left_over_is_what_the_loops_own_sum_leaves_of_it():
    raw = PROFILE.imu.bias_rad_s * jnp.linspace(-1.0, 1.0, 400 * 6).reshape(400, 2, 3)
    estimate = jax.jit(lambda key: sensors.estimated_bias(PROFILE, key, raw))(jax.random.key(0))
    error = np.asarray(raw - estimate)
    assert np.mean(np.asarray(estimate) != 0.0) > 0.99
    assert np.sqrt(np.mean(error**2)) == pytest.approx(PROFILE.imu.bias_after_calibration_rad_s, rel=0.2)
    assert abs(np.corrcoef(error.ravel(), np.asarray(raw).ravel())[0, 1]) < 0.1
    restless = dataclasses.replace(
        PROFILE, imu=dataclasses.replace(PROFILE.imu, bias_after_calibration_rad_s=0.2)
    )  # fmt: skip
    assert not np.asarray(sensors.estimated_bias(restless, jax.random.key(0), raw[:20])).any()


def test_walking_a_turning_body_or_nan_is_never_taken_for_standing():
    t = np.arange(400) * DT_S
    walking = np.stack([2 * np.sin(6 * t), -2 * np.sin(6 * t)], -1)
    one_leg = np.stack([2 * np.sin(6 * t), 0 * t], -1)
    turning = np.full((400, 2), 0.5)
    broken = np.zeros((400, 2))
    broken[::150] = np.nan
    state = standing.estimate(np.stack([walking, one_leg, turning, broken], axis=1), 100.0)
    assert not state.known.any()
    assert not state.bias.any()


def test_a_later_quiet_stretch_replaces_the_estimate_and_jax_agrees_with_numpy():
    rng = np.random.default_rng(1)
    quiet = rng.normal(0.0, 0.004, (210, 1, 2))
    readings = np.concatenate([quiet + 0.05, rng.normal(0, 2, (100, 1, 2)), quiet - 0.03])
    state = standing.estimate(readings, 100.0)
    np.testing.assert_allclose(state.bias, -0.03, atol=0.002)
    assert np.all(np.abs(standing.estimate(readings[:300], 100.0).bias - 0.05) < 0.002)

    def tick(carry, reading):
        return standing.update(carry, reading, 100.0), None

    samples = jnp.asarray(readings, jnp.float32)
    traced = jax.jit(lambda x: jax.lax.scan(tick, standing.start(x[0]), x)[0])(samples)
    np.testing.assert_allclose(traced.bias, state.bias, atol=1e-5)
    np.testing.assert_allclose(traced.residual, state.residual, atol=1e-5)
