"""Proximal policy optimisation of several actors that share one environment.

brax supplies networks, distributions, running statistics and the advantage estimate. The loop is ours because brax's
own breaks on jax >= 0.10 and restores parameters only, while here the whole `TrainState` is a pytree that can be saved
and continued bit for bit. Its `compute_ppo_loss` is not used: it evaluates the value function and the advantages again
for every minibatch, which would double the cost of an update on a processor.

An iteration is two traced functions, `rollout` (the environment steps, perhaps through a host callback) and `update`
(pure arithmetic), so that their times can be told apart and only the second goes through the cache of compiled
programs when the first contains a callback. Everything keeps the axes [T, N]: time, environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mjx_exo.learning import losses, networks
from mjx_exo.learning.config import ActorConfig, PPOConfig
from mjx_exo.learning.contract import ActorSpec, Environment, EnvState
from mjx_exo.learning.state import ActorBatch, ActorState, Batch, EpisodeTracker, Stats, TrainState


class PPO:
    """The pure functions of a run: `init`, `rollout`, `update`. Holds settings and networks, no state."""

    def __init__(
        self, env: Environment[Any], config: PPOConfig, spread: Callable[[Any], Any] = lambda rows: rows
    ) -> None:
        """Raises `UserError` if the steps of an update cannot be cut into the minibatches asked for.

        `spread` is applied to the minibatches, arrays [minibatches, rows, …], before they are learnt from; several
        devices share out the rows there.
        """
        self.env = env
        self.config = config
        self.spread = spread
        self.steps_per_update = config.steps_per_update(env.num_envs)
        self.updates = config.updates(env.num_envs)
        self.networks = {s.name: networks.make_actor_networks(s, config.of(s.name).hidden) for s in env.actors}

    def init(self, key: jax.Array) -> TrainState:
        """A fresh training state from one PRNG key."""
        run_key, env_key, *actor_keys = jax.random.split(key, 2 + len(self.env.actors))
        env_state = self.env.reset(env_key)
        actors = {
            spec.name: self._init_actor(spec, actor_key, env_state)
            for spec, actor_key in zip(self.env.actors, actor_keys, strict=True)
        }
        state = TrainState(actors, env_state, self._init_episodes(env_state), run_key, jnp.zeros((), jnp.int32))
        return _strongly_typed(state)

    def _init_actor(self, spec: ActorSpec, key: jax.Array, env_state: EnvState) -> ActorState:
        config, nets = self.config.of(spec.name), self.networks[spec.name]
        policy_key, value_key = jax.random.split(key)
        policy_params = nets.policy.init(policy_key)
        policy_params = networks.with_log_std(
            policy_params, jnp.full((spec.action_size,), jnp.log(config.std_start), jnp.float32)
        )
        value_params = nets.value.init(value_key)
        optimizer = _optimizer(config)
        state = ActorState(
            policy_params=policy_params,
            value_params=value_params,
            policy_optimizer=optimizer.init(policy_params),
            value_optimizer=optimizer.init(value_params),
            observation_statistics=networks.init_statistics(spec.observation_size),
            privileged_statistics=networks.init_statistics(spec.privileged_size),
            learning_rate=jnp.float32(config.learning_rate),
            noise_fallen=jnp.float32(0.0),
        )
        return self._observe(spec, state, env_state.observation[spec.name], env_state.privileged[spec.name])

    def _init_episodes(self, env_state: EnvState) -> EpisodeTracker:
        names = [spec.name for spec in self.env.actors]
        averages = ["episode_seconds", "fall_share", *(f"{name}/return" for name in names)]
        averages += [name for name in env_state.metrics if name.startswith("episode")]
        zeros = jnp.zeros((self.env.num_envs,), jnp.float32)
        return EpisodeTracker(
            steps=zeros,
            returns=dict.fromkeys(names, zeros),
            finished=jnp.zeros((), jnp.int32),
            averages={name: jnp.zeros((), jnp.float32) for name in averages},
        )

    def rollout(self, state: TrainState) -> tuple[TrainState, Batch]:
        """Lets the actors act for `unroll` steps.

        Returns the state with environment, episodes and key moved on (actors only with their noise kept in its
        band), and the batch for `update`, whose `stats` are the rollout's scalars.
        """
        progress = state.updates.astype(jnp.float32) / self.updates
        key, steps_key = jax.random.split(state.key)
        actors = {name: self._bound_noise(name, actor) for name, actor in state.actors.items()}

        def step(carry: tuple[Any, EpisodeTracker], step_key: jax.Array) -> tuple[Any, Any]:
            env_state, episodes = carry
            seen, actions = {}, {}
            for spec, actor_key in zip(self.env.actors, jax.random.split(step_key, len(self.env.actors)), strict=True):
                name = spec.name
                mean, action = self._act(name, actors[name], env_state.observation[name], actor_key, progress)
                actions[name] = action
                seen[name] = (env_state.observation[name], env_state.privileged[name], action, mean)
            env_state = self.env.step(env_state, actions)
            episodes, ended = self._track(episodes, env_state)
            means = {name: jnp.mean(value.astype(jnp.float32)) for name, value in env_state.metrics.items()}
            outcome = (env_state.reward, env_state.terminated, env_state.truncated)
            return (env_state, episodes), (seen, *outcome, ended, means)

        (env_state, episodes), (seen, reward, terminated, truncated, ended, means) = jax.lax.scan(
            step, (state.env, state.episodes), jax.random.split(steps_key, self.config.unroll)
        )
        episodes = self._average(episodes, ended)
        stats = {name: jnp.mean(value) for name, value in means.items()} | episodes.averages
        stats["progress"] = progress
        stats["episodes_finished"] = episodes.finished.astype(jnp.float32)
        batch_actors = {}
        for spec in self.env.actors:
            name = spec.name
            batch_actors[name] = ActorBatch(
                observation=seen[name][0],
                privileged=seen[name][1],
                final_privileged=env_state.privileged[name],
                action=seen[name][2],
                mean=seen[name][3],
                reward=reward[name],
            )
            stats[f"{name}/reward"] = jnp.mean(reward[name])
        env_state = self.env.curriculum(env_state, stats)
        moved_on = TrainState(actors, env_state, episodes, key, state.updates)
        return _typed_like(moved_on, state), Batch(batch_actors, terminated, truncated, stats)

    def _act(
        self, name: str, actor: ActorState, observation: jax.Array, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        config, nets = self.config.of(name), self.networks[name]
        inputs = networks.normalise(observation, actor.observation_statistics, self.config.observation_clip)
        mean, std = nets.policy.apply(None, actor.policy_params, inputs)
        sample = nets.distribution.sample_no_postprocessing((mean, std), key)
        if config.noise_before_learning:
            return mean, sample
        return mean, jnp.where(progress >= config.learns_from, sample, mean) if not config.frozen else mean

    def mean_action(self, name: str, actor: ActorState, observation: jax.Array) -> jax.Array:
        """Deterministic action (..., a) of one actor for observations (..., o)."""
        inputs = networks.normalise(observation, actor.observation_statistics, self.config.observation_clip)
        return self.networks[name].policy.apply(None, actor.policy_params, inputs)[0]

    def _bound_noise(self, name: str, actor: ActorState) -> ActorState:
        """The actor with its standard deviation put back into the band of the moment."""
        config = self.config.of(name)
        if config.frozen:
            return actor
        ceiling = jnp.log(losses.noise_ceiling(config, actor.noise_fallen))
        floor = ceiling + jnp.log(config.std_floor_share)
        bounded = jnp.clip(networks.log_std(actor.policy_params), floor, ceiling)
        return actor.replace(policy_params=networks.with_log_std(actor.policy_params, bounded))

    def _track(self, episodes: EpisodeTracker, env_state: EnvState) -> tuple[EpisodeTracker, Stats]:
        """The tracker one step on, and sums over the episodes that this step ended."""
        done = jnp.maximum(env_state.terminated, env_state.truncated)
        steps = episodes.steps + 1
        returns = {name: episodes.returns[name] + env_state.reward[name] for name in episodes.returns}
        ended = {
            "count": jnp.sum(done),
            "episode_seconds": jnp.sum(done * steps) * self.env.control_dt,
            "fall_share": jnp.sum(env_state.terminated),
        }
        ended |= {f"{name}/return": jnp.sum(done * value) for name, value in returns.items()}
        ended |= {n: jnp.sum(done * value) for n, value in env_state.metrics.items() if n.startswith("episode")}
        alive = 1 - done
        return episodes.replace(steps=steps * alive, returns={n: v * alive for n, v in returns.items()}), ended

    def _average(self, episodes: EpisodeTracker, ended: Stats) -> EpisodeTracker:
        """The tracker with the rollout's finished episodes, sums of shape [T], averaged in."""
        sums = {name: jnp.sum(value) for name, value in ended.items()}
        count = sums.pop("count")
        weight = jnp.where(episodes.finished > 0, jnp.minimum(1.0, count / self.env.num_envs), jnp.minimum(1.0, count))
        averages = {
            name: old + weight * (sums[name] / jnp.maximum(count, 1.0) - old) for name, old in episodes.averages.items()
        }
        return episodes.replace(finished=episodes.finished + count.astype(jnp.int32), averages=averages)

    def update(self, state: TrainState, batch: Batch) -> tuple[TrainState, Stats]:
        """Learns from a rollout. Returns the next state and every scalar worth logging, the rollout's included.

        `finite/<thing>` is 1 as long as no number of that thing is NaN or infinite.
        """
        key, *actor_keys = jax.random.split(state.key, 1 + len(self.env.actors))
        stats = dict(batch.stats)
        actors = dict(state.actors)
        for spec, actor_key in zip(self.env.actors, actor_keys, strict=True):
            name = spec.name
            config, actor_batch = self.config.of(name), batch.actors[name]
            stats |= _finite(f"{name}/observation", (actor_batch.observation, actor_batch.privileged))
            stats |= _finite(f"{name}/reward", actor_batch.reward)
            stats |= _finite(f"{name}/action", actor_batch.action)
            if not config.frozen:
                learn = lambda actor, b=batch, s=spec, k=actor_key: self._update_actor(s, actor, b, k)  # noqa: E731
                actors[name], learnt = jax.lax.cond(
                    stats["progress"] >= config.learns_from, learn, _leave_alone, state.actors[name]
                )
                stats |= {f"{name}/{what}": value for what, value in learnt.items()}
                stats |= _finite(f"{name}/parameters", (actors[name].policy_params, actors[name].value_params))
            stats[f"{name}/learning_rate"] = actors[name].learning_rate
            stats[f"{name}/std"] = jnp.mean(jnp.exp(networks.log_std(actors[name].policy_params)))
            stats[f"{name}/noise_fallen"] = actors[name].noise_fallen
        following = TrainState(actors, state.env, state.episodes, key, state.updates + 1)
        return _typed_like(following, state), stats

    def train_iteration(self, state: TrainState) -> tuple[TrainState, Stats]:
        """`rollout` and `update` in one traceable function."""
        return self.update(*self.rollout(state))

    def _update_actor(
        self, spec: ActorSpec, actor: ActorState, batch: Batch, key: jax.Array
    ) -> tuple[ActorState, Stats]:
        config, nets = self.config.of(spec.name), self.networks[spec.name]
        data, value_stats = self._targets(spec, actor, batch)
        size = self.steps_per_update // self.config.minibatches
        waits = batch.stats["progress"] < config.value_first
        rate = jnp.where(waits, 0.0, actor.learning_rate * losses.rate_left(config, batch.stats["progress"]))

        def gradient_step(carry: Any, minibatch: dict[str, jax.Array]) -> tuple[Any, Stats]:
            policy_params, value_params, policy_optimizer, value_optimizer = carry
            (_, stats), policy_gradient = jax.value_and_grad(losses.policy_loss, has_aux=True)(
                policy_params, minibatch, nets, config, actor
            )
            loss, value_gradient = jax.value_and_grad(losses.value_loss)(value_params, minibatch, nets)
            policy_params, policy_optimizer = _descend(config, policy_params, policy_gradient, policy_optimizer, rate)
            value_params, value_optimizer = _descend(
                config, value_params, value_gradient, value_optimizer, config.value_learning_rate
            )
            stats |= {"value_loss": loss}
            return (policy_params, value_params, policy_optimizer, value_optimizer), stats

        def epoch(carry: Any, epoch_key: jax.Array) -> tuple[Any, Stats]:
            order = losses.shuffled_order(epoch_key, self.steps_per_update)
            shuffled = {
                name: value[order].reshape(self.config.minibatches, size, *value.shape[1:])
                for name, value in data.items()
            }
            return jax.lax.scan(gradient_step, carry, self.spread(shuffled))

        start = (actor.policy_params, actor.value_params, actor.policy_optimizer, actor.value_optimizer)
        end, stats = jax.lax.scan(epoch, start, jax.random.split(key, self.config.epochs))
        kl = jnp.mean(stats.pop("kl")[-1])
        mine = batch.actors[spec.name]
        learnt = actor.replace(
            policy_params=end[0],
            value_params=end[1],
            policy_optimizer=end[2],
            value_optimizer=end[3],
            learning_rate=jnp.where(
                waits, actor.learning_rate, losses.steer(config, actor.learning_rate, kl, actor.noise_fallen)
            ),
            noise_fallen=losses.let_noise_fall(config, actor.noise_fallen, batch.stats, self.updates),
        )
        stats = {name: jnp.mean(value) for name, value in stats.items()} | value_stats | {"kl": kl}
        return self._observe(spec, learnt, mine.observation, mine.privileged), stats

    def _targets(self, spec: ActorSpec, actor: ActorState, batch: Batch) -> tuple[dict[str, jax.Array], Stats]:
        """What the gradient steps need, one row per step: normalised inputs, advantages and value targets."""
        config, nets, mine = self.config.of(spec.name), self.networks[spec.name], batch.actors[spec.name]
        clip = self.config.observation_clip
        privileged = networks.normalise(mine.privileged, actor.privileged_statistics, clip)
        final = networks.normalise(mine.final_privileged, actor.privileged_statistics, clip)
        values = nets.value.apply(None, actor.value_params, privileged)
        final_value = nets.value.apply(None, actor.value_params, final)
        targets, advantages = losses.estimate(
            config, mine.reward, values, final_value, batch.terminated, batch.truncated
        )
        std = jnp.exp(networks.log_std(actor.policy_params))
        rows = {
            "observation": networks.normalise(mine.observation, actor.observation_statistics, clip),
            "privileged": privileged,
            "action": mine.action,
            "mean": mine.mean,
            "log_prob": nets.distribution.log_prob((mine.mean, std), mine.action),
            "advantage": (advantages - jnp.mean(advantages)) / (jnp.std(advantages) + 1e-8),
            "target": targets,
        }
        explained = 1 - jnp.var(targets - values) / (jnp.var(targets) + 1e-8)
        flat = {name: value.reshape(self.steps_per_update, *value.shape[2:]) for name, value in rows.items()}
        return flat, {"value_explained": explained}

    def _observe(self, spec: ActorSpec, actor: ActorState, observation: jax.Array, privileged: jax.Array) -> ActorState:
        """The actor with its running statistics moved on. Called after learning, so that the policy that is improved
        is the one that acted, seen through the same normaliser."""
        floor = self.config.observation_std_floor
        return actor.replace(
            observation_statistics=networks.update_statistics(
                actor.observation_statistics, observation, _fixed(spec, "observation_fixed"), floor
            ),
            privileged_statistics=networks.update_statistics(
                actor.privileged_statistics, privileged, _fixed(spec, "privileged_fixed"), floor
            ),
        )


