"""The device's controller in the simulation against the controller itself, with the loop's limiter between them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.device import DeviceProfile, limit_torque
from mjx_exo.walking.device_side import LATEST_ANSWER_S, SMOOTHING_S, DeviceSide
from mjx_exo.walking.state import Exo
from runtime import link as L
from runtime.controller import Controller, Health

PROFILE = DeviceProfile.load("hip_3200g")
MASS_KG = 75.0
TICK_S = 1.0 / PROFILE.link.rate_hz


def wanted_nm(tick: int) -> np.ndarray:
    """Steps, a ramp and a wave: as fast as the limiter and slower."""
    t = tick * TICK_S
    right = 12.0 if t < 0.2 else -14.0 if t < 0.5 else 10.0 * np.sin(9.0 * t)
    return np.array([right, -0.5 * right + 20.0 * max(0.0, t - 0.7)])


def on_the_device(late_ms: int, ticks: int) -> np.ndarray:
    """[ticks, 2] applied torque at each sample; answers come `late_ms` after the sample they answer."""
    limits = PROFILE.limits(MASS_KG)
    hello, controller = L.hello_for(PROFILE, MASS_KG, 5), Controller(L.device_identity(PROFILE))
    decoder, now_us, due, applied = L.Decoder(), 1_000_000, [], []
    controller.receive(L.encode(hello), now_us)
    controller.reply()
    rest = L.Sensor(0, 0, (0.0, 0.0))
    for tick in range(-2, ticks):  # the device is armed by the answer to a first sample
        [sample] = decoder.feed(controller.sample(rest, now_us))
        if tick == -2:
            controller.receive(L.encode(L.Arm(hello.session, sample.sequence)), now_us)
        if tick >= 0:
            applied.append(sample.applied_torque_nm)
        wanted = wanted_nm(tick) if tick >= 0 else np.zeros(2)
        answer_s = TICK_S + min(1e-6 * sample.applied_after_us, TICK_S)
        torque = limit_torque(limits, wanted, np.array(sample.applied_torque_nm), None, answer_s)
        due.append((now_us + 1000 * late_ms, L.Torque(hello.session, sample.sequence, 50, tuple(torque), armed=True)))
        for _ in range(10):
            while due and due[0][0] <= now_us:
                controller.receive(L.encode(due.pop(0)[1]), now_us)
            now_us += 1000
            controller.tick(Health(), now_us)
    return np.array(applied)


@pytest.mark.parametrize("late_ms", [0, 3, 6, 10])
def test_the_simulated_device_moves_its_torque_as_the_device_does(late_ms):
    ticks = 120
    side = DeviceSide(PROFILE, jnp.full(1, MASS_KG), 2 * TICK_S)
    side.late_s = jnp.full((1, 1), 1e-3 * late_ms)
    exo = Exo(*[jnp.zeros((1, 2))] * 3, jnp.zeros((1, side.delay_ticks, 2)), jnp.zeros((1, 2)))
    applied = []
    for tick in range(ticks):
        applied.append(np.asarray(exo.applied_nm[0]))
        exo, _ = side.pass_on(exo, jnp.asarray(wanted_nm(tick)[None]), jnp.zeros((1, 2)))
    np.testing.assert_allclose(applied, on_the_device(late_ms, ticks), atol=0.02)
    fastest = np.diff(applied, axis=0)[22:32, 0] / TICK_S  # on the way from +12 to −14 Nm
    np.testing.assert_allclose(fastest, -PROFILE.torque.rate_limit_nm_s, rtol=1e-3)  # however late the answers


def test_a_learned_actors_torque_follows_its_aim_at_the_same_pace_whatever_the_period():
    start, aim = jnp.array([[4.0, 0.0]]), jnp.array([[-10.0, 10.0]])
    whole = DeviceSide.smoothed(start, aim, SMOOTHING_S)
    np.testing.assert_allclose(whole, start + (1.0 - np.exp(-1.0)) * (aim - start), rtol=1e-6)
    parts = start
    for _ in range(7):
        parts = DeviceSide.smoothed(parts, aim, SMOOTHING_S / 7)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_links_are_late_by_times_spread_over_what_is_possible():
    late = np.sort(np.asarray(DeviceSide(PROFILE, jnp.full(64, MASS_KG), 2 * TICK_S).late_s)[:, 0])
    assert late[0] == 0.0 and late[-1] <= LATEST_ANSWER_S
    assert np.abs(late - np.linspace(0.0, LATEST_ANSWER_S, 64)).max() < 0.001


def test_a_hip_that_speeds_up_gets_the_torque_that_its_power_allows_when_it_arrives():
    side = DeviceSide(PROFILE, jnp.full(1, MASS_KG), 2 * TICK_S)
    speed, lead_s, torque_nm = 4.0, TICK_S + PROFILE.actuator.lag_s, 14.0
    start = jnp.full((1, 2), torque_nm)
    exo = Exo(start, start, start, jnp.full((1, side.delay_ticks, 2), torque_nm), jnp.full((1, 2), speed - 1.0))
    limit = PROFILE.torque.power_limit_w
    steady, _ = side.pass_on(exo._replace(hip_velocity_rad_s=jnp.full((1, 2), speed)), start, jnp.full((1, 2), speed))
    rising, _ = side.pass_on(exo, start, jnp.full((1, 2), speed))  # 100 rad/s²
    np.testing.assert_allclose(steady.requested_nm, torque_nm, rtol=1e-5)  # 56 W
    then = speed + 1.0 / TICK_S * lead_s
    slowest = torque_nm - PROFILE.torque.rate_limit_nm_s * TICK_S
    np.testing.assert_allclose(rising.requested_nm[0], max(limit / then, slowest), rtol=1e-4)
    assert rising.requested_nm[0, 0] < torque_nm
    np.testing.assert_allclose(rising.hip_velocity_rad_s, speed)
