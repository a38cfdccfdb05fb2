"""Everything a machine with an NVIDIA GPU and no network is needed for, in a few short calls.

  python -m benchmarks.cuda_machine --out DIR --wheels FOLDER --minutes 9

Installs the wheels that were carried along, looks at the GPU, compares MJX with the native engine there, measures the
throughput table and where a training step's time goes, trains `quick` at 4096 environments and a whole teacher with
80 muscles: standing, walking, the device. Every finished part is written to DIR/results.json at once; the next call
goes on with what is missing. Exit code 0: all done; 3: call again; 2: it cannot be done here.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mjx_exo.errors import UserError, run_command
from mjx_exo.files import write_atomically

CALL_AGAIN = 3
# Import names of what the work needs beyond the standard library; `warp` is an extra.
NEEDED = (
    "numpy", "scipy", "jax", "jaxlib", "flax", "optax", "orbax.checkpoint", "brax", "mujoco", "mujoco.mjx", "myo_sim",
    "numba", "matplotlib", "PIL", "tyro", "tensorboardX", "rich",
)  # fmt: skip
# Seconds a part may need before it is started: a program of MJX compiles for tens of seconds.
_PART_S = 90.0
_TRAIN_S = 120.0


class Stage(NamedTuple):
    """One training of a chain; each starts from the one before."""

    preset: str
    steps: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured."""

    bodies: tuple[str, ...] = ("myolegs26", "myolegs")
    implementations: tuple[str, ...] = ("jax", "warp")
    batches: tuple[int, ...] = (256, 1024, 4096, 16384)
    rounds: int = 3
    train_envs: int = 4096
    # Not many fewer updates than on a laptop, each from eight times the steps.
    train_arguments: tuple[str, ...] = (
        "--ppo.total-steps", "26000000", "--ppo.unroll", "16", "--ppo.minibatches", "16",
    )  # fmt: skip
    teacher_body: str = "myolegs"
    teacher: tuple[Stage, ...] = (
        Stage("upright", 18_000_000), Stage("walk", 50_000_000), Stage("assist", 20_000_000),
    )  # fmt: skip
    teacher_arguments: tuple[str, ...] = ("--ppo.unroll", "16", "--ppo.minibatches", "16")
    teacher_hidden: tuple[str, ...] = ("384", "192")


REHEARSAL = Plan(
    bodies=("myolegs26",), implementations=("jax",), batches=(8,), rounds=1, train_envs=8,
    train_arguments=("--ppo.total-steps", "512", "--ppo.unroll", "8"),
    teacher_body="myolegs26", teacher=(Stage("upright", 64), Stage("assist", 64)),
    teacher_arguments=("--ppo.unroll", "8"),
)  # fmt: skip


class Started(NamedTuple):
    """An engine that has run its burst of physics once (see `benchmarks.env_throughput`)."""

    run: Callable[[], float]
    on_feet: Callable[[], float]
    timestep_s: float
    muscles: int
    first_call_s: float  # tracing and compiling, others compiling beside it


class Results:
    """DIR/results.json: what is done. Written whole after every part."""

    def __init__(self, file: Path) -> None:
        """Reads what earlier calls left; raises `UserError` if it is no JSON."""
        self.file = file
        self.parts: dict[str, Any] = {}
        if file.exists():
            try:
                self.parts = json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise UserError(f"{file} is not JSON ({error}); allowed: the file an earlier call wrote") from None

    def done(self, part: str) -> bool:
        """Whether a part needs no more work."""
        return part in self.parts

    def put(self, part: str, value: Any) -> None:
        """Keeps a part's result."""
        self.parts[part] = value
        text = json.dumps(self.parts, indent=1) + "\n"
        write_atomically(self.file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


class Clock:
    """How much of this call is left."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60.0 * minutes

    def left_s(self) -> float:
        """Seconds until this call should return."""
        return self.end - time.monotonic()


def install(wheels: Path, site: Path) -> None:
    """Unpacks every wheel of a folder into `site`, without asking any index, and puts `site` first on the path."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        raise UserError(f"--wheels {wheels}: no wheel there")
    stamp = site / "installed.json"
    names = [file.name for file in files]
    if not (stamp.exists() and json.loads(stamp.read_text()) == names):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        if subprocess.run([*command, "--target", str(site), *map(str, files)]).returncode:
            raise UserError(f"--wheels {wheels}: pip cannot install them; its message is above")
        write_atomically(stamp, lambda temporary: temporary.write_text(json.dumps(names)))
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))


