"""The learner: its arithmetic by hand, and that it learns a toy in seconds."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_exo.errors import UserError
from mjx_exo.learning import losses, networks
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.learning.ppo import PPO
from mjx_exo.learning.state import ActorState, Stats, TrainState
from tests.toy_env import ToyEnv

QUICK = ActorConfig(
    hidden=(32,), learning_rate=3e-3, learning_rate_bounds=(1e-4, 1e-2), noise_falls_after_s=1.5, noise_fall_share=0.5
)
UPDATES = 40


def toy_config(env: ToyEnv, **actors: ActorConfig) -> PPOConfig:
    return PPOConfig(total_steps=UPDATES * 16 * env.num_envs, unroll=16, minibatches=4, actor=QUICK, actors=actors)


@dataclasses.dataclass
class Course:
    """A short training: its states after 0, half and all updates, and the scalars of every update."""

    ppo: PPO
    init: Callable[[jax.Array], TrainState]
    iteration: Callable[[TrainState], tuple[TrainState, Stats]]
    """`PPO.init` and `PPO.train_iteration`, compiled."""
    first: TrainState
    half: TrainState
    last: TrainState
    stats: list[dict[str, float]]


def learn(env: ToyEnv, config: PPOConfig) -> Course:
    ppo = PPO(env, config)
    iteration = jax.jit(ppo.train_iteration)
    init = jax.jit(ppo.init)
    first = state = half = init(jax.random.key(0))
    stats = []
    for update in range(UPDATES):
        state, scalars = iteration(state)
        stats.append({name: float(value) for name, value in scalars.items()})
        half = state if update + 1 == UPDATES // 2 else half
    return Course(ppo, init, iteration, first, half, state, stats)


@pytest.fixture(scope="module")
def both() -> Course:
    env = ToyEnv(num_envs=64)
    return learn(env, toy_config(env))


@pytest.fixture(scope="module")
def human_waits() -> Course:
    """The human acts without learning, the exo starts to learn half-way."""
    env = ToyEnv(num_envs=64)
    frozen = dataclasses.replace(QUICK, learns_from=1.0)
    late = dataclasses.replace(QUICK, learns_from=0.5)
    return learn(env, toy_config(env, human=frozen, exo=late))


def same(one: object, other: object) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_both_actors_learn(both: Course) -> None:
    assert both.stats[0]["exo/reward"] < -0.5
    assert both.stats[-1]["exo/reward"] > -0.05
    assert both.stats[-1]["human/reward"] > both.stats[0]["human/reward"] + 0.4
    assert both.stats[-1]["human/value_explained"] > 0.8


def test_a_second_update_does_not_compile_again(both: Course) -> None:
    assert both.iteration._cache_size() == 1


def test_episodes_are_counted_in_seconds_and_falls_as_a_share(both: Course) -> None:
    assert both.stats[-1]["episode_seconds"] == pytest.approx(both.ppo.env.episode_steps * both.ppo.env.control_dt)
    assert both.stats[-1]["fall_share"] == pytest.approx(0.0, abs=1e-3)
    assert both.stats[0]["fall_share"] > 0.01, "the untrained point leaves the line now and then"
    assert both.stats[-1]["human/return"] == pytest.approx(both.stats[-1]["human/reward"] * 20, rel=0.1)


def test_the_curriculum_sees_progress(both: Course) -> None:
    assert both.stats[0]["progress"] == 0
    assert float(both.last.env.level) == pytest.approx((UPDATES - 1) / UPDATES)


def test_noise_falls_once_episodes_last_and_stays_in_its_band(both: Course) -> None:
    fallen = [row["exo/noise_fallen"] for row in both.stats]
    assert fallen[0] == 0 and fallen[-1] == 1 and fallen == sorted(fallen)
    assert both.stats[-1]["exo/std"] < 0.11 < 0.4 < both.stats[0]["exo/std"]


def test_same_seed_same_result_other_seed_another(both: Course) -> None:
    def actors_after(seed: int) -> dict[str, ActorState]:
        state = both.init(jax.random.key(seed))
        for _ in range(3):
            state, _ = both.iteration(state)
        return state.actors

    assert same(actors_after(0), actors_after(0))
    assert not same(actors_after(0), actors_after(1))


def test_a_frozen_actor_keeps_everything_and_acts_by_its_mean(human_waits: Course) -> None:
    assert same(human_waits.first.actors["human"], human_waits.last.actors["human"])
    _, batch = jax.jit(human_waits.ppo.rollout)(human_waits.last)
    assert same(batch.actors["human"].action, batch.actors["human"].mean)
    assert not same(batch.actors["exo"].action, batch.actors["exo"].mean)


def test_an_actor_that_waits_learns_from_its_time_on(human_waits: Course) -> None:
    assert same(human_waits.first.actors["exo"], human_waits.half.actors["exo"])
    assert human_waits.stats[-1]["exo/reward"] > human_waits.stats[0]["exo/reward"] + 0.3


def test_a_waiting_actor_may_explore() -> None:
    env = ToyEnv()
    noisy = dataclasses.replace(QUICK, learns_from=1.0, noise_before_learning=True)
    ppo = PPO(env, toy_config(env, human=noisy))
    _, batch = jax.jit(lambda key: ppo.rollout(ppo.init(key)))(jax.random.key(0))
    assert not same(batch.actors["human"].action, batch.actors["human"].mean)


def test_a_policy_without_a_value_function_waits_for_it() -> None:
    env = ToyEnv()
    ppo = PPO(env, toy_config(env, exo=dataclasses.replace(QUICK, value_first=0.5)))
    iteration = jax.jit(ppo.train_iteration)
    state = ppo.init(jax.random.key(0))
    first = state.actors["exo"]
    for _ in range(ppo.updates // 2):
        state, _ = iteration(state)
    waited = state.actors["exo"]
    assert same(waited.policy_params["params"]["Dense_0"], first.policy_params["params"]["Dense_0"])
    assert waited.learning_rate == first.learning_rate
    assert not same(waited.value_params, first.value_params)
    state, _ = iteration(state)
    assert not same(state.actors["exo"].policy_params["params"]["Dense_0"], first.policy_params["params"]["Dense_0"])


def test_inputs_scaled_by_hand_are_not_normalised(both: Course) -> None:
    statistics = both.last.actors["human"].observation_statistics
    assert statistics.mean[1] == 0 and statistics.std[1] == 1
    assert statistics.std[0] != 1


def test_a_constant_input_is_not_blown_up() -> None:
    constant = jnp.full((50, 1), 1.25)
    statistics = networks.update_statistics(networks.init_statistics(1), constant, None, 0.01)
    inputs = networks.normalise(jnp.array([[1.2501], [9.0]]), statistics, 10.0)
    np.testing.assert_allclose(inputs, [[0.01], [10.0]], rtol=0.05)


def test_advantages_by_hand() -> None:
    config = ActorConfig(discount=0.5, gae_lambda=0.5, reward_scale=0.1)
    reward = jnp.array([[10.0], [20.0], [30.0]])
    values, final = jnp.array([[1.0], [2.0], [4.0]]), jnp.array([8.0])
    zeros = jnp.zeros((3, 1))

    targets, advantages = losses.estimate(config, reward, values, final, zeros, zeros)
    # Errors 1 + 1 - 1 = 1, 2 + 2 - 2 = 2, 3 + 4 - 4 = 3; each later one weighs 0.5 * 0.5 of the one before.
    np.testing.assert_allclose(targets[:, 0], [1 + 1 + 2 / 4 + 3 / 16, 2 + 2 + 3 / 4, 4 + 3])
    # The advantage is the reward and the discounted target of the next step, less the value.
    np.testing.assert_allclose(advantages[:, 0], [1 + 4.75 / 2 - 1, 2 + 7 / 2 - 2, 3 + 8 / 2 - 4])


def test_nothing_follows_a_fall_and_a_time_limit_bootstraps() -> None:
    config = ActorConfig(discount=0.5, gae_lambda=0.5, reward_scale=1.0)
    reward = jnp.array([[1.0], [2.0], [3.0]])
    values, final = jnp.array([[1.0], [2.0], [4.0]]), jnp.array([8.0])
    ends, never = jnp.array([[0.0], [1.0], [0.0]]), jnp.zeros((3, 1))

    fell, fell_advantages = losses.estimate(config, reward, values, final, ends, never)
    np.testing.assert_allclose(fell[:, 0], [1 + 1 + 0 / 4, 2 + 2 - 2, 4 + 3])
    np.testing.assert_allclose(fell_advantages[:, 0], [1 + 2 / 2 - 1, 2 - 2, 3 + 8 / 2 - 4])

    timed_out, timed_out_advantages = losses.estimate(config, reward, values, final, never, ends)
    np.testing.assert_allclose(timed_out[:, 0], [1 + 1, 2, 4 + 3])
    np.testing.assert_allclose(timed_out_advantages[:, 0], [1 + 2 / 2 - 1, 0, 3 + 8 / 2 - 4])


@pytest.mark.parametrize(
    ("kl", "rate", "expected"),
    [(0.1, 1e-3, 1e-3 / 1.5), (0.012, 1e-3, 1e-3), (0.001, 1e-3, 1.5e-3), (0.1, 1e-5, 1e-5), (0.0, 2e-3, 2e-3)],
)
def test_step_size_follows_the_divergence_within_its_bounds(kl: float, rate: float, expected: float) -> None:
    for fallen in (0.0, 1.0):
        steered = losses.steer(ActorConfig(), jnp.float32(rate), jnp.float32(kl), jnp.float32(fallen))
        assert float(steered) == pytest.approx(expected)


def test_the_divergence_asked_for_falls_with_the_noise() -> None:
    config, rate = ActorConfig(kl_target=0.02, kl_target_end=0.005), jnp.float32(1e-3)
    after = [float(losses.steer(config, rate, jnp.float32(0.015), jnp.float32(fallen))) for fallen in (0.0, 0.5, 1.0)]
    assert after == pytest.approx([1e-3, 1e-3, 1e-3 / 1.5])


def test_the_step_size_may_fall_to_zero_at_the_end_of_a_run():
    config = ActorConfig(rate_fall_share=0.25)
    left = [float(losses.rate_left(config, jnp.float32(progress))) for progress in (0.0, 0.75, 0.875, 1.0)]
    assert left == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert float(losses.rate_left(ActorConfig(), jnp.float32(1.0))) == 1.0


def test_noise_waits_for_long_episodes_or_a_late_hour() -> None:
    config = ActorConfig(noise_falls_after_s=7.0, noise_falls_latest=0.6, noise_fall_share=0.25)

    def fall(seconds: float, progress: float) -> float:
        stats = {"episode_seconds": jnp.float32(seconds), "progress": jnp.float32(progress)}
        return float(losses.let_noise_fall(config, jnp.float32(0.5), stats, 100))

    assert fall(6.0, 0.3) == 0.5
    assert fall(8.0, 0.3) == pytest.approx(0.54)
    assert fall(6.0, 0.7) == pytest.approx(0.54)
    ceilings = [float(losses.noise_ceiling(config, jnp.float32(share))) for share in (0.0, 0.5, 1.0)]
    assert ceilings == pytest.approx([0.5, (0.5 * 0.1) ** 0.5, 0.1])


@pytest.mark.parametrize("size", [1, 2, 24, 4096, 5000])
def test_an_order_holds_every_index_once_and_depends_on_the_key(size: int) -> None:
    one, other = (losses.shuffled_order(jax.random.key(seed), size) for seed in (0, 1))
    assert np.array_equal(np.sort(one), np.arange(size))
    assert size < 24 or not np.array_equal(one, other)


def test_policy_loss_by_hand() -> None:
    """Two samples, advantages +1 and -1: a ratio that left the clip range earns nothing more, but still costs."""
    ppo = PPO(ToyEnv(), PPOConfig(actor=QUICK))
    nets, actor = ppo.networks["exo"], ppo.init(jax.random.key(0)).actors["exo"]
    observation = jnp.zeros((2, 1))
    mean, std = nets.policy.apply(None, actor.policy_params, observation)
    log_prob = nets.distribution.log_prob((mean, std), mean)
    rows = {
        "observation": observation,
        "action": mean,
        "mean": mean,
        "log_prob": log_prob - jnp.log(1.5),
        "advantage": jnp.array([1.0, -1.0]),
    }
    loss, stats = losses.policy_loss(actor.policy_params, rows, nets, ActorConfig(clip=0.2), actor)
    assert float(loss) == pytest.approx(-(1.2 - 1.5) / 2, rel=1e-5)
    assert float(stats["kl"]) == pytest.approx(0.0, abs=1e-4)
    assert float(stats["clip_share"]) == 1.0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: PPO(ToyEnv(num_envs=5), PPOConfig(unroll=3, minibatches=4)), "minibatches is 4"),
        (lambda: ActorConfig(discount=1.5), "discount is 1.5"),
        (lambda: ActorConfig(hidden=()), "hidden is ()"),
        (lambda: ActorConfig(std_end=0.9), "std_end is 0.9"),
        (lambda: PPOConfig(total_steps=0), "total_steps is 0"),
    ],
)
def test_settings_that_cannot_be_are_named(make, named: str) -> None:
    with pytest.raises(UserError, match=r"allowed|cannot") as caught:
        make()
    assert named in str(caught.value) and "\n" not in str(caught.value)
