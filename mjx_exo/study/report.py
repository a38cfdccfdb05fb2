"""The report of a study: one HTML file with its figures, tidy CSV beside it, and summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from mjx_exo.gait import charts
from mjx_exo.gait.figures import STYLE, png
from mjx_exo.gait.files import write_json
from mjx_exo.gait.metrics import Condition
from mjx_exo.gait.muscles import HIP_GROUPS
from mjx_exo.gait.norms import PERCENT
from mjx_exo.gait.report import Image, Section, TextTable, said, write_page
from mjx_exo.gait.table import write_rows
from mjx_exo.study.compare import ENDPOINTS, MEASURES, Grid, compare

QUESTIONS = {
    "activation": "mean activation",
    "hip_activation": "hip muscles",
    "positive_power": "positive joint power",
    "metabolic": "metabolic rate (Umberger)",
    "metabolic_bhargava": "metabolic rate (Bhargava)",
    "activation_volume_weighted": "activation, by volume",
    "positive_power_with_device": "positive power, device included",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MOMENT_SHOWN = 0.2  # share of the hip moment that is drawn beside the device's torque

_REDUCTION, _ENDS = "_reduction_percent", ("", "_low", "_high")

Profiles = Mapping[tuple[int, str, int], Any]


def write_report(
    folder: Path, grid: Grid, profiles: Profiles, rows: Sequence[Mapping[str, Any]], summary: dict[str, Any]
) -> Path:
    """Writes report.html with its figures, cells.csv, reductions.csv, trials.csv, torque.csv and summary.json."""
    write_json(folder / "summary.json", summary)
    write_cells(folder / "cells.csv", summary["cells"])
    write_reductions(folder / "reductions.csv", grid)
    write_trials(folder / "trials.csv", rows)
    write_torque(folder / "torque.csv", grid, profiles)
    maps = [
        Image(
            f"map_{name}", png(charts.grid_map(_conditions(grid, name), name, f"{QUESTIONS[name]}, reduction in %", 1))
        )
        for name in ENDPOINTS
    ]
    sections = [
        Section("Reductions", _primary_lines(summary), [reduction_table(summary)], [Image("bars", png(bars(summary)))]),
        Section("Over speed and slope", _excluded_lines(summary), [cell_table(summary)], maps),
        Section("Torque over the gait cycle", _timing_lines(summary), (), [
            Image("torque", png(torque_figure(grid, profiles)),
                  f"Means over seeds and wearers; grey: the biological hip moment × {MOMENT_SHOWN:g}."),
        ]),
        *_muscle_section(summary),
        _reference_section(summary),
        Section("Checks", _check_lines(summary)),
        Section("Definitions", [f"{name}: {text}." for name, text in summary["definitions"].items()]),
    ]  # fmt: skip
    return write_page(folder, "Walking with learned assistance and without", _lead(summary), sections)


def _lead(summary: dict[str, Any]) -> list[str]:
    s = summary.get("settings", {})
    return [
        f"{len(summary['seeds'])} seed(s), {s.get('wearers', '?')} wearers nobody trained on, trials of "
        f"{s.get('seconds', '?')} s, physics step {s.get('step_ms', '?')} ms. The human's reward, curriculum, number "
        "of updates and step size are the same in every arm; arms are compared at the speed they achieve.",
        *summary.get("checks", {}).get("remarks", []),
        *_shortcomings(summary),
    ]


def _shortcomings(summary: dict[str, Any]) -> list[str]:
    """What a reviewer would hold against the figures, first: trainings cut short, a physics step that still matters."""
    checks, lines = summary.get("checks", {}), []
    trainings = checks.get("plateaus", {})
    flat = sum(not found["reached"] for found in trainings.values())
    if flat:
        asked = "every endpoint under 1 % over the last fifth of the learning, the same people from the same starts"
        lines.append(f"{flat} of {len(trainings)} trainings had not levelled off when they ended ({asked}).")
    step = checks.get("physics_step")
    if step and not step["fine"]:
        by_pair = list(step["reduction_change_points"].values())
        device = max(abs(x) for found in by_pair for name, x in found.items() if name != "worn_against_none")
        mass = max(abs(found["worn_against_none"]) for found in by_pair)
        lines.append(
            f"Where it was tried, half the physics step moves reductions with the device by up to {device:.2f} points, "
            f"the price of the worn mass by up to {mass:.2f}."
        )
    return lines


def _pair(values: Mapping[str, Any], name: str, form: str = "+.1f") -> str:
    mean, low, high = (values.get(f"{name}{end}") for end in _ENDS)
    if low is None or not np.isfinite(low):
        return said(mean, form)
    return f"{mean:{form}} ({low:{form}} … {high:{form}})"


def _primary_lines(summary: dict[str, Any]) -> list[str]:
    kept = sum(cell["kept"] for cell in summary["cells"] if cell["arm"] == "assisted")
    total = sum(cell["arm"] == "assisted" for cell in summary["cells"])
    benefit = _pair(summary, "benefit_per_m_s")
    saved = summary["saving_per_m_s_by_measure"]["metabolic"]
    saving = _pair(dict(zip(("per_m_s", "per_m_s_low", "per_m_s_high"), saved, strict=True)), "per_m_s", "+.2f")
    return [
        f"Primary endpoint: assisted against no device, average over {kept} of {total} cells; 95 % intervals (seeds).",
        f"Metabolic benefit per m/s of speed: {benefit} percentage points, {saving} W/kg.",
    ]


def reduction_table(summary: dict[str, Any]) -> TextTable:
    """A row per question, a column per comparison; percent with intervals."""
    columns = {
        "assisted against no device": summary["primary"],
        "best cell": summary["best"],
        "assisted against worn and off": summary["assisted_against_worn"],
        "worn and off against no device": summary["price_of_the_worn_mass"],
    }
    rows = [
        [label, *(_pair(values, f"{name}_reduction_percent") for values in columns.values())]
        for name, label in QUESTIONS.items()
    ]
    return TextTable(["reduction, %", *columns], rows)


def cell_table(summary: dict[str, Any]) -> TextTable:
    """A row per arm and cell."""
    shown = {
        "fall_share": ("falls", ".1%"),
        "speed_m_s": ("speed, m/s", ".3f"),
        "activation_mean": ("activation", ".4f"),
        "hip_activation_mean": ("hip muscles", ".4f"),
        "positive_joint_power_W_kg": ("positive power, W/kg", ".3f"),
        "metabolic_W_kg": ("metabolic, W/kg", ".2f"),
        "cot_J_kg_m": ("J/kg/m", ".2f"),
        "cadence_steps_min": ("cadence, 1/min", ".1f"),
        "trunk_lean_deg": ("lean, °", ".1f"),
        "exo_positive_share": ("positive device work", ".2f"),
        "lag_extension_ms": ("extension lag, ms", ".0f"),
        "lag_flexion_ms": ("flexion lag, ms", ".0f"),
    }
    rows = [
        [f"{cell['arm']}, {cell['speed_command_m_s']:g} m/s, {cell['slope_deg']:+g}°{'' if cell['kept'] else ' ✗'}"]
        + [said(cell.get(name), form) for name, (_, form) in shown.items()]
        for cell in summary["cells"]
    ]
    return TextTable(["arm and cell", *(heading for heading, _ in shown.values())], rows)


def _excluded_lines(summary: dict[str, Any]) -> list[str]:
    return [
        f"Left out (✗) for all arms: {cell['speed_command_m_s']:g} m/s, {cell['slope_deg']:+g}°: {cell['why']}."
        for cell in summary["excluded_cells"]
    ]


def _timing_lines(summary: dict[str, Any]) -> list[str]:
    return [
        f"The torque's extension peak is {said(summary['lag_extension_ms'], '.0f')} ms behind the biological hip "
        f"moment's, its flexion peak {said(summary['lag_flexion_ms'], '.0f')} ms. Share of positive device work: "
        f"{said(summary['exo_positive_share'], '.3f')}."
    ]


def reference_table(summary: dict[str, Any]) -> TextTable:
    """A row per reference controller: its reductions against no device, then the learned controller against it."""
    rows = [
        [
            name,
            *(_pair(found["against_none"], f"{question}_reduction_percent") for question in ENDPOINTS),
            _pair(found["assisted_against_it"], "metabolic_reduction_percent"),
            said(found["r_torque_with_assisted"], ".2f"),
            said(found["lag_extension_ms"], ".0f"),
            said(found["lag_flexion_ms"], ".0f"),
        ]
        for name, found in summary["references"].items()
    ]
    header = ["controller", *(f"{QUESTIONS[question]}, %" for question in ENDPOINTS),
              "metabolic rate, learned against it, %", "r of torque", "extension lag, ms",
              "flexion lag, ms"]  # fmt: skip
    return TextTable(header, rows)


def muscle_table(summary: dict[str, Any]) -> TextTable:
    """A row per muscle group: its activation without a device, and every other arm's reduction of it."""
    groups = summary["muscle_groups"]
    arms = [name.removesuffix(_REDUCTION) for name in next(iter(groups.values())) if name.endswith(_REDUCTION)]
    rows = [
        [group, said(found["activation_none"], ".4f"), *(_pair(found, f"{arm}{_REDUCTION}") for arm in arms)]
        for group, found in groups.items()
    ]
    return TextTable(["muscle group", "activation, none", *(f"{arm.replace('_', ' ')}, %" for arm in arms)], rows)


