"""The sections of an evaluation's report that the gait report does not have by itself."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from mjx_exo.evaluation.bars import Bar
from mjx_exo.evaluation.checks import FIGURES
from mjx_exo.evaluation.courses import REACHED_M_S, REACHED_S, STAND_S, STANDING_M_S, Courses
from mjx_exo.evaluation.grid import SETTLE_S
from mjx_exo.gait import figures, time_charts
from mjx_exo.gait.cost import cost_summary
from mjx_exo.gait.metrics import Condition, overall
from mjx_exo.gait.report import COLUMNS, DETAILS, Image, Section, TextTable, said
from mjx_exo.musculoskeletal import energetics
from mjx_exo.musculoskeletal.wearer import Wearer
from mjx_exo.walking.pacing import PACING_LIMIT_M_S
from mjx_exo.walking.rewards import STANCE


def bar_section(bars: Sequence[Bar]) -> Section:
    """What was demanded and what was found."""
    rows = [[bar.name, said(bar.found, ".3f"), bar.allowed, "yes" if bar.met else "no"] for bar in bars]
    return Section("Demands", (), [TextTable(["demand", "found", "allowed", "met"], rows)])


def course_sections(walked: Courses) -> list[Section]:
    """Transitions and changing commands, each with what was counted and some trials; or why they were left out."""
    t, c = walked.transitions, walked.changing
    if "skipped" in t:
        stand = Section("Standing, walking, standing", [f"Left out: {t['skipped']}."])
    else:
        text = [
            f"{t['trials']} trials of {t['seconds']:g} s: stand, walk at a speed of the trained range, stand again. "
            f"{t['success_share']:.1%} succeed: no fall, the mean speed of the walk's last {REACHED_S:g} s within "
            f"{REACHED_M_S:g} m/s of the command, and then under {STANDING_M_S:g} m/s at every moment of "
            f"{STAND_S:g} s.",
            "On the level {}, on slopes {}.".format(
                *(f"{said(t[k]['success_share'], '.1%')} of {t[k]['trials']}" for k in ("on_the_level", "on_slopes"))
            ),
        ]
        names = {
            "fall_free_share": "without a fall",
            "standing_share": "stands still before walking",
            "reached_speed_share": "reaches the speed",
            "standing_again_share": "stands still after walking",
        }
        rows = [[heading, said(t[name], ".1%")] for name, heading in names.items()]
        rows.append(["mean speed while standing, m/s", said(t["standing_speed_m_s"], ".3f")])
        images = [_courses_image("transitions", walked.transition_courses)] if walked.transition_courses else []
        stand = Section("Standing, walking, standing", text, [TextTable(["of the trials", "share"], rows)], images)
    if "skipped" in c:
        return [stand, Section("Changing commands", [f"Left out: {c['skipped']}."])]
    (slow, fast), (down, up) = c["speed_range_m_s"], c["slope_range_deg"]
    text = [
        f"{c['trials']} trials of {c['seconds']:g} s with a new speed ({slow:g} to {fast:g} m/s) and slope "
        f"({down:.3g}° to {up:.3g}°) every {c['every_s']:g} s: {c['fall_free_share']:.1%} without a fall; the walked "
        f"speed, averaged over a stride, is off the command by {said(c['speed_error_m_s'], '.3f')} m/s on average."
    ]
    images = [_courses_image("changing_commands", walked.changing_courses)]
    return [stand, Section("Changing commands", text, (), images)]


def _courses_image(name: str, courses: Sequence[time_charts.Course]) -> Image:
    caption = "Commanded and walked speed (averaged over half a second), and the slope below."
    return Image(name, figures.png(time_charts.courses(courses)), caption)


def step_section(found: Mapping[str, Any]) -> Section:
    """Relative change of each figure when the step is halved."""
    cells = found["cells"]
    names = [name for name in FIGURES if any(name in cell["relative_change"] for cell in cells)]
    rows = [["falls at the step, at half of it", *(f"{c['falls'][0]}, {c['falls'][1]}" for c in cells)]]
    rows += [[heading_of(name), *(_change(cell, name) for cell in cells)] for name in names]
    header = ["figure", *(f"{cell['speed_command_m_s']:g} m/s, {cell['slope_deg']:+.3g}°" for cell in cells)]
    text = [
        f"{found['trials']} trials per cell, the same at {1e3 * found['step_s']:g} and at "
        f"{1e3 * found['half_step_s']:g} ms. "
        f"Largest change {said(found['worst_relative_change'], '.2%')}, allowed {found['bar']:.0%}; trials that fell "
        "at one of the two are left out of both. ± is one standard error: walking is chaotic, so that trials drift "
        "apart whatever the step, and a change below twice its error is none that could be told from chance."
    ]
    return Section("Half the step", text, [TextTable(header, rows)])


def _change(cell: Mapping[str, Any], name: str) -> str:
    change, error = cell["relative_change"].get(name), cell["standard_error"].get(name)
    return said(change, "+.2%") + ("" if error is None else f" ± {said(error, '.2%')}")


def published_section(found: Mapping[str, Any], conditions: Sequence[Condition]) -> Section:
    """The compiled and the published body side by side."""
    title = "In the published body"
    if "skipped" in found:
        return Section(title, [f"Left out: {found['skipped']}."])
    compiled, published = found["compiled"], found["published"]
    rows = [
        [heading_of(name), said(compiled.get(name), ".3f"), said(published.get(name), ".3f"),
         said(found["difference"].get(name), "+.3f")]
        for name in ("fall_free_share", *FIGURES)
        if name in compiled or name in published
    ]  # fmt: skip
    text = [
        "The policy was trained on a compiled body; here it walks, unchanged, in the model that body was compiled "
        "from, with that model's own tendons, muscles and joints. "
        f"{found['trials']} trials of {found['seconds']:g} s, one wearer."
    ]
    walked = [c for c in conditions if c.curves]
    drawn = figures.png(figures.curves_by_condition(walked, "label")) if walked else b""
    images = [Image("published_body", drawn, "Both sides averaged.")] if walked else []
    return Section(title, text, [TextTable(["measure", "compiled", "published", "difference"], rows)], images)


def heading_of(name: str) -> str:
    """A measure as people read it."""
    return (COLUMNS | DETAILS).get(name, (name.replace("_", " "), ""))[0]


def lead(teacher: Any, arguments: argparse.Namespace, person: Wearer | None = None) -> list[str]:
    """What was walked, how, and what the figures rest on; `person` where one alone has walked."""
    walking = teacher.config.walking
    people = f"{arguments.wearers} people it was not trained on" if arguments.wearers else f"{walking.wearers} wearers"
    if person is not None:
        people = f"one person of {person.mass_kg:.1f} kg and {person.height_m:.2f} m, strength {person.strength:g}"
    lines = [
        f"{teacher.source}: body {walking.body}, {people}, engine {arguments.engine}, physics step "
        f"{arguments.step_ms:g} ms, {arguments.trials} trials of {arguments.seconds:g} s per cell, of which the first "
        f"{SETTLE_S:g} s are not counted; deterministic policy, seed {arguments.seed}."
    ]
    pacing = walking.pacing_per_s if arguments.pacing is None else arguments.pacing
    if pacing:
        lines.append(
            f"Who is too slow aims higher, at {pacing:g} of the error per second and by at most {PACING_LIMIT_M_S:g} "
            "m/s; speed errors are against the command, not against the aim."
        )
    if arguments.controller is not None:
        lines.append(f"Device driven by {arguments.controller.name}, run by onnxruntime, from virtual gyroscopes.")
    elif walking.device_mode != "absent":
        lines.append(f"Device {walking.device}, {walking.device_mode}.")
    begin, end = STANCE
    lines += [
        "Angles are compared with adult norms as SCONE's gait analysis gives them (level ground, comfortable speed); "
        "the hip with its mean removed, because laboratories define the pelvis differently.",
        "Metabolic cost is Umberger's model of 2010 (slow fibres first) on the muscles the body has, plus "
        f"{energetics.BASAL_W_KG:g} W/kg of rest. Its muscles have no tendon that stores energy, so look at its course "
        "over speed and slope rather than at its height.",
        f"A gait clock rewards a foot that stands from {begin:.0%} to {end:.0%} of its cycle, so stance and double "
        "support are steered, not found."
        + ("" if walking.clock_freedom == 0 else f" Its frequency may be bent by ±{walking.clock_freedom:.0%}."),
    ]
    return lines


FREE_FROM = 0.1
"""A gait clock that may be bent by less than this share still decides the cadence: it counts as given."""


def clock_is_given(teacher: Any) -> bool:
    """Whether the commanded speed decides the gait clock's frequency."""
    return teacher.config.walking.clock_freedom < FREE_FROM


