"""How many seconds of walking are simulated per second: `python -m benchmarks.env_throughput [--json F]`.

Every engine beside the published model stepped by C MuJoCo on the same threads, in turns within one run. The published
model is as shipped, at its own 2 ms step, in plain C between decisions (no readings, no callback); our engines run as
in training: 50 decisions per second from inside `jit`, readings and callback included. The load is the same: bursts of
0.2 s from starts spread over the gait cycle, at walking speed and with walking-like activation, so that one or two feet
carry load as they do in walking.

`published-mjx` is the published model on MJX's JAX implementation as it is shipped, where MJX takes it; it compiles for
minutes. Automatic implicit damping is switched off there: on two cores it can block JAX 0.10.2 for ever.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from benchmarks.common import (
    chosen,
    describe_hardware,
    hardware,
    numbers,
    print_table,
    speeds,
    whole_numbers,
    write_json,
)
from mjx_exo.cache import use_jax_cache
from mjx_exo.errors import UserError, run_command
from mjx_exo.files import write_atomically
from mjx_exo.musculoskeletal.bodies import BODIES, body_description
from mjx_exo.musculoskeletal.compiled import CompiledBody, compile_body, published_model
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.physics.interface import Drive, EngineConfig, PhysicsState
from mjx_exo.physics.published_model import build_published
from mjx_exo.walking.commands import GRAVITY_M_S2
from mjx_exo.walking.start_states import PHASES, build_start_states

PUBLISHED, PUBLISHED_MJX = "published", "published-mjx"
ENGINES = ("native", "mjx", "mjx-warp", PUBLISHED_MJX)
BURST_S, DECISION_S = 0.2, 0.02
PUBLISHED_STEP_S = 0.002
_STRIDE_HZ = 0.9


@dataclasses.dataclass(frozen=True)
class Load:
    """Where B environments start, and what drives their muscles; the same for every engine."""

    qpos: np.ndarray  # [B, 7 + J]
    qvel: np.ndarray  # [B, 6 + J]
    activation: np.ndarray  # [B, M], start and excitation alike


def walking_load(body: CompiledBody, batch: int, seed: int = 0) -> Load:
    """Starts over the gait cycle at 1.25 m/s, muscles at 2 to 20 % as in walking."""
    rng = np.random.default_rng(seed)
    starts = build_start_states(body, (Wearer(),), _STRIDE_HZ)
    phase = np.arange(batch) % PHASES
    activation = rng.uniform(0.02, 0.2, (batch, len(body.muscle_names)))
    return Load(starts.qpos[0, phase], starts.qvel[0, phase], activation.astype(np.float32))


def published_case(body: CompiledBody, load: Load, threads: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """One burst of all environments in the published model; returns seconds simulated. And the share on their feet."""
    published = build_published(body, PUBLISHED_STEP_S, as_shipped=True)
    c = published.coordinates
    q, v = c.to_published(load.qpos, load.qvel, *c.dependents(load.qpos[:, 7:], load.qvel[:, 6:]))
    batch = len(q)
    pieces = np.array_split(np.arange(batch), min(threads, batch))
    workers = [(rows, model := copy.copy(published.model), mujoco.MjData(model)) for rows in pieces]
    floor = published.model.geom("floor").id
    address = published.model.actuator_actadr[c.actuators]
    per_decision = round(DECISION_S / PUBLISHED_STEP_S)
    loaded = np.zeros(batch)
    pool = ThreadPoolExecutor(threads)

    def run(worker) -> None:
        rows, model, data = worker
        for e in rows:
            data.qpos[:], data.qvel[:] = q[e], v[e]
            data.qacc_warmstart[:] = 0.0
            data.act[address] = load.activation[e]
            data.ctrl[c.actuators] = load.activation[e]
            for _ in range(round(BURST_S / DECISION_S)):
                mujoco.mj_step(model, data, per_decision)
            loaded[e] = bool((data.contact.geom1 == floor).any())

    def burst() -> float:
        list(pool.map(run, workers))
        return batch * BURST_S

    return burst, lambda: float(loaded.mean())


def published_mjx_case(body: CompiledBody, load: Load) -> tuple[Callable[[], float], Callable[[], float]]:
    """The same burst of the published model on MJX. Raises `UserError` with the reason where MJX does not take it."""
    from mjx_exo.physics.mjx import mjx  # imported there without its notes about Warp

    published = build_published(body, PUBLISHED_STEP_S, as_shipped=True)
    model = published_model(body_description(body.name))  # MJX refuses some of the sensors that `published` has
    for name in ("geom_pos", "geom_size", "geom_contype", "geom_conaffinity"):  # the endless floor
        getattr(model, name)[:] = getattr(published.model, name)
    model.opt.timestep = PUBLISHED_STEP_S
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    try:
        on_device = mjx.put_model(model, impl="jax")
    except NotImplementedError as error:
        raise UserError(f"MJX does not take the published {body.name}: {error}") from None
    c, batch = published.coordinates, len(load.qpos)
    q, v = c.to_published(load.qpos, load.qvel, *c.dependents(load.qpos[:, 7:], load.qvel[:, 6:]))
    activation = np.zeros((batch, model.na))
    activation[:, model.actuator_actadr[c.actuators]] = load.activation
    control = np.zeros((batch, model.nu))
    control[:, c.actuators] = load.activation
    empty = mjx.make_data(model, impl="jax")
    start = jax.vmap(lambda q, v, a, u: empty.replace(qpos=q, qvel=v, act=a, ctrl=u))(
        *(jnp.asarray(x, jnp.float32) for x in (q, v, activation, control))
    )

    @jax.jit
    def burst(data: Any) -> Any:
        def step(data: Any, _: None) -> tuple[Any, None]:
            return jax.vmap(mjx.step, in_axes=(None, 0))(on_device, data), None

        return jax.lax.scan(step, data, length=round(BURST_S / PUBLISHED_STEP_S))[0]

    last: list[Any] = []

    def run() -> float:
        last[:] = [jax.block_until_ready(burst(start))]
        return batch * BURST_S

    return run, lambda: float((np.asarray(last[0]._impl.contact.dist) < 0.0).any(-1).mean())


def engine_case(engine: Any, load: Load) -> tuple[Callable[[], float], Callable[[], float]]:
    """The same for an engine of ours, as training uses it: decisions in a scan inside `jit`."""
    batch = len(load.qpos)
    steps = round(DECISION_S / engine.config.timestep_s)
    shapes, _ = engine.shapes()
    zeros: PhysicsState = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    start = zeros._replace(
        qpos=jnp.asarray(load.qpos), qvel=jnp.asarray(load.qvel), activation=jnp.asarray(load.activation)
    )
    gravity = jnp.tile(jnp.array([0.0, 0.0, -GRAVITY_M_S2], jnp.float32), (batch, 1))
    drive = Drive(start.activation, jnp.zeros((batch, 2)), jnp.zeros((batch, 3)), gravity)

    @jax.jit
    def burst(state: PhysicsState):
        def decision(state: PhysicsState, _: None):
            state, readings = engine.step(state, drive, steps)
            return state, readings.foot_force_n[:, :, 2].sum(-1)

        return jax.lax.scan(decision, state, length=round(BURST_S / DECISION_S))

    last: list[Any] = []

    def run() -> float:
        last[:] = [jax.block_until_ready(burst(start))]
        return batch * BURST_S

    return run, lambda: float((np.asarray(last[0][1])[-1] > 1.0).mean())


def build_engine(name: str, body: CompiledBody, batch: int, timestep_s: float, threads: int) -> Any:
    """An engine of ours by its name here."""
    config = EngineConfig(timestep_s=timestep_s, threads=threads)
    if name == "native":
        from mjx_exo.physics.native import NativeEngine

        return NativeEngine(body, batch, config=config)
    from mjx_exo.physics.mjx import MjxEngine

    return MjxEngine(body, batch, config=config, impl="warp" if name == "mjx-warp" else "jax")


def measure(
    body_name: str, batch: int, engines: tuple[str, ...], steps_s: tuple[float, ...], threads: int, rounds: int
) -> list[dict[str, Any]]:
    """Rows of one body and batch: the published model first, then every engine at every physics step."""
    body = compile_body(body_name)
    load = walking_load(body, batch)
    cases, on_feet = {}, {}
    cases[PUBLISHED, PUBLISHED_STEP_S], on_feet[PUBLISHED, PUBLISHED_STEP_S] = published_case(body, load, threads)
    for name in engines:
        for step_s in steps_s if name != PUBLISHED_MJX else (PUBLISHED_STEP_S,):
            try:
                if name == PUBLISHED_MJX:
                    case = published_mjx_case(body, load)
                else:
                    case = engine_case(build_engine(name, body, batch, step_s, threads), load)
            except UserError as error:
                print(f"{name} left out: {error}")
                break
            cases[name, step_s], on_feet[name, step_s] = case
    measured = speeds(cases, rounds)
    reference = measured[PUBLISHED, PUBLISHED_STEP_S]
    return [
        {
            "engine": name,
            "body": body_name,
            "muscles": len(body.muscle_names),
            "batch": batch,
            "threads": threads,
            "physics_step_s": step_s,
            "sim_seconds_per_second": float(np.median(speed.per_second)),
            "physics_steps_per_second": float(np.median(speed.per_second) / step_s),
            "ratio_to_published": float(np.median(speed.per_second / reference.per_second)),
            "ratio_range": [
                float((speed.per_second / reference.per_second).min()),
                float((speed.per_second / reference.per_second).max()),
            ],
            "ratio_in_processor_time": float(np.median(speed.per_cpu_second / reference.per_cpu_second)),
            "share_on_feet": on_feet[name, step_s](),
            "rounds": rounds,
        }
        for (name, step_s), speed in measured.items()
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """What one simulated second of one environment costs: left over the batch, right over the number of muscles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure, (by_batch, by_muscles) = plt.subplots(1, 2, figsize=(11, 6), layout="constrained", sharey=True)
    engines = list(dict.fromkeys((row["engine"], row["physics_step_s"]) for row in rows))
    sizes = sorted({row["muscles"] for row in rows})
    markers = dict(zip(sizes, "osD", strict=False))

    def line(axes: Any, points: list[dict[str, Any]], x: str, label: str, marker: str) -> None:
        points = sorted(points, key=lambda row: row[x])
        engine = points[0]["engine"], points[0]["physics_step_s"]
        style = {"color": f"C{engines.index(engine)}", "ls": "--" if engine[0].startswith(PUBLISHED) else "-"}
        cost_ms = [1e3 / row["sim_seconds_per_second"] for row in points]
        axes.plot([row[x] for row in points], cost_ms, marker=marker, label=label, **style)

    for engine, step_s in engines:
        mine = [row for row in rows if (row["engine"], row["physics_step_s"]) == (engine, step_s)]
        name = f"{engine}, {1e3 * step_s:g} ms steps"
        for muscles in dict.fromkeys(row["muscles"] for row in mine):
            points = [row for row in mine if row["muscles"] == muscles]
            line(by_batch, points, "batch", f"{name}, {muscles} muscles", markers[muscles])
        batches = sorted({row["batch"] for row in mine})
        for batch in dict.fromkeys((batches[0], batches[-1])):
            points = [row for row in mine if row["batch"] == batch]
            line(by_muscles, points, "muscles", f"{name}, {batch} environments", "o" if batch == batches[-1] else "x")
    by_batch.set(xlabel="environments", ylabel="ms of wall clock per simulated second\nof one environment")
    by_batch.set(xscale="log", yscale="log")
    batches = sorted({row["batch"] for row in rows})
    by_batch.set_xticks(batches, [str(batch) for batch in batches])
    by_muscles.set(xlabel="muscles", xticks=sizes)
    by_batch.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    by_batch.yaxis.set_major_formatter(ScalarFormatter())
    for axes in (by_batch, by_muscles):
        axes.minorticks_off()
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130))
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.env_throughput", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    accelerated = jax.default_backend() != "cpu"
    parser.add_argument("--engines", default="native,mjx" if accelerated else "native", help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--bodies", default=",".join(BODIES), help=f"of {', '.join(BODIES)}")
    parser.add_argument("--batch", default="256", help="environments, comma-separated (256)")
    parser.add_argument("--step-ms", default="5", help="physics steps of our engines in ms, comma-separated (5)")
    parser.add_argument("--threads", type=int, default=0, help="worker threads of native and published (0: all cores)")
    parser.add_argument("--rounds", type=int, default=7, help="turns; the median counts (7)")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    parser.add_argument(
        "--figure", type=Path, metavar="PNG", help="draw what a simulated second costs over batch and muscles"
    )
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    engines = chosen(arguments.engines, ENGINES, "engine")
    bodies = chosen(arguments.bodies, tuple(BODIES), "body")
    batches, steps_ms = whole_numbers(arguments.batch, "--batch"), numbers(arguments.step_ms, "--step-ms")
    if arguments.rounds < 1:
        raise UserError(f"--rounds {arguments.rounds} is not allowed; at least 1")
    threads = arguments.threads or len(os.sched_getaffinity(0))
    use_jax_cache()
    found = hardware()
    print(describe_hardware(found))
    rows: list[dict[str, Any]] = []
    for body in bodies:
        for batch in batches:
            steps_s = tuple(1e-3 * ms for ms in steps_ms)
            rows += measure(body, batch, engines, steps_s, threads, arguments.rounds)
            print(f"{body}, {batch} environments: done", flush=True)
    columns = ("engine", "body", "batch", "threads", "step ms", "sim s/s", "ratio", "by CPU", "on feet")
    print_table(
        "Seconds simulated per second; ratio to the published model in C MuJoCo, same threads, in turns", columns,
        [
            (r["engine"], r["body"], r["batch"], r["threads"], 1e3 * r["physics_step_s"], r["sim_seconds_per_second"],
             r["ratio_to_published"], r["ratio_in_processor_time"], f"{r['share_on_feet']:.0%}")
            for r in rows
        ],
    )  # fmt: skip
    write_json(arguments.json, [row | {"hardware": found} for row in rows])
    if arguments.figure:
        draw(rows, arguments.figure)
    return 0


if __name__ == "__main__":
    run_command(main)
