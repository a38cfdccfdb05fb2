"""How far MJX and the native engine are apart: `python -m benchmarks.parity [--json F]`.

Both start from the same 64 states, spread over the gait cycle and disturbed, of two different wearers, with the same
excitations, device torques, pushes and a sloped gravity. Compared are

* accelerations over one step in the air: norm of the difference over the norm, the largest of all environments;
* the same with the feet on the ground, over ten steps, 99th percentile: in single precision as training runs, and in
  double precision, where rounding does not hide a difference of method (Warp has single precision only);
* joint angles after half a second on their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import chosen, describe_hardware, hardware, print_table, write_json
from mjx_exo.cache import use_jax_cache
from mjx_exo.errors import UserError, run_command
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.compiled import CompiledBody, compile_body
from mjx_exo.musculoskeletal.skeleton import ContactOptions
from mjx_exo.musculoskeletal.wearer import WearerRange, draw_wearers
from mjx_exo.physics.interface import Drive, EngineConfig, PhysicsState
from mjx_exo.physics.mjx import IMPLEMENTATIONS, MjxEngine, warp_installed
from mjx_exo.physics.native import NativeEngine
from mjx_exo.walking.start_states import PHASES, build_start_states

ENVS = 64
DT_S = 0.005
CONTACT_STEPS, ANGLE_STEPS = 10, 100
WEARERS = draw_wearers(2, WearerRange(), 0)
# Largest values that the project promises, in the keys of `parity`.
BARS = {
    "air_relative_max": 1e-3,
    "contact_relative_p99_double": 1e-2,
    "angle_deg_median": 0.1,
    "angle_deg_p95": 0.5,
}
# Enough iterations for both solvers to arrive: after four, C MuJoCo's stops short of Warp's in one step of a hundred.
WARP_CONTACT = ContactOptions(solver_iterations=8, line_search_iterations=20)

Step = Callable[[PhysicsState, Drive], tuple[PhysicsState, Any]]


def random_start(body: CompiledBody, engine: Any, dtype: Any = np.float32) -> tuple[PhysicsState, Drive]:
    """States over the gait cycle, disturbed, with muscles, device and pushes at work; the numbers are float32's."""
    rng, n = np.random.default_rng(0), engine.num_envs
    joints, muscles = len(body.joint_names), len(body.muscle_names)
    starts = build_start_states(body, engine.wearers, 0.91)
    row = rng.integers(0, PHASES, n)
    qpos = starts.qpos[engine.wearer_of, row].astype(np.float64)
    qvel = starts.qvel[engine.wearer_of, row] + 0.1 * rng.standard_normal((n, 6 + joints))
    qpos[:, 7:] += 0.05 * rng.standard_normal((n, joints))
    state = PhysicsState(
        qpos, qvel, rng.uniform(0.0, 0.5, (n, muscles)), np.zeros_like(qvel), np.zeros((n, 2)), np.zeros((n, 0))
    )
    drive = Drive(
        rng.uniform(0.0, 0.5, (n, muscles)), rng.uniform(-10.0, 10.0, (n, 2)), rng.uniform(-30.0, 30.0, (n, 3)),
        np.tile([0.6, 0.0, -9.79], (n, 1)),
    )  # fmt: skip
    return jax.tree.map(lambda x: jnp.asarray(x.astype(np.float32), dtype), (state, drive))


def lifted(state: PhysicsState) -> PhysicsState:
    """The same states in the air."""
    return state._replace(qpos=state.qpos.at[:, 2].add(1.0))