def by_construction(teacher: Any) -> tuple[str, ...]:
    """Measures that the clock fixes: the frequency, and with a commanded speed the length of a stride too."""
    if not clock_is_given(teacher):
        return ()
    return ("stride_frequency_hz", "stride_time_s", "cadence_steps_min", "stride_length_m")


def spoken(
    conditions: Sequence[Condition],
    transitions: Mapping[str, Any],
    changing: Mapping[str, Any],
    extra: Mapping[str, Any],
    bars: Sequence[Bar],
) -> list[str]:
    """The report in a few lines."""
    found, cost = overall(conditions), cost_summary(conditions)
    lines = [
        f"grid: no fall {found['fall_free_share']:.1%} (worst cell {found['fall_free_share_worst']:.1%}), speed error "
        f"{said(found['speed_error_m_s'], '.3f')} m/s (worst {said(found['speed_error_m_s_worst'], '.3f')})"
    ]
    if "skipped" in transitions:
        lines.append(f"standing, walking, standing: left out, {transitions['skipped']}")
    else:
        lines.append(
            f"standing, walking, standing: {transitions['success_share']:.1%} of {transitions['trials']} succeed, "
            f"{transitions['standing_share']:.1%} stand still first"
        )
    if "skipped" in changing:
        lines.append(f"changing commands: left out, {changing['skipped']}")
    else:
        lines.append(f"changing commands: {changing['fall_free_share']:.1%} of {changing['trials']} without a fall")
    if "least_cost_speed_m_s" in cost:
        lines.append(f"least cost of transport on the level at {cost['least_cost_speed_m_s']:.2f} m/s")
    published = extra.get("published_body", {})
    if "published" in published:
        lines.append(
            f"published body: {published['published']['fall_free_share']:.1%} without a fall "
            f"(compiled {published['compiled']['fall_free_share']:.1%})"
        )
    if "half_step" in extra:
        lines.append(f"half the step changes a figure by at most {extra['half_step']['worst_relative_change']:.2%}")
    missed = [bar.name for bar in bars if not bar.met]
    lines.append(f"demands met: {len(bars) - len(missed)} of {len(bars)}" + ("; not: " if missed else ""))
    return [*lines, *(f"  {name}" for name in missed)]
