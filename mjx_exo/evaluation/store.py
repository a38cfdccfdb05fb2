"""What has been walked so far, a line per cell, so that an evaluation that was killed can go on."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.gait.curves import Curve
from mjx_exo.gait.files import plain, write_text
from mjx_exo.gait.metrics import Condition

NAME = "cells.jsonl"
Cell = tuple[float, float]
"""Commanded speed in m/s and slope in rad, uphill positive."""


@dataclasses.dataclass(frozen=True)
class Walked:
    """One cell's figures and the name of its animation in the report's folder ("" for none)."""

    condition: Condition
    animation: str = ""


class CellStore:
    """Lines of JSON in `folder`: first the settings, then a line per cell; a torn last line is left out."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool):
        """Makes the folder. Raises `UserError` if it cannot be written, or if `resume` meets other settings."""
        self.path, self.cells = folder / NAME, dict[Cell, Walked]()
        self.left_over = 0
        found = self._lines()
        if resume and found:
            _compare(found[0].get("settings", {}), plain(dict(settings)), self.path)
            self.cells = {_cell_of(line): _walked_from(line) for line in found[1:]}
        else:
            self.left_over = max(0, len(found) - 1)
        lines = [json.dumps({"settings": plain(dict(settings))}), *(_line(c, w) for c, w in self.cells.items())]
        try:
            write_text(self.path, "\n".join(lines) + "\n")
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); choose another folder with --out"
            ) from None

    def add(self, cell: Cell, walked: Walked) -> None:
        """Keeps a cell, in memory and on the disk."""
        self.cells[cell] = walked
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(cell, walked) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Removes the file: the report holds everything now."""
        self.path.unlink(missing_ok=True)

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError:
            return []
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines


def _compare(stored: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    for name in sorted({*stored, *asked}):
        if stored.get(name) != asked.get(name):
            raise UserError(
                f"{path} was walked with {name} = {stored.get(name)!r}, now it is {asked.get(name)!r}; "
                "repeat it, or start over without --resume"
            )


def _line(cell: Cell, walked: Walked) -> str:
    c = walked.condition
    fields = {
        "speed_m_s": cell[0],
        "slope_rad": cell[1],
        "trials": c.trials,
        "measures": c.measures,
        "on_time_overlap": c.on_time_overlap,
        "on_time_baseline": c.on_time_baseline,
        "curves": {name: _rounded(curve) for name, curve in c.curves.items()},
        "animation": walked.animation,
    }
    return json.dumps(plain(fields), allow_nan=False)


def _rounded(curve: Curve) -> dict[str, Any]:
    """Six digits: more than any figure or table shows."""
    rows = {name: [[float(f"{v:.6g}") for v in row] for row in getattr(curve, name)] for name in ("mean", "sd")}
    return rows | {"strides": list(curve.strides)}


def _cell_of(line: Mapping[str, Any]) -> Cell:
    return float(line["speed_m_s"]), float(line["slope_rad"])


def _walked_from(line: Mapping[str, Any]) -> Walked:
    curves = {
        name: Curve(_array(c["mean"]), _array(c["sd"]), (int(c["strides"][0]), int(c["strides"][1])))
        for name, c in line["curves"].items()
    }
    measures = {name: math.nan if value is None else float(value) for name, value in line["measures"].items()}
    speed, slope = _cell_of(line)
    overlap, baseline = line["on_time_overlap"], line["on_time_baseline"]
    condition = Condition(speed, slope, int(line["trials"]), measures, curves, overlap, baseline)
    return Walked(condition, line["animation"])


def _array(rows: list[list[float | None]]) -> np.ndarray:
    return np.array([[math.nan if v is None else v for v in row] for row in rows])
