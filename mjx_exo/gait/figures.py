"""Figures of curves over the gait cycle.

Right is blue and solid, left is vermilion and dashed (Okabe and Ito's colours, told apart also in grey and by
colour-blind readers); a grey band is what people do. Figures are made without pyplot, so there is neither a display nor
global state, and every function returns a `matplotlib.figure.Figure`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mjx_exo.conventions import MUSCLE_GROUPS, SIDES
from mjx_exo.gait import norms
from mjx_exo.gait.curves import Curve
from mjx_exo.gait.metrics import Condition
from mjx_exo.gait.muscles import GROUP_MODULES, MODULE_WINDOWS
from mjx_exo.gait.norms import PERCENT

SIDE_STYLE = {
    "right": {"color": "#0072B2", "linestyle": "-"},
    "left": {"color": "#D55E00", "linestyle": "--"},
}
NORM_COLOUR = "#9a9a9a"
REFERENCE_STYLE = {"color": "#333333", "linestyle": "-"}
MEASURED_STYLE = {"color": "#D55E00", "linestyle": "-"}
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "savefig.dpi": 130,
}

TITLES = {
    "hip_flexion": "Hip flexion",
    "hip_adduction": "Hip adduction",
    "hip_rotation": "Hip internal rotation",
    "knee_flexion": "Knee flexion",
    "ankle_dorsiflexion": "Ankle dorsiflexion",
    "subtalar_inversion": "Subtalar inversion",
    "mtp_extension": "Toe extension",
    "vertical_force": "Vertical ground force",
}
MUSCLE_TITLES = {
    "abd": "Hip abductors",
    "add": "Hip adductors",
    "hamstrings": "Hamstrings",
    "bifemsh": "Biceps femoris, short head",
    "edl": "Toe extensors",
    "fdl": "Toe flexors",
    "glutmax": "Gluteus maximus",
    "iliopsoas": "Iliopsoas",
    "rectfem": "Rectus femoris",
    "vasti": "Vasti",
    "gastroc": "Gastrocnemius",
    "soleus": "Soleus",
    "tibant": "Tibialis anterior",
}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    with rc_context(STYLE):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def gait_curves(condition: Condition) -> Figure:
    """Hip, knee and ankle angle and vertical ground force on the norm band, sides apart, with the distances."""
    short = {"hip_flexion": "hip", "knee_flexion": "knee", "ankle_dorsiflexion": "ankle"}
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 6.2), layout="constrained")
        panels = figure.subplots(2, 2)
        for axes, name in zip(panels.flat, (*norms.JOINT_CURVES, "vertical_force"), strict=True):
            _norm_band(axes, name)
            joint = name in short
            curve = condition.curves.get(f"angle/{name}" if joint else "force/vertical")
            _sides(axes, curve)
            measures = condition.measures
            if curve is None:
                note = "not recorded"
            elif joint:
                what = "RMSE without means" if short[name] == "hip" else "RMSE"
                note = f"r {measures[f'r_{short[name]}']:.2f}, {what} {measures[f'rmse_{short[name]}_deg']:.1f}°"
            else:
                note = f"r in stance {measures['r_vgrf_stance']:.2f}"
            axes.set_title(f"{TITLES[name]} ({note})", loc="left")
            axes.set_ylabel("degrees" if joint else "body weights")
            _cycle_axis(axes)
        _stance_lines(panels.flat, condition.measures["stance_percent"])
        _legend(figure, panels[0, 0])
        figure.suptitle(title_of(condition), x=0.01, ha="left", fontsize=11)
    return figure


def curves_by_condition(conditions: Sequence[Condition], by: str = "speed") -> Figure:
    """The same four panels with one line per condition, both sides averaged, coloured by `by`: speed, slope, label."""
    if by == "label":
        values, labels = [float(i) for i in range(len(conditions))], [c.label for c in conditions]
    elif by == "speed":
        values = [c.speed_m_s for c in conditions]
        labels = [f"{value:g} m/s" for value in values]
    else:
        values = [float(np.rad2deg(c.slope_rad)) for c in conditions]
        labels = [f"{value:+.0f}°" for value in values]
    colours = shades(values)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 6.2), layout="constrained")
        panels = figure.subplots(2, 2)
        for axes, name in zip(panels.flat, (*norms.JOINT_CURVES, "vertical_force"), strict=True):
            _norm_band(axes, name)
            for condition, label, colour in zip(conditions, labels, colours, strict=True):
                curve = condition.curves.get("force/vertical" if name == "vertical_force" else f"angle/{name}")
                if curve is not None:
                    axes.plot(PERCENT, curve.both, color=colour, label=label, linewidth=1.3)
            axes.set_title(TITLES[name], loc="left")
            axes.set_ylabel("body weights" if name == "vertical_force" else "degrees")
            _cycle_axis(axes)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
    return figure


def moments_and_powers(condition: Condition) -> Figure | None:
    """Hip, knee and ankle moment with human ranges, and joint power below; None without moments."""
    if not any(name.startswith("moment/") for name in condition.curves):
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(10.0, 5.6), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True)
        for column, joint in enumerate(norms.JOINT_CURVES):
            above, below = panels[:, column]
            for percent, low, high in norms.MOMENT_RANGES_NM_KG[joint]:
                above.plot([percent, percent], [low, high], color=NORM_COLOUR, linewidth=7, alpha=0.6, zorder=1,
                           solid_capstyle="butt")  # fmt: skip
            _sides(above, condition.curves.get(f"moment/{joint}"))
            _sides(below, condition.curves.get(f"power/{joint}"))
            for axes in (above, below):
                axes.axhline(0.0, color="#666666", linewidth=0.7)
            above.set_title(TITLES[joint], loc="left")
            below.set_xlim(0, 100)
            below.set_xlabel("gait cycle, %")
        panels[0, 0].set_ylabel("moment, Nm/kg")
        panels[1, 0].set_ylabel("power, W/kg")
        _stance_lines(panels.flat, condition.measures["stance_percent"])
        handles, labels = panels[0, 0].get_legend_handles_labels()
        bar = figure.axes[0].lines[0]
        figure.legend([*handles, bar], [*labels, "95 % of people"], loc="outside upper right", ncols=3)
        figure.suptitle(title_of(condition), x=0.01, ha="left", fontsize=11)
    return figure


def activations(condition: Condition) -> Figure | None:
    """Activation of every muscle group over the cycle, sides apart, the table's on-times shaded; None without."""
    groups = [name.split("/")[1] for name in condition.curves if name.startswith("activation/")]
    if not groups:
        return None
    order = [*[g for g in MUSCLE_GROUPS if g in groups], *sorted(set(groups) - set(MUSCLE_GROUPS))]
    columns = 4
    rows = -(-len(order) // columns)
    highest = max(np.nanmax(condition.curves[f"activation/{group}"].mean) for group in order)
    with rc_context(STYLE):
        figure = Figure(figsize=(10.0, 1.75 * rows + 0.6), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, group in zip_longest(panels.flat, order):
            if group is None:
                axes.set_visible(False)
                continue
            for module in GROUP_MODULES.get(group, ()):
                for start, end in MODULE_WINDOWS[module]:
                    for left, right in ((start, min(end, 100.0)), (0.0, end - 100.0)):
                        if right > left:
                            axes.axvspan(left, right, color=NORM_COLOUR, alpha=0.3, linewidth=0)
            _sides(axes, condition.curves[f"activation/{group}"], band=False)
            overlap = condition.on_time_overlap.get(group)
            baseline = condition.on_time_baseline.get(group)
            note = "" if overlap is None else f"\noverlap {overlap:.2f}, shifted {baseline:.2f}"
            axes.set_title(MUSCLE_TITLES.get(group, group) + note, loc="left", fontsize=8.5)
            axes.set_ylim(0.0, max(0.1, 1.05 * highest))
            axes.set_xlim(0, 100)
        for axes in panels[:, 0]:
            axes.set_ylabel("activation")
        for column in range(columns):
            lowest = max(row for row in range(rows) if row * columns + column < len(order))
            panels[lowest, column].set_xlabel("gait cycle, %")
            panels[lowest, column].tick_params(labelbottom=True)
        _legend(figure, panels[0, 0], band="on in people (modules)")
        figure.suptitle(title_of(condition), x=0.01, ha="left", fontsize=11)
    return figure


@dataclass(frozen=True)
class TorquePair:
    """Two torques [S, 101] Nm/kg over the cycle for one panel; `reference` may be None."""

    title: str
    measured: np.ndarray
    reference: np.ndarray | None = None
    note: str = ""


def torque_pairs(
    pairs: Sequence[TorquePair], names: tuple[str, str] = ("simulation", "device"), columns: int = 4
) -> Figure:
    """Torque over the gait cycle from two sources, mean and one standard deviation, a panel for each condition."""
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    with rc_context(STYLE):
        width = max(5.2, 2.9 * columns)
        figure = Figure(figsize=(width, 2.2 * rows + 0.8), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, pair in zip_longest(panels.flat, pairs):
            if pair is None:
                axes.set_visible(False)
                continue
            for label, strides, style in (
                (names[0], pair.reference, REFERENCE_STYLE),
                (names[1], pair.measured, MEASURED_STYLE),
            ):
                if strides is not None and len(strides):
                    mean, sd = strides.mean(axis=0), strides.std(axis=0)
                    axes.fill_between(PERCENT, mean - sd, mean + sd, color=style["color"], alpha=0.18, linewidth=0)
                    axes.plot(PERCENT, mean, label=label, **style)
            axes.axhline(0.0, color="#666666", linewidth=0.7)
            axes.set_title(pair.title + (f"\n{pair.note}" if pair.note else ""), loc="left", fontsize=8.5)
            axes.set_xlim(0, 100)
        for column in range(columns):
            lowest = max(row for row in range(rows) if row * columns + column < len(pairs))
            panels[lowest, column].set_xlabel("gait cycle, %")
            panels[lowest, column].tick_params(labelbottom=True)
        figure.supylabel("torque, Nm/kg (flexion +)", fontsize=9)
        handles, labels = max((a.get_legend_handles_labels() for a in panels.flat), key=lambda pair: len(pair[1]))
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def title_of(condition: Condition) -> str:
    """E.g. "1.25 m/s, level"."""
    slope = np.rad2deg(condition.slope_rad)
    ground = "level" if abs(slope) < 0.05 else f"{abs(slope):.3g}° {'uphill' if slope > 0 else 'downhill'}"
    label = f" · {condition.label}" if condition.label else ""
    return f"{condition.speed_m_s:.2f} m/s, {ground}{label}"


def shades(values: Sequence[float]) -> list[str]:
    """Colours from dark violet to green in the order of the values, readable on white (part of viridis)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return [to_hex(colormaps["viridis"](0.85 * (value - low) / span)) for value in values]


def _norm_band(axes: Axes, name: str) -> None:
    norm = norms.curve(name)
    axes.fill_between(PERCENT, norm.low, norm.high, color=NORM_COLOUR, alpha=0.35, linewidth=0, zorder=1)
    axes.plot(PERCENT, norm.mean, color="#707070", linewidth=1.0, zorder=2)


def _sides(axes: Axes, curve: Curve | None, band: bool = True) -> None:
    """Both sides' means with one standard deviation."""
    if curve is None:
        return
    for index, side in enumerate(SIDES):
        if curve.strides[index]:
            mean, sd = curve.mean[index], curve.sd[index]
            if band:
                axes.fill_between(
                    PERCENT, mean - sd, mean + sd, color=SIDE_STYLE[side]["color"], alpha=0.15, linewidth=0, zorder=3
                )
            axes.plot(PERCENT, mean, label=side, zorder=4, **SIDE_STYLE[side])


def _cycle_axis(axes: Axes) -> None:
    axes.set_xlim(0, 100)
    axes.set_xlabel("gait cycle, %")


def _stance_lines(panels: Sequence[Axes], stance_percent: float) -> None:
    """A thin dotted line at the mean toe off."""
    if np.isfinite(stance_percent):
        for axes in panels:
            axes.axvline(stance_percent, color="#555555", linewidth=0.8, linestyle=":", zorder=2)


def _legend(figure: Figure, axes: Axes, band: str = "people, mean and band") -> None:
    from matplotlib.patches import Patch

    handles, labels = axes.get_legend_handles_labels()
    figure.legend([*handles, Patch(color=NORM_COLOUR, alpha=0.4)], [*labels, band], loc="outside upper right", ncols=3)
