"""The student as an ONNX graph, node by node.

Written with `onnx.helper` rather than traced: some forty nodes that can be read in a viewer, no converter whose
versions must fit, and the choice of the cheap form. A window is evaluated only where the newest output needs it, which
turns the dilated convolutions into plain ones with a stride. Scaling, the view of either leg and the torque limit are
nodes too, so the file takes raw SI values and gives Nm/kg. IR 10 and opset 20 load in onnxruntime 1.18 and everything
later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from policies.student import StudentConfig

IR_VERSION = 10
OPSET = 20
WINDOW_INPUT = "window"
SAMPLE_INPUT = "sample"
TORQUE_OUTPUT = "torque"
AGE_INPUT = "age"
_END = np.iinfo(np.int64).max


class _Graph:
    """Nodes and constants in the order they were added; every node has one output, named when it is added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        """Stores an initializer and gives its name."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name)
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node and gives the name of its output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes))
        return output

    def slice(self, x: str, output: str, axis: int, start: int, step: int = 1) -> str:
        """`x[start::step]` along an axis."""
        limits = {"start": start, "end": _END, "axis": axis, "step": step}
        names = [self.constant(f"{output}/{key}", [value], np.int64) for key, value in limits.items()]
        return self.add("Slice", [x, *names], output)

    def convolution(self, x: str, name: str, params: Mapping[str, Any], **attributes: Any) -> str:
        """An unpadded convolution over the last axis with Flax's kernel (taps, in, out)."""
        kernel = np.asarray(params["kernel"]).transpose(2, 1, 0)
        weights = [self.constant(f"{name}/kernel", kernel), self.constant(f"{name}/bias", params["bias"])]
        return self.add("Conv", [x, *weights], name, kernel_shape=[kernel.shape[2]], **attributes)

    def silu(self, x: str) -> str:
        """`x * sigmoid(x)`."""
        return self.add("Mul", [x, self.add("Sigmoid", [x], f"{x}/gate")], f"{x}/silu")

    def model(self, inputs: list[Any], outputs: list[Any], metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The finished, checked model; `inputs` and `outputs` are value infos."""
        graph = helper.make_graph(self.nodes, "mjx_exo_student", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mjx_exo")
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def window_model(config: StudentConfig, params: Any, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """`window` [batch, window_samples, input_channels], oldest first, to `torque` [batch, 2] Nm/kg [right, left].

    Both float32. params: as `Student.init` made them. metadata: texts by key.
    """
    weights, graph = params["params"], _Graph()
    x = WINDOW_INPUT
    if config.window_samples > config.receptive_field:
        x = graph.slice(x, "newest", axis=1, start=-config.receptive_field)
    x = _both_views(graph, config, x)
    strides = [b // a for a, b in zip(config.dilations, config.dilations[1:], strict=False)] + [1]
    for i, stride in enumerate(strides):
        y = graph.silu(graph.convolution(x, f"level_{i}", weights[f"level_{i}"], strides=[stride]))
        if i > 0:
            skip = graph.slice(x, f"skip_{i}", axis=2, start=config.kernel_size - 1, step=stride)
            y = graph.add("Add", [y, skip], f"sum_{i}")
        x = y
    _torque(graph, config, weights, x, TORQUE_OUTPUT)
    shape: list[str | int | None] = ["batch", config.window_samples, config.input_channels]
    inputs = [helper.make_tensor_value_info(WINDOW_INPUT, TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(TORQUE_OUTPUT, TensorProto.FLOAT, ["batch", 2])]
    return graph.model(inputs, outputs, metadata)


def streaming_model(config: StudentConfig, params: Any, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """One tick at a time with cached convolutions: `sample` [1, input_channels] and the state in, torque and state out.

    The state is `age` (int64 [1], samples since the reset) and `cache_i` (float32, shapes of `cache_shapes`); each
    comes out as `next_...` and is fed back. All zeros is the reset. Torque is zero until `receptive_field` samples have
    come since the reset and equals the window form from there on.
    """
    weights, graph = params["params"], _Graph()
    row = graph.add("Unsqueeze", [SAMPLE_INPUT, graph.constant("time_axis", [1], np.int64)], "row")
    x = _both_views(graph, config, row)
    inputs = [helper.make_tensor_value_info(SAMPLE_INPUT, TensorProto.FLOAT, [1, config.input_channels])]
    outputs = [helper.make_tensor_value_info(TORQUE_OUTPUT, TensorProto.FLOAT, [1, 2])]
    inputs.append(helper.make_tensor_value_info(AGE_INPUT, TensorProto.INT64, [1]))
    outputs.append(helper.make_tensor_value_info(f"next_{AGE_INPUT}", TensorProto.INT64, [1]))
    for i, (name, shape) in enumerate(cache_shapes(config).items()):
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(f"next_{name}", TensorProto.FLOAT, shape))
        past = graph.add("Concat", [name, x], f"past_{i}", axis=2)
        graph.slice(past, f"next_{name}", axis=2, start=1)
        dilation = config.dilations[i]
        y = graph.silu(graph.convolution(past, f"level_{i}", weights[f"level_{i}"], dilations=[dilation]))
        x = graph.add("Add", [y, x], f"sum_{i}") if i > 0 else y
    torque = _torque(graph, config, weights, x, "unguarded")
    age = graph.add("Add", [AGE_INPUT, graph.constant("one", [1], np.int64)], f"next_{AGE_INPUT}")
    whole = graph.add("GreaterOrEqual", [age, graph.constant("field", [config.receptive_field], np.int64)], "whole")
    graph.add("Where", [whole, torque, graph.constant("zero", [0.0])], TORQUE_OUTPUT)
    return graph.model(inputs, outputs, metadata)


def cache_shapes(config: StudentConfig) -> dict[str, list[int]]:
    """The streaming form's caches in order: name to [2 views, channels, samples]."""
    widths = [config.input_channels] + [config.channels] * (len(config.dilations) - 1)
    spans = [(config.kernel_size - 1) * dilation for dilation in config.dilations]
    return {f"cache_{i}": [2, width, span] for i, (width, span) in enumerate(zip(widths, spans, strict=True))}


def _both_views(graph: _Graph, config: StudentConfig, x: str) -> str:
    """[B, T, input_channels] to [2B, input_channels, T]: scaled, as the right leg and as the left leg see it."""
    scaled = graph.add("Div", [x, graph.constant("input_scale", np.repeat(config.input_scale, 2))], "scaled")
    order = np.arange(config.input_channels).reshape(-1, 2)[:, ::-1].ravel()
    swapped = graph.add("Gather", [scaled, graph.constant("other_side", order, np.int64)], "swapped", axis=2)
    if any(sign != 1 for sign in config.mirror_signs):
        signs = graph.constant("mirror_signs", np.repeat(config.mirror_signs, 2))
        swapped = graph.add("Mul", [swapped, signs], "mirrored")
    both = graph.add("Concat", [scaled, swapped], "views", axis=0)
    return graph.add("Transpose", [both], "views_by_channel", perm=[0, 2, 1])


def _torque(graph: _Graph, config: StudentConfig, weights: Mapping[str, Any], x: str, output: str) -> str:
    """[2B, channels, 1] to bounded torque [B, 2]."""
    x = graph.convolution(graph.silu(graph.convolution(x, "hidden", weights["hidden"])), "head", weights["head"])
    x = graph.add("Reshape", [x, graph.constant("sides_by_batch", [2, -1], np.int64)], "sides")
    x = graph.add("Tanh", [graph.add("Transpose", [x], "pairs", perm=[1, 0])], "bounded")
    return graph.add("Mul", [x, graph.constant("torque_limit_nm_per_kg", config.torque_limit_float32)], output)
