"""`python -m mjx_exo.study`: how much easier is walking with learned assistance than without the device?

Examples:
  python -m mjx_exo.study --human runs/walk0 runs/walk1 runs/walk2 --seeds 0,1,2 --out runs/study
  python -m mjx_exo.study --out runs/study --evaluate-only     walk and report again, without training
  python -m mjx_exo.study --json summary.json                  the arms that come with the project

Trains every arm (no device, worn and off, assisted, three tuned reference controllers) from the same walker with the
same human learning, into OUT/seedS/ARM; what is trained already is not trained again. Then all arms walk a grid of
speeds and slopes with people nobody trained on, and OUT gets report.html, tidy CSV and summary.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from mjx_exo.errors import UserError, run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--human", nargs="+", default=[], metavar="RUN", help="trained walkers: one, or one per seed")
    p.add_argument("--seeds", default="", help="e.g. 0,1,2 (one per walker; when evaluating, those that are there)")
    p.add_argument("--out", type=Path, help="folder of the study (runs/study)")
    p.add_argument("--json", type=Path, help="also write summary.json to this file")
    p.add_argument("--budget", type=int, default=12_000_000, help="steps the human learns in every arm (12000000)")
    p.add_argument("--device", default="hip_3200g", help="device profile, name or path (hip_3200g)")
    p.add_argument("--references", default="all", help="reference controllers: all, none, or a list with commas")
    p.add_argument("--num-envs", type=int, default=0, help="environments of a training (0: as the walker's)")
    p.add_argument("--engine", default="auto", help="auto, native or mjx")
    p.add_argument("--speeds", default="0.8:1.6:0.2", help="m/s, LOW:HIGH:STEP or a list (0.8:1.6:0.2)")
    p.add_argument("--slopes", default="0,3,6", help="degrees, uphill positive (0,3,6)")
    p.add_argument("--wearers", type=int, default=20, help="people to evaluate on, none of them trained on (20)")
    p.add_argument("--trials", type=int, default=1, help="trials of each wearer in each cell (1)")
    p.add_argument("--seconds", type=float, default=15.0, help="length of a trial (15)")
    p.add_argument("--settle", type=float, default=3.0, help="seconds left out at the start of a trial (3)")
    p.add_argument("--step-ms", type=float, default=1.0, help="physics step of the evaluation in ms (1)")
    p.add_argument("--evaluate-only", action="store_true", help="train nothing")
    p.add_argument("--resume", action="store_true", help="go on with a training that was stopped")
    p.add_argument("--no-step-check", action="store_true", help="do not walk again with half the physics step")
    p.add_argument("--export", type=Path, help="copy the arms' small policy files here, ready to be committed")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 130 if a training was stopped and can be resumed."""
    argv = sys.argv[1:] if argv is None else argv
    a = parser().parse_args(argv)
    cells = _cells(a)
    references = _references(a.references)
    seeds = _seeds(a)
    from mjx_exo.cache import use_jax_cache
    from mjx_exo.study import arms

    use_jax_cache()
    out = a.out or Path("runs/study")
    root = out
    if a.human and not a.evaluate_only:
        try:
            _train(a, seeds, out, references, arms.resume_command(argv))
        except arms.Stopped:
            return 130
    elif a.out is None:
        from mjx_exo.teacher import PRETRAINED

        root = PRETRAINED / "study"
    elif not a.evaluate_only:
        raise UserError("nothing to train from: give --human RUN, or --evaluate-only for arms that are there")
    found_seeds, found_arms = _find(root, seeds, a.references)
    if a.export is not None:
        from mjx_exo.study.checks import export_arms

        export_arms(root, a.export, found_seeds, found_arms)
        print(f"small policy files: {a.export}")
    return _evaluate(a, root, out, found_seeds, found_arms, cells)


def _cells(a: argparse.Namespace) -> tuple[tuple[float, float], ...]:
    from mjx_exo.evaluate import numbers

    speeds, slopes = numbers(a.speeds, "--speeds"), numbers(a.slopes, "--slopes")
    if not all(0.0 < v <= 3.0 for v in speeds) or not all(abs(s) <= 15.0 for s in slopes):
        raise UserError("--speeds must lie in 0..3 m/s and --slopes in -15..15 degrees")
    for name in ("budget", "wearers", "trials"):
        if getattr(a, name) < 1:
            raise UserError(f"--{name} is {getattr(a, name)}; allowed: 1 or more")
    if not 0.0 <= a.settle < a.seconds - 0.5:
        raise UserError(f"--settle is {a.settle:g} s of trials of {a.seconds:g} s; allowed: 0 to {a.seconds - 0.5:g}")
    return tuple((v, s) for s in slopes for v in speeds)


