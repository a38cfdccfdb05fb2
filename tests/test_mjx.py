"""MJX computes what the native engine computes, learns, and runs without the host."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.parity import (
    BARS,
    DT_S,
    WARP_CONTACT,
    WEARERS,
    accelerations_apart,
    angles_apart,
    contact_apart,
    lifted,
    random_start,
)
from benchmarks.parity import ENVS as N
from mjx_exo.device import DeviceProfile
from mjx_exo.errors import UserError
from mjx_exo.learning import dagger
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.learning.ppo import PPO
from mjx_exo.physics.interface import EngineConfig, Readings
from mjx_exo.physics.mjx import MjxEngine, warp_installed
from mjx_exo.physics.native import NativeEngine
from mjx_exo.student_driving import StudentDriving
from mjx_exo.teacher import load_teacher
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.config import WalkingConfig
from policies.student import StudentConfig

# Programs that run for a second need no optimiser that takes ten.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quickly(function, *arguments):
    """`function`, compiled for arguments like these."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=QUICK_COMPILE)


@pytest.fixture(scope="module")
def native(body):
    return NativeEngine(body, N, WEARERS)


@pytest.fixture(scope="module")
def engine(body):
    return MjxEngine(body, N, WEARERS)


@pytest.fixture(scope="module")
def start(body, engine):
    return random_start(body, engine)


@pytest.fixture(scope="module")
def one_step(engine, start):
    return quickly(lambda state, drive: engine.step(state, drive, 1), *start)


def test_accelerations_in_the_air_equal_natives(native, one_step, start):
    state, drive = start
    difference = accelerations_apart(one_step, native, lifted(state), drive)
    assert difference.max() <= BARS["air_relative_max"] == 1e-3


def test_every_reading_equals_natives_where_the_feet_touch(native, one_step, start):
    state, drive = start
    for _ in range(3):
        after, ours = one_step(state, drive)
        theirs = native.step_numpy(state, drive, 1)[1]
        assert np.asarray(theirs.foot_force_n)[:, :, 2].max() > 200.0, "some feet carry load"
        for name, a, b in zip(Readings._fields, ours, theirs, strict=True):
            scale = np.abs(b).max()
            np.testing.assert_allclose(np.asarray(a) / scale, b / scale, atol=2e-3, err_msg=name)
        state = after


def test_joint_angles_stay_together_for_half_a_second(native, one_step, start):
    difference = angles_apart(one_step, native, *start)
    assert difference.shape[0] == 64
    assert np.median(difference) <= BARS["angle_deg_median"] == 0.1
    assert np.percentile(difference, 95) <= BARS["angle_deg_p95"] == 0.5


def test_contact_equals_natives_in_double_precision(body, native):
    with jax.enable_x64(True):
        engine = MjxEngine(body, N, WEARERS)
        state, drive = random_start(body, engine, np.float64)
        step = quickly(lambda s, d: engine.step(s, d, 1), state, drive)
        differences = contact_apart(step, native, state, drive)
    assert len(differences) == 640
    assert np.percentile(differences, 99) <= BARS["contact_relative_p99_double"] == 1e-2


def test_gravity_is_each_environments_own(one_step, start):
    state, drive = lifted(start[0]), start[1]
    before = one_step(state, drive)[0]
    heavier = drive._replace(gravity_m_s2=drive.gravity_m_s2.at[3, 2].set(-20.0))
    after = one_step(state, heavier)[0]
    fell = np.asarray(before.qvel[:, 2] - after.qvel[:, 2])
    assert fell[3] == pytest.approx((20.0 - 9.79) * DT_S, rel=0.01)
    assert np.all(np.delete(fell, 3) == 0.0)


def test_results_go_in_again_without_compiling_again(engine, start, one_step):
    state, drive = start
    given = jax.tree.map(lambda x: (x.shape, x.dtype), engine.shapes())
    traced = jax.eval_shape(lambda: engine.step(state, drive, 1))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), traced) == given
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(traced))


@pytest.fixture(scope="module")
def trained():
    """Three updates on MJX, the first one's numbers on the native engine, and the training step lowered for CUDA."""
    config = PPOConfig(total_steps=2000, unroll=4, epochs=2, minibatches=2, actor=ActorConfig(hidden=(16, 16)))

    def learner(engine: str):
        ppo = PPO(build_environment(WalkingConfig(num_envs=8, wearers=2, engine=engine, threads=1)), config)
        return ppo, quickly(ppo.init, jax.random.key(0))(jax.random.key(0))

    ppo, state = learner("mjx")
    traced = jax.jit(lambda s: ppo.update(*ppo.rollout(s))).trace(state)
    lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
    train = traced.lower().compile(compiler_options=QUICK_COMPILE)
    states, stats = [state], []
    for _ in range(3):
        state, numbers = train(state)
        states.append(state)
        stats.append({name: float(value) for name, value in numbers.items()})
    native, first = learner("native")
    _, numbers = quickly(lambda s: native.update(*native.rollout(s)), first)(first)
    return states, stats, {name: float(value) for name, value in numbers.items()}, lowered


