"""How long a training waits before its first step: `python -m benchmarks.compile_time [--json F]`.

For every engine and body: building the environment (start states, models, what numba compiles), tracing the two
programs of a training step (roll-out and update) and compiling them, first with an empty cache and then again from the
cache that the first time filled. The native engine's roll-out calls the host, so that no cache can keep it; it is
small. Seconds are of the clock; those of the processor hold on a busy machine, too. With `--fit` also the fit of the
muscle paths, which a body needs once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.common import chosen, describe_hardware, hardware, print_table, write_json
from benchmarks.train_throughput import ENGINES, training
from mjx_exo.errors import UserError, run_command
from mjx_exo.learning.ppo import PPO
from mjx_exo.musculoskeletal.bodies import BODIES
from mjx_exo.musculoskeletal.compiled import compile_body
from mjx_exo.presets import PRESETS, preset
from mjx_exo.walking.build import choose_engine


def use_empty_cache(folder: str) -> None:
    """Lets JAX keep every compiled program of this process in `folder`, and nothing it knew before."""
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()


def seconds_to_train(build: Callable[[], PPO]) -> dict[str, float]:
    """Seconds of building, tracing and compiling one training step, cold."""
    jax.clear_caches()
    clock = [time.perf_counter()]
    ppo = build()
    state = jax.eval_shape(ppo.init, jax.random.key(0))
    clock.append(time.perf_counter())
    lowered = [jax.jit(ppo.rollout).lower(state)]
    lowered.append(jax.jit(ppo.update).lower(*jax.eval_shape(ppo.rollout, state)))
    clock.append(time.perf_counter())
    for program in lowered:
        program.compile()
        clock.append(time.perf_counter())
    names = ("build_s", "trace_s", "compile_rollout_s", "compile_update_s")
    return {name: after - before for name, before, after in zip(names, clock, clock[1:], strict=False)}


def measure(build: Callable[[], PPO]) -> dict[str, float]:
    """The same with an empty cache, and how long it takes to come this far again; both in processor time, too."""
    began = time.process_time()
    first = seconds_to_train(build)
    between = time.process_time()
    again = seconds_to_train(build)
    processor = {"total_processor_s": between - began, "again_processor_s": time.process_time() - between}
    return first | {"total_s": sum(first.values()), "again_s": sum(again.values())} | processor


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_time", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    engines = ENGINES if choose_engine("auto") == "native" else ("mjx",)
    parser.add_argument("--preset", default="quick", help=f"of {', '.join(PRESETS)} (quick)")
    parser.add_argument("--engines", default=",".join(engines), help=f"of {', '.join(ENGINES)} ({','.join(engines)})")
    parser.add_argument("--bodies", default=",".join(BODIES), help=f"of {', '.join(BODIES)} (all)")
    parser.add_argument("--batch", type=int, default=256, help="environments (256)")
    parser.add_argument("--fit", action="store_true", help="fit the bodies' muscle paths, too: a minute each")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    engines = chosen(arguments.engines, ENGINES, "engine")
    bodies = chosen(arguments.bodies, tuple(BODIES), "body")
    config = preset(arguments.preset)
    if arguments.batch < 1:
        raise UserError(f"--batch {arguments.batch} is not allowed; at least 1")
    found = hardware()
    print(describe_hardware(found))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        use_empty_cache(cache)
        for body in bodies:
            began = time.perf_counter()
            compile_body(body, use_cache=not arguments.fit)
            fit = {"fit_s": time.perf_counter() - began} if arguments.fit else {}
            for engine in engines:
                figures = measure(lambda b=body, e=engine: training(config, b, e, arguments.batch, threads=0))
                rows.append({"engine": engine, "body": body, "batch": arguments.batch} | fit | figures)
                print(f"{body}, {engine}: done", flush=True)
    columns = ["build_s", "trace_s", "compile_rollout_s", "compile_update_s", "total_s", "again_s"]
    columns += ["total_processor_s", "again_processor_s"]
    columns = ["fit_s", *columns] if arguments.fit else columns
    print_table(
        f"Seconds until a training can start, {arguments.batch} environments",
        ("engine", "body", *(name.removesuffix("_s").replace("_", " ") for name in columns)),
        [(r["engine"], r["body"], *(f"{r[name]:.1f}" for name in columns)) for r in rows],
    )
    write_json(arguments.json, [row | {"hardware": found} for row in rows])
    return 0


if __name__ == "__main__":
    run_command(main)
