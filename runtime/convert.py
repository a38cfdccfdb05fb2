"""`python -m runtime.convert FOLDER`: a recording as CSV or Parquet, one line or row per sensor frame."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mjx_exo.errors import UserError, run_command
from mjx_exo.files import whole_file, write_atomically
from runtime.recorder import Recording, load_recording

FORMATS = ("csv", "parquet")


def to_csv(recording: Recording, path: Path) -> None:
    """Header line with the column names, then values in full precision; NaN where nothing was measured."""
    rows = recording.rows
    names = rows.dtype.names or ()
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(",".join(names) + "\n")
        columns = [map(str, rows[name].tolist() if rows[name].dtype.kind != "f" else rows[name]) for name in names]
        file.writelines(",".join(values) + "\n" for values in zip(*columns, strict=True))


def to_parquet(recording: Recording, path: Path) -> None:
    """The same columns with their types. Raises UserError when pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("Parquet needs pyarrow: install mjx-exo[parquet], or use --format csv") from None
    rows = recording.rows
    table = pyarrow.table({name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names})
    write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m runtime.convert", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a recording: the folder that exo_loop --log made")
    parser.add_argument("--format", choices=FORMATS, default="csv")
    parser.add_argument("--out", type=Path, help="file to write (default: rows.csv or rows.parquet in the folder)")
    arguments = parser.parse_args()
    out = arguments.out or arguments.folder / f"rows.{arguments.format}"
    recording = load_recording(arguments.folder)
    {"csv": to_csv, "parquet": to_parquet}[arguments.format](recording, out)
    print(f"{len(recording.rows)} rows → {out}")
    return 0


if __name__ == "__main__":
    run_command(main)