def missing_modules() -> list[str]:
    """Which of `NEEDED` cannot be found."""
    missing = []
    for name in NEEDED:
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            missing.append(name)
    return missing


def check(allow_cpu: bool) -> dict[str, Any]:
    """The machine. Raises `UserError` if a package or the GPU is missing."""
    missing = missing_modules()
    if missing:
        raise UserError(f"not installed here: {', '.join(missing)}; carry their wheels and name the folder (--wheels)")
    import jax

    from benchmarks.common import describe_hardware, hardware
    from mjx_exo.physics.mjx import warp_installed

    if jax.default_backend() != "gpu" and not allow_cpu:
        raise UserError(f"JAX sees no CUDA device here, only {jax.default_backend()}; --rehearse tries the script")
    found = hardware()
    print(describe_hardware(found))
    return found | {"backend": jax.default_backend(), "warp": warp_installed()}


def parity(body_name: str, implementation: str) -> dict[str, Any]:
    """How far MJX and the native engine are apart there (see `benchmarks.parity`)."""
    from benchmarks import parity as comparison

    figures = comparison.parity(body_name, implementation)
    return figures | {"above_bar": comparison.above_bar(figures)}


@functools.cache
def started(body_name: str, implementation: str, batch: int) -> Started:
    """One engine, compiled and run once."""
    from benchmarks.env_throughput import build_engine, engine_case, walking_load
    from mjx_exo.musculoskeletal.compiled import compile_body

    body = compile_body(body_name)
    engine = build_engine({"jax": "mjx", "warp": "mjx-warp"}[implementation], body, batch, 0.005, 0)
    run, on_feet = engine_case(engine, walking_load(body, batch))
    began = time.perf_counter()
    run()
    return Started(run, on_feet, engine.config.timestep_s, len(body.muscle_names), time.perf_counter() - began)


def start_together(combinations: Sequence[tuple[str, str, int]]) -> None:
    """Compiles engines side by side: a program of MJX keeps one processor busy for half a minute and the GPU idle.

    What does not run is left to be said when it is measured.
    """
    from mjx_exo.musculoskeletal.compiled import compile_body

    for body_name in {body_name for body_name, _, _ in combinations}:
        compile_body(body_name)
    with ThreadPoolExecutor(max(1, len(combinations))) as pool:
        for future in [pool.submit(started, *combination) for combination in combinations]:
            future.exception()


def throughput(body_name: str, implementation: str, batch: int, rounds: int) -> dict[str, Any]:
    """Physics steps per second of one engine, muscles and readings included, in decisions scanned inside `jit`."""
    import numpy as np

    from benchmarks.common import speeds

    case = started(body_name, implementation, batch)
    speed = speeds({"engine": case.run}, rounds)["engine"].per_second / case.timestep_s
    return {
        "body": body_name,
        "muscles": case.muscles,
        "implementation": implementation,
        "batch": batch,
        "physics_steps_per_second": float(np.median(speed)),
        "range": [float(speed.min()), float(speed.max())],
        "first_call_s": round(case.first_call_s, 1),
        "share_on_feet": case.on_feet(),
    }