def relative_difference(one: Any, other: Any) -> np.ndarray:
    """[N] norm of the difference over the norm of the second; both [N, K]."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return np.linalg.norm(one - other, axis=-1) / np.linalg.norm(other, axis=-1)


def accelerations_apart(step: Step, native: NativeEngine, state: PhysicsState, drive: Drive) -> np.ndarray:
    """[N] relative difference of the accelerations over one step of `DT_S`."""
    ours, theirs = step(state, drive)[0], native.step_numpy(state, drive, 1)[0]
    return relative_difference((ours.qvel - state.qvel) / DT_S, (theirs.qvel - state.qvel) / DT_S)


def contact_apart(step: Step, native: NativeEngine, state: PhysicsState, drive: Drive) -> np.ndarray:
    """[CONTACT_STEPS · N] relative differences along a walk of ours, each step from the same float32 state."""
    differences = []
    for _ in range(CONTACT_STEPS):
        differences.append(accelerations_apart(step, native, state, drive))
        after = step(state, drive)[0]
        state = jax.tree.map(lambda new, old: new.astype(jnp.float32).astype(old.dtype), after, state)
    return np.concatenate(differences)


def angles_apart(step: Step, native: NativeEngine, state: PhysicsState, drive: Drive) -> np.ndarray:
    """[N, J] difference of the joint angles in degrees after `ANGLE_STEPS` steps of each engine on its own."""
    theirs = native.step_numpy(state, drive, ANGLE_STEPS)[0]
    for _ in range(ANGLE_STEPS):
        state, _ = step(state, drive)
    return np.degrees(np.abs(np.asarray(state.qpos)[:, 7:] - theirs.qpos[:, 7:]))


def parity(body_name: str, implementation: str) -> dict[str, float | None]:
    """The figures of one body and MJX implementation; None where there is no double precision."""
    body = compile_body(body_name)
    config = EngineConfig(timestep_s=DT_S, contact=WARP_CONTACT if implementation == "warp" else ContactOptions())
    native = NativeEngine(body, ENVS, WEARERS, config)

    def stepper() -> tuple[MjxEngine, Step]:
        engine = MjxEngine(body, ENVS, WEARERS, config, impl=implementation)
        return engine, jax.jit(lambda state, drive: engine.step(state, drive, 1))

    engine, step = stepper()
    state, drive = random_start(body, engine)
    air = accelerations_apart(step, native, lifted(state), drive)
    ground, angles = contact_apart(step, native, state, drive), angles_apart(step, native, state, drive)
    double = None
    if implementation == "jax":
        with jax.enable_x64(True):
            engine, step = stepper()
            double = float(np.percentile(contact_apart(step, native, *random_start(body, engine, np.float64)), 99))
    return {
        "air_relative_max": float(air.max()),
        "contact_relative_p99": float(np.percentile(ground, 99)),
        "contact_relative_p99_double": double,
        "angle_deg_median": float(np.median(angles)),
        "angle_deg_p95": float(np.percentile(angles, 95)),
    }


def above_bar(figures: dict[str, float | None]) -> list[str]:
    """Which figures are above what is promised."""
    return [name for name, bar in BARS.items() if figures[name] is not None and not figures[name] <= bar]


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 1 if a figure is above its bar."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bodies", default="myolegs26", help=f"comma-separated, of {', '.join(BODIES)} (myolegs26)")
    installed = "jax,warp" if warp_installed() else "jax"
    parser.add_argument("--impl", default=installed, help=f"of {', '.join(IMPLEMENTATIONS)} ({installed})")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    bodies = chosen(arguments.bodies, tuple(BODIES), "body")
    implementations = chosen(arguments.impl, IMPLEMENTATIONS, "MJX implementation")
    if "warp" in implementations and not warp_installed():
        raise UserError("MJX implementation 'warp' is not installed; install the extra 'gpu', or use --impl jax")
    use_jax_cache()
    found = hardware()
    print(describe_hardware(found))
    rows = []
    for body in bodies:
        for implementation in implementations:
            figures = parity(body, implementation)
            rows.append({"body": body, "implementation": implementation, **figures, "above_bar": above_bar(figures)})
            print(f"{body}, {implementation}: done", flush=True)
    columns = ("body", "MJX on", "air", "contact p99", "in double", "angle median °", "angle p95 °", "above its bar")
    bars = ", ".join(f"{name} {bar:g}" for name, bar in BARS.items())
    print_table(
        f"MJX against native, {ENVS} states (bars: {bars})", columns,
        [
            (r["body"], r["implementation"], r["air_relative_max"], r["contact_relative_p99"],
             "-" if r["contact_relative_p99_double"] is None else r["contact_relative_p99_double"],
             r["angle_deg_median"], r["angle_deg_p95"], ", ".join(r["above_bar"]) or "none")
            for r in rows
        ],
    )  # fmt: skip
    write_json(arguments.json, [row | {"hardware": found} for row in rows])
    return 1 if any(row["above_bar"] for row in rows) else 0


if __name__ == "__main__":
    run_command(main)
