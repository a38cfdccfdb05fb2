"""`python -m benchmarks.random_actions`: a million control steps of random actions; none may leave a NaN behind."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from mjx_exo.errors import run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.random_actions", description=__doc__)
    p.add_argument("--steps", type=int, default=1_000_000)
    p.add_argument("--num-envs", type=int, default=512)
    p.add_argument("--body", default="myolegs26")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", type=Path)
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 1 if anything was not finite."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    import jax
    import jax.numpy as jnp

    from mjx_exo.gait.files import write_json
    from mjx_exo.walking.build import build_environment
    from mjx_exo.walking.config import CommandConfig, WalkingConfig

    command = CommandConfig(speed_m_s=(0.5, 2.0), slope_rad=(-0.14, 0.14), resample_s=2.0, push_n=150.0)
    env = build_environment(
        WalkingConfig(
            body=arguments.body, num_envs=arguments.num_envs, wearers=16, command=command, device="hip_3200g",
            device_mode="active",
        )
    )  # fmt: skip
    chunk = 50

    @jax.jit
    def roll(state, key):
        def step(state, key):
            human, exo = jax.random.split(key)
            action = {
                "human": 2.0 * jax.random.normal(human, (env.num_envs, env.human_action_size)),
                "exo": 2.0 * jax.random.normal(exo, (env.num_envs, 2)),
            }
            state = env.step(state, action)
            floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating) and x.size]
            return state, (jnp.stack([jnp.isfinite(x).all() for x in floats]).all(), state.terminated.sum())

        return jax.lax.scan(step, state, jax.random.split(key, chunk))

    state = jax.jit(env.reset)(jax.random.key(arguments.seed))
    state = state.replace(curriculum=state.curriculum._replace(strictness=jnp.float32(1.0), widen=jnp.float32(1.0)))
    done, falls, finite, began = 0, 0, True, time.monotonic()
    key = jax.random.key(arguments.seed + 1)
    while done < arguments.steps and finite:
        key, now = jax.random.split(key)
        state, (good, fell) = roll(state, now)
        done += chunk * env.num_envs
        falls += int(fell.sum())
        finite = bool(good.all())
        print(f"\r{done:,} of {arguments.steps:,} steps, {falls:,} falls, all finite: {finite}", end="", flush=True)
    seconds = time.monotonic() - began
    print(f"\n{done / seconds:,.0f} steps/s")
    if arguments.json is not None:
        write_json(arguments.json, {"steps": done, "falls": falls, "finite": finite, "seconds": seconds})
    return 0 if finite else 1


if __name__ == "__main__":
    run_command(main)
