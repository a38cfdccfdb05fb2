"""Walking the grid of speeds and slopes: every cell in many trials, each reduced at once to its measures and curves."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mjx_exo.evaluation.batch import Batch
from mjx_exo.evaluation.store import Cell, CellStore, Walked
from mjx_exo.gait import animation
from mjx_exo.gait.cost import LEVEL_RAD
from mjx_exo.gait.files import write_bytes
from mjx_exo.gait.metrics import Condition, summarise
from mjx_exo.gait.recording import Recording
from mjx_exo.walking.rollout import to_recordings

REFERENCE = (1.25, 0.0)
"""Where the norms were measured: comfortable speed on the level."""
SETTLE_S = 3.0
FILM_S = 2.4  # two strides; a report holds some fifty films
Say = Callable[[str], None]


def grid_cells(speeds_m_s: Sequence[float], slopes_deg: Sequence[float]) -> list[Cell]:
    """Cells of the grid, and the reference if it lies within it but is none of them: then it is the last."""
    cells = [(v, math.radians(s)) for s in slopes_deg for v in speeds_m_s]
    inside = min(speeds_m_s) <= REFERENCE[0] <= max(speeds_m_s) and min(slopes_deg) <= 0.0 <= max(slopes_deg)
    return [*cells, REFERENCE] if inside and REFERENCE not in cells else cells


def nearest(cells: Sequence[Cell]) -> Cell:
    """The cell nearest to the reference, slope first."""
    return min(cells, key=lambda c: (abs(c[1]), abs(c[0] - REFERENCE[0])))


def walk_cells(batch: Batch, cells: Sequence[Cell], trials: int, seconds: float, seed: int) -> list[list[Recording]]:
    """Recordings of each of at most `batch.size / trials` cells; a trial that fell at once is kept as a fall."""
    places = batch.size // trials
    cell_of = np.arange(batch.size) % places  # wearers are neighbours: every cell gets all of them
    padded = [*cells, *[cells[-1]] * (places - len(cells))]
    speed, slope = np.array(padded)[cell_of].T
    recordings = to_recordings(batch.env, batch.walk(seed, speed, slope, seconds))
    return [[r for r, own in zip(recordings, cell_of, strict=True) if own == index] for index in range(len(cells))]


def walk_grid(
    batch: Batch,
    cells: Sequence[Cell],
    trials: int,
    seconds: float,
    seed: int,
    store: CellStore,
    animate: bool,
    say: Say,
) -> None:
    """Walks every cell that `store` does not have yet and puts it there.

    Cells walk in groups that depend on the grid alone, so a run that was resumed gives the figures of one that was not.
    """
    at_once = batch.size // trials
    groups = [cells[start : start + at_once] for start in range(0, len(cells), at_once)]
    keeps = _keeps_curves(cells)
    todo = [i for i, group in enumerate(groups) if not all(cell in store.cells for cell in group)]
    if todo:
        batch.warm_up()
    began, total = time.monotonic(), sum(len(groups[i]) for i in todo)
    walked = 0
    for index in todo:
        group = groups[index]
        for cell, recordings in zip(group, walk_cells(batch, group, trials, seconds, seed + index), strict=True):
            condition = summarise(recordings, *cell, SETTLE_S)
            picture = _animate(store.path.parent, cell, recordings) if animate else ""
            kept = condition if cell in keeps else dataclasses.replace(condition, curves={})
            store.add(cell, Walked(kept, picture))
            walked += 1
            each_s = (time.monotonic() - began) / walked
            say(_line(condition, len(cells) - total + walked, len(cells), each_s, each_s * (total - walked)))


def _keeps_curves(cells: Sequence[Cell]) -> set[Cell]:
    """Cells whose curves the report draws: the level, and the speed that is nearest to the reference."""
    grid_speed = nearest([c for c in cells if c != REFERENCE] or cells)[0]
    return {c for c in cells if abs(c[1]) < LEVEL_RAD or c[0] == grid_speed}


def _animate(folder: Path, cell: Cell, recordings: Sequence[Recording]) -> str:
    standing = [r for r in recordings if not r.fell]
    if not standing:
        return ""
    slope = round(math.degrees(cell[1]), 2)
    way = "level" if slope == 0 else f"{'up' if slope > 0 else 'down'}_{abs(slope):g}"
    name = f"speed_{cell[0]:g}_{way}".replace(".", "_")
    film = animation.gif(standing[0], SETTLE_S, FILM_S, frames_per_s=10.0, width=240, height=200)
    write_bytes(folder / f"{name}.gif", film)
    return name


def _line(condition: Condition, done: int, of: int, each_s: float, left_s: float) -> str:
    m = condition.measures
    return (
        f"{done}/{of}  {condition.speed_m_s:.2f} m/s {math.degrees(condition.slope_rad):+.0f}°  "
        f"no fall {m['fall_free_share']:.2f}  speed {m.get('speed_m_s', math.nan):.2f}  "
        f"r {m['r_hip']:.2f} {m['r_knee']:.2f} {m['r_ankle']:.2f}  {m['cot_J_kg_m']:.2f} J/kg/m  "
        f"{60.0 / each_s:.1f} cells/min, {duration(left_s)} left"
    )


def duration(seconds: float) -> str:
    """E.g. "45 s", "12 min"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
