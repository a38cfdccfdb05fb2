"""Reports: one HTML file that carries its figures inside it, with the figures, tables and numbers beside it as files.

The HTML can be mailed or committed alone; nothing in it points outside. `gait_report` is the report of a walker over
speeds and slopes; other reports (transfer, study) are put together from the same sections.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np

from mjx_exo.conventions import SIDES
from mjx_exo.gait import charts, figures, time_charts
from mjx_exo.gait.cost import cost_summary, is_level
from mjx_exo.gait.files import write_bytes, write_json, write_text
from mjx_exo.gait.metrics import Condition, cell_summary, summary
from mjx_exo.gait.norms import PERCENT
from mjx_exo.gait.table import write_rows

_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 68em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2.2em; border-bottom: 1px solid #ddd; }
img { max-width: 100%; height: auto; } figure { margin: 1em 0; } figcaption { color: #555; font-size: 0.92em; }
.scroll { overflow-x: auto; } .films { display: flex; flex-wrap: wrap; gap: 0.5em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9em; }
th, td { padding: 0.2em 0.7em; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
th { background: #f5f5f5; } th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for line in lead %}
<p>{{ line }}</p>
{% endfor %}
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for line in section.text %}
<p>{{ line }}</p>
{% endfor %}
{% for table in section.tables %}
<div class="scroll"><table>
<tr>{% for name in table.header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endfor %}
{% if section.films %}
<div class="films">
{% endif %}
{% for image in section.images %}
<figure><img alt="{{ image.caption or image.name }}" src="data:image/{{ image.kind }};base64,{{ image.base64 }}">
{% if image.caption %}<figcaption>{{ image.caption }}</figcaption>{% endif %}</figure>
{% endfor %}
{% if section.films %}
</div>
{% endif %}
{% endfor %}
</body>
</html>
"""
)


@dataclass(frozen=True)
class Image:
    """A picture of a report; `name` is its file name without ending, `kind` png or gif."""

    name: str
    data: bytes
    caption: str = ""
    kind: str = "png"

    @property
    def base64(self) -> str:
        """The picture as text for a data URI."""
        return base64.b64encode(self.data).decode("ascii")


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are already text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then tables, then pictures."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[TextTable] = ()
    images: Sequence[Image] = field(default_factory=tuple)

    @property
    def films(self) -> bool:
        """Whether all pictures are animations, which stand side by side."""
        return bool(self.images) and all(image.kind == "gif" for image in self.images)


def write_page(
    folder: str | Path, title: str, lead: Sequence[str], sections: Sequence[Section], name: str = "report.html"
) -> Path:
    """Writes the HTML and, beside it, each picture as a file; returns the HTML's path."""
    folder = Path(folder)
    for section in sections:
        for image in section.images:
            write_bytes(folder / f"{image.name}.{image.kind}", image.data)
    path = folder / name
    write_text(path, _PAGE.render(title=title, lead=lead, sections=sections))
    return path


COLUMNS = {
    "fall_free_share": ("without a fall", ".1%"),
    "speed_m_s": ("speed, m/s", ".2f"),
    "speed_error_m_s": ("speed error, m/s", ".3f"),
    "r_hip": ("r hip", ".2f"),
    "r_knee": ("r knee", ".2f"),
    "r_ankle": ("r ankle", ".2f"),
    "r_vgrf_stance": ("r vertical force", ".2f"),
    "rmse_hip_deg": ("RMSE hip, °", ".1f"),
    "rmse_knee_deg": ("RMSE knee, °", ".1f"),
    "rmse_ankle_deg": ("RMSE ankle, °", ".1f"),
    "stance_percent": ("stance, %", ".1f"),
    "stride_frequency_hz": ("stride frequency, Hz", ".2f"),
    "cot_J_kg_m": ("cost of transport, J/kg/m", ".2f"),
}
"""Columns of the overview: measure → heading and format."""

