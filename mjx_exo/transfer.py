"""`python -m mjx_exo.transfer LOG… --reference FILE…`: does the device push as the simulation said?

The hardware test as a command, for a virtual device, a real one or a person's own: torque over the gait cycle per speed
and slope against simulation, Pearson r of the stride means and of every stride, RMSE in Nm/kg, amplitude ratio and peak
lags, with figures. LOG is a folder of `runtime.exo_loop`, a CSV made from it, or a CSV as `mjx_exo.gait.user_csv` says;
where speed and slope change, a conditions file cuts it (`mjx_exo.gait.device_log`).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mjx_exo.errors import UserError, run_command
from mjx_exo.gait import charts, device_log, figures, report
from mjx_exo.gait.files import write_json
from mjx_exo.gait.metrics import Condition
from mjx_exo.gait.norms import PERCENT
from mjx_exo.gait.recording import Recording
from mjx_exo.gait.table import write_rows
from mjx_exo.gait.transfer_analysis import (
    PUBLISHED,
    Cell,
    compare,
    mean_over_cells,
    read_reference,
)
from mjx_exo.gait.user_csv import read_csv

_HEADINGS = {
    "r_mean": ("r, stride mean", ".3f"),
    "r_raw": ("r, every stride", ".3f"),
    "rmse_mean_nm_kg": ("RMSE, stride mean, Nm/kg", ".4f"),
    "rmse_raw_nm_kg": ("RMSE, every stride, Nm/kg", ".4f"),
    "amplitude_ratio": ("amplitude ratio", ".2f"),
    "lag_extension_ms": ("extension peak later, ms", ".0f"),
    "lag_flexion_ms": ("flexion peak later, ms", ".0f"),
    "lag_cross_correlation_ms": ("best shift, ms", ".0f"),
    "tracking_r": ("applied against commanded, r", ".3f"),
    "tracking_rmse_nm_kg": ("the same, RMSE, Nm/kg", ".4f"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m mjx_exo.transfer", description=__doc__.split("\n")[0])
    made.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="log folder, its CSV, or your own walking CSV")
    made.add_argument(
        "--reference",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="simulation: npz recordings, or a CSV with percent and torque_nm_kg",
    )
    made.add_argument("--out", type=Path, default=Path("transfer_report"), help="folder to write (%(default)s)")
    made.add_argument(
        "--conditions",
        type=Path,
        metavar="FILE",
        help="CSV of device_time_s (or time_s), speed_m_s, slope_deg, a line per change (default: conditions.csv in "
        "LOG or beside it, else what the loop asked a virtual wearer for)",
    )
    made.add_argument("--speed-m-s", type=float, help="walking speed where no file says it, m/s")
    made.add_argument("--slope-deg", type=float, default=0.0, help="slope where no file says it, uphill positive")
    made.add_argument("--mass-kg", type=float, help="wearer's mass where no file says it (or to override it)")
    made.add_argument("--signal", choices=tuple(device_log.SIGNALS), default="applied", help="torque of a loop's log")
    made.add_argument("--stride-start", choices=("auto", "force", "gyro"), default="auto", help="how strides are cut")
    made.add_argument("--settle-s", type=float, default=device_log.SETTLE_S, help="left out after a change, s")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = parser().parse_args(argv)
    trials: list[Recording] = []
    for path in arguments.logs:
        own = read_trials(path, arguments)
        seconds = sum(trial.time_s[-1] - trial.time_s[0] for trial in own)
        print(f"{path}: {seconds:.0f} s of steady walking in {len(own)} pieces")
        trials += own
    if not trials:
        raise UserError(f"{arguments.logs[0]}: no piece of {device_log.SHORTEST_S:g} s of assisted steady walking")
    reference = read_reference(arguments.reference, arguments.settle_s) if arguments.reference else None
    cells, method, notes = compare(trials, reference, arguments.stride_start)
    page = write_report(arguments.out, cells, method, notes, [str(path) for path in arguments.logs])
    for cell in cells:
        print(_line(cell))
    means = mean_over_cells(cells)
    if means:
        r, rmse = means["r_mean"], means["rmse_mean_nm_kg"]
        print(f"mean: r {r['mean']:.3f} ± {r['sd']:.3f}, RMSE {rmse['mean']:.4f} ± {rmse['sd']:.4f} Nm/kg")
    for note in notes:
        print(f"note: {note}")
    if reference is None:
        print("note: no --reference, so there is nothing to compare with; profiles only")
    print(f"report: {page}")
    return 0


def read_trials(path: Path, arguments: argparse.Namespace) -> list[Recording]:
    """The usable walking of one LOG."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    beside = (path if path.is_dir() else path.parent) / "conditions.csv"
    conditions = None
    if arguments.conditions is not None or beside.is_file():
        conditions = device_log.Conditions.read(arguments.conditions or beside)
    if not device_log.is_device_log(path):
        return _own_trials(path, conditions, arguments)
    log = device_log.read_log(path)
    if conditions is None and arguments.speed_m_s is not None:
        conditions = device_log.Conditions.constant(arguments.speed_m_s, float(np.deg2rad(arguments.slope_deg)))
    conditions = conditions or device_log.Conditions.asked(log)
    if conditions is None:
        raise UserError(f"{path}: speed and slope unknown; say --speed-m-s (and --slope-deg) or --conditions FILE")
    return device_log.steady_trials(log, conditions, arguments.signal, arguments.mass_kg, arguments.settle_s)


