"""`python -m mjx_exo.evaluate POLICY`: how far, how human and how costly, over a grid of speeds and slopes.

The policy walks deterministically, many trials per cell from starts spread over the gait cycle, with a physics step at
which halving it no longer changes the figures (--check-step shows it). Beside the grid: from standing to walking and
back, commands that change in mid-walk, and the same policy in the published body. Leaves a self-contained report.html
with its figures, tidy CSV, summary.json and an animation of each condition; needs neither display nor GPU. What has
been walked is kept cell by cell, and a run that was killed goes on with --resume.

With --controller the policy's human wears an active device that an exported student drives: the ONNX file itself, fed
by virtual gyroscopes whose errors are drawn at random for every trial.

With --wearer-mass, --wearer-height or --strength one person walks, yours for instance, instead of those trained on.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

from mjx_exo.errors import UserError, run_command

STEP_MS = 1.0
TRIALS, SECONDS, SETTLE_S = 64, 20.0, 3.0
SPEEDS_M_S = (0.3, 2.5)  # below, nobody is asked to walk; above, people run
SLOPES_DEG = (-15.0, 15.0)
MOST_CELLS, MOST_TRIALS = 1000, 4096
FASTEST_PACING = 2.0  # per second; beyond, people sway between too slow and too fast
ONE_PERSON = ("wearer_mass", "wearer_height", "strength")
HELD_OUT = 4242  # added to the training's wearer seed: people it never met


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("policy", help="run folder, even while it learns, policy folder or name of a pretrained policy")
    p.add_argument("--out", type=Path, help="folder of the report (default: evaluation/ in the policy's folder)")
    p.add_argument("--speeds", default="0.6:1.8:0.2", help="m/s, LOW:HIGH:STEP or a list 0.8,1.2 (0.6:1.8:0.2)")
    p.add_argument("--slopes", default="-6:6:2", help="degrees, uphill positive (-6:6:2; write --slopes=-6:6:2)")
    p.add_argument("--trials", type=int, default=TRIALS, help=f"trials per cell ({TRIALS})")
    p.add_argument("--seconds", type=float, default=SECONDS, help=f"length of a trial ({SECONDS:g})")
    p.add_argument("--courses", type=int, default=TRIALS, help=f"trials with changing commands ({TRIALS}; 0: none)")
    p.add_argument("--published", type=int, default=16, help="trials in the published body (16; 0: none)")
    p.add_argument("--step-ms", type=float, default=STEP_MS, help=f"physics step in ms ({STEP_MS:g})")
    p.add_argument("--check-step", action="store_true", help="also walk three cells at half the step and compare")
    p.add_argument("--engine", default="auto", help="auto, native, mjx, or published: the published tendon model")
    p.add_argument("--controller", type=Path, help="exported student (student.onnx) that drives the device")
    p.add_argument("--wearers", type=int, default=0, help="people to walk with, none trained on (0: the trained ones)")
    p.add_argument("--wearer-mass", type=float, metavar="KG", help="of one person: body mass (the body's own)")
    p.add_argument("--wearer-height", type=float, metavar="M", help="standing height (the body's own)")
    p.add_argument("--strength", type=float, metavar="SHARE", help="muscle force relative to the body's own (1)")
    p.add_argument(
        "--pacing", type=float, help="rate in 1/s at which who is too slow aims higher (as learned; 0: never)"
    )
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--resume", action="store_true", help="go on with an evaluation that was stopped")
    p.add_argument("--no-animations", action="store_true", help="leave the animations out")
    return p


def numbers(text: str, option: str) -> list[float]:
    """`LOW:HIGH:STEP` or `a,b,c` as a list; `UserError` naming the option otherwise."""
    try:
        values = [float(part) for part in text.split(":" if ":" in text else ",")]
        if not all(math.isfinite(value) for value in values):
            raise ValueError
        if ":" in text:
            low, high, step = values
            if not (step > 0 and high >= low):
                raise ValueError
            return [round(low + i * step, 9) for i in range(math.floor((high - low) / step + 1e-9) + 1)]
    except ValueError:
        raise UserError(f"{option} {text!r} is neither LOW:HIGH:STEP with STEP > 0 nor a list like 0.8,1.2") from None
    return values


def grid(arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Speeds in m/s and slopes in degrees, each once; `UserError` beyond what people walk."""
    found = []
    for option, text, (low, high), unit in (
        ("--speeds", arguments.speeds, SPEEDS_M_S, "m/s"),
        ("--slopes", arguments.slopes, SLOPES_DEG, "degrees"),
    ):
        values = list(dict.fromkeys(numbers(text, option)))
        beyond = [value for value in values if not low <= value <= high]
        if beyond:
            raise UserError(f"{option} holds {beyond[0]:g} {unit}; allowed: {low:g} to {high:g}")
        found.append(values)
    if len(found[0]) * len(found[1]) > MOST_CELLS:
        raise UserError(f"--speeds and --slopes make {len(found[0]) * len(found[1])} cells; at most {MOST_CELLS}")
    return found[0], found[1]