def training_step(body_name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Where the time of a training step of `quick` goes there (see `benchmarks.train_throughput`)."""
    from benchmarks import train_throughput
    from mjx_exo.presets import preset

    ppo = train_throughput.training(preset("quick"), body_name, "mjx", batch, threads=0)
    return {"body": body_name, "batch": batch} | train_throughput.measure(ppo, rounds)


def train(plan: Plan, folder: Path, seconds: float) -> dict[str, Any] | None:
    """Trains `quick` on MJX, or goes on with it, for at most so long; its summary, or None if more is left."""
    arguments = ["--preset", "quick", "--walking.num-envs", str(plan.train_envs), *plan.train_arguments]
    if not run_training(folder, arguments, seconds):
        return None
    return judged(json.loads((folder / "summary.json").read_text(encoding="utf-8")))


def run_training(folder: Path, arguments: Sequence[str], seconds: float) -> bool:
    """Trains on MJX into a folder, or goes on there, for at most so long; whether it is finished.

    Raises `UserError` for a training that fails.
    """
    resume = (folder / "config.json").exists()
    command = [sys.executable, "-m", "mjx_exo.train"]
    if resume:
        command += ["--resume", str(folder), *(word for word in arguments if word == "--no-check")]
    else:
        command += ["--out", str(folder), "--walking.engine", "mjx", *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    print(f"training ran for {time.monotonic() - began:.0f} s", flush=True)
    if code not in (0, 130, -signal.SIGTERM):  # the last where it was stopped before it had begun
        raise UserError(f"the training in {folder} ended with exit code {code}; its messages are above")
    return code == 0


def train_teacher(plan: Plan, folder: Path, seconds: float) -> dict[str, Any] | None:
    """Trains a teacher on MJX stage by stage, or goes on with it, for at most so long; None if more is left.

    Only the last stage is checked. `seconds` of each stage are all that its calls took, compiling included.
    """
    end = time.monotonic() + seconds
    before = ""
    stages: dict[str, Any] = {}
    for stage in plan.teacher:
        run, file = folder / stage.preset, folder / f"{stage.preset}.json"
        arguments = ["--preset", stage.preset, "--walking.body", plan.teacher_body]
        arguments += ["--walking.num-envs", str(plan.train_envs), "--ppo.total-steps", str(stage.steps)]
        arguments += [*plan.teacher_arguments, *teacher_networks(stage.preset, plan.teacher_hidden)]
        arguments += ["--from", before] if before else []
        arguments += ["--no-check"] if stage is not plan.teacher[-1] else []
        done = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"finished": False, "seconds": 0.0}
        if not done["finished"]:
            began = time.monotonic()
            if end <= began:
                return None
            finished = run_training(run, arguments, end - began)
            done = {"finished": finished, "seconds": round(done["seconds"] + time.monotonic() - began, 1)}
            text = json.dumps(done)
            write_atomically(file, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
            if not finished:
                return None
        stages[stage.preset] = {"env_steps": stage.steps, "seconds": done["seconds"]}
        before = str(run)
    summary = json.loads((Path(before) / "summary.json").read_text(encoding="utf-8"))
    return {
        "body": plan.teacher_body,
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "summary": summary,
    }


def teacher_networks(preset_name: str, hidden: Sequence[str]) -> list[str]:
    """Options that make the human's network as wide in every stage."""
    option = "--ppo.actors.human.hidden" if preset_name == "assist" else "--ppo.actor.hidden"
    return [option, *hidden]


def judged(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary and whether it meets the bar that holds on a laptop."""
    walks = (
        summary["fall_free_share"] >= 61 / 64
        and abs(summary["speed_mean_m_s"] - 1.25) <= 0.1
        and summary["knee_swing_deg"] >= 40.0
        and summary["alternating_share"] >= 0.95
    )
    return summary | {"meets_bar": bool(walks)}


def parts_of(plan: Plan, results: Results) -> dict[str, Callable[[], Any]]:
    """Everything but installing, checking and the trainings, by name, in the order it is done."""
    parts: dict[str, Callable[[], Any]] = {}
    for body, implementation, batch in combinations_of(plan, results):
        parts[throughput_name(body, implementation, batch)] = lambda b=body, i=implementation, n=batch: throughput(
            b, i, n, plan.rounds
        )
    for implementation in implementations_of(plan, results):
        for body in plan.bodies:
            parts[f"parity {body} {implementation}"] = lambda b=body, i=implementation: parity(b, i)
    for body in plan.bodies:
        parts[f"training step {body}"] = lambda b=body: training_step(b, plan.train_envs, plan.rounds)
    return parts


def implementations_of(plan: Plan, results: Results) -> list[str]:
    """The implementations of MJX that are there."""
    return [i for i in plan.implementations if i != "warp" or results.parts["check"]["warp"]]


def combinations_of(plan: Plan, results: Results) -> list[tuple[str, str, int]]:
    """Body, implementation and batch of every throughput to measure."""
    return [(b, i, n) for n in plan.batches for b in plan.bodies for i in implementations_of(plan, results)]


def throughput_name(body: str, implementation: str, batch: int) -> str:
    """The name of a throughput's part."""
    return f"throughput {body} {implementation} {batch}"


def work(plan: Plan, out: Path, clock: Clock, allow_cpu: bool, only: str = "") -> bool:
    """Does what is missing while there is time; True if nothing is left. `only` leaves out what starts otherwise."""
    results = Results(out / "results.json")
    results.put("check", check(allow_cpu))
    from mjx_exo.cache import use_jax_cache

    use_jax_cache()
    missing = [
        c
        for c in combinations_of(plan, results)
        if not results.done(name := throughput_name(*c)) and wanted(name, only)
    ]
    parts = parts_of(plan, results)
    trainings: dict[str, Callable[[float], Any]] = {
        "train quick": lambda seconds: train(plan, out / "quick", seconds),
        f"teacher {plan.teacher_body}": lambda seconds: train_teacher(plan, out / "teacher", seconds),
    }
    first = [name for name in parts if name.startswith("throughput")]
    for word in filter(None, only.split(",")):
        if not any(name.startswith(word) for name in (*trainings, *parts)):
            allowed = "throughput, train, teacher, parity or training step"
            raise UserError(f"--only {word} is no part; parts begin with {allowed}")
    for name in [*first, *trainings, *(name for name in parts if name not in first)]:
        if results.done(name) or not wanted(name, only):
            continue
        if clock.left_s() < (_TRAIN_S if name in trainings else _PART_S):
            return False
        if name in first and missing:
            print(f"compiling {len(missing)} engines side by side …", flush=True)
            start_together(missing)
            missing = []
        print(f"{name} …", flush=True)
        if name in trainings:
            value: Any = trainings[name](clock.left_s() - 0.5 * _PART_S)
            if value is None:
                return False
        else:
            value = measured(parts[name])
        results.put(name, value)
        print(f"  {json.dumps(value)}", flush=True)
    show(results)
    return True


def wanted(name: str, only: str) -> bool:
    """Whether a part's name starts with one of the comma-separated words of `only`; all do if it is empty."""
    return not only or name.startswith(tuple(only.split(",")))


def measured(part: Callable[[], Any]) -> Any:
    """A part's result, or why there is none: one combination that does not run must not cost the others."""
    try:
        return part()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def show(results: Results) -> None:
    """The tables on the screen."""
    from benchmarks.common import print_table

    rows = [v for k, v in results.parts.items() if k.startswith("throughput") and "failed" not in v]
    print_table(
        "Physics steps per second, 5 ms, muscles and readings included",
        ("muscles", "implementation", "batch", "steps/s", "first call s"),
        [
            (r["muscles"], r["implementation"], r["batch"], f"{r['physics_steps_per_second']:,.0f}", r["first_call_s"])
            for r in rows
        ],
    )  # fmt: skip
    print(
        json.dumps({k: v for k, v in results.parts.items() if k.startswith(("parity", "train", "teacher"))}, indent=1)
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0 if all is done, 3 if it has to be called again."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_machine", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results and run; the same in every call")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first")
    parser.add_argument("--site", type=Path, help="where wheels are unpacked (OUT/site); may be lost between calls")
    parser.add_argument("--minutes", type=float, default=9.0, help="return within about so long (9)")
    parser.add_argument(
        "--only", default="", help="comma-separated beginnings of parts: throughput,train,teacher,parity"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on any device: does the script work?")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if arguments.minutes <= 0:
        raise UserError(f"--minutes {arguments.minutes:g} is not allowed; above 0")
    clock = Clock(arguments.minutes)
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MJX_EXO_CACHE_DIR", str((arguments.out / "cache").resolve()))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the training is a process beside this one
    if arguments.wheels is not None:
        install(arguments.wheels, (arguments.site or arguments.out / "site").resolve())
    finished = work(
        REHEARSAL if arguments.rehearse else Plan(), arguments.out, clock, arguments.rehearse, arguments.only
    )
    print("all done" if finished else f"not done yet: call again with --out {arguments.out}", flush=True)
    return 0 if finished else CALL_AGAIN


if __name__ == "__main__":
    run_command(main)