def _own_trials(path: Path, conditions: device_log.Conditions | None, arguments: argparse.Namespace) -> list[Recording]:
    """A person's CSV: one steady trial at one speed and slope, or pieces where a conditions file says so."""
    trial = read_csv(path, arguments.mass_kg)
    if conditions is not None:
        return device_log.own_trials(trial, conditions, arguments.settle_s)
    if trial.forward_speed_m_s() is None and arguments.speed_m_s is not None:
        slope = float(np.deg2rad(arguments.slope_deg))
        trial = dataclasses.replace(trial, command_speed_m_s=arguments.speed_m_s, slope_rad=slope)
    if trial.time_s[-1] - trial.time_s[0] < arguments.settle_s + 2.0:
        raise UserError(f"{path}: shorter than {arguments.settle_s + 2.0:g} s; a smaller --settle-s may help")
    return [trial.between(trial.time_s[0] + arguments.settle_s, trial.time_s[-1])]


def write_report(
    folder: Path, cells: Sequence[Cell], method: str, notes: Sequence[str], sources: Sequence[str]
) -> Path:
    """Writes `report.html`, its figures, `transfer.json` and `profiles.csv`; returns the HTML's path."""
    means = mean_over_cells(cells)
    entries = [cell.as_dict() for cell in cells]
    write_json(
        folder / "transfer.json",
        {
            "sources": [Path(source).name for source in sources],
            "stride_start": method,
            "cells": entries,
            "mean": means,
            "published": {name: {"mean": mean, "sd": sd} for name, (mean, sd) in PUBLISHED.items()},
            "notes": list(notes),
        },
    )
    _write_profiles(folder / "profiles.csv", cells, method)
    shown = [name for name in _HEADINGS if any(np.isfinite(entry.get(name, np.nan)) for entry in entries)]
    rows = [
        [_condition(cell), str(entry["measured_strides"]), *(report.said(entry.get(n), _HEADINGS[n][1]) for n in shown)]
        for cell, entry in zip(cells, entries, strict=True)
    ]
    if means:
        averages = (
            f"{means[name]['mean']:{_HEADINGS[name][1]}} ± {means[name]['sd']:{_HEADINGS[name][1]}}"
            if name in means
            else "–"
            for name in shown
        )
        rows.append(["mean ± standard deviation", "", *averages])
    table = report.TextTable(["condition", "strides", *(_HEADINGS[name][0] for name in shown)], rows)
    start = "heel strike, from ground force" if method == "force" else "thigh gyroscopes, the same way in both sources"
    published = f"published hardware test: r {PUBLISHED['r'][0]} ± {PUBLISHED['r'][1]}, RMSE 0.03 ± 0.01 Nm/kg"
    lead = [f"Torque at the hip in Nm/kg, flexion positive, strides cut by {start}. For comparison, the {published}."]
    sections = [report.Section("Device against simulation", notes, [table], _images(cells))]
    return report.write_page(folder, "Transfer report", lead, sections)


