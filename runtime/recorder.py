"""Every sample, stage and timing of a session, without the loop ever waiting for a disk.

`add` packs a row into a preallocated buffer and hands it to a pipe; another process writes it. What was handed over is
kept through a crash or a kill of the loop. A recording is a folder:

    header.json    contract, profile, settings, and the columns of a row
    rows.bin       packed little-endian rows, one per sensor frame
    events.jsonl   what happened when: {"time_s", "kind", "stage", "text", …}
    summary.json   written at the end

`python -m runtime.convert FOLDER` makes CSV or Parquet of it. The columns are described in `COLUMNS`.
"""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mjx_exo.errors import UserError
from mjx_exo.files import write_atomically
from runtime.outlet import Outlet

FORMAT_VERSION = 1


class Column(NamedTuple):
    """One column of a row; `code` as in `struct`."""

    name: str
    code: str
    meaning: str


def _pair(name: str, meaning: str) -> tuple[Column, Column]:
    return Column(f"{name}_r", "f", f"right: {meaning}"), Column(f"{name}_l", "f", f"left: {meaning}")


COLUMNS = (
    Column("host_time_s", "d", "monotonic host clock when the frame was read, s"),
    Column("device_time_us", "Q", "the device's clock when the sample was taken, µs"),
    Column("sequence", "I", "sequence number of the sensor frame"),
    Column("stage", "B", "stage of the guard after this frame, see header.json"),
    Column("rows", "B", "window rows this frame became (0: not due at the student's rate; 2, 3: gap bridged)"),
    Column("flush", "B", "1: the window was emptied before this frame"),
    Column("answered", "B", "1: a torque frame was sent for it; 0: superseded by a newer frame of the same read"),
    Column("inferred", "B", "1: the student was evaluated on it"),
    Column("walking", "B", "1: the wearer walks"),
    Column("limited", "B", "1: a limit changed the torque"),
    Column("armed", "B", "1: the torque frame said armed"),
    Column("flags", "H", "flags of the sensor frame, see PROTOCOL.md"),
    Column("applied_echo", "I", "sequence of the sample whose answer the device applied last"),
    Column("applied_after_us", "H", "from that sample to its answer by the device's clock, µs; 65535 for longer"),
    *_pair("gyro_raw", "thigh angular velocity as sent, rad/s, flexion positive"),
    *_pair("gyro", "the same without bias: what the window holds, rad/s"),
    *_pair("student", "the policy's torque, Nm/kg, flexion positive; NaN before the first"),
    *_pair("intent", "student × mass × scale × gain, Nm, before limits"),
    *_pair("torque", "torque sent, Nm"),
    *_pair("applied", "torque the device says it applied, Nm"),
    *_pair("measured", "torque the device measured, Nm; NaN where it does not"),
    *_pair("velocity", "hip velocity, rad/s; NaN where it is not measured"),
    *_pair("hip_angle", "hip angle, rad, flexion positive; NaN where it is not measured"),
    *_pair("temperature", "actuator, °C; NaN where it is not measured"),
    Column("gain", "f", "soft start and stop, 0..1"),
    Column("latency_s", "f", "from the frame being readable to the torque frame written, s; NaN if not answered"),
    Column("inference_s", "f", "the student's share of it, s; NaN if not inferred"),
)
_ROW = struct.Struct("<" + "".join(column.code for column in COLUMNS))
_NUMPY = {"d": "<f8", "f": "<f4", "Q": "<u8", "I": "<u4", "H": "<u2", "B": "u1"}
DTYPE = np.dtype([(column.name, _NUMPY[column.code]) for column in COLUMNS])


class Recorder:
    """Writes one folder. Nothing here waits for the disk (see `outlet`)."""

    def __init__(self, folder: Path, header: Mapping[str, Any]):
        """Creates `folder`; raises UserError if it is not empty or cannot be written."""
        self.folder = folder
        self.rows = 0  # handed over
        self._row = bytearray(_ROW.size)
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UserError(f"log folder {folder} is not empty; choose another")
            columns = [column._asdict() for column in COLUMNS]
            write_json(folder / "header.json", {"format": FORMAT_VERSION, "columns": columns, **header})
            with open(folder / "rows.bin", "wb") as rows, open(folder / "events.jsonl", "wb") as events:
                self._rows, self._events = Outlet(rows), Outlet(events)
        except OSError as error:
            raise UserError(f"log folder {folder}: cannot be written ({error.strerror})") from None

    def add(self, *values: Any) -> None:
        """One row, values in the order of COLUMNS."""
        _ROW.pack_into(self._row, 0, *values)
        self.rows += self._rows.write(self._row)

    def event(self, time_s: float, kind: str, **details: Any) -> None:
        """One line of events.jsonl; `details` are JSON values."""
        self._events.write((json.dumps({"time_s": time_s, "kind": kind, **details}) + "\n").encode())

    @property
    def trouble(self) -> str | None:
        """What could not be written, in words."""
        if self._rows.broken or self._events.broken:
            return "recording stopped: is the disk full?"
        lost = self._rows.lost + self._events.lost
        return f"{lost} rows lost because the disk was too slow" if lost else None

    def close(self, summary: Mapping[str, Any] | None = None) -> None:
        """Waits for the disk, then writes the summary. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._rows.close()
        self._events.close()
        if summary is not None:
            with contextlib.suppress(OSError):
                write_json(self.folder / "summary.json", summary)


class Recording(NamedTuple):
    """A folder read back. `rows` is a structured array with the fields of COLUMNS."""

    header: dict[str, Any]
    rows: np.ndarray
    events: list[dict[str, Any]]


def load_recording(folder: str | Path) -> Recording:
    """Reads a recording, also one whose writer was killed (half a row or half a line at the end is left out).

    Raises UserError naming the file that cannot be read.
    """
    folder = Path(folder)
    try:
        header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
        data = (folder / "rows.bin").read_bytes()
        lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"recording {folder}: {error.filename} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"recording {folder}: header.json is not JSON ({error})") from None
    if header.get("format") != FORMAT_VERSION:
        raise UserError(f"recording {folder}: format {header.get('format')!r}, this program reads {FORMAT_VERSION}")
    dtype = np.dtype([(column["name"], _NUMPY[column["code"]]) for column in header["columns"]])
    rows = np.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
    events = []
    for line in lines:
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return Recording(header, rows, events)


def new_folder(parent: str | Path) -> Path:
    """A folder name under `parent` with the present date and time."""
    return Path(parent) / time.strftime("exo-%Y%m%d-%H%M%S")


def write_json(path: Path, data: Any) -> None:
    """Writes `data` as JSON, whole or not at all."""
    text = json.dumps(data, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
