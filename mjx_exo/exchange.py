"""What travels inside an ONNX file beside the graph, for the side that writes it and the side that runs it.

`METADATA_KEY` holds one JSON document: the fields of `SignalContract` plus whatever else is worth knowing
(`receptive_field`, `input_name`, `training_hash`, …). `GOLDEN_KEY` holds windows with the torques that belong to them,
in full precision, so that the loop can check at the start that this computer computes what the exporter computed.
Standard library and NumPy only.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np

from mjx_exo.errors import UserError

METADATA_KEY = "mjx_exo"
GOLDEN_KEY = "mjx_exo_golden"


def encode_golden(windows: np.ndarray, torques: np.ndarray) -> str:
    """JSON text of golden vectors.

    Arguments:
        windows: (n, window, channels) float32, oldest sample first.
        torques: (n, 2) float32, Nm/kg [right, left].
    """
    return json.dumps({"windows": _encode(windows), "torques": _encode(torques)})


def decode_golden(text: str, source: str = "ONNX file") -> tuple[np.ndarray, np.ndarray]:
    """(windows, torques) as `encode_golden` got them. Raises UserError naming `source`."""
    try:
        data = json.loads(text)
        windows, torques = _decode(data["windows"]), _decode(data["torques"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise UserError(f"{source}: golden vectors cannot be read ({error})") from None
    if windows.ndim != 3 or torques.shape != (len(windows), 2) or not len(windows):
        raise UserError(f"{source}: golden vectors have shapes {windows.shape} and {torques.shape}")
    return windows, torques


def _encode(array: np.ndarray) -> dict[str, Any]:
    array = np.ascontiguousarray(array, dtype="<f4")
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}


def _decode(data: dict[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(data["float32"], validate=True), dtype="<f4")
    return flat.reshape(data["shape"]).astype(np.float32)