def _muscle_section(summary: dict[str, Any]) -> list[Section]:
    if not summary["muscle_groups"]:
        return []
    crossing = ", ".join(group for group in summary["muscle_groups"] if group in HIP_GROUPS)
    lines = [
        f"Mean activation over the grid, against no device. Across the hip: {crossing}.",
        "A muscle that hardly works changes by many percent and little; the figure shows what it comes to.",
    ]
    return [Section("Muscle by muscle", lines, [muscle_table(summary)], [Image("muscles", png(muscle_bars(summary)))])]


def _reference_section(summary: dict[str, Any]) -> Section:
    title = "Reference controllers"
    if not summary["references"]:
        return Section(title, ["None was part of this study: whether a simpler controller does as well is open."])
    return Section(title, _reference_lines(summary), [reference_table(summary)])


def _reference_lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        "Gain and delay of each were searched, and each has a co-adaptation of its own at the same budget.",
        "Reductions are against no device.",
    ]
    for name, found in summary["references"].items():
        better = found["cells_where_it_is_better"]
        low, high = (found["assisted_against_it"].get(f"metabolic_reduction_percent_{end}") for end in ("low", "high"))
        if low is not None and low < 0.0 < high:
            lines.append(
                f"Between {name} and the learned controller the metabolic rate differs by no more than chance."
            )
        if found["assisted_is_at_least_as_good"] is False:
            lines.append(f"{name} is better than the learned controller on the grid.")
        elif found["assisted_is_at_least_as_good"]:
            lines.append(f"The learned controller is at least as good as {name} in metabolic rate on the grid.")
        if better:
            listed = ", ".join(f"{speed:g} m/s {slope:+g}°" for speed, slope in better)
            lines.append(f"{name} is better at {listed}.")
    return lines


