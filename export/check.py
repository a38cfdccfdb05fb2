"""Looks at an exported file as a stranger would: alone in an empty folder, with nothing but onnxruntime.

What is found is the contract, and torques that agree with the golden vectors the file carries.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from export.golden import onnx_torques
from mjx_exo.conventions import SignalContract
from mjx_exo.errors import UserError
from mjx_exo.exchange import GOLDEN_KEY, METADATA_KEY, decode_golden


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
        session = open_session(Path(shutil.copy(path, folder)), str(path))
    texts = session.get_modelmeta().custom_metadata_map
    for key in (METADATA_KEY, GOLDEN_KEY):
        if key not in texts:
            raise UserError(f"{path}: carries no {key} metadata; it was not exported by export.to_onnx")
    try:
        metadata = json.loads(texts[METADATA_KEY])
    except ValueError as error:
        raise UserError(f"{path}: metadata is not JSON ({error})") from None
    contract = SignalContract.from_dict(metadata, str(path))
    windows, torques = decode_golden(texts[GOLDEN_KEY], str(path))
    wanted = (contract.window, len(contract.gyro_channels))
    if windows.shape[1:] != wanted:
        raise UserError(f"{path}: golden windows are {windows.shape[1:]}, the metadata says {wanted}")
    difference = float(np.max(np.abs(onnx_torques(session, windows) - torques)))
    return CheckedFile(metadata, contract, len(windows), difference, session)


def open_session(path: Path, name: str) -> ort.InferenceSession:
    """The file in onnxruntime on one thread, as the device runs it. Raises UserError calling the file `name`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: not a model that onnxruntime loads ({reason[:200]})") from None
