"""The student on the device: an ONNX file, checked, warmed up, and run on arrays that never move.

onnxruntime's defaults are made for throughput: a thread pool that spins, allocations per call. One thread, no spinning
and bound buffers cut the slowest one percent by ten. Before anything else the file's contract is read and its golden
vectors are computed again: a policy for another device, another rate or another order of legs does not start.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mjx_exo.conventions import SignalContract
from mjx_exo.errors import UserError
from mjx_exo.exchange import GOLDEN_KEY, METADATA_KEY, decode_golden
from runtime.channels import check_channels

GOLDEN_TOLERANCE_NM_PER_KG = 1e-5
WARM_UP_RUNS = 200


class Policy:
    """Holds the window and the session. `push` rows, then `infer` once `full`."""

    def __init__(self, session: ort.InferenceSession, metadata: dict[str, Any], source: str, digest: str = ""):
        self.source = source
        self.metadata = metadata
        self.digest = digest  # of the file
        self.contract = SignalContract.from_dict(metadata, source)
        check_channels(self.contract.gyro_channels, source)
        self.channels = self.contract.gyro_channels
        self._session = session
        self._input = np.zeros((1, self.contract.window, len(self.channels)), dtype=np.float32)
        self._output = np.zeros((1, 2), dtype=np.float32)
        self._check_shapes()
        self._binding = session.io_binding()
        for bind, node, array in (
            (self._binding.bind_input, session.get_inputs()[0], self._input),
            (self._binding.bind_output, session.get_outputs()[0], self._output),
        ):
            bind(node.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        self._count = 0

    @classmethod
    def load(cls, path: str | Path, warm_up: int = WARM_UP_RUNS) -> Policy:
        """Reads and checks a file, computes its golden vectors again and warms up.

        Raises UserError with one line saying what is wrong with it.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise UserError(f"policy {path}: cannot be read ({error.strerror})") from None
        try:
            session = ort.InferenceSession(content, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"policy {path}: not a model that onnxruntime loads ({_first_line(error)})") from None
        texts = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in texts or GOLDEN_KEY not in texts:
            raise UserError(f"policy {path}: carries no {METADATA_KEY} metadata; export it with export.to_onnx")
        try:
            metadata = json.loads(texts[METADATA_KEY])
        except ValueError as error:
            raise UserError(f"policy {path}: metadata is not JSON ({error})") from None
        policy = cls(session, metadata, str(path), hashlib.sha256(content).hexdigest()[:16])
        policy.check_golden(*decode_golden(texts[GOLDEN_KEY], str(path)))
        for _ in range(warm_up):
            policy.infer()
        return policy

    @property
    def window(self) -> int:
        """Samples of history."""
        return self.contract.window

    @property
    def full(self) -> bool:
        """The window holds true samples only."""
        return self._count >= self.contract.window

    def flush(self) -> None:
        """Forgets all samples."""
        self._count = 0
        self._input[:] = 0.0

    def push(self, row: np.ndarray) -> None:
        """Appends one sample, (channels,) in SI and contract order; the oldest falls out."""
        window = self._input[0]
        window[:-1] = window[1:]
        window[-1] = row
        self._count += 1

    def infer(self) -> np.ndarray:
        """Torque (2,) in Nm/kg [right, left], flexion positive. A view that the next call overwrites."""
        self._session.run_with_iobinding(self._binding)
        return self._output[0]

    def check(self, here: SignalContract, owner: str = "this loop") -> None:
        """Raises UserError with the sentence in which this policy and `here` differ."""
        sentence = here.difference(self.contract, owner, self.source)
        if sentence:
            raise UserError(sentence)

    def check_golden(self, windows: np.ndarray, torques: np.ndarray) -> float:
        """Largest deviation in Nm/kg over (n, window, channels) and (n, 2); raises UserError beyond 1e-5."""
        if windows.shape[1:] != self._input.shape[1:]:
            raise UserError(f"policy {self.source}: golden windows {windows.shape[1:]}, input {self._input.shape[1:]}")
        worst = 0.0
        for window, torque in zip(windows, torques, strict=True):
            self._input[0] = window
            error = float(np.max(np.abs(self.infer() - torque)))
            worst = max(worst, error if np.isfinite(error) else np.inf)
        self.flush()
        if not worst <= GOLDEN_TOLERANCE_NM_PER_KG:
            raise UserError(
                f"policy {self.source}: golden vectors differ by {worst:.2g} Nm/kg on this computer "
                f"(at most {GOLDEN_TOLERANCE_NM_PER_KG:g}); the file is damaged or onnxruntime computes something else"
            )
        return worst

    def _check_shapes(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        expected = (len(self.channels), self.contract.window)
        if self.metadata.get("form", "window") != "window":
            raise UserError(
                f"policy {self.source}: is the {self.metadata['form']} form; the loop runs whole windows, which a bad "
                "sample leaves again: export without --streaming"
            )
        if len(inputs) != 1 or len(outputs) != 1 or min(expected) < 1:
            raise UserError(f"policy {self.source}: one input and one output expected, with a window in the metadata")
        for node, array in ((inputs[0], self._input), (outputs[0], self._output)):
            sizes = zip(node.shape, array.shape, strict=False)
            fits = len(node.shape) == array.ndim and all(isinstance(a, str) or a in (None, b) for a, b in sizes)
            if node.type != "tensor(float)" or not fits:
                found = f"{node.name!r} is {node.type} {node.shape}"
                raise UserError(f"policy {self.source}: {found}, the metadata says float {array.shape}")


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