def _check_lines(summary: dict[str, Any]) -> list[str]:
    checks = summary.get("checks", {})
    lines = [
        *_plateau_lines(checks.get("plateaus", {})),
        f"Largest speed difference between arms before the regression: "
        f"{said(summary['largest_speed_difference_m_s'], '.3f')} m/s.",
        f"Largest torque: {said(summary['largest_torque_share_of_limit'], '.1%')} of the profile's limit; largest "
        f"rate {said(summary['largest_rate_share_of_limit'], '.1%')}, largest power "
        f"{said(summary['largest_power_share_of_limit'], '.1%')}.",
    ]
    step = checks.get("physics_step")
    if step:
        verdict = "fine" if step["fine"] else "not fine enough"
        lines.append(f"Halving the physics step at {step['cell'][0]:g} m/s, {step['cell'][1]:+g}°: {verdict}.")
    return lines


def _plateau_lines(plateaus: Mapping[str, Any]) -> list[str]:
    """Whether the trainings had levelled off, and by how much each arm still changed in its last fifth."""
    if not plateaus:
        return ["Whether the trainings had levelled off was not measured."]
    rising = [name for name, found in plateaus.items() if not found["reached"]]
    where = "yes, everywhere" if not rising else f"not in {', '.join(rising)}"
    lines = [f"Training has levelled off (every endpoint changes by under 1 % over the last fifth): {where}."]
    for arm in dict.fromkeys(name.split("/")[-1] for name in plateaus):
        mine = [found["relative_change"] for name, found in plateaus.items() if name.split("/")[-1] == arm]
        mean = {
            q: 100.0 * float(np.mean([np.nan if change[q] is None else change[q] for change in mine])) for q in mine[0]
        }
        lines.append(
            f"{arm} over the last fifth, mean over seeds: "
            + ", ".join(f"{q.replace('_', ' ')} {said(value, '+.1f')} %" for q, value in mean.items())
            + "."
        )
    return lines