DETAILS = {
    "vgrf_peak1_bw": ("first force peak, body weights", ".2f"),
    "vgrf_valley_bw": ("valley, body weights", ".2f"),
    "vgrf_peak2_bw": ("second force peak, body weights", ".2f"),
    "knee_loading_flexion_deg": ("knee flexion in loading, °", ".1f"),
    "knee_swing_flexion_deg": ("knee flexion in swing, °", ".1f"),
    "knee_limit_torque_stance_nm": ("knee end stop in stance, Nm", ".2f"),
    "hip_rotation_min_deg": ("least hip rotation, °", ".1f"),
    "hip_rotation_max_deg": ("greatest hip rotation, °", ".1f"),
    "in_band_hip_centred": ("share of cycle in band, hip (means removed)", ".0%"),
    "in_band_knee": ("share of cycle in band, knee", ".0%"),
    "in_band_ankle": ("share of cycle in band, ankle", ".0%"),
    "rmse_hip_raw_deg": ("RMSE hip with means, °", ".1f"),
    "stride_length_m": ("stride length, m", ".2f"),
    "step_width_m": ("step width, m", ".3f"),
    "double_support_percent": ("double support, %", ".1f"),
    "positive_joint_work_J_kg_m": ("positive joint work, J/kg/m", ".2f"),
    "negative_joint_work_J_kg_m": ("negative joint work, J/kg/m", ".2f"),
    "on_time_overlap": ("muscle on-times: overlap with the module table", ".2f"),
    "on_time_overlap_shuffled": ("the same, activations shifted", ".2f"),
    "on_time_p": ("chance of such an overlap when shifted", ".4f"),
    "lag_extension_ms": ("extension torque behind hip moment, ms", ".0f"),
    "lag_flexion_ms": ("flexion torque behind hip moment, ms", ".0f"),
    "exo_positive_share": ("share of positive device work", ".2f"),
}
"""Rows of a single condition's table."""