def _optimizer(config: ActorConfig) -> optax.GradientTransformation:
    """Clipped Adam direction; the step size is applied outside because it is part of the state."""
    return optax.chain(optax.clip_by_global_norm(config.max_gradient_norm), optax.scale_by_adam())


def _descend(config: ActorConfig, params: Any, gradient: Any, optimizer: Any, rate: Any) -> tuple[Any, Any]:
    direction, optimizer = _optimizer(config).update(gradient, optimizer)
    return jax.tree.map(lambda p, d: p - rate * d, params, direction), optimizer


_LOSSES = ("policy_loss", "kl", "clip_share", "value_loss", "value_explained")


def _leave_alone(actor: ActorState) -> tuple[ActorState, Stats]:
    return actor, {name: jnp.zeros((), jnp.float32) for name in _LOSSES}


def _finite(name: str, tree: Any) -> Stats:
    """1.0 under `finite/<name>` if every number of the tree is finite, else 0.0."""
    all_finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
    return {f"finite/{name}": all_finite.astype(jnp.float32)}


def _fixed(spec: ActorSpec, attribute: str) -> jax.Array | None:
    """(size,) bool of the inputs that the environment scales by hand, or None."""
    marked = getattr(spec, attribute, None)
    return None if marked is None else jnp.asarray(marked, bool)


def _strongly_typed(tree: Any) -> Any:
    """The same values with explicit dtypes, so that the second call of a traced function does not compile again."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)


def _typed_like(tree: Any, reference: Any) -> Any:
    """The tree with every leaf in the reference's dtype."""
    return jax.tree.map(lambda x, r: jnp.asarray(x, r.dtype), tree, reference)
