"""What an exported file says about itself: everything the loop must agree with, and where it came from.

The fields of `SignalContract` stand at the top level, so the loop reads the document as a contract. Numbers are written
as Python prints them, which gives the same number back; nothing is rounded.
"""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

from export.graph import AGE_INPUT, SAMPLE_INPUT, TORQUE_OUTPUT, WINDOW_INPUT, cache_shapes
from policies.storage import SavedStudent

FORMAT = "mjx_exo.onnx/1"
FORMS = ("window", "streaming")


def describe(student: SavedStudent, form: str) -> str:
    """The JSON document for a student in one of `FORMS`."""
    config = student.config
    document: dict[str, Any] = {
        **config.contract.to_dict(),
        "format": FORMAT,
        "form": form,
        "input_name": WINDOW_INPUT if form == "window" else SAMPLE_INPUT,
        "output_name": TORQUE_OUTPUT,
        "channel_units": list(config.channel_units),
        "sample_order": "oldest first",
        "receptive_field": config.receptive_field,
        "input_scale": list(config.input_scale),
        "scaling": "inside the graph: raw SI in, Nm per kg of body mass out",
        "mirror_signs": list(config.mirror_signs),
        "dilations": list(config.dilations),
        "kernel_size": config.kernel_size,
        "channels": config.channels,
        "params_hash": student.params_hash,
        "training_hash": student.training_hash,
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "onnx", "onnxruntime")},
    }
    if form == "streaming":
        document["state"] = {
            "inputs": {AGE_INPUT: [1], **cache_shapes(config)},
            "output_prefix": "next_",
            "reset": "all zeros; torque is zero until receptive_field samples have come since",
            "after_a_bad_sample": "reset: the caches keep it for receptive_field samples",
        }
    return json.dumps(document)