def bars(summary: dict[str, Any]) -> Figure:
    """The grid average of every question, its interval and every seed, against no device and against worn and off."""
    groups = {"against no device": "primary", "against worn and off": "assisted_against_worn"}
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(groups)
        for g, (label, part) in enumerate(groups.items()):
            values, seeds = summary[part], summary[f"{part}_by_seed"]
            keys = [f"{name}_reduction_percent" for name in QUESTIONS]
            mean = np.array([values[key] for key in keys], float)
            ends = np.array([[values[f"{key}_low"], values[f"{key}_high"]] for key in keys], float)
            reach = np.abs(ends - mean[:, None]).T
            x = np.arange(len(keys)) + (g - 0.5 * (len(groups) - 1)) * width
            axes.bar(x, np.nan_to_num(mean), width, color=COLOURS[g], label=label)
            axes.errorbar(x, mean, yerr=np.nan_to_num(reach), fmt="none", ecolor="#222222", capsize=3, linewidth=1)
            for place, key in zip(x, keys, strict=True):
                axes.plot(np.full(len(seeds[key]), place), seeds[key], ".", color="#222222", alpha=0.6, markersize=4)
        axes.axhline(0.0, color="#444444", linewidth=0.8)
        axes.set_xticks(range(len(QUESTIONS)), [label.replace(", ", ",\n").replace(" (", "\n(")
                                                for label in QUESTIONS.values()], fontsize=8)  # fmt: skip
        axes.set_ylabel("reduction, %")
        axes.set_title("Average over the grid, 95 % interval over seeds (dots)", loc="left")
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def muscle_bars(summary: dict[str, Any]) -> Figure:
    """What the worn mass and the device take off every muscle group's activation, and the intervals over seeds."""
    groups = summary["muscle_groups"]
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        axes = figure.subplots()
        for index, (arm, colour) in enumerate((("worn", "#9a9a9a"), ("assisted", COLOURS[0]))):
            mean, low, high = (100.0 * np.array([g[f"{arm}_saving{end}"] for g in groups.values()]) for end in _ENDS)
            x = np.arange(len(groups)) + 0.4 * (index - 0.5)
            axes.bar(x, np.nan_to_num(mean), 0.4, color=colour, label=f"{arm}, against no device")
            reach = np.nan_to_num(np.stack([mean - low, high - mean]))
            axes.errorbar(x, mean, yerr=reach, fmt="none", ecolor="#222222", capsize=3, linewidth=1)
        axes.axhline(0.0, color="#444444", linewidth=0.8)
        labels = [f"{group}\n{100.0 * found['activation_none']:.1f}" for group, found in groups.items()]
        axes.set_xticks(range(len(groups)), labels, fontsize=8)
        axes.set_xlabel("muscle group, and its mean activation without a device, % of full activation")
        axes.set_ylabel("saved, % of full activation")
        axes.set_title("Activation saved, 95 % interval over seeds", loc="left")
        figure.legend(loc="outside upper right", ncols=2)
    return figure


