"""Figures over conditions and over training: measures against speed, maps of the grid, learning curves."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mjx_exo.errors import UserError
from mjx_exo.gait import norms
from mjx_exo.gait.figures import NORM_COLOUR, STYLE, shades
from mjx_exo.gait.metrics import Condition

SPATIOTEMPORAL = {
    "stride_frequency_hz": "Stride frequency, Hz",
    "stride_length_m": "Stride length, m",
    "stance_percent": "Stance, % of the cycle",
    "double_support_percent": "Double support, % of the cycle",
    "step_width_m": "Step width, m",
    "cot_J_kg_m": "Gross cost of transport, J/kg/m",
}
MARKERS = "osD^vP*X<>"


def against_speed(
    conditions: Sequence[Condition],
    by_construction: Collection[str] = (),
    measures: Mapping[str, str] = SPATIOTEMPORAL,
) -> Figure:
    """Measures against the achieved speed, a line per slope, beside human values where the norms have them.

    Measures named in `by_construction` say so in their titles: a value that the task fixes proves nothing.
    """
    slopes = sorted({round(float(np.rad2deg(c.slope_rad)), 1) for c in conditions})
    colours = dict(zip(slopes, shades(slopes), strict=True))
    with rc_context(STYLE):
        rows = -(-len(measures) // 3)
        figure = Figure(figsize=(10.5, 2.7 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, 3, squeeze=False)
        speeds = np.array([c.measures.get("speed_m_s", c.speed_m_s) for c in conditions])
        for axes, (name, title) in zip(panels.flat, measures.items(), strict=False):
            _human(axes, name, speeds)
            for index, slope in enumerate(slopes):
                own = [c for c in conditions if round(float(np.rad2deg(c.slope_rad)), 1) == slope]
                points = sorted((c.measures.get("speed_m_s", c.speed_m_s), c.measures.get(name, np.nan)) for c in own)
                x, y = np.array(points).T
                axes.plot(x, y, marker=MARKERS[index % len(MARKERS)], markersize=4, linewidth=1.2,
                          color=colours[slope], label=_slope(slope))  # fmt: skip
            mark = " (by construction)" if name in by_construction else ""
            axes.set_title(title + mark, loc="left")
            axes.set_xlabel("speed, m/s")
            _widen(axes)
        for axes in list(panels.flat)[len(measures) :]:
            axes.set_visible(False)
        found: dict[str, object] = {}
        for axes in panels.flat:
            handles, labels = axes.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
        order = [*[label for label in found if label != "people"], *[label for label in found if label == "people"]]
        figure.legend([found[label] for label in order], order, loc="outside right center")
    return figure


def _human(axes: Axes, name: str, speeds: np.ndarray) -> None:
    """What people do, where this project has a source for it."""
    line = np.linspace(max(0.3, speeds.min() - 0.1), speeds.max() + 0.1, 50)
    style = {"color": NORM_COLOUR, "linewidth": 2.5, "zorder": 1}
    points = {"marker": "x", "color": "#333333", "linestyle": "none", "markersize": 7, "label": "people", "zorder": 5}
    if name == "stride_frequency_hz":
        axes.plot(line, norms.stride_frequency_hz(line), **style)
        axes.plot(*np.array(norms.STRIDE_FREQUENCY_POINTS).T, **points)
    elif name == "stride_length_m":
        axes.plot(line, norms.stride_length_m(line), **style)
        axes.plot(*np.array(norms.STRIDE_LENGTH_POINTS).T, **points)
    elif name == "stance_percent":
        axes.plot([1.25], [norms.STANCE_PERCENT], **points)
    elif name == "cot_J_kg_m":
        axes.plot(line, norms.gross_cost_of_transport_j_kg_m(line), **style)


def _widen(axes: Axes) -> None:
    """Keeps a measure that hardly changes from filling its panel: at least a fifth of its own size is shown."""
    low, high = axes.get_ylim()
    middle = 0.5 * (low + high)
    half = max(0.5 * (high - low), 0.1 * abs(middle))
    axes.set_ylim(middle - half, middle + half)


def _slope(degrees: float) -> str:
    return "level" if degrees == 0 else f"{degrees:+g}°"


def grid_map(conditions: Sequence[Condition], measure: str, title: str, digits: int = 2) -> Figure:
    """One measure as a table of speed (across) and slope (up), shaded, with the numbers written in."""
    speeds = sorted({round(c.speed_m_s, 3) for c in conditions})
    slopes = sorted({round(float(np.rad2deg(c.slope_rad)), 2) for c in conditions})
    table = np.full((len(slopes), len(speeds)), np.nan)
    for c in conditions:
        row, column = slopes.index(round(float(np.rad2deg(c.slope_rad)), 2)), speeds.index(round(c.speed_m_s, 3))
        table[row, column] = c.measures.get(measure, np.nan)
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(0.75 * len(speeds) + 2.2, 0.45 * len(slopes) + 1.4), layout="constrained")
        axes = figure.subplots()
        known = table[np.isfinite(table)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        axes.imshow(table, origin="lower", aspect="auto", cmap="cividis", vmin=low, vmax=max(high, low + 1e-9))
        for (row, column), value in np.ndenumerate(table):
            text = "–" if np.isnan(value) else f"{value:.{digits}f}"
            dark = np.isfinite(value) and (value - low) < 0.55 * max(high - low, 1e-9)
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color="white" if dark else "black")
        axes.set_xticks(range(len(speeds)), [f"{speed:g}" for speed in speeds])
        axes.set_yticks(range(len(slopes)), [f"{slope:+g}°" if slope else "0°" for slope in slopes])
        axes.set_xlabel("commanded speed, m/s")
        axes.set_ylabel("slope")
        axes.set_title(title, loc="left")
    return figure


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The lines of a JSONL training log; a half-written last line is left out. Raises UserError when there is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    entries = []
    for line in text.splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    if not entries:
        raise UserError(f"{path}: no line of JSON in it")
    return entries


def learning_curves(
    logs: Mapping[str, Sequence[Mapping[str, float]]], measures: Mapping[str, str], x: str = "steps"
) -> Figure:
    """Measures of several runs against training steps, one panel per measure, one line per run.

    `logs` maps a run's name to its entries (`read_log`), `measures` a key of the entries to a panel's title; `x` is the
    key of the horizontal axis, shown in millions when it is large.
    """
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.5 * columns + 0.5, 2.5 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        furthest = max((entry[x] for log in logs.values() for entry in log if x in entry), default=1.0)
        scale, unit = (1e6, " (millions)") if furthest >= 2e5 else (1.0, "")
        for axes, (key, title) in zip(panels.flat, measures.items(), strict=False):
            for index, (name, log) in enumerate(logs.items()):
                points = [(entry[x] / scale, entry[key]) for entry in log if entry.get(key) is not None and x in entry]
                if points:
                    style = ("-", "--", "-.", ":")[index // len(colours) % 4]
                    axes.plot(*np.array(points).T, color=colours[index % len(colours)], linestyle=style,
                              linewidth=1.2, label=name)  # fmt: skip
            axes.set_title(title, loc="left")
            axes.set_xlabel(x.replace("_", " ") + unit)
        for axes in list(panels.flat)[len(measures) :]:
            axes.set_visible(False)
        if len(logs) > 1:
            handles, labels = max((a.get_legend_handles_labels() for a in panels.flat), key=lambda pair: len(pair[1]))
            figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)))
    return figure