def test_mjx_learns(trained):
    states, stats, _, _ = trained
    for before, after, numbers in zip(states, states[1:], stats, strict=False):
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before.actors, after.actors)
        assert max(jax.tree.leaves(moved["human"].policy_params)) > 1e-5
        assert max(jax.tree.leaves(moved["human"].value_params)) > 1e-5
        assert all(np.isfinite(value) for value in numbers.values())
        assert all(value == 1.0 for name, value in numbers.items() if name.startswith("finite/"))
    assert stats[2]["human/value_loss"] != stats[0]["human/value_loss"]


def test_first_update_learns_what_native_learns(trained):
    _, stats, native, _ = trained
    for name in ("human/value_loss", "human/policy_loss", "human/reward", "human/kl"):
        assert stats[0][name] == pytest.approx(native[name], rel=1e-2, abs=1e-4), name


def test_the_training_step_is_one_program_for_cuda_without_the_host(trained):
    lowered = trained[3]
    assert "stablehlo.while" in lowered
    assert "cusolver" in lowered, "lowered for CUDA"
    for word in ("callback", "infeed", "outfeed", "stablehlo.send", "stablehlo.recv"):
        assert word not in lowered


def test_a_dagger_round_on_mjx_learns_what_native_learns():
    teacher = load_teacher("teacher")
    profile = DeviceProfile.load(teacher.config.walking.device)
    student = StudentConfig.for_profile(profile, channels=4, kernel_size=3, dilations=(1, 2), window_samples=7)
    config = dagger.DaggerConfig(rounds=1, steps_per_round=5, outputs_per_stretch=4, capacity_samples=32)

    def driven(engine: str):
        """The state before the round, and 16 ticks with the student driving half of the environments."""
        # Decisions as often as the device ticks: one call of the engine in the program, which halves its compilation.
        env = teacher.environment(4, 20.0, engine=engine, wearers=1, threads=1, control_dt_s=0.01)
        driving = StudentDriving(env, teacher, student, profile)
        carry = quickly(driving.init, jax.random.key(1))(jax.random.key(1))
        before = dagger.init_state(config, student, jax.random.key(2), carry, env.num_envs)
        collect = quickly(lambda params, carry: driving.collect(params, carry, 0.5, 16), before.params, carry)
        return before, *collect(before.params, carry)

    def learn(before, carry, rollout):
        return dagger.make_round(config, student, lambda *_: (carry, rollout), jit=False)(before)

    on_mjx, on_native = driven("mjx"), driven("native")
    learn = quickly(learn, *on_mjx)
    (after, numbers), (_, expected) = learn(*on_mjx), learn(*on_native)
    labels = np.asarray(after.store.torque[:16])
    assert int(after.rounds_done) == 1 and np.abs(labels).max() > 0.01
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), on_mjx[0].params, after.params)
    assert max(jax.tree.leaves(moved)) > 1e-3
    np.testing.assert_allclose(labels, on_native[2].torque, atol=5e-3)
    for name in ("rmse_nm_per_kg", "loss"):
        assert float(numbers[name]) == pytest.approx(float(expected[name]), rel=5e-2), name


def test_warp_equals_native(body):
    if not warp_installed():
        pytest.skip("MuJoCo Warp is not installed (extra `gpu`)")
    config = EngineConfig(contact=WARP_CONTACT)
    engine, native = MjxEngine(body, N, WEARERS, config, impl="warp"), NativeEngine(body, N, WEARERS, config)
    state, drive = random_start(body, engine)
    step = jax.jit(lambda s, d: engine.step(s, d, 1))
    for before in (lifted(state), state):
        assert accelerations_apart(step, native, before, drive).max() <= 1e-3
        readings, expected = step(before, drive)[1], native.step_numpy(before, drive, 1)[1]
        np.testing.assert_allclose(readings.foot_force_n, expected.foot_force_n, atol=0.5)
    difference = angles_apart(step, native, state, drive)
    assert np.median(difference) <= 0.1 and np.percentile(difference, 95) <= 0.5


def test_an_unknown_implementation_is_refused(body):
    with pytest.raises(UserError, match="unknown MJX implementation 'torch'"):
        MjxEngine(body, 4, impl="torch")


@pytest.mark.skipif(warp_installed(), reason="MuJoCo Warp is installed")
def test_missing_warp_is_said(body):
    with pytest.raises(UserError, match="not installed"):
        MjxEngine(body, 4, impl="warp")


def test_environments_that_cannot_be_shared_are_refused(body):
    three = jax.sharding.AbstractMesh((3,), ("environments",))
    with pytest.raises(UserError, match="num_envs = 4"):
        MjxEngine(body, 4, mesh=three)
