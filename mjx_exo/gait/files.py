"""Writing results: bytes, text and strict JSON, each whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from mjx_exo.files import write_atomically


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all; makes the folder if needed."""
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Any) -> None:
    """Writes strict JSON: numpy numbers and arrays become plain ones, nan and infinity become null."""
    write_text(path, json.dumps(plain(data), indent=2, allow_nan=False) + "\n")


def plain(data: Any) -> Any:
    """`data` with everything that JSON cannot say replaced: arrays by lists, numpy scalars, nan and inf by None."""
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    if isinstance(data, np.ndarray):
        return plain(data.tolist())
    if isinstance(data, np.generic):
        return plain(data.item())
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
