"""`python -m benchmarks.ablation`: what the muscle synergies and the gait clock are worth.

The preset `quick` learns four times at the same budget, with several seeds each: as it is, with every muscle driven by
itself instead of synergies, without the reward for keeping to the gait clock, and without both. Each run is the command
that a user would type; runs that are finished are not repeated. Ends with a table, ablation.json and a figure.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import hardware, print_table
from mjx_exo.errors import UserError, run_command

_RAW = ["--walking.synergies", "raw"]
_NO_CLOCK = ["--walking.loose.clock", "0", "--walking.strict.clock", "0"]
ARMS: dict[str, list[str]] = {
    "synergies, clock": [],
    "raw muscles, clock": _RAW,
    "synergies, no clock": _NO_CLOCK,
    "raw muscles, no clock": [*_RAW, *_NO_CLOCK],
}
CURVES = {
    "episode_seconds": "Episode, s",
    "speed_m_s": "Speed, m/s",
    "activation_squared": "Mean squared activation",
}
FIGURES = ("fall_free_share", "episode_seconds_mean", "speed_mean_m_s", "knee_swing_deg", "alternating_share")
_POINTS = 200


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs (runs/ablation)")
    p.add_argument("--seeds", default="0,1,2", help="comma-separated (0,1,2)")
    p.add_argument("--steps", type=int, default=2_000_000, help="environment steps of every run (2000000)")
    p.add_argument("--train", default="", metavar="OPTIONS", help="passed on to every training")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    p.add_argument("--figure", type=Path, metavar="FILE", help="draw the learning curves there (OUT/ablation.png)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    from mjx_exo.gait.figures import png
    from mjx_exo.gait.files import write_bytes, write_json

    if arguments.steps < 1:
        raise UserError(f"--steps = {arguments.steps}; allowed: 1 or more")
    seeds = seeds_of(arguments.seeds)
    found_on = hardware()
    logs: dict[str, list[dict[str, np.ndarray]]] = {}
    rows: list[dict[str, Any]] = []
    for name, options in ARMS.items():
        for seed in seeds:
            folder = arguments.out / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
            train(folder, [*options, *shlex.split(arguments.train)], seed, arguments.steps)
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            rows.append({"arm": name, "seed": seed, **{k: summary[k] for k in (*FIGURES, "env_steps", "wall_seconds")}})
            logs.setdefault(name, []).append(curves_of(folder))
    print_table(
        f"mean of {len(seeds)} seeds, {arguments.steps:,} steps each",
        ["arm", *FIGURES],
        [[name, *(_mean(rows, name, what) for what in FIGURES)] for name in ARMS],
    )
    results = {"hardware": found_on, "steps": arguments.steps, "rows": rows}
    picture = arguments.figure or arguments.out / "ablation.png"
    write_bytes(picture, png(figure(logs)))
    write_json(arguments.out / "ablation.json", results)
    if arguments.json is not None:
        write_json(arguments.json, results)
    print(f"results: {arguments.out / 'ablation.json'}, {picture}")
    return 0


def seeds_of(text: str) -> list[int]:
    """The seeds in a comma-separated list; raises `UserError` for anything but whole numbers from 0 on."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds {text!r} is not a comma-separated list of whole numbers from 0 on")
    return list(dict.fromkeys(int(part) for part in parts))


def curves_of(folder: Path) -> dict[str, np.ndarray]:
    """A finished run's learning curves, an array per measure."""
    from mjx_exo.gait.charts import read_log

    log = read_log(folder / "log.jsonl")
    return {name: np.array([row[name] for row in log]) for name in ("env_steps", *CURVES)}


def train(folder: Path, options: Sequence[str], seed: int, steps: int) -> None:
    """One training into `folder`, unless it is finished; a stopped one goes on.

    Raises `UserError` if it fails, or if a finished one had another budget.
    """
    if (folder / "summary.json").is_file():
        had = json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]["ppo"]["total_steps"]
        if had != steps:
            raise UserError(f"{folder} learnt for {had} steps, not --steps {steps}; choose another --out")
        print(f"== {folder}: done before", flush=True)
        return
    words = ["--resume", str(folder)] if (folder / "checkpoints").is_dir() else _fresh(folder, options, seed, steps)
    command = ["mjx_exo.train", *words]
    print(f"== {shlex.join(('python', '-m', *command))}", flush=True)
    code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    if code:
        raise UserError(f"the training in {folder} ended with exit code {code}; the same command goes on from here")


def _fresh(folder: Path, options: Sequence[str], seed: int, steps: int) -> list[str]:
    own = ["--preset", "quick", "--seed", str(seed), "--out", str(folder), "--ppo.total-steps", str(steps)]
    return [*own, *options]


def _mean(rows: Sequence[Mapping[str, Any]], arm: str, name: str) -> float:
    """Over the seeds that have the figure: who never takes a stride has no knee angle in swing."""
    known = [float(row[name]) for row in rows if row["arm"] == arm and row[name] is not None]
    return float(np.mean(known)) if known else math.nan


def figure(logs: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> Any:
    """Learning curves: a panel per measure, a line per arm (mean over its seeds) in the range of its seeds."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from mjx_exo.gait.figures import STYLE

    with rc_context(STYLE):
        drawing = Figure(figsize=(11.0, 3.6), layout="constrained")
        panels = drawing.subplots(1, len(CURVES))
        for axes, (name, title) in zip(panels, CURVES.items(), strict=True):
            for index, (arm, seeds) in enumerate(logs.items()):
                steps = np.linspace(
                    max(log["env_steps"][0] for log in seeds), min(log["env_steps"][-1] for log in seeds), _POINTS
                )
                curves = np.stack([np.interp(steps, log["env_steps"], log[name]) for log in seeds])
                line = axes.plot(1e-6 * steps, curves.mean(axis=0), color=f"C{index}", linewidth=1.4, label=arm)[0]
                low, high = curves.min(axis=0), curves.max(axis=0)
                axes.fill_between(1e-6 * steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
            axes.set_title(title, loc="left")
            axes.set_xlabel("environment steps, millions")
        drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(logs))
    return drawing


if __name__ == "__main__":
    run_command(main)