def check(arguments: argparse.Namespace) -> None:
    """Refuses numbers that make no sense, with one line."""
    for option, value, low, high in (
        ("--trials", arguments.trials, 1, MOST_TRIALS),
        ("--courses", arguments.courses, 0, MOST_TRIALS),
        ("--published", arguments.published, 0, MOST_TRIALS),
        ("--wearers", arguments.wearers, 0, MOST_TRIALS),
        ("--seconds", arguments.seconds, SETTLE_S + 2.0, 600.0),
    ):
        if not low <= value <= high:
            raise UserError(f"{option} is {value:g}; allowed: {low:g} to {high:g}")
    given = [name for name in ONE_PERSON if getattr(arguments, name) is not None]
    if given and (arguments.wearers or arguments.engine == "published"):
        other = "--engine published is one body" if arguments.engine == "published" else "--wearers draws people"
        raise UserError(f"{other}; --{given[0].replace('_', '-')} cannot be given as well")
    if arguments.pacing is not None and not 0.0 <= arguments.pacing <= FASTEST_PACING:
        raise UserError(f"--pacing is {arguments.pacing:g}; allowed: 0 to {FASTEST_PACING:g} per second")
    steps = 10.0 / arguments.step_ms if arguments.step_ms > 0 else math.nan  # in the shortest period of a device
    if not (0.1 <= arguments.step_ms <= 10.0 and abs(steps - round(steps)) < 1e-6):
        raise UserError(f"--step-ms is {arguments.step_ms:g}; allowed: 0.1 to 10, a whole number of them in 10 ms")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    speeds, slopes = grid(arguments)
    check(arguments)
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.teacher import find_policy, is_unfinished, load_teacher

    use_jax_cache()
    teacher = load_teacher(arguments.policy, unfinished=True)
    one_person(teacher, arguments)  # who cannot be is refused before anything is written
    kind = "evaluation" if arguments.controller is None else f"evaluation-{arguments.controller.stem}"
    folder = Path(arguments.policy)
    if is_unfinished(folder):
        steps = teacher.policy.description["env_steps"]
        print(f"{folder}: its newest checkpoint, after {1e-6 * steps:.2f} million steps", flush=True)
    else:
        folder = find_policy(folder)
    out = arguments.out or report_folder(folder, kind)
    page = evaluate(teacher, speeds, slopes, arguments, out)
    print(f"report: {page}")
    return 0


def report_folder(policy: Path, kind: str) -> Path:
    """Where a policy's report goes: into its folder, or its run's, where the policy has a folder of its own."""
    return (policy.parent if policy.name == "policy" else policy) / kind


def evaluate(
    teacher: Any, speeds_m_s: list[float], slopes_deg: list[float], arguments: argparse.Namespace, out: Path
) -> Path:
    """Walks everything and writes the report into `out`; returns the path of the HTML."""
    from mjx_exo.evaluation import checks, courses
    from mjx_exo.evaluation.batch import Batch, batch_size
    from mjx_exo.evaluation.grid import duration, grid_cells, nearest, walk_grid
    from mjx_exo.evaluation.store import CellStore
    from mjx_exo.walking.build import choose_engine
    from mjx_exo.walking.config import CommandConfig

    began = time.monotonic()
    cells = grid_cells(speeds_m_s, slopes_deg)
    native = choose_engine(arguments.engine) != "mjx"
    count = batch_size(arguments.trials, len(cells), native)
    trained = teacher.config.walking.command
    ranges = courses.Ranges(tuple(trained.speed_m_s), tuple(trained.slope_rad))
    longest = max(arguments.seconds, courses.longest_s(ranges, CommandConfig().speed_rate_m_s2))
    store = CellStore(out, _settings(teacher, speeds_m_s, slopes_deg, arguments), arguments.resume)
    if store.left_over:
        print(f"{store.left_over} cells of an earlier run are walked again; --resume would have kept them")
    if store.cells:
        print(f"{len(store.cells)} of {len(cells)} cells were walked before")

    def make(many: int, seconds: float, **changes: Any) -> tuple[Any, Any]:
        return _walker(teacher, many, arguments, seconds, **changes)

    print(f"building {count} environments: {len(cells)} cells of {arguments.trials} trials", flush=True)
    batch = Batch(*make(count, longest), longest)
    walk_grid(
        batch, cells, arguments.trials, arguments.seconds, arguments.seed, store, not arguments.no_animations, _say
    )
    walked = None
    if arguments.courses:
        _say("commands that change")
        least = max(arguments.courses, courses.FEWEST_TRIALS)
        walked = courses.walk_courses(batch, ranges, least, arguments.seed, trained.stand_share > 0)
    reference = nearest(cells)
    published = None
    if arguments.published and arguments.engine != "published" and arguments.controller is None:
        published = checks.published_body(
            make, reference, arguments.published, 1e-3 * arguments.step_ms, arguments.seed, _say
        )
    half = None
    if arguments.check_step:
        half = checks.half_step(
            make, checks.check_cells(cells), arguments.trials, arguments.seconds, 1e-3 * arguments.step_ms,
            arguments.seed, _say,
        )  # fmt: skip
    page = _report(teacher, arguments, out, store, cells, len(speeds_m_s) * len(slopes_deg), walked, published, half)
    store.finish()
    _say(f"done in {duration(time.monotonic() - began)}")
    return page


