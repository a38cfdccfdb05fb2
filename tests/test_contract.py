"""One contract from the simulated thigh to the torque on the device: names, order, units, signs, rates, sides, limits.

Each party is asked what it gives and takes, and the physics is pushed to see whether it means the same by it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_policy import WINDOW, contract, write_policy

from mjx_exo.conventions import GYRO_CHANNELS, TORQUE_CHANNELS
from mjx_exo.device import DeviceProfile
from mjx_exo.physics.interface import Drive
from mjx_exo.virtual.motion import StandingScript
from mjx_exo.walking import sensors
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.config import WalkingConfig
from mjx_exo.walking.features import sagittal_gyro
from policies.student import StudentConfig
from runtime.link import answer_hello, check_hello_ack, device_identity, hello_for
from runtime.policy import Policy
from runtime.settings import check_policy, loop_contract

PROFILE = DeviceProfile.load("hip_3200g")


@pytest.fixture(scope="module")
def env():
    return build_environment(WalkingConfig(num_envs=2, device=PROFILE.name, device_mode="active", threads=1))


@pytest.fixture(scope="module")
def hanging(env):
    """A wearer in the air, at rest, legs straight."""
    state = env.reset(jax.random.key(0)).physics
    qpos = jnp.zeros_like(state.qpos).at[:, 2].set(2.0).at[:, 3].set(1.0)
    return state._replace(qpos=qpos, qvel=jnp.zeros_like(state.qvel), activation=jnp.zeros_like(state.activation))


def _push(env, state, torque_nm, steps=10):
    drive = Drive(
        np.zeros((2, 26), np.float32), np.array([torque_nm] * 2, np.float32), np.zeros((2, 3), np.float32),
        np.zeros((2, 3), np.float32) + np.array([0.0, 0.0, -9.81], np.float32),
    )  # fmt: skip
    return env.engine.step_numpy(state, drive, steps)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_positive_command_flexes_the_hip_of_its_side_and_its_gyroscope_says_so(env, hanging, side, sign):
    torque = [0.0, 0.0]
    torque[side] = sign * 15.0
    after, readings = _push(env, hanging, torque)
    relaxed, quiet = _push(env, hanging, [0.0, 0.0])  # muscles pull a little even when nobody asks them to
    velocity = np.asarray(after.qvel - relaxed.qvel)[0, 6:]
    names = env.engine.body.joint_names
    own, other = (velocity[names.index(f"hip_flexion_{s}")] for s in ("rl"[side], "lr"[side]))
    assert sign * own > 0.2 and sign * own > 1.5 * sign * other, "the other hip only feels the pelvis react"
    gyro = np.asarray(sagittal_gyro(np.asarray(readings.sensors)[:, :6].reshape(2, 2, 3)))[0]
    before = np.asarray(sagittal_gyro(np.asarray(quiet.sensors)[:, :6].reshape(2, 2, 3)))[0]
    assert sign * (gyro - before)[side] > 0.1, "the thigh that flexes turns forward"
    sensor = sensors.perfect_sensor(2, PROFILE.link.rate_hz)
    omega = jnp.asarray(np.asarray(readings.sensors)[:, :6].reshape(2, 2, 3))
    _, reading = sensors.step(sensor, sensors.init(sensor, jax.random.key(0), omega), jax.random.key(1), omega, 0.01)
    np.testing.assert_allclose(np.asarray(reading)[0], gyro, atol=1e-5)


@pytest.mark.parametrize("side", [0, 1])
def test_lifting_a_thigh_answers_in_its_own_channel_first_with_plus(side):
    script = StandingScript(0.01, seed=0)
    script.lift(side)
    rates = np.array([script.rates_rad_s() for _ in range(60)])
    assert rates[:, side].mean() > 0.3, "up first: flexion is positive"
    assert abs(rates[:, 1 - side]).max() < 0.1


def test_everybody_names_the_same_channels_units_and_rate(tmp_path):
    student = StudentConfig.for_profile(PROFILE)
    mine = PROFILE.contract(student.window_samples)
    assert mine.difference(student.contract) is None
    assert loop_contract(PROFILE, student.rate_hz).difference(student.contract) is None
    assert (mine.gyro_channels, mine.torque_channels) == (GYRO_CHANNELS, TORQUE_CHANNELS)
    policy = Policy.load(write_policy(tmp_path / "student.onnx", contract()))
    check_policy(policy, PROFILE)
    assert policy.contract.difference(PROFILE.contract(WINDOW)) is None
    hello = hello_for(PROFILE, 75.0)
    answer = answer_hello(hello, device_identity(PROFILE, "virtual"))
    assert check_hello_ack(hello, answer) is None
