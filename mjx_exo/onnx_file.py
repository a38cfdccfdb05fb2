"""Opens an exported policy: the graph in onnxruntime, its metadata and its golden vectors.

onnxruntime's defaults are made for throughput: a thread pool that spins. Where one small graph is run once per period,
one thread without spinning cuts the slowest one percent by ten. Needs NumPy and onnxruntime, nothing else.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from mjx_exo.errors import UserError
from mjx_exo.exchange import GOLDEN_KEY, METADATA_KEY, decode_golden

GOLDEN_TOLERANCE_NM_PER_KG = 1e-5
"""How far a computer may be from the golden vectors that a file carries."""


class OnnxFile(NamedTuple):
    """What an exported file holds; `source` is how messages call it.

    windows: [n, window, channels] and torques: [n, 2] Nm/kg are the golden vectors; digest: of the whole file.
    """

    session: ort.InferenceSession
    metadata: dict[str, Any]
    windows: np.ndarray
    torques: np.ndarray
    digest: str
    source: str


def open_onnx(path: str | Path, source: str = "") -> OnnxFile:
    """Raises UserError with one line when there is no such file, or it is none that `export.to_onnx` wrote."""
    source = source or str(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from None
    session = open_session(content, source)
    texts = session.get_modelmeta().custom_metadata_map
    for key in (METADATA_KEY, GOLDEN_KEY):
        if key not in texts:
            raise UserError(f"{source}: carries no {key} metadata; export it with export.to_onnx")
    try:
        metadata = json.loads(texts[METADATA_KEY])
    except ValueError as error:
        raise UserError(f"{source}: metadata is not JSON ({error})") from None
    windows, torques = decode_golden(texts[GOLDEN_KEY], source)
    return OnnxFile(session, metadata, windows, torques, hashlib.sha256(content).hexdigest()[:16], source)


def open_session(content: bytes, source: str) -> ort.InferenceSession:
    """A model in onnxruntime, on one thread of the CPU that does not spin. Raises UserError naming `source`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: not a model that onnxruntime loads ({reason[:200]})") from None
