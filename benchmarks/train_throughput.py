"""Where a training step's time goes: `python -m benchmarks.train_throughput [--json F]`.

One training step is a roll-out of `unroll` control steps and an update from it, exactly as `python -m mjx_exo.train`
runs them (its presets, its networks, its two compiled programs). Beside the whole, its parts are run by themselves, in
turns with it and on what a roll-out of an untrained policy really met:

* skeleton: rigid bodies and contact alone; muscles: forces, moments and activation; together the engine's physics;
* environment: rewards, observations, commands, ends and restarts around the physics;
* inference: the policies, their noise and the bookkeeping of episodes;
* update: advantages, all epochs and minibatches, running statistics.

Physics, environment, inference and update add up to the whole but for noise. What cannot be cut out of an engine is a
difference: the native engine's muscles are its physics less the bare skeleton, MJX's skeleton is its physics less the
muscles. The table's shares are of the clock; the JSON has them in processor time, too, which holds on a busy machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from benchmarks.common import (
    Speeds,
    chosen,
    describe_hardware,
    hardware,
    print_table,
    speeds,
    whole_numbers,
    write_json,
)
from mjx_exo.cache import use_jax_cache
from mjx_exo.errors import UserError, run_command
from mjx_exo.learning.ppo import PPO
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.muscle import MuscleParameters
from mjx_exo.physics import batched_muscles
from mjx_exo.physics.interface import ROOT_QPOS, ROOT_QVEL, Drive, PhysicsState
from mjx_exo.presets import PRESETS, TrainConfig, preset
from mjx_exo.walking.build import build_environment, choose_engine
from mjx_exo.walking.commands import GRAVITY_M_S2

ENGINES = ("native", "mjx")
PARTS = ("skeleton", "muscles", "environment", "inference", "update")

Work = Callable[[], Any]


def training(config: TrainConfig, body: str, engine: str, batch: int, threads: int) -> PPO:
    """The learner of a preset on another body, engine and number of environments."""
    walking = dataclasses.replace(config.walking, body=body, engine=engine, num_envs=batch, threads=threads)
    return PPO(build_environment(walking), config.ppo)


def record(ppo: PPO, state: Any) -> tuple[Any, PhysicsState, Drive]:
    """Actions [T, N, A] of an untrained policy, and what the engine was given with them, [T, N, …] each."""
    env, unroll = ppo.env, ppo.config.unroll
    actions = {
        spec.name: 0.5 * jax.random.normal(jax.random.key(i), (unroll, env.num_envs, spec.action_size))
        for i, spec in enumerate(env.actors)
    }

    @jax.jit
    def walk(env_state: Any, actions: Any) -> Any:
        def step(env_state: Any, action: Any) -> tuple[Any, tuple[PhysicsState, jax.Array]]:
            met = (env_state.physics, env.human_actions.excitation(action["human"]))
            return env.step(env_state, action), met

        return jax.lax.scan(step, env_state, actions)[1]

    physics, excitation = walk(state.env, actions)
    shape = excitation.shape[:2]
    gravity = jnp.broadcast_to(jnp.array([0.0, 0.0, -GRAVITY_M_S2], jnp.float32), (*shape, 3))
    drive = Drive(excitation, jnp.zeros((*shape, 2)), jnp.zeros((*shape, 3)), gravity)
    return actions, physics, drive


def whole_and_parts(ppo: PPO) -> dict[str, Work]:
    """What is timed: `rollout` and `update` as training runs them, and the parts of a roll-out by themselves."""
    env, state = ppo.env, jax.jit(ppo.init)(jax.random.key(0))
    actions, met, drive = record(ppo, state)
    rollout, update = jax.jit(ppo.rollout), jax.jit(ppo.update)
    state, batch = rollout(state)
    control_steps = round(env.control_dt / env.config.physics_step_s)

    @jax.jit
    def walk(env_state: Any, actions: Any) -> jax.Array:
        def step(env_state: Any, action: Any) -> tuple[Any, jax.Array]:
            env_state = env.step(env_state, action)
            return env_state, sum(env_state.reward.values())

        return jax.lax.scan(step, env_state, actions)[1]

    @jax.jit
    def physics(met: PhysicsState, drive: Drive) -> jax.Array:
        def step(_: Any, given: Any) -> tuple[None, jax.Array]:
            after, readings = env.engine.step(*given, control_steps)
            return None, after.qpos[:, 0] + readings.sensors[:, 0]

        return jax.lax.scan(step, None, (met, drive))[1]

    native = choose_engine(env.config.engine) == "native"
    part = skeleton_alone(env.engine, met, control_steps) if native else muscles_alone(env.engine, met, control_steps)
    return {
        "rollout": lambda: rollout(state),
        "update": lambda: update(state, batch),
        "walk": lambda: walk(state.env, actions),
        "physics": lambda: physics(met, drive),
        "skeleton" if native else "muscles": part,
    }


def skeleton_alone(engine: Any, met: PhysicsState, steps: int) -> Work:
    """C MuJoCo's steps of the native engine's models, from the same states on as many threads, without muscles."""
    qpos, qvel, warm = (np.asarray(x, np.float64) for x in (met.qpos, met.qvel, met.warmstart))
    pool = ThreadPoolExecutor(engine.threads)

    def run(job: Any, t: int) -> None:
        data, rows = job.data, job.contiguous
        for q, v, w in zip(qpos[t, rows], qvel[t, rows], warm[t, rows], strict=True):
            data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = q, v, w
            mujoco.mj_step(job.model, data, steps)

    def work() -> None:
        for t in range(len(qpos)):
            list(pool.map(lambda job, t=t: run(job, t), engine._jobs))

    return work


def muscles_alone(engine: Any, met: PhysicsState, steps: int) -> Work:
    """MJX's muscle arithmetic at the same states, as often as it is done in a roll-out."""
    limbs = tuple(batched_muscles.limb_arrays(engine.body, limb) for limb in engine.body.limbs)
    parameters = MuscleParameters(*(jnp.asarray(p, jnp.float32)[:, None] for p in engine.body.muscle_parameters()))
    scale, dt_s = jnp.ones(1), engine.config.timestep_s

    @jax.jit
    def work(met: PhysicsState) -> jax.Array:
        def control_step(_: Any, state: PhysicsState) -> tuple[None, jax.Array]:
            q, v = state.qpos[:, ROOT_QPOS:].T, state.qvel[:, ROOT_QVEL:].T

            def physics_step(carry: tuple[Any, ...], _: Any) -> tuple[tuple[Any, ...], None]:
                v, activation, total = carry
                out = batched_muscles.body_output(limbs, q, v, activation, scale, parameters)
                activation = batched_muscles.activate(activation, activation, parameters, dt_s)
                # A little of the result goes back in: a loop whose steps are all alike would be done once.
                v = v + 1e-9 * (out.moment_nm + out.damping_nm_s)
                total = total + out.force_n.sum() + out.fibre_length.sum() + out.fibre_velocity.sum()
                return (v, activation, total), None

            start = (v, state.activation.T, jnp.float32(0.0))
            return None, jax.lax.scan(physics_step, start, length=steps)[0][2]

        return jax.lax.scan(control_step, None, met)[1]

    return lambda: work(met)


