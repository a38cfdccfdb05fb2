"""Figures over the time of a trial and over slope: commands that change, and what walking costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mjx_exo.gait import norms
from mjx_exo.gait.charts import MARKERS
from mjx_exo.gait.cost import achieved_speed, is_level, least_cost
from mjx_exo.gait.figures import MEASURED_STYLE, NORM_COLOUR, STYLE, shades
from mjx_exo.gait.metrics import Condition

_COMMAND_STYLE = {"color": "#333333", "linestyle": "--", "linewidth": 1.2, "zorder": 4}
_SLOPE_COLOUR = "#0072B2"


@dataclass(frozen=True)
class Course:
    """One trial whose commands change. Arrays [T]; `speed_m_s` ends with the fall if there was one."""

    title: str
    time_s: np.ndarray
    command_m_s: np.ndarray
    speed_m_s: np.ndarray
    slope_rad: np.ndarray
    fell: bool = False


def courses(trials: Sequence[Course]) -> Figure:
    """Commanded and walked speed over time above the slope, a column for each trial; a fall is a cross."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.3 * len(trials) + 0.5, 3.8), layout="constrained")
        panels = figure.subplots(2, len(trials), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
        for (above, below), trial in zip(panels.T, trials, strict=True):
            walked = len(trial.speed_m_s)
            above.plot(trial.time_s, trial.command_m_s, label="commanded", **_COMMAND_STYLE)
            above.plot(trial.time_s[:walked], trial.speed_m_s, label="walked", linewidth=1.3,
                       **{k: v for k, v in MEASURED_STYLE.items() if k != "linewidth"})  # fmt: skip
            if trial.fell and walked:
                above.plot(trial.time_s[walked - 1], trial.speed_m_s[-1], marker="x", markersize=9, color="#000000",
                           linestyle="none", label="fall")  # fmt: skip
            above.set_title(trial.title, loc="left", fontsize=8.5)
            below.plot(trial.time_s, np.rad2deg(trial.slope_rad), color=_SLOPE_COLOUR, linewidth=1.2)
            below.axhline(0.0, color="#666666", linewidth=0.7)
            below.set_xlabel("time, s")
        steepest = max(1.0, *(float(np.rad2deg(np.abs(trial.slope_rad).max())) for trial in trials))
        panels[1, 0].set_ylim(-1.15 * steepest, 1.15 * steepest)
        panels[0, 0].set_ylabel("speed, m/s")
        panels[1, 0].set_ylabel("slope, °")
        found: dict[str, object] = {}
        for axes in panels[0]:
            handles, labels = axes.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
        figure.legend(list(found.values()), list(found), loc="outside upper right", ncols=3)
    return figure


def cost_of_transport(conditions: Sequence[Condition]) -> Figure:
    """Gross cost of transport against speed on the level, and against slope at some speeds, beside people's.

    Solid lines with marks are the walker, dashed ones people (`norms.gross_cost_of_transport_j_kg_m`), whose band on
    the level is one standard error of that equation.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.7), layout="constrained")
        level, slopes = figure.subplots(1, 2)
        _cost_against_speed(level, [c for c in conditions if is_level(c)])
        _cost_against_slope(slopes, conditions)
    return figure


def _cost_against_speed(axes: Axes, level: Sequence[Condition]) -> None:
    speeds = np.array([achieved_speed(c) for c in level] or [1.25])
    costs = np.array([c.measures.get("cot_J_kg_m", np.nan) for c in level] or [np.nan])
    economical = norms.MOST_ECONOMICAL_SPEED_M_S["gross"]
    line = np.linspace(max(0.4, speeds.min() - 0.1), max(speeds.max(), economical) + 0.1, 60)
    people = norms.gross_cost_of_transport_j_kg_m(line)
    error = norms.HUMAN_COST_ERROR_W_KG["level"] / line
    axes.fill_between(line, people - error, people + error, color=NORM_COLOUR, alpha=0.3, linewidth=0)
    axes.plot(line, people, color="#707070", linestyle="--", label="people (LCDA equation)")
    axes.plot([economical], [norms.gross_cost_of_transport_j_kg_m(economical)], marker="x", color="#333333",
              markersize=8, linestyle="none", label=f"least in people: {economical:.2f} m/s")  # fmt: skip
    order = np.argsort(speeds)
    axes.plot(speeds[order], costs[order], marker="o", markersize=4, label="walker", **MEASURED_STYLE)
    least = least_cost(speeds, costs)
    if least is not None:
        where = f"least: {least.speed_m_s:.2f} m/s" + ("" if least.inside else " (end of the range)")
        axes.plot([least.speed_m_s], [least.cost_J_kg_m], marker="v", markersize=8, linestyle="none",
                  color=MEASURED_STYLE["color"], label=where)  # fmt: skip
    axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])
    axes.set_title("On the level", loc="left")
    axes.set_xlabel("speed, m/s")
    axes.set_ylabel("gross cost of transport, J/kg/m")
    axes.legend(loc="lower right")


def _cost_against_slope(axes: Axes, conditions: Sequence[Condition]) -> None:
    by_speed: dict[float, list[Condition]] = {}
    for c in conditions:
        by_speed.setdefault(round(c.speed_m_s, 3), []).append(c)
    sloped = sorted(speed for speed, own in by_speed.items() if len({round(float(c.slope_rad), 4) for c in own}) > 1)
    chosen = [sloped[i] for i in sorted({0, len(sloped) // 2, len(sloped) - 1})] if sloped else []
    for index, (speed, colour) in enumerate(zip(chosen, shades(chosen) if chosen else [], strict=True)):
        own = sorted(by_speed[speed], key=lambda c: c.slope_rad)
        degrees = np.rad2deg([c.slope_rad for c in own])
        costs = [c.measures.get("cot_J_kg_m", np.nan) for c in own]
        axes.plot(degrees, costs, marker=MARKERS[index], markersize=4, color=colour, label=f"walker, {speed:g} m/s")
        line = np.linspace(degrees[0], degrees[-1], 40)
        people = norms.gross_cost_of_transport_j_kg_m(speed, np.deg2rad(line))
        axes.plot(line, people, color=colour, linestyle="--", linewidth=1.1, label=f"people, {speed:g} m/s")
    axes.set_ylim(bottom=0.0)
    axes.set_title("Against slope", loc="left")
    axes.set_xlabel("slope, ° (uphill positive)")
    if chosen:
        axes.legend(loc="lower right")
