"""Tables of numbers in CSV files that people and other programs make, and tidy ones that we write.

A file is a header line with column names and one line per sample, after any number of lines `# name = value` that say
what holds for the whole file. Comma, semicolon and tab all separate; an empty cell or `nan` is a missing value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.gait.files import write_text

MISSING = ("", "nan", "NaN", "NA", "null", "None")
LONGEST_GAP_S = 0.1
"""Missing values and missing samples are bridged over at most this time."""


@dataclass(frozen=True)
class Table:
    """Columns [T] by name, the file's own `# name = value` lines, and the names of columns that were not wanted."""

    path: Path
    columns: dict[str, np.ndarray]
    settings: dict[str, str]
    ignored: tuple[str, ...]

    def number(self, name: str) -> float | None:
        """A setting as a number; None when the file does not have it. Raises UserError when it is not a number."""
        if name not in self.settings:
            return None
        try:
            return float(self.settings[name])
        except ValueError:
            raise UserError(f"{self.path}: # {name} = {self.settings[name]!r} is not a number") from None


def read_table(path: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> Table:
    """Reads the columns whose names are `wanted`.

    Raises UserError naming the file and the line: not readable, no data, a cell that is no number, a short line.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _parse(path, file, wanted)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file ({error})") from None


def _parse(path: Path, lines: Iterable[str], wanted: Callable[[str], bool]) -> Table:
    settings: dict[str, str] = {}
    numbered = enumerate(lines, start=1)
    header = ""
    for _, line in numbered:
        if line.startswith("#"):
            name, separator, value = line[1:].partition("=")
            if separator:
                settings[name.strip()] = value.strip()
        elif line.strip():
            header = line
            break
    if not header:
        raise UserError(f"{path}: empty, expected a line of column names")
    separator = max(",;\t", key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: column {twice!r} appears twice")
    chosen = [index for index, name in enumerate(names) if wanted(name)]
    rows = []
    for number, line in numbered:
        if not line.strip():
            continue
        cells = next(csv.reader([line], delimiter=separator))
        if len(cells) != len(names):
            raise UserError(f"{path}: line {number} has {len(cells)} cells, the header {len(names)}")
        rows.append([_number(cells[index].strip(), path, number, names[index]) for index in chosen])
    if not rows:
        raise UserError(f"{path}: no samples after the header")
    data = np.array(rows)
    columns = {names[index]: data[:, column] for column, index in enumerate(chosen)}
    return Table(path, columns, settings, tuple(name for name in names if name not in columns))


def _number(cell: str, path: Path, line: int, column: str) -> float:
    if cell in MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        raise UserError(f"{path}: line {line}, column {column!r}: {cell!r} is not a number") from None


def write_table(path: str | Path, columns: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None) -> None:
    """Writes equally long columns [T] with full precision, and `settings` as leading comments, atomically."""
    values = [np.asarray(column).tolist() for column in columns.values()]
    write_rows(path, list(columns), zip(*values, strict=True), settings)


def write_rows(
    path: str | Path, names: Sequence[str], rows: Iterable[Sequence[Any]], settings: Mapping[str, Any] | None = None
) -> None:
    """Writes rows under column names; missing numbers become empty cells."""
    text = io.StringIO()
    for name, value in (settings or {}).items():
        text.write(f"# {name} = {value}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if isinstance(cell, float) and cell != cell else cell for cell in row])
    write_text(path, text.getvalue())


def bridged(time_s: np.ndarray, values: np.ndarray, what: str) -> np.ndarray:
    """`values` [T] with missing ones filled in a straight line, over at most `LONGEST_GAP_S`.

    `what` names file and column in the UserError for a longer gap.
    """
    known = np.isfinite(values)
    if known.all():
        return values
    if not known.any():
        raise UserError(f"{what}: no value at all; leave the column out")
    last = np.maximum.accumulate(np.where(known, np.arange(values.size), 0))
    following = np.minimum.accumulate(np.where(known, np.arange(values.size), values.size - 1)[::-1])[::-1]
    gap = np.where(known, 0.0, time_s[following] - time_s[last])
    if gap.max() > LONGEST_GAP_S:
        at = int(np.argmax(gap > LONGEST_GAP_S))
        raise UserError(
            f"{what}: missing from {time_s[at]:g} s for {gap[at]:.2f} s, at most {LONGEST_GAP_S} s is bridged"
        )
    return np.interp(time_s, time_s[known], values[known])


def even_times(time_s: np.ndarray, what: str) -> np.ndarray:
    """Evenly spaced times [T'] from the first to the last of `time_s` [T] at its median rate.

    Small jitter and lost samples are allowed; UserError when time runs backwards or stands, or for a longer gap.
    """
    steps = np.diff(time_s)
    if time_s.size < 2 or not np.all(steps > 0):
        at = int(np.argmax(steps <= 0)) if time_s.size > 1 else 0
        raise UserError(f"{what}: time must grow from line to line, see {time_s[at]:g} s")
    if steps.max() > LONGEST_GAP_S + np.median(steps):
        at = int(np.argmax(steps))
        raise UserError(f"{what}: nothing between {time_s[at]:g} s and {time_s[at + 1]:g} s")
    count = max(1, round((time_s[-1] - time_s[0]) / float(np.median(steps))))
    return np.linspace(time_s[0], time_s[-1], count + 1)
