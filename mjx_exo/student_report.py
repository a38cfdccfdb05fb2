"""What is written down of a student's check: summary.json, a page with figures, and a reference for a device's log."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.gait import figures
from mjx_exo.gait.files import write_json
from mjx_exo.gait.recording import Recording, save
from mjx_exo.gait.report import Image, Section, TextTable, said, write_page
from mjx_exo.learning.policy_file import Policy
from mjx_exo.student_check import (
    TARGETS,
    CheckConfig,
    CheckedCell,
    cells_for,
    check_cells,
    standing_torque,
    student_profile,
    summarise,
    targets_met,
)
from mjx_exo.student_open_loop import open_loop_figure, open_loop_on_norms
from mjx_exo.teacher import Teacher
from policies.storage import SavedStudent, load_student

COLUMNS = {
    "r_profile": ("r of the stride means", ".3f"),
    "r_raw": ("r of all samples", ".3f"),
    "rmse_Nm_kg": ("RMSE, Nm/kg", ".4f"),
    "amplitude_ratio": ("amplitude", ".2f"),
    "benefit_kept": ("benefit kept", ".0%"),
    "fall_free_student": ("no fall, student", ".0%"),
    "fall_free_teacher": ("no fall, teacher", ".0%"),
    "fall_free_nobody": ("no fall, nobody", ".0%"),
}


def check_student(
    teacher: Teacher,
    folder: Path,
    config: CheckConfig,
    unassisted: Policy | None = None,
    say: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Checks the student in `folder` and writes summary.json, report.html, torque.png, reference.npz there.

    `onnx_max_abs_diff` is null until the student is exported (`export.to_onnx` fills it in).
    """
    student = load_student(folder)
    profile = student_profile(teacher, student)
    cells = cells_for(teacher, config)
    checked = check_cells(teacher, student, config, cells, unassisted, say)
    on_norms = open_loop_on_norms(student)
    summary = summarise(checked) | standing_torque(checked, student, profile)
    summary |= {
        "onnx_max_abs_diff": math.nan,
        "open_loop_in_assistive_phase": all(row.assistive for row in on_norms),
        "teacher": teacher.source,
        "teacher_sha256": teacher.policy.description["sha256"],
        "params_hash": student.params_hash,
        "profile": profile.name,
        "signals": list(student.config.signals),
        "unassisted": "the teacher's own person" if unassisted is None else "a person trained with the device off",
        "speeds_m_s": sorted({c.cell.speed_m_s for c in checked if c.cell.kind == "held out"}),
        "slopes_deg": sorted({round(math.degrees(c.cell.slope_rad), 3) for c in checked if c.cell.kind == "held out"}),
        "wearers": config.wearers,
        "seconds": config.seconds,
    }
    summary["targets_met"] = targets_met(summary)
    summary["open_loop"] = [row.as_dict() for row in on_norms]
    summary["cells"] = [c.as_dict() | {"kind": c.cell.kind} for c in checked]
    save(folder / "reference.npz", reference(checked))
    write_json(folder / "summary.json", summary)
    write_check_page(folder, student, summary, checked, figures.png(open_loop_figure(on_norms)))
    return summary


def reference(checked: Sequence[CheckedCell]) -> list[Recording]:
    """What a device's log is compared with: all trials on level ground, and one of every other cell."""
    kept = []
    for cell in checked:
        if cell.cell.kind != "standing":
            kept += cell.recordings[: None if cell.cell.kind == "level" else 1]
    halved = ("thigh_gyro_rad_s", "exo_torque_nm_kg", "exo_command_nm_kg")
    return [
        dataclasses.replace(
            trial, ground_force_n=None, **{name: np.asarray(getattr(trial, name), np.float32) for name in halved}
        )
        for trial in kept
    ]


def write_check_page(
    folder: Path, student: SavedStudent, summary: dict[str, Any], checked: Sequence[CheckedCell], open_loop: bytes
) -> Path:
    """report.html with the targets, every cell and the figures; returns its path."""
    config = student.config
    lead = [
        f"{', '.join(config.channel_names)} at {config.rate_hz:g} Hz, field {config.receptive_field} samples, "
        f"device {config.profile}, teacher {summary['teacher']}.",
        f"{summary['wearers']} people who were not trained on, sensors drawn at random, {summary['seconds']:g} s each; "
        "the student drives and is compared with the teacher at the same states.",
    ]
    rows = [
        [name, said(summary.get(name), ".3g"), f"{word} {bound:g}", _word(summary["targets_met"][name])]
        for name, (word, bound) in TARGETS.items()
    ]
    notes = [summary["benefit_note"]] if summary["benefit_note"] else []
    notes.append(f"Standing: {summary['standing_source']}.")
    walked = [c for c in checked if c.cell.kind != "standing"]
    table = [
        [c.cell.name + (" (level)" if c.cell.kind == "level" else "")]
        + [said(c.as_dict().get(name), form) for name, (_, form) in COLUMNS.items()]
        for c in walked
    ]
    pairs = [
        figures.TorquePair(c.cell.name, c.torque.strides[1], c.torque.strides[0], f"r {c.torque.r_profile:.3f}")
        for c in walked
        if len(c.torque.strides[0])
    ]
    level = [pair for pair, c in zip(pairs, [c for c in walked if len(c.torque.strides[0])], strict=True)
             if c.cell.kind == "level"]  # fmt: skip
    images = []
    for name, some, caption in (
        ("torque", level or pairs[:4], "Level ground."),
        ("torque_cells", pairs, "All cells: teacher and student at the same states, both legs, mean and deviation."),
    ):
        if some:
            data = figures.png(
                figures.torque_pairs(some, names=("teacher", "student"), columns=6 if some is pairs else 4)
            )
            images.append(Image(name, data, caption))
    sections = [
        Section("Against what it should reach", notes, [TextTable(["figure", "found", "target", "reached"], rows)]),
        Section("Cell by cell", (), [TextTable(["cell", *(title for title, _ in COLUMNS.values())], table)], images),
        Section(
            "On people's norm curves, open loop",
            ["Gyroscope signals made from the norms of hip flexion and of the pelvis; nobody is pushed."],
            (),
            [Image("open_loop", open_loop, "Torque over the gait cycle; the shaded phases are where it should peak.")],
        ),
    ]
    return write_page(folder, "How the student does", lead, sections)


def _word(met: bool | None) -> str:
    return "unknown" if met is None else "yes" if met else "no"