def _images(cells: Sequence[Cell]) -> list[report.Image]:
    pairs = []
    for cell in sorted(cells, key=lambda c: (-round(c.measured.slope_rad, 4), c.measured.speed_m_s)):
        other, found = cell.reference, cell.comparison
        note = "no reference" if found is None else f"r {found.r_mean:.2f}, RMSE {found.rmse_mean_nm_kg:.3f}"
        pairs.append(figures.TorquePair(_condition(cell), cell.measured.torque, other and other.torque, note))
    speeds, slopes = ({round(v, 4) for v in values} for values in zip(*map(_speed_and_slope, cells), strict=True))
    full_grid = len(speeds) * len(slopes) == len(cells) and len(speeds) <= 7
    drawn = figures.png(figures.torque_pairs(pairs, columns=len(speeds) if full_grid else 4))
    images = [report.Image("torque_profiles", drawn, "Mean and one standard deviation over strides.")]
    compared = [
        Condition(
            round(c.measured.speed_m_s, 2), c.measured.slope_rad, 1, {k: float(v) for k, v in c.as_dict().items()}
        )
        for c in cells
        if c.comparison is not None
    ]
    if len({c.speed_m_s for c in compared}) > 1 and len({round(c.slope_rad, 4) for c in compared}) > 1:
        for name, title, digits in (("r_mean", "r, stride mean", 3), ("rmse_mean_nm_kg", "RMSE, Nm/kg", 3)):
            images.append(report.Image(f"map_{name}", figures.png(charts.grid_map(compared, name, title, digits))))
    return images


def _write_profiles(path: Path, cells: Sequence[Cell], method: str) -> None:
    """Tidy CSV that is itself a valid --reference."""
    rows = []
    for cell in cells:
        mean, sd = cell.measured.torque.mean(axis=0), cell.measured.torque.std(axis=0)
        expected = np.full(PERCENT.size, np.nan) if cell.reference is None else cell.reference.torque.mean(axis=0)
        key = (round(cell.measured.speed_m_s, 4), round(float(np.rad2deg(cell.measured.slope_rad)), 4))
        rows += [
            [*key, int(p), float(mean[i]), float(sd[i]), float(expected[i])] for i, p in enumerate(PERCENT.tolist())
        ]
    names = ["speed_m_s", "slope_deg", "percent", "torque_nm_kg", "torque_sd_nm_kg", "reference_nm_kg"]
    write_rows(path, names, rows, {"stride_start": "heel_strike" if method == "force" else "gyro"})


def _speed_and_slope(cell: Cell) -> tuple[float, float]:
    return cell.measured.speed_m_s, cell.measured.slope_rad


def _condition(cell: Cell) -> str:
    slope = float(np.rad2deg(cell.measured.slope_rad))
    return f"{cell.measured.speed_m_s:.2f} m/s, " + ("level" if abs(slope) < 0.05 else f"{slope:+.3g}°")


def _line(cell: Cell) -> str:
    found, strides = cell.comparison, f"{len(cell.measured.torque)} strides"
    if found is None:
        return f"{_condition(cell)}: {strides}, no reference"
    return (
        f"{_condition(cell)}: {strides}, r {found.r_mean:.3f} (every stride {found.r_raw:.3f}), "
        f"RMSE {found.rmse_mean_nm_kg:.4f} Nm/kg, amplitude × {found.amplitude_ratio:.2f}, "
        f"extension {found.lag_extension_ms:+.0f} ms, flexion {found.lag_flexion_ms:+.0f} ms"
    )


if __name__ == "__main__":
    run_command(main)
