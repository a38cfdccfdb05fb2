"""Looks at an exported file as a stranger would: alone in an empty folder, with nothing but onnxruntime.

What is found is the contract, and torques that agree with the golden vectors the file carries.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from export.golden import onnx_torques
from mjx_exo.conventions import SignalContract
from mjx_exo.errors import UserError
from mjx_exo.onnx_file import open_onnx


@dataclasses.dataclass(frozen=True)
class CheckedFile:
    """A file that loads and speaks the contract. `golden_diff_nm_per_kg`: furthest from its own golden vectors."""

    metadata: dict[str, Any]
    contract: SignalContract
    golden_vectors: int
    golden_diff_nm_per_kg: float
    session: ort.InferenceSession


def check_file(path: Path) -> CheckedFile:
    """Copies the file alone to an empty folder, loads it there and computes its golden vectors.

    Raises UserError with one line when it is no exported student.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        file = open_onnx(shutil.copy(path, folder), str(path))
    contract = SignalContract.from_dict(file.metadata, str(path))
    windows = file.windows
    wanted = (contract.window, len(contract.gyro_channels))
    if windows.shape[1:] != wanted:
        raise UserError(f"{path}: golden windows are {windows.shape[1:]}, the metadata says {wanted}")
    difference = float(np.max(np.abs(onnx_torques(file.session, windows) - file.torques)))
    return CheckedFile(file.metadata, contract, len(windows), difference, file.session)
