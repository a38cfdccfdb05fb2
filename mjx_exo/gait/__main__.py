"""`python -m mjx_exo.gait FILE…`: how human a recorded gait is, with figures, from your own CSV or from recordings.

FILE is a CSV as `mjx_exo.gait.user_csv` describes it (one trial at one speed and slope each), or an npz of recordings.
`--example FILE.csv` writes a CSV of normal walking that shows the columns.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mjx_exo.errors import UserError, run_command
from mjx_exo.gait import animation, figures, report
from mjx_exo.gait.example import normal_walking
from mjx_exo.gait.metrics import Condition, summarise
from mjx_exo.gait.recording import Recording, load
from mjx_exo.gait.sticks import with_points
from mjx_exo.gait.strides import find_strides
from mjx_exo.gait.user_csv import read_csv, write_csv


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m mjx_exo.gait", description=__doc__.split("\n")[0])
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="CSV of your own walking, or npz recordings"
    )
    parser.add_argument("--out", type=Path, default=Path("gait_report"), help="folder to write (%(default)s)")
    parser.add_argument("--mass-kg", type=float, help="body mass where the CSV does not say it")
    parser.add_argument("--settle-s", type=float, default=1.0, help="seconds left out at the start (%(default)s)")
    parser.add_argument("--example", type=Path, metavar="FILE.csv", help="write an example CSV and stop")
    arguments = parser.parse_args(argv)
    if arguments.example is not None:
        write_csv(arguments.example, normal_walking())
        print(f"example of normal walking: {arguments.example}")
        return 0
    if not arguments.files:
        raise UserError("no FILE given; see --help, or --example FILE.csv for a CSV that shows the columns")
    trials = [trial for path in arguments.files for trial in read_trials(path, arguments.mass_kg)]
    conditions = [_condition(*group, arguments.settle_s) for group in grouped(trials)]
    if not any(condition.measures.get("strides") for condition in conditions):
        needs = "strides need grf_vertical of both feet or thigh_gyro of both sides"
        raise UserError(f"{arguments.files[0]}: no whole stride found; {needs}")
    page = report.gait_report(
        arguments.out,
        "Gait report",
        conditions,
        animations=_animations(trials),
        more=_strips(trials, arguments.settle_s),
    )
    for condition in conditions:
        measures = condition.measures
        r = ", ".join(f"{joint} {report.said(measures.get(f'r_{joint}'), '.2f')}" for joint in ("hip", "knee", "ankle"))
        print(f"{figures.title_of(condition)}: {measures.get('strides', 0):.0f} strides, r with the norm: {r}")
    print(f"report: {page}")
    return 0


def read_trials(path: Path, mass_kg: float | None) -> list[Recording]:
    """The trials of one file, by its ending."""
    return load(path) if path.suffix == ".npz" else [read_csv(path, mass_kg)]


def grouped(trials: Sequence[Recording]) -> list[tuple[float, float, list[Recording]]]:
    """(speed, slope, trials) per condition: commanded speed, else the mean measured one to 0.05 m/s (0 if unknown)."""
    groups: dict[tuple[float, float], list[Recording]] = {}
    for trial in trials:
        if trial.command_speed_m_s is not None:
            speed = round(float(np.mean(trial.command_speed_m_s)), 3)
        else:
            measured = trial.forward_speed_m_s()
            speed = 0.0 if measured is None else round(float(np.mean(measured)) / 0.05) * 0.05
        slope = round(float(np.mean(trial.slope_rad)), 4)
        groups.setdefault((speed, slope), []).append(trial)
    return [(speed, slope, own) for (speed, slope), own in sorted(groups.items())]


def _condition(speed_m_s: float, slope_rad: float, trials: list[Recording], settle_s: float) -> Condition:
    return summarise(trials, speed_m_s, slope_rad, settle_s)


def _animations(trials: Sequence[Recording]) -> dict[str, bytes]:
    drawn = with_points(trials[0])
    if drawn.point_position_m is None:
        return {}
    return {"first_trial": animation.gif(drawn, drawn.time_s[0], 4.0, caption=drawn.label)}


def _strips(trials: Sequence[Recording], settle_s: float) -> list[report.Section]:
    drawn = with_points(trials[0])
    strides = find_strides(drawn, skip_s=settle_s)
    if drawn.point_position_m is None or not strides:
        return []
    image = report.Image("stick_figures", figures.png(animation.stick_strip(drawn, strides[0])))
    return [report.Section("One stride", (), (), [image])]


if __name__ == "__main__":
    run_command(main)
