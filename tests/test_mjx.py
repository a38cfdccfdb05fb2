"""MJX computes what the native engine computes, learns, and runs without the host."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.learning.ppo import PPO
from mjx_exo.musculoskeletal.skeleton import ContactOptions
from mjx_exo.musculoskeletal.wearer import WearerRange, draw_wearers
from mjx_exo.physics.interface import Drive, EngineConfig, PhysicsState, Readings
from mjx_exo.physics.mjx import MjxEngine, warp_installed
from mjx_exo.physics.native import NativeEngine
from mjx_exo.walking.build import build_environment
from mjx_exo.walking.config import WalkingConfig
from mjx_exo.walking.start_states import PHASES, build_start_states

N = 64
DT = 0.005
WEARERS = draw_wearers(2, WearerRange(), 0)
# Programs that run for a second need no optimiser that takes ten.
QUICK_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quickly(function, *arguments):
    """`function`, compiled for arguments like these."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=QUICK_COMPILE)


def random_start(body, engine, dtype=np.float32):
    """States spread over the gait cycle, disturbed, with muscles, device and pushes at work; float32 numbers."""
    rng = np.random.default_rng(0)
    starts = build_start_states(body, WEARERS, 0.91)
    row = rng.integers(0, PHASES, N)
    qpos = starts.qpos[engine.wearer_of, row].astype(np.float64)
    qvel = starts.qvel[engine.wearer_of, row] + 0.1 * rng.standard_normal((N, engine.nv))
    qpos[:, 7:] += 0.05 * rng.standard_normal((N, engine.joints))
    state = PhysicsState(
        qpos, qvel, rng.uniform(0.0, 0.5, (N, engine.muscles)), np.zeros((N, engine.nv)), np.zeros((N, 2)),
        np.zeros((N, 0)),
    )  # fmt: skip
    drive = Drive(
        rng.uniform(0.0, 0.5, (N, engine.muscles)), rng.uniform(-10.0, 10.0, (N, 2)), rng.uniform(-30.0, 30.0, (N, 3)),
        np.tile([0.6, 0.0, -9.79], (N, 1)),
    )  # fmt: skip
    return jax.tree.map(lambda x: jnp.asarray(x.astype(np.float32), dtype), (state, drive))


def lifted(state: PhysicsState) -> PhysicsState:
    """The same states in the air."""
    return state._replace(qpos=state.qpos.at[:, 2].add(1.0))


def relative_difference(one, other) -> np.ndarray:
    """[N] norm of the difference over the norm of the second."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return np.linalg.norm(one - other, axis=-1) / np.linalg.norm(other, axis=-1)


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
    state, drive = lifted(start[0]), start[1]
    ours, theirs = one_step(state, drive)[0], native.step_numpy(state, drive, 1)[0]
    difference = relative_difference((ours.qvel - state.qvel) / DT, (theirs.qvel - state.qvel) / DT)
    assert difference.max() <= 1e-3


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
    state, drive = start
    theirs = native.step_numpy(state, drive, 100)[0]
    for _ in range(100):
        state, _ = one_step(state, drive)
    difference = np.degrees(np.abs(np.asarray(state.qpos)[:, 7:] - theirs.qpos[:, 7:]))
    assert np.median(difference) <= 0.1
    assert np.percentile(difference, 95) <= 0.5


def test_contact_equals_natives_in_double_precision(body, native):
    with jax.enable_x64(True):
        engine = MjxEngine(body, N, WEARERS)
        state, drive = random_start(body, engine, np.float64)
        step = quickly(lambda s, d: engine.step(s, d, 1), state, drive)
        differences = []
        for _ in range(10):
            after = step(state, drive)[0]
            theirs = native.step_numpy(state, drive, 1)[0]
            differences.append(relative_difference((after.qvel - state.qvel) / DT, (theirs.qvel - state.qvel) / DT))
            state = jax.tree.map(lambda x: x.astype(jnp.float32).astype(jnp.float64), after)
    assert np.percentile(differences, 99) <= 1e-2


def test_gravity_is_each_environments_own(one_step, start):
    state, drive = lifted(start[0]), start[1]
    before = one_step(state, drive)[0]
    heavier = drive._replace(gravity_m_s2=drive.gravity_m_s2.at[3, 2].set(-20.0))
    after = one_step(state, heavier)[0]
    fell = np.asarray(before.qvel[:, 2] - after.qvel[:, 2])
    assert fell[3] == pytest.approx((20.0 - 9.79) * DT, rel=0.01)
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


def test_warp_equals_native(body):
    if not warp_installed():
        pytest.skip("MuJoCo Warp is not installed (extra `gpu`)")
    # Enough iterations for both solvers to arrive: after four, C MuJoCo's stops short in one step of a hundred.
    config = EngineConfig(contact=ContactOptions(solver_iterations=8, line_search_iterations=20))
    engine, native = MjxEngine(body, N, WEARERS, config, impl="warp"), NativeEngine(body, N, WEARERS, config)
    state, drive = random_start(body, engine)
    step = jax.jit(lambda s, d: engine.step(s, d, 1))
    for before in (lifted(state), state):
        (ours, readings), (theirs, expected) = step(before, drive), native.step_numpy(before, drive, 1)
        assert relative_difference((ours.qvel - before.qvel) / DT, (theirs.qvel - before.qvel) / DT).max() <= 1e-3
        np.testing.assert_allclose(readings.foot_force_n, expected.foot_force_n, atol=0.5)
    theirs = native.step_numpy(state, drive, 100)[0]
    for _ in range(100):
        state, _ = step(state, drive)
    difference = np.degrees(np.abs(np.asarray(state.qpos)[:, 7:] - theirs.qpos[:, 7:]))
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
