"""The walking environment: N wearers, batched by construction, on any engine.

One control step turns synergy activations (and, with an active device, two hip torques) into muscle excitations,
advances the physics, and returns what each actor sees and earns. Finished environments start again by themselves.
Left and right are exchanged in the second half of the gait cycle, so that one half cycle is learned once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mjx_exo.device import DeviceProfile
from mjx_exo.physics.interface import ROOT_QVEL, Drive, Engine, PhysicsState, Readings
from mjx_exo.walking import exo_rewards, observations
from mjx_exo.walking.actions import HumanActions
from mjx_exo.walking.commands import (
    Command,
    advance_command,
    ask_again,
    draw_command,
    gravity,
    in_last_step,
    standing,
)
from mjx_exo.walking.config import WalkingConfig
from mjx_exo.walking.device_side import DeviceSide
from mjx_exo.walking.features import Feature, Kinematics, kinematics
from mjx_exo.walking.gait_clock import (
    advance_clock,
    arriving,
    balance,
    clock_frequency_hz,
    expected_speed,
    held,
    may_stand,
)
from mjx_exo.walking.metabolism import Metabolism
from mjx_exo.walking.pacing import advance_pacing
from mjx_exo.walking.rewards import RewardInputs, reward_terms, weighted
from mjx_exo.walking.start_states import PHASES, REFERENCE_SPEED_M_S, build_start_states, standing_row
from mjx_exo.walking.state import Actor, Curriculum, Decision, EnvState, Exo
from mjx_exo.walking.walkers import Walkers

SWAY_M_S = (-0.25, 0.35)  # who stands at the start sways: coming to a stop is to be caught with the ankles
SPEED_FILTER_S = 0.5  # an instantaneous speed reward settles 5 % slow; one filtered over half a second, 2 %

Controller = Callable[[Any, EnvState], tuple[Array, Any]]
"""(carry, state at a tick of the device) → (desired torque [N, 2] in Nm, carry)."""


class WalkingEnv:
    """See the module's docstring. `engine` must carry the device's mass if `profile` is worn."""

    def __init__(self, config: WalkingConfig, engine: Engine, profile: DeviceProfile | None = None):
        self.config, self.engine, self.profile = config, engine, profile
        self.num_envs = engine.num_envs
        self.control_dt = config.control_dt_s
        frequency_hz = float(clock_frequency_hz(jnp.float32(REFERENCE_SPEED_M_S)))
        starts = build_start_states(engine.body, engine.wearers, frequency_hz)
        self._starts = jax.tree.map(jnp.asarray, dataclasses.asdict(starts))
        self.walkers = Walkers(engine, starts.standing_height_m, profile)
        self.metabolism = Metabolism(engine)
        self.body_mass_kg, self.muscle_groups = self.walkers.body_mass_kg, self.walkers.muscle_groups
        self.human_actions = HumanActions(config, engine, self.walkers.trunk_muscles)
        self.human_action_size = self.human_actions.size
        self.active = config.device_mode == "active"
        self.ticks, self.tick_s, self._delay = 1, config.control_dt_s, 1
        if self.active:
            device = self.device_side = DeviceSide(profile, self.body_mass_kg, config.control_dt_s)
            self.ticks, self.tick_s, self._delay = device.ticks, device.tick_s, device.delay_ticks
        steps = self.tick_s / config.physics_step_s
        if abs(steps - round(steps)) > 1e-6:
            raise ValueError(f"physics step {config.physics_step_s} s does not divide the tick of {self.tick_s} s")
        self.steps = round(steps)
        example = jax.eval_shape(self._example_features)
        actors = [("human", observations.HUMAN, self.human_action_size)]
        if self.active:
            actors.append(("exo", observations.EXO, 2))
        self._tables, self._critic_tables, specs = {}, {}, []
        for name, entries, action_size in actors:
            table = observations.ObservationTable(entries, example)
            extra = tuple(e for e in observations.CRITIC if e.feature not in table.sizes)
            critic = observations.ObservationTable((*entries, *extra), example)
            self._tables[name], self._critic_tables[name] = table, critic
            specs.append(Actor(name, table.size, critic.size, action_size, table.fixed, critic.fixed))
        self.actors = tuple(specs)

    # ---------------------------------------------------------------- contract

    def reset(self, key: Array) -> EnvState:
        """A fresh state of all N environments; every array leads with N."""
        key, start_key = jax.random.split(key)
        curriculum = Curriculum(jnp.float32(self.config.curriculum.start_strictness), jnp.float32(0.0))
        command = draw_command(start_key, self.config.command, self.num_envs, curriculum.widen)
        state = self._fresh(start_key, curriculum, key, command)
        return self.observed(state)

    def step(self, state: EnvState, action: dict[str, Array]) -> EnvState:
        """One control step of all environments.

        action: "human" [N, A] and, with an active device, "exo" [N, 2], both unbounded around 0; the torque that is
        wanted moves towards what "exo" aims at, and is held over the step. Finished environments come back as fresh
        episodes, with their ends in `terminated` or `truncated`.
        """
        if not self.active:
            return self.step_driven(state, action["human"], None, ())[0]
        aim = self.torque_from_action(state, action["exo"])
        wanted = self.device_side.smoothed(state.exo.wanted_nm, aim, self.control_dt)
        return self.step_driven(state, action["human"], lambda carry, tick: (wanted, carry), ())[0]

    def step_driven(
        self, state: EnvState, human: Array, controller: Controller | None, carry: Any
    ) -> tuple[EnvState, Any]:
        """One control step in which `controller` is asked for torque at every tick of the device.

        Args:
          human: [N, A] action of the human actor.
          controller: (carry, state at the tick) → (desired torque [N, 2] in Nm, carry); None without a device.
        """
        decision = self.decide(state, human)
        moving, parts = state.replace(command=decision.command), []
        for _ in range(self.ticks):
            wanted = jnp.zeros((self.num_envs, 2))
            if controller is not None:
                wanted, carry = controller(carry, moving)
            moving = self.tick(moving, decision.excitation, wanted)
            parts.append(moving.readings)
        moving = moving.replace(readings=merge_readings(parts))
        return self.settle(state, moving, decision), carry

    def decide(self, state: EnvState, human: Array) -> Decision:
        """What one control step will be driven by, from the human actor's action [N, A]."""
        key, command_key, reset_key = jax.random.split(state.key, 3)
        action = self.human_actions.ordered(human, self._swap_by_clock(state))
        task, hardness = self.config.command, state.curriculum
        command = advance_command(
            command_key, state.command, state.phase, task, self.control_dt, hardness.widen, hardness.strictness
        )
        excitation, bend = self.human_actions.excitation(action), self.human_actions.clock_bend(action)
        return Decision(excitation, action, bend, command, key, reset_key)

    def tick(self, state: EnvState, excitation: Array, wanted_nm: Array) -> EnvState:
        """Physics for one period of the device's controller: limiter, transport delay, actuator lag.

        excitation: [N, M], 0…1. wanted_nm: [N, 2] right and left, flexion positive; ignored without an active device.
        """
        exo, drive = self.drive(state, excitation, wanted_nm)
        physics, readings = self.engine.step(state.physics, drive, self.steps)
        return self.moved(state, exo, physics, readings)

    def drive(self, state: EnvState, excitation: Array, wanted_nm: Array) -> tuple[Exo, Drive]:
        """What acts on the bodies in the tick that begins with `state`, and the device's side after it."""
        exo, command_nm = state.exo, jnp.zeros((self.num_envs, 2))
        if self.active:
            exo, command_nm = self.device_side.pass_on(exo, wanted_nm, self.hip_velocity(state.physics))
        return exo, Drive(excitation, command_nm, state.command.push_n, gravity(state.command.slope_rad))

    @staticmethod
    def moved(state: EnvState, exo: Exo, physics: PhysicsState, readings: Readings) -> EnvState:
        """`state` after a tick of the physics."""
        return state.replace(physics=physics, readings=readings, sensors=readings.sensors, exo=exo)

    def curriculum(self, state: EnvState, stats: dict[str, Array]) -> EnvState:
        """Hardens the task while episodes are long, softens it while they are short; open ranges stay open.

        stats: scalars of the last roll-out; `episode_seconds` is the mean length of the episodes that ended.
        """
        config = self.config.curriculum
        step = 1.0 / config.rise_updates
        long_enough = stats["episode_seconds"] >= config.start_episode_s
        change = jnp.where(long_enough, step, -config.fall_back * step)
        strictness = jnp.clip(state.curriculum.strictness + change, 0.0, 1.0).astype(jnp.float32)
        widen = jnp.minimum(state.curriculum.widen + long_enough / config.widen_updates, 1.0).astype(jnp.float32)
        return state.replace(curriculum=Curriculum(strictness, widen))

    def with_command(self, state: EnvState, speed_m_s: Array, slope_rad: Array, strictness: float = 1.0) -> EnvState:
        """A fresh state with given commands [N], no pushes; at about the commanded speed, or standing at zero."""
        scale = (speed_m_s / jnp.maximum(state.command.speed_m_s, 0.1))[:, None]
        zeros, still = jnp.zeros(self.num_envs), standing(speed_m_s)
        row = (self.walkers.wearer_of, standing_row(slope_rad))
        upright = self._starts["qpos"][row]
        sensors = jnp.where(still[:, None], self._starts["sensors"][row], state.sensors)
        return self.observed(
            state.replace(
                command=Command(speed_m_s, speed_m_s, slope_rad, slope_rad, jnp.zeros((self.num_envs, 3)), zeros),
                physics=state.physics._replace(
                    qpos=jnp.where(still[:, None], upright, state.physics.qpos), qvel=state.physics.qvel * scale
                ),
                sensors=sensors,
                readings=state.readings._replace(sensors=sensors),
                phase=jnp.where(still, jnp.round(2.0 * state.phase) % 2.0 / 2.0, state.phase),
                speed_filtered_m_s=state.physics.qvel[:, 0] * scale[:, 0],
                pacing_m_s=zeros,
                curriculum=Curriculum(jnp.float32(strictness), jnp.float32(1.0)),
            )
        )

    # ---------------------------------------------------------------- actions

    def hip_velocity(self, physics: PhysicsState) -> Array:
        """Hip flexion velocity [N, 2] in rad/s, right and left."""
        return physics.qvel[:, 6:][:, self.walkers.legs[:, self.walkers.hip]]

    def hip_moment_nm_kg(self, state: EnvState) -> Array:
        """Biological hip moment [N, 2] of the last tick: muscles and passive structures, device excluded."""
        moment = state.readings.muscle_moment_nm + state.readings.passive_moment_nm
        return moment[:, self.walkers.legs[:, self.walkers.hip]] / self.body_mass_kg[:, None]

    def _swap_by_clock(self, state: EnvState) -> Array:
        return state.phase >= 0.5

    def _swap_by_thighs(self, state: EnvState) -> Array:
        """The device has no clock: the thigh that is further forward leads."""
        hip = state.physics.qpos[:, 7:][:, self.walkers.legs[:, self.walkers.hip]]
        return hip[:, 1] > hip[:, 0]

    def torque_from_action(self, state: EnvState, action: Array) -> Array:
        """What an exoskeleton action [N, 2] aims at: torque [N, 2] in Nm, right and left."""
        ordered = jnp.where(self._swap_by_thighs(state)[:, None], action[:, ::-1], action)
        return self.device_side.torque(ordered)

    # ---------------------------------------------------------------- after the physics

    def settle(self, state: EnvState, moved: EnvState, decision: Decision) -> EnvState:
        """Rewards, ends and restarts after the ticks of one control step took `state` to `moved`."""
        k, command = self.kinematics_of(moved), moved.command
        moved = self.advance(moved, decision, k)
        reward, metrics = self._reward(state, moved, k)
        terminated = self.fallen(moved, k)
        truncated = jnp.where(terminated > 0, 0.0, (moved.time_s >= self.config.episode_s - 1e-4).astype(jnp.float32))
        done = (terminated + truncated) > 0
        metrics |= {
            "speed_m_s": moved.physics.qvel[:, 0],
            "episode_seconds": moved.time_s,
            "episode_fell": terminated,
            "strictness": jnp.full(self.num_envs, state.curriculum.strictness),
            "commands_open": jnp.full(self.num_envs, state.curriculum.widen if self.config.command.ranged else 1.0),
        }
        asked = draw_command(decision.reset_key, self.config.command, self.num_envs, state.curriculum.widen)
        if self.config.command.retry_share > 0:
            again_key = jax.random.fold_in(decision.reset_key, 1)
            asked = ask_again(again_key, asked, command, terminated, self.config.command.retry_share)
        fresh = self._fresh(decision.reset_key, state.curriculum, decision.key, asked)

        def choose(new: Array, old: Array) -> Array:
            if new.ndim == 0 or new.shape[0] != self.num_envs:
                return old
            return jnp.where(done.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

        kept = ("key", "curriculum", "observation", "privileged", "reward", "terminated", "truncated", "metrics")
        parts = {
            f.name: jax.tree.map(choose, getattr(fresh, f.name), getattr(moved, f.name))
            for f in dataclasses.fields(EnvState)
            if f.name not in kept
        }
        after = moved.replace(**parts, reward=reward, terminated=terminated, truncated=truncated, metrics=metrics)
        return self.observed(after)

    def advance(self, moved: EnvState, decision: Decision, k: Kinematics) -> EnvState:
        """Clock, speed and time one control step on, after its ticks; nobody is judged or starts again."""
        dt, command, speed = self.control_dt, moved.command, moved.speed_filtered_m_s
        return moved.replace(
            phase=advance_clock(moved.phase, command.speed_m_s, decision.bend, may_stand(k, command.slope_rad), dt),
            speed_filtered_m_s=speed + dt / SPEED_FILTER_S * (moved.physics.qvel[:, 0] - speed),
            pacing_m_s=advance_pacing(moved.pacing_m_s, command, speed, self.config.pacing_per_s, dt),
            previous_action=decision.action,
            time_s=moved.time_s + dt,
            key=decision.key,
        )

    def _reward(self, before: EnvState, after: EnvState, k: Kinematics) -> tuple[dict[str, Array], dict[str, Array]]:
        leg_angles = k.joint_rad[:, self.walkers.legs]
        strictness = after.curriculum.strictness
        terms = reward_terms(
            RewardInputs(
                kinematics=k,
                readings=after.readings,
                load_before_bw=before.readings.foot_force_n[:, :, 2] / self.walkers.body_weight_n[:, None],
                activation=after.physics.activation,
                muscle_share=self.walkers.muscle_share,
                action=after.previous_action,
                previous_action=before.previous_action,
                body_weight_n=self.walkers.body_weight_n,
                speed_filtered_m_s=after.speed_filtered_m_s,
                speed_command_m_s=expected_speed(after, k),
                leg_phase=jnp.stack([after.phase, (after.phase + 0.5) % 1.0], -1),
                held=held(after, k),
                arriving=arriving(after, k),
                balance=balance(k, after.command.slope_rad),
                hip_rotation_rad=leg_angles[:, :, self.walkers.hip_rotation],
                hip_rad=leg_angles[:, :, self.walkers.hip],
                knee_rad=leg_angles[:, :, self.walkers.knee],
                ankle_rad=leg_angles[:, :, self.walkers.ankle],
                impact_free_bw=jnp.float32(1.2),
                metabolic_w_kg=self._metabolic_w_kg(after),
            )
        )
        parts = weighted(terms, self.config.loose, self.config.strict, strictness)
        reward = {"human": sum(parts.values())}
        metrics = {f"reward/{name}": value for name, value in parts.items()}
        metrics["activation_squared"] = (after.physics.activation**2).mean(axis=-1)
        if self.active:
            exo_parts = exo_rewards.reward_terms(
                before,
                after,
                self.device_side.limits,
                self.body_mass_kg,
                self.hip_moment_nm_kg(after),
                self._metabolic_w_kg(after),
            )
            reward["exo"] = sum(exo_parts.values())
            metrics |= {f"exo/{name}": value for name, value in exo_parts.items()}
            metrics["exo_torque_nm_kg"] = jnp.abs(after.physics.exo_torque_nm).mean(-1) / self.body_mass_kg
        return reward, metrics

    def _metabolic_w_kg(self, state: EnvState) -> Array:
        """[N] what all muscles together spend at the end of the step."""
        excitation, fibre = self.human_actions.excitation(state.previous_action), state.readings
        power_w = self.metabolism.umberger_w(
            excitation, state.physics.activation, fibre.fibre_length, fibre.fibre_velocity
        )
        return power_w.sum(-1) / self.body_mass_kg

    def fallen(self, state: EnvState, k: Kinematics) -> Array:
        """1 where the walker fell, turned away, ran off its line or walked backwards."""
        low = k.position_m[:, 2] < 0.78 * self.walkers.standing_m
        tilted = k.up[:, 2] < 0.7
        turned = jnp.abs(k.yaw_rad) > 0.8
        aside = jnp.abs(k.position_m[:, 1]) > 1.5
        backwards = state.speed_filtered_m_s < -0.3
        broken = ~jnp.isfinite(k.position_m[:, 2])
        return (low | tilted | turned | aside | backwards | broken).astype(jnp.float32)

    # ---------------------------------------------------------------- starting

    def _fresh(self, key: Array, curriculum: Curriculum, next_key: Array, command: Command) -> EnvState:
        """Start states of all environments: a posture of the cycle, moving at about the commanded speed."""
        n = self.num_envs
        phase_key, speed_key, noise_key, act_key = jax.random.split(key, 4)
        still = standing(command.speed_m_s)
        drawn = jax.random.randint(phase_key, (n,), 0, PHASES)
        left = jax.random.bernoulli(act_key, shape=(n,))  # which leg led when the clock was held
        upright = still & ~in_last_step(command.speed_m_s)
        index = jnp.where(upright, standing_row(command.slope_rad), jnp.where(still, left * (PHASES // 2), drawn))
        phase = self._starts["phase"][index] + 0.5 * (upright & left)
        scale = command.speed_m_s / REFERENCE_SPEED_M_S * jax.random.uniform(speed_key, (n,), minval=0.85, maxval=1.1)
        qpos = self._starts["qpos"][self.walkers.wearer_of, index]
        noise = 0.02 * jax.random.normal(noise_key, (n, qpos.shape[1] - 7))
        qpos = jnp.concatenate([qpos[:, :7], qpos[:, 7:] + noise], -1)
        aside = self.config.command.aside_m
        qpos = qpos.at[:, 1].add(
            jax.random.uniform(jax.random.fold_in(noise_key, 1), (n,), minval=-aside, maxval=aside)
        )
        qvel = self._starts["qvel"][self.walkers.wearer_of, index] * scale[:, None]
        sway = upright * jax.random.uniform(
            jax.random.fold_in(speed_key, 1), (n,), minval=SWAY_M_S[0], maxval=SWAY_M_S[1]
        )
        qvel = qvel + self._swaying(sway)
        state_shape, reading_shape = self.engine.shapes()
        physics = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state_shape)
        activation = 0.05 + 0.05 * jax.random.uniform(act_key, physics.activation.shape)
        physics = physics._replace(qpos=qpos, qvel=qvel, activation=activation)
        readings = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), reading_shape)
        sensors = self._starts["sensors"][self.walkers.wearer_of, index]
        zeros = jnp.zeros(n)
        return EnvState(
            physics=physics,
            sensors=sensors,
            readings=readings._replace(sensors=sensors),
            command=command,
            exo=Exo(*[jnp.zeros((n, 2))] * 3, jnp.zeros((n, self._delay, 2)), self.hip_velocity(physics)),
            curriculum=curriculum,
            phase=phase,
            speed_filtered_m_s=qvel[:, 0],
            pacing_m_s=zeros,
            previous_action=jnp.zeros((n, self.human_action_size)),
            time_s=zeros,
            key=next_key,
            observation={},
            privileged={},
            reward=dict.fromkeys(self._actor_names(), zeros),
            terminated=zeros,
            truncated=zeros,
            metrics=self._zero_metrics(),
        )

    def _swaying(self, speed_m_s: Array) -> Array:
        """[N, nv] Velocities of who turns about the ankles as a whole; `speed_m_s` [N] forward at the pelvis."""
        turning = speed_m_s / self.walkers.standing_m
        qvel = jnp.zeros((self.num_envs, self._starts["qvel"].shape[-1]))
        qvel = qvel.at[:, 0].set(speed_m_s).at[:, 4].set(turning)
        return qvel.at[:, ROOT_QVEL + self.walkers.legs[:, self.walkers.ankle]].set(turning[:, None])

    def _actor_names(self) -> tuple[str, ...]:
        return ("human", "exo") if self.active else ("human",)

    def _zero_metrics(self) -> dict[str, Array]:
        names = [f"reward/{f.name}" for f in dataclasses.fields(type(self.config.loose))]
        names += ["speed_m_s", "episode_seconds", "episode_fell", "strictness", "commands_open", "activation_squared"]
        if self.active:
            names += [f"exo/{name}" for name in exo_rewards.TERMS] + ["exo_torque_nm_kg"]
        return {name: jnp.zeros(self.num_envs) for name in names}

    # ---------------------------------------------------------------- observing

    def kinematics_of(self, state: EnvState) -> Kinematics:
        """Where every walker's parts are and how they move, [N, …] in SI (see `Kinematics`)."""
        return kinematics(state.physics, state.sensors, gravity(state.command.slope_rad))

    def features(self, state: EnvState) -> dict[str, Feature]:
        """Everything an observation table may name, [N, …] each."""
        time_left_s = self.config.episode_s - state.time_s
        return observations.walker_features(state, self.kinematics_of(state), self.walkers, time_left_s)

    def _example_features(self) -> dict[str, Array]:
        key = jax.random.PRNGKey(0)
        command = draw_command(key, self.config.command, self.num_envs, jnp.float32(0))
        features = self.features(self._fresh(key, Curriculum(jnp.float32(0), jnp.float32(0)), key, command))
        return {name: feature.value for name, feature in features.items()}

    def observed(self, state: EnvState) -> EnvState:
        """The state with every actor's observation brought up to date."""
        features = self.features(state)
        swaps = {"human": self._swap_by_clock(state)}
        if self.active:
            swaps["exo"] = self._swap_by_thighs(state)
        return state.replace(
            observation={a: t.assemble(features, swaps[a]) for a, t in self._tables.items()},
            privileged={a: t.assemble(features, swaps[a]) for a, t in self._critic_tables.items()},
        )

    def describe_observations(self) -> dict[str, list[tuple[str, int, bool]]]:
        """Per actor, the table of what it sees: (name, size, scaled by hand)."""
        return {name: table.describe() for name, table in self._tables.items()}


def merge_readings(parts: list[Readings]) -> Readings:
    """Readings of one control step from those of its ticks: means are averaged, instants are the last."""
    last = parts[-1]
    means = jax.tree.map(lambda *x: sum(x) / len(x), *parts)
    return means._replace(sensors=last.sensors, fibre_length=last.fibre_length, fibre_velocity=last.fibre_velocity)