def seconds(measured: dict[str, Speeds], clock: str = "per_second") -> dict[str, np.ndarray]:
    """[rounds] seconds of each of `PARTS` and of the `whole`, from what was timed; `clock` is a field of `Speeds`."""
    took = {name: 1.0 / getattr(speed, clock) for name, speed in measured.items()}
    parts = {
        "environment": took["walk"] - took["physics"],
        "inference": took["rollout"] - took["walk"],
        "update": took["update"],
        "whole": took["rollout"] + took["update"],
    }
    known, other = ("skeleton", "muscles") if "skeleton" in took else ("muscles", "skeleton")
    return parts | {known: took[known], other: took["physics"] - took[known]}


def measure(ppo: PPO, rounds: int) -> dict[str, Any]:
    """Figures of one combination: seconds of the parts, their shares, speeds end to end."""

    def timed(work: Work) -> Callable[[], float]:
        def once() -> float:
            jax.block_until_ready(work())
            return 1.0

        return once

    measured = speeds({name: timed(work) for name, work in whole_and_parts(ppo).items()}, rounds)
    took = seconds(measured)
    middle = {name: float(np.median(values)) for name, values in took.items()}
    processor = {name: float(np.median(values)) for name, values in seconds(measured, "per_cpu_second").items()}
    physics_steps = ppo.steps_per_update * round(ppo.env.control_dt / ppo.env.config.physics_step_s)
    return {
        "env_steps_per_training_step": ppo.steps_per_update,
        "seconds_per_training_step": middle["whole"],
        "seconds": {name: middle[name] for name in PARTS},
        "share": {name: middle[name] / middle["whole"] for name in PARTS},
        "share_in_processor_time": {name: processor[name] / processor["whole"] for name in PARTS},
        "processor_seconds_per_training_step": processor["whole"],
        "env_steps_per_second": ppo.steps_per_update / middle["whole"],
        "env_steps_per_second_range": [ppo.steps_per_update / float(f(took["whole"])) for f in (np.max, np.min)],
        "physics_steps_per_second": physics_steps / middle["whole"],
        "rounds": rounds,
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_throughput", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    engine = choose_engine("auto")
    parser.add_argument("--preset", default="quick", help=f"of {', '.join(PRESETS)} (quick)")
    parser.add_argument("--engines", default=engine, help=f"comma-separated, of {', '.join(ENGINES)} ({engine})")
    parser.add_argument("--bodies", default="myolegs26", help=f"comma-separated, of {', '.join(BODIES)} (myolegs26)")
    parser.add_argument("--batch", default="256", help="environments, comma-separated (256)")
    parser.add_argument("--unroll", type=int, help="control steps of a roll-out (the preset's)")
    parser.add_argument("--threads", type=int, default=0, help="worker threads of the native engine (0: all cores)")
    parser.add_argument("--rounds", type=int, default=5, help="turns; the median counts (5)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    engines = chosen(arguments.engines, ENGINES, "engine")
    bodies = chosen(arguments.bodies, tuple(BODIES), "body")
    batches = whole_numbers(arguments.batch, "--batch")
    if arguments.rounds < 1:
        raise UserError(f"--rounds {arguments.rounds} is not allowed; at least 1")
    config = preset(arguments.preset)
    if arguments.unroll is not None:
        config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, unroll=arguments.unroll))
    use_jax_cache()
    found = hardware()
    print(describe_hardware(found))
    rows = []
    for body in bodies:
        for engine in engines:
            for batch in batches:
                figures = measure(training(config, body, engine, batch, arguments.threads), arguments.rounds)
                rows.append({"preset": arguments.preset, "engine": engine, "body": body, "batch": batch} | figures)
                print(f"{body}, {engine}, {batch} environments: done", flush=True)
    print_table(
        "Where a training step's time goes, and control steps per second end to end",
        ("engine", "body", "batch", "s/training step", *PARTS, "steps/s", "physics steps/s"),
        [
            (r["engine"], r["body"], r["batch"], r["seconds_per_training_step"],
             *(f"{r['share'][name]:.0%}" for name in PARTS), f"{r['env_steps_per_second']:,.0f}",
             f"{r['physics_steps_per_second']:,.0f}")
            for r in rows
        ],
    )  # fmt: skip
    write_json(arguments.json, [row | {"hardware": found} for row in rows])
    return 0


if __name__ == "__main__":
    run_command(main)