def _say(line: str) -> None:
    print(line, flush=True)


def _settings(
    teacher: Any, speeds_m_s: list[float], slopes_deg: list[float], arguments: argparse.Namespace
) -> dict[str, Any]:
    """What decides the figures of a cell: cells walked with other settings do not belong in one report."""
    names = ("trials", "seconds", "step_ms", "engine", "wearers", *ONE_PERSON, "pacing", "seed")
    return {
        "policy": teacher.policy.description["sha256"],
        "speeds": speeds_m_s,
        "slopes": slopes_deg,
        "controller": str(arguments.controller or ""),
        "animations": not arguments.no_animations,
    } | {name: getattr(arguments, name) for name in names}


def _report(
    teacher: Any,
    arguments: argparse.Namespace,
    out: Path,
    store: Any,
    cells: list[tuple[float, float]],
    on_grid: int,
    walked: Any,
    published: Any,
    half: dict[str, Any] | None,
) -> Path:
    from mjx_exo.evaluation import sections
    from mjx_exo.evaluation.bars import bars
    from mjx_exo.evaluation.grid import nearest
    from mjx_exo.gait.report import gait_report

    reference = store.cells[nearest(cells)].condition
    conditions = [store.cells[cell].condition for cell in cells[:on_grid]]
    transitions = walked.transitions if walked else {"skipped": "--courses 0"}
    changing = walked.changing if walked else {"skipped": "--courses 0"}
    judged = bars(conditions, reference, transitions, changing)
    more = sections.course_sections(walked) if walked else []
    extra: dict[str, Any] = {"transitions": transitions, "changing_commands": changing}
    if published is not None:
        extra["published_body"], bodies = published
        more.append(sections.published_section(extra["published_body"], bodies))
    if half is not None:
        extra["half_step"] = half
        more.append(sections.step_section(half))
    extra["demands"] = [bar._asdict() | {"met": bar.met} for bar in judged]
    animations = {}
    for cell in cells:
        picture = store.cells[cell].animation
        if picture and (out / f"{picture}.gif").is_file():
            animations[picture] = (out / f"{picture}.gif").read_bytes()
    page = gait_report(
        out, f"How {teacher.source} walks", conditions,
        sections.lead(teacher, arguments, one_person(teacher, arguments)), sections.by_construction(teacher),
        animations, more, reference, extra, [sections.bar_section(judged)],
    )  # fmt: skip
    for line in sections.spoken(conditions, transitions, changing, extra, judged):
        _say(line)
    return page


def one_person(teacher: Any, arguments: argparse.Namespace) -> Any:
    """The `Wearer` that the arguments ask for, or None where they ask for nobody in particular. Raises UserError."""
    if all(getattr(arguments, name) is None for name in ONE_PERSON):
        return None
    from mjx_exo.teacher import person_for

    strength = 1.0 if arguments.strength is None else arguments.strength
    return person_for(teacher, arguments.wearer_mass, arguments.wearer_height, strength)


def _walker(teacher: Any, count: int, arguments: argparse.Namespace, seconds: float, **given: Any) -> tuple[Any, Any]:
    """`count` environments, and who acts in them; with --controller the exported file drives the device.

    `given` overrules what the arguments say about the `WalkingConfig`.
    """
    from mjx_exo.teacher import alone

    base = teacher.config.walking
    changes: dict[str, Any] = {"engine": arguments.engine, "physics_step_s": 1e-3 * arguments.step_ms}
    if arguments.wearers:
        changes |= {"wearers": arguments.wearers, "wearer_seed": base.wearer_seed + HELD_OUT}
    person = one_person(teacher, arguments)
    if person is not None:
        changes |= alone(person)
    if arguments.pacing is not None:
        changes["pacing_per_s"] = arguments.pacing
    changes |= given
    if arguments.controller is None:
        return teacher.environment(count, seconds + 1.0, **changes), teacher.act
    from mjx_exo.controllers import ControlledEnv, human_only
    from mjx_exo.student_controller import load_controller

    student = load_controller(arguments.controller, base.device)
    changes |= {"device": base.device or student.contract.profile, "device_mode": "active"}
    env = teacher.environment(count, seconds + 1.0, human_only=True, **changes)
    return ControlledEnv(env, student), human_only(lambda seen: teacher.policy.act("human", seen))


if __name__ == "__main__":
    run_command(main)