def said(value: float | None, form: str) -> str:
    """A number as text, a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else format(value, form)


def overview(conditions: Sequence[Condition]) -> TextTable:
    """One row per condition; only columns that at least one of them has."""
    shown = {
        name: column for name, column in COLUMNS.items() if any(_known(condition, name) for condition in conditions)
    }
    rows = [
        [figures.title_of(c), str(c.trials), *(said(c.measures.get(name), form) for name, (_, form) in shown.items())]
        for c in conditions
    ]
    return TextTable(["condition", "trials", *(heading for heading, _ in shown.values())], rows)


def details(condition: Condition) -> TextTable:
    """What else is known about one condition, a row per measure."""
    rows = [
        [heading, said(condition.measures[name], form)]
        for name, (heading, form) in DETAILS.items()
        if _known(condition, name)
    ]
    return TextTable(["measure", "value"], rows)


def _known(condition: Condition, name: str) -> bool:
    value = condition.measures.get(name)
    return value is not None and bool(np.isfinite(value))


def gait_report(
    folder: str | Path,
    title: str,
    conditions: Sequence[Condition],
    lead: Sequence[str] = (),
    by_construction: Collection[str] = (),
    animations: Mapping[str, bytes] | None = None,
    more: Sequence[Section] = (),
    main: Condition | None = None,
    extra: Mapping[str, object] | None = None,
    first: Sequence[Section] = (),
) -> Path:
    """Writes `report.html`, PNGs, `curves.csv`, `measures.csv` and `summary.json` for a walker over conditions.

    `by_construction` names measures that the task fixes, so that nobody takes them for a finding. `animations` are GIF
    files by name (letters and digits). `first` and `more` are sections that only the caller can write, before all
    others and after them; `extra` are further entries of summary.json. `main` gets the large figures and the entry
    `reference`, and need not be one of `conditions`; without it, the one nearest to 1.25 m/s on the level is taken.
    Returns the path of the HTML.
    """
    folder = Path(folder)
    if main is None:
        main = min(conditions, key=lambda c: abs(c.speed_m_s - 1.25) + 10.0 * abs(float(c.slope_rad)))
    sections = [
        *first,
        Section("Conditions", _fixed(by_construction), [overview(conditions)], _maps(conditions)),
        Section(f"Gait at {figures.title_of(main)}", (), [details(main)], _condition_images(main)),
    ]
    if main.on_time_overlap:
        sections.append(Section("Muscle timing", MUSCLE_TIMING_TEXT, [muscle_timing(main)]))
    if len(conditions) > 1:
        sections.append(Section("Over speed and slope", (), (), _comparison_images(conditions, by_construction)))
        sections += _cost_section(conditions)
    sections += more
    if animations:
        moving = [Image(name, data, name.replace("_", " "), "gif") for name, data in animations.items()]
        sections.append(Section("Animations", (), (), moving))
    found = summary(conditions) | {"reference": cell_summary(main), "cost": cost_summary(conditions)}
    write_json(folder / "summary.json", found | {"by_construction": sorted(by_construction)} | dict(extra or {}))
    write_measures(folder / "measures.csv", conditions)
    write_curves(folder / "curves.csv", conditions)
    return write_page(folder, title, lead, sections)


def _fixed(by_construction: Collection[str]) -> list[str]:
    if not by_construction:
        return []
    return [f"Fixed by construction, not found: {', '.join(sorted(by_construction))}."]


MUSCLE_TIMING_TEXT = (
    "Overlap of the time a muscle group is on (above half of its own range) with the time it is on in people, by the "
    "modules of walking: 1 is the same, 0 never together. Shifted: the mean overlap of the same activation moved along "
    "the cycle by every amount, which is what chance would give.",
)


def muscle_timing(condition: Condition) -> TextTable:
    """Overlap with people's on-times by muscle group, beside what shifted activations give, and over all groups."""
    rows = [
        [figures.MUSCLE_TITLES.get(group, group), f"{overlap:.2f}", said(condition.on_time_baseline.get(group), ".2f")]
        for group, overlap in condition.on_time_overlap.items()
    ]
    measures = condition.measures
    known = [said(measures.get(name), ".2f") for name in ("on_time_overlap", "on_time_overlap_shuffled")]
    rows.append([f"all (chance of such a mean: {said(measures.get('on_time_p'), '.4f')})", *known])
    return TextTable(["muscle group", "overlap", "shifted"], rows)


def _cost_section(conditions: Sequence[Condition]) -> list[Section]:
    cost = cost_summary(conditions)
    if not cost:
        return []
    text = [
        f"On the level at {cost['at_speed_m_s']:.2f} m/s: {cost['cot_J_kg_m']:.2f} J/kg/m; people "
        f"{cost['human_cot_J_kg_m']:.2f} J/kg/m (LCDA equation, Looney et al. 2019)."
    ]
    if "least_cost_speed_m_s" in cost:
        beyond = "" if cost["least_cost_is_inside_the_range"] else ", at the end of the range that was walked"
        text.append(
            f"Least cost on the level: {cost['least_cost_J_kg_m']:.2f} J/kg/m at {cost['least_cost_speed_m_s']:.2f} "
            f"m/s{beyond}; people {cost['human_least_cost_speed_m_s']:.2f} m/s (Abe et al. 2015)."
        )
    drawn = figures.png(time_charts.cost_of_transport(conditions))
    return [Section("What walking costs", text, (), [Image("cost_of_transport", drawn)])]


def _maps(conditions: Sequence[Condition]) -> list[Image]:
    speeds = {round(c.speed_m_s, 3) for c in conditions}
    slopes = {round(float(c.slope_rad), 4) for c in conditions}
    if len(speeds) < 2 or len(slopes) < 2:
        return []
    maps = (
        ("fall_free_share", "Share of trials without a fall", 2),
        ("speed_error_m_s", "Speed error, m/s", 3),
        ("cot_J_kg_m", "Gross cost of transport, J/kg/m", 2),
    )
    return [
        Image(f"map_{name}", figures.png(charts.grid_map(conditions, name, title, digits)))
        for name, title, digits in maps
        if any(_known(c, name) for c in conditions)
    ]


