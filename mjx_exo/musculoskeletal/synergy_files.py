"""The files around synergies: a CSV of activations that anyone can write, and the versioned artefact.

Activations are a CSV with one header line: `time_s`, then for every muscle `<muscle>_r` and `<muscle>_l`, in any order.
Time in seconds, rising; activations (or EMG envelopes in any unit) not negative. One row per sample, any rate.

The artefact is JSON: `format` and `format_version`, the muscles of a leg, the weights W (one list per muscle, largest
weight of a synergy 1), variance accounted for, how the number was chosen, a hash of the data, and all settings.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mjx_exo.conventions import SIDE_SUFFIX, SIDES
from mjx_exo.errors import UserError

FORMAT = "mjx-exo-synergies"
FORMAT_VERSION = 1
TIME_COLUMN = "time_s"

Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Activations:
    """Activations of both legs: `time_s` [T], `values` [T, 2, M] right and left, `muscles` [M] without side."""

    time_s: Floats
    muscles: tuple[str, ...]
    values: Floats
    sha256: str  # of the file


@dataclasses.dataclass(frozen=True)
class Synergies:
    """Synergies extracted from data: one non-negative basis for both legs."""

    names: tuple[str, ...]  # [K]
    muscles: tuple[str, ...]  # [M], without side
    weights: Floats  # [M, K], largest of each synergy 1
    vaf: float
    vaf_by_muscle: Floats  # [M], NaN for a silent muscle
    selection: dict[str, Any]  # how the number was chosen; empty if it was given
    data: dict[str, Any]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The artefact, JSON-ready; `synergies_from_dict` reads it back."""
        by_muscle = {
            m: None if math.isnan(v) else float(v) for m, v in zip(self.muscles, self.vaf_by_muscle, strict=True)
        }
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "synergies": list(self.names),
            "muscles": list(self.muscles),
            "weights": self.weights.tolist(),
            "vaf": self.vaf,
            "vaf_by_muscle": by_muscle,
            "selection": self.selection,
            "data": self.data,
            "settings": self.settings,
        }

    def weights_for(self, muscles: Sequence[str]) -> Floats:
        """Weights [len(muscles), K] in the order of a body's leg muscles; UserError if the artefact lacks one."""
        missing = [m for m in muscles if m not in self.muscles]
        if missing:
            raise UserError(
                f"these synergies have no weights for {', '.join(missing)}; they know {', '.join(self.muscles)}"
            )
        return self.weights[[self.muscles.index(m) for m in muscles]]


def read_activations(path: str | Path, exclude: Sequence[str] = ()) -> Activations:
    """Reads the documented CSV, leaving out muscles in `exclude` (names without side).

    Raises UserError naming file, line and column for whatever cannot be used.
    """
    data = _read(path)
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV text file ({error})") from None
    rows = [row for row in rows if row]
    if not rows:
        raise UserError(f"{path}: empty; expected a header with {TIME_COLUMN},<muscle>_r,<muscle>_l,…")
    header = [name.strip() for name in rows[0]]
    muscles = _muscles(path, header)
    unknown = [m for m in exclude if m not in muscles]
    if unknown:
        raise UserError(f"{path}: no muscle {unknown[0]!r} to exclude; muscles: {', '.join(muscles)}")
    kept = tuple(m for m in muscles if m not in exclude)
    table = np.array([_numbers(path, line, row, header) for line, row in enumerate(rows[1:], start=2)])
    if len(table) < 2:
        raise UserError(f"{path}: {len(table)} rows of data; at least 2 are needed")
    time_s = table[:, header.index(TIME_COLUMN)]
    backwards = np.flatnonzero(np.diff(time_s) <= 0)
    if len(backwards):
        raise UserError(f"{path}: line {backwards[0] + 3}: {TIME_COLUMN} {time_s[backwards[0] + 1]:g} does not rise")
    values = np.stack([table[:, [header.index(m + SIDE_SUFFIX[side]) for m in kept]] for side in SIDES], axis=1)
    return Activations(time_s, kept, values, hashlib.sha256(data).hexdigest())


