"""The student on the device: an ONNX file, checked, warmed up, and run on arrays that never move.

onnxruntime allocates at every call, and its threads spin; bound buffers and one quiet thread (`mjx_exo.onnx_file`) cut
the slowest one percent by ten. Before anything else the file's contract is read and its golden vectors are computed
again: a policy for another device, another rate or another order of legs does not start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from mjx_exo.conventions import SignalContract
from mjx_exo.errors import UserError
from mjx_exo.onnx_file import GOLDEN_TOLERANCE_NM_PER_KG, open_onnx
from runtime.channels import check_channels

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
        file = open_onnx(path, f"policy {path}")
        policy = cls(file.session, file.metadata, str(path), file.digest)
        policy.check_golden(file.windows, file.torques)
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