def _references(text: str) -> tuple[str, ...]:
    from mjx_exo.study.arms import REFERENCE_ARMS
    from mjx_exo.walking.reference_controllers import reference_controller

    if text in ("all", "none"):
        return REFERENCE_ARMS if text == "all" else ()
    names = tuple(text.split(","))
    for name in names:
        reference_controller(name)
    return names


def _seeds(a: argparse.Namespace) -> list[int]:
    if not a.seeds:
        return list(range(len(a.human)))
    try:
        seeds = [int(part) for part in a.seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds {a.seeds!r} is not a list of whole numbers like 0,1,2") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {a.seeds!r}: allowed are different numbers from 0 on")
    if len(a.human) > 1 and len(a.human) != len(seeds):
        raise UserError(f"--human names {len(a.human)} walkers for {len(seeds)} seeds; give one, or one per seed")
    return seeds


def _train(a: argparse.Namespace, seeds: list[int], out: Path, references: tuple[str, ...], command: str) -> None:
    from mjx_exo.study import arms
    from mjx_exo.teacher import load_teacher

    for index, seed in enumerate(seeds):
        start = a.human[index % len(a.human)]
        config, brings_value = load_teacher(start).config, (Path(start) / "checkpoints").is_dir()
        plan = arms.Plan(
            config, start, seed, a.device, a.budget, references, a.num_envs, a.engine, value_function=brings_value
        )
        arms.train_seed(plan, out / f"seed{seed}", a.resume, lambda text: print(text, flush=True), command)


def _find(root: Path, seeds: list[int], references: str) -> tuple[list[int], list[str]]:
    """Seeds and arms whose policies are there; `UserError` naming what is missing."""
    from mjx_exo.study.arms import MAIN_ARMS, REFERENCE_ARMS

    there = sorted(int(p.name[4:]) for p in root.glob("seed*") if p.name[4:].isdigit())
    seeds = seeds or there
    if not seeds:
        raise UserError(f"no trained arms in {root}; train some: python -m mjx_exo.study --human RUN --out DIR")

    def has(seed: int, arm: str) -> bool:
        folder = root / f"seed{seed}" / arm
        return (folder / "policy.json").is_file() or (folder / "policy" / "policy.json").is_file()

    missing = [f"seed{seed}/{arm}" for seed in seeds for arm in MAIN_ARMS if not has(seed, arm)]
    if missing:
        raise UserError(f"no policy in {root / missing[0]}; train it: python -m mjx_exo.study --human RUN --out DIR")
    wanted = REFERENCE_ARMS if references == "all" else () if references == "none" else references.split(",")
    return seeds, [*MAIN_ARMS, *(arm for arm in wanted if all(has(seed, arm) for seed in seeds))]


def _evaluate(a: argparse.Namespace, root: Path, out: Path, seeds: list[int], arms: list[str], cells: tuple) -> int:
    from mjx_exo.gait.files import write_json
    from mjx_exo.study import checks, compare, plateau, report, summary, walk
    from mjx_exo.study.arms import MAIN_ARMS

    settings = walk.WalkSettings(
        cells, a.wearers, a.trials, a.seconds, a.settle, 1e-3 * a.step_ms, a.engine
    )  # fmt: skip
    remarks = checks.check_arms(root, seeds, arms, settings)
    rows: list[dict[str, Any]] = []
    profiles, began, done = {}, time.monotonic(), 0
    for seed in seeds:
        for arm in arms:
            keep = out / "walked" / f"seed{seed}-{arm}.json"
            walked = walk.walk_arm(root / f"seed{seed}" / arm, seed, arm, settings, keep)
            rows += walked.rows
            profiles |= {(seed, arm, i): profile for i, profile in enumerate(walked.profiles)}
            done += 1
            falls = sum(row["fell"] for row in walked.rows) / len(walked.rows)
            left = (time.monotonic() - began) / done * (len(seeds) * len(arms) - done)
            print(f"walked seed {seed}, {arm}: falls {falls:.1%}, {left:.0f} s left", flush=True)
    grid = compare.gather(rows, seeds, arms, cells, a.wearers)
    if not a.no_step_check:
        again = 2 * len(seeds) * len(MAIN_ARMS)
        print(f"walking the middle cell again, {again} times, with the same and with half the physics step", flush=True)
    result = summary.summarise(grid, profiles)
    result["settings"] = {
        "wearers": a.wearers, "trials": a.trials, "seconds": a.seconds, "settle_s": a.settle, "step_ms": a.step_ms,
    }  # fmt: skip
    result["checks"] = {
        "same_human_learning": True,
        "plateaus": plateau.read(root, seeds, arms),
        "physics_step": None if a.no_step_check else checks.step_check(root, seeds, settings, out / "walked"),
        "remarks": remarks,
    }
    page = report.write_report(out, grid, profiles, rows, result)
    if a.json is not None:
        write_json(a.json, result)
    print(f"report: {page}")
    return 0


if __name__ == "__main__":
    run_command(main)