def _condition_images(condition: Condition) -> list[Image]:
    images = [Image("gait_curves", figures.png(figures.gait_curves(condition)))] if condition.curves else []
    for name, drawn in (
        ("moments_and_powers", figures.moments_and_powers(condition)),
        ("activations", figures.activations(condition)),
    ):
        if drawn is not None:
            images.append(Image(name, figures.png(drawn)))
    return images


def _comparison_images(conditions: Sequence[Condition], by_construction: Collection[str]) -> list[Image]:
    walked = [c for c in conditions if c.curves]
    level = sorted((c for c in walked if is_level(c)), key=lambda c: c.speed_m_s)
    images = []
    if len(level) > 1:
        images.append(Image("curves_by_speed", figures.png(figures.curves_by_condition(level)), "Level, by speed."))
    speeds = sorted({round(c.speed_m_s, 3) for c in walked}, key=lambda v: abs(v - 1.25))
    same = sorted((c for c in walked if speeds and round(c.speed_m_s, 3) == speeds[0]), key=lambda c: c.slope_rad)
    if len(same) > 1:
        drawn = figures.png(figures.curves_by_condition(same, "slope"))
        images.append(Image("curves_by_slope", drawn, f"{speeds[0]:g} m/s, by slope."))
    measured = [c for c in conditions if _known(c, "speed_m_s")]
    if measured:
        drawn = figures.png(charts.against_speed(measured, by_construction))
        caption = (
            "Grey: people. Stride frequency and length: a square-root law through the crosses, which are measured; "
            "cost: the LCDA equation on the level."
        )
        images.append(Image("against_speed", drawn, caption))
    return images


def write_measures(path: str | Path, conditions: Sequence[Condition]) -> None:
    """Tidy CSV: speed_command_m_s, slope_deg, label, measure, value."""
    write_rows(
        path,
        ["speed_command_m_s", "slope_deg", "label", "measure", "value"],
        (
            [c.speed_m_s, round(float(np.rad2deg(c.slope_rad)), 6), c.label, name, float(value)]
            for c in conditions
            for name, value in c.measures.items()
        ),
    )


_UNITS = {
    "angle": "_deg",
    "moment": "_Nm_kg",
    "limit_size": "_Nm_kg",
    "power": "_W_kg",
    "force": "_bw",
    "torque": "_Nm_kg",
    "gyro": "_rad_s",
}
_WITH_SD = ("angle", "force", "torque")


def write_curves(path: str | Path, conditions: Sequence[Condition]) -> None:
    """Tidy CSV: a row per condition, side and percent; a column per mean signal, and `_sd` over strides for some."""
    names = sorted({name for c in conditions for name in c.curves})
    columns: list[tuple[str, str, str]] = []
    for name in names:
        kind, what = name.split("/")
        heading = f"{kind}_{what}{_UNITS.get(kind, '')}"
        columns.append((heading, name, "mean"))
        if kind in _WITH_SD:
            columns.append((f"{heading}_sd", name, "sd"))
    rows = (
        [
            c.speed_m_s,
            round(float(np.rad2deg(c.slope_rad)), 6),
            c.label,
            side,
            int(percent),
            *(_point(c, name, kind, index, point) for _, name, kind in columns),
        ]
        for c in conditions
        for index, side in enumerate(SIDES)
        if any(curve.strides[index] for curve in c.curves.values())
        for point, percent in enumerate(PERCENT)
    )
    header = ["speed_command_m_s", "slope_deg", "label", "side", "percent", *(heading for heading, _, _ in columns)]
    write_rows(path, header, rows)


def _point(condition: Condition, name: str, kind: str, side: int, point: int) -> float:
    curve = condition.curves.get(name)
    return float("nan") if curve is None else float(f"{getattr(curve, kind)[side, point]:.4g}")