def activations_csv(time_s: Floats, muscles: Sequence[str], values: Floats) -> str:
    """The documented CSV for `values` [T, 2, M] at `time_s` [T], as `read_activations` reads it."""
    columns = [m + SIDE_SUFFIX[side] for side in SIDES for m in muscles]
    table = np.concatenate([time_s[:, None], values[:, 0], values[:, 1]], axis=1)
    lines = (",".join(f"{v:.6g}" for v in row) for row in table)
    return "\n".join([",".join([TIME_COLUMN, *columns]), *lines]) + "\n"


def read_synergies(path: str | Path) -> Synergies:
    """Reads an artefact; UserError naming the file and what is wrong with it."""
    try:
        data = json.loads(_read(path))
    except ValueError as error:
        raise UserError(f"{path}: not a synergy file (no JSON: {error})") from None
    return synergies_from_dict(data, str(path))


def synergies_from_dict(data: Any, source: str) -> Synergies:
    """`Synergies` from what `to_dict` wrote; UserError naming `source` and the field otherwise."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{source}: not a synergy file (its format is not {FORMAT!r})")
    if data.get("format_version") != FORMAT_VERSION:
        version = data.get("format_version")
        raise UserError(f"{source}: format_version {version!r} cannot be read; this version reads {FORMAT_VERSION}")
    try:
        names, muscles = tuple(map(str, data["synergies"])), tuple(map(str, data["muscles"]))
        weights = np.array(data["weights"], dtype=np.float64)
        by_muscle = [data["vaf_by_muscle"][m] for m in muscles]
        synergies = Synergies(
            names,
            muscles,
            weights,
            float(data["vaf"]),
            np.array([np.nan if v is None else float(v) for v in by_muscle]),
            dict(data["selection"]),
            dict(data["data"]),
            dict(data["settings"]),
        )
    except KeyError as error:
        raise UserError(f"{source}: field {error.args[0]!r} is missing") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: a field has the wrong type ({error})") from None
    if weights.shape != (len(muscles), len(names)):
        raise UserError(
            f"{source}: weights have shape {weights.shape}, expected {len(muscles)} muscles × {len(names)} synergies"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError(f"{source}: weights must be finite and not negative")
    return synergies


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _muscles(path: str | Path, header: list[str]) -> tuple[str, ...]:
    """Muscles [M] of a header in which every column is the time or one side of a muscle."""
    if TIME_COLUMN not in header:
        raise UserError(f"{path}: no column {TIME_COLUMN!r}; columns: {', '.join(header)}")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: column {twice!r} appears twice")
    muscles: dict[str, None] = {}
    for name in header:
        if name == TIME_COLUMN:
            continue
        if name[-2:] not in SIDE_SUFFIX.values() or len(name) < 3:
            raise UserError(f"{path}: column {name!r} is neither {TIME_COLUMN} nor a muscle ending in _r or _l")
        other = name[:-2] + ("_l" if name.endswith("_r") else "_r")
        if other not in header:
            raise UserError(f"{path}: column {name!r} has no counterpart {other!r}; both legs are needed")
        muscles[name[:-2]] = None
    if not muscles:
        raise UserError(f"{path}: no muscle columns; expected <muscle>_r and <muscle>_l")
    return tuple(muscles)


def _numbers(path: str | Path, line: int, row: list[str], header: list[str]) -> list[float]:
    if len(row) != len(header):
        raise UserError(f"{path}: line {line}: {len(row)} values, the header has {len(header)} columns")
    numbers = []
    for name, text in zip(header, row, strict=True):
        try:
            number = float(text)
        except ValueError:
            raise UserError(f"{path}: line {line}: {name} = {text!r} is not a number") from None
        if not math.isfinite(number) or (number < 0 and name != TIME_COLUMN):
            raise UserError(f"{path}: line {line}: {name} = {text} is not a finite number of at least 0")
        numbers.append(number)
    return numbers