def torque_figure(grid: Grid, profiles: Profiles) -> Figure:
    """Device torque over the gait cycle, a panel per cell and a line per assisted arm."""
    arms = [arm for arm in grid.arms if arm not in ("none", "worn")]
    slopes, speeds = sorted({s for _, s in grid.cells}), sorted({v for v, _ in grid.cells})
    with rc_context(STYLE):
        figure = Figure(figsize=(max(5.2, 2.4 * len(speeds)), 2.1 * len(slopes) + 0.8), layout="constrained")
        panels = figure.subplots(len(slopes), len(speeds), sharex=True, sharey=True, squeeze=False)
        for i, (speed, slope) in enumerate(grid.cells):
            axes = panels[len(slopes) - 1 - slopes.index(slope), speeds.index(speed)]
            axes.axhline(0.0, color="#666666", linewidth=0.7)
            for index, arm in enumerate(arms):
                own = [p for seed in grid.seeds if (p := profiles.get((seed, arm, i))) is not None]
                if not own:
                    continue
                if arm == "assisted":
                    moment = MOMENT_SHOWN * np.mean([p.hip_moment_nm_kg for p in own], axis=0)
                    axes.plot(PERCENT, moment, color="#9a9a9a", label="hip moment", linewidth=2.0)
                mean = np.mean([p.torque_nm_kg for p in own], axis=0)
                axes.plot(PERCENT, mean, color=COLOURS[index % len(COLOURS)], label=arm.replace("_", " "))
            axes.set_title(f"{speed:g} m/s, {slope:+g}°", loc="left", fontsize=8.5)
            axes.set_xlim(0, 100)
        for axes in panels[-1]:
            axes.set_xlabel("gait cycle, %")
        figure.supylabel("torque, Nm/kg (flexion +)", fontsize=9)
        handles, labels = max((a.get_legend_handles_labels() for a in panels.flat), key=lambda pair: len(pair[1]))
        if handles:
            figure.legend(handles, labels, loc="outside upper left", ncols=5)
    return figure


def _conditions(grid: Grid, question: str) -> list[Condition]:
    """The grid's mean reductions against no device in the form that maps take."""
    mean = np.mean(compare(grid, "none", "assisted").reduction[question], axis=0)
    return [
        Condition(speed, float(np.deg2rad(slope)), 0, {question: float(mean[i])})
        for i, (speed, slope) in enumerate(grid.cells)
    ]


def write_cells(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Tidy CSV: arm, speed_command_m_s, slope_deg, measure, value."""
    keys = ("arm", "speed_command_m_s", "slope_deg")
    rows = [
        [*(cell[key] for key in keys), name, float(value)]
        for cell in cells
        for name, value in cell.items()
        if name not in keys
    ]
    write_rows(path, [*keys, "measure", "value"], rows)


def write_reductions(path: Path, grid: Grid) -> None:
    """Tidy CSV of every comparison: baseline, arm, seed, cell, common speed, question, reduction in percent."""
    pairs = [("none", "assisted"), ("worn", "assisted"), ("none", "worn")]
    pairs += [(arm, "assisted") for arm in grid.arms if arm not in ("none", "worn", "assisted")]
    rows = []
    for baseline, other in pairs:
        found = compare(grid, baseline, other)
        for s, seed in enumerate(grid.seeds):
            for i, cell in enumerate(grid.cells):
                common = float(found.speed_m_s[s, i])
                rows += [[baseline, other, seed, *cell, common, n, float(found.reduction[n][s, i])] for n in MEASURES]
    header = ["baseline", "arm", "seed", "speed_command_m_s", "slope_deg", "speed_m_s", "measure", "reduction_percent"]
    write_rows(path, header, rows)


def write_trials(path: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    """Tidy CSV: seed, arm, speed_command_m_s, slope_deg, wearer, fell, measure, value; a fall has no measures."""
    keys = ("seed", "arm", "speed_command_m_s", "slope_deg", "wearer", "fell")
    names = (*MEASURES.values(), "speed_m_s", "cadence_steps_min", "trunk_lean_deg", "exo_positive_share")
    rows = [
        [*(int(row[key]) if key == "fell" else row[key] for key in keys), name, float(row[name])]
        for row in trials
        for name in names
        if row.get(name) is not None
    ]
    rows += [[*(row[key] for key in keys[:-1]), 1, "", float("nan")] for row in trials if row["fell"]]
    write_rows(path, [*keys, "measure", "value"], rows)


def write_torque(path: Path, grid: Grid, profiles: Profiles) -> None:
    """Tidy CSV of the mean torque and hip moment over the gait cycle, per seed, arm and cell."""
    rows = []
    for (seed, arm, i), profile in profiles.items():
        if profile is not None:
            for percent, torque, moment in zip(PERCENT, profile.torque_nm_kg, profile.hip_moment_nm_kg, strict=True):
                rows.append([seed, arm, *grid.cells[i], int(percent), float(f"{torque:.5g}"), float(f"{moment:.5g}")])
    header = ["seed", "arm", "speed_command_m_s", "slope_deg", "percent", "exo_torque_Nm_kg", "hip_moment_Nm_kg"]
    write_rows(path, header, rows)
