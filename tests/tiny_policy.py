"""A student that fits in a few nodes: torque = limit · tanh(newest gyroscope, sides kept), with honest metadata."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mjx_exo.conventions import SignalContract
from mjx_exo.device import DeviceProfile
from mjx_exo.exchange import GOLDEN_KEY, METADATA_KEY, encode_golden

WINDOW = 32


def torque_of(windows: np.ndarray, limit: float) -> np.ndarray:
    """What the graph computes: (n, window, 2) → (n, 2) Nm/kg."""
    return (np.tanh(windows.mean(axis=1)) * np.float32(limit)).astype(np.float32)


def contract(profile: str = "hip_3200g", **changes) -> SignalContract:
    """The contract of a student made for a shipped profile."""
    return dataclasses.replace(DeviceProfile.load(profile).contract(window=WINDOW), **changes)


def write_policy(path: Path, signals: SignalContract | None = None, golden_error: float = 0.0, **metadata) -> Path:
    """Writes the ONNX file; `golden_error` is added to the golden torques, `metadata` to the document."""
    signals = signals or contract()
    limit = signals.torque_limit_nm_per_kg
    nodes = [
        helper.make_node("ReduceMean", ["gyro", "axes"], ["mean"], keepdims=0),
        helper.make_node("Tanh", ["mean"], ["squashed"]),
        helper.make_node("Mul", ["squashed", "limit"], ["torque"]),
    ]
    channels = len(signals.gyro_channels)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("gyro", TensorProto.FLOAT, [1, WINDOW, channels])],
        [helper.make_tensor_value_info("torque", TensorProto.FLOAT, [1, channels])],
        [
            numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
            numpy_helper.from_array(np.array(limit, dtype=np.float32), "limit"),
        ],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    windows = np.random.default_rng(0).normal(0.0, 2.0, (4, WINDOW, 2)).astype(np.float32)
    texts = {
        METADATA_KEY: json.dumps({**signals.to_dict(), **metadata}),
        GOLDEN_KEY: encode_golden(windows, torque_of(windows, limit) + np.float32(golden_error)),
    }
    helper.set_model_props(model, texts)
    onnx.save(model, path)
    return path
