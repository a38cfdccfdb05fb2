"""`python -m export.standalone student.onnx --out DIR`: an exported file with what a stranger needs to check it.

The folder holds the file, its golden vectors as JSON, and two programs that need nothing of this project: one for
Python with onnxruntime, one for JavaScript with onnxruntime-web or onnxruntime-node. Both run the graph on the golden
windows and compare. Whole-window form only: that is what other runtimes are given.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Annotated

import tyro

from mjx_exo.conventions import SignalContract
from mjx_exo.errors import UserError, run_command
from mjx_exo.files import write_atomically
from mjx_exo.onnx_file import GOLDEN_TOLERANCE_NM_PER_KG, open_onnx

MODEL, GOLDEN, PYTHON, JAVASCRIPT = "student.onnx", "golden.json", "check.py", "check.mjs"

CHECK_PY = '''"""Does this computer compute what the exporter computed? Needs onnxruntime and numpy, nothing else."""

import json
import pathlib
import sys

import numpy as np
import onnxruntime as ort

here = pathlib.Path(__file__).resolve().parent
golden = json.loads((here / "golden.json").read_text())
session = ort.InferenceSession(str(here / "student.onnx"), providers=["CPUExecutionProvider"])
worst = 0.0
for window, torque in zip(golden["windows"], golden["torques"]):
    answer = session.run([golden["output"]], {golden["input"]: np.array([window], np.float32)})[0][0]
    worst = max(worst, float(np.abs(answer - np.array(torque, np.float32)).max()))
print(f"{len(golden['windows'])} windows, largest difference {worst:.2g} Nm/kg, allowed {golden['tolerance']:g}")
sys.exit(0 if worst <= golden["tolerance"] else 1)
'''

CHECK_MJS = """// Does this computer compute what the exporter computed?
// Needs onnxruntime-web or onnxruntime-node, installed in this folder or above it, and nothing else.
import { readFile } from "node:fs/promises";

async function runtime() {
  for (const name of ["onnxruntime-node", "onnxruntime-web"]) {
    try {
      const found = await import(name);
      return [name, found.InferenceSession ? found : found.default];
    } catch (error) {
      if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    }
  }
  console.error("neither onnxruntime-node nor onnxruntime-web is installed");
  process.exit(3);
}

const [name, ort] = await runtime();
const golden = JSON.parse(await readFile(new URL("golden.json", import.meta.url), "utf8"));
if (ort.env?.wasm) ort.env.wasm.numThreads = 1;
const model = new Uint8Array(await readFile(new URL("student.onnx", import.meta.url)));
const session = await ort.InferenceSession.create(model);
let worst = 0;
for (let i = 0; i < golden.windows.length; i++) {
  const rows = golden.windows[i];
  const data = Float32Array.from(rows.flat());
  const feeds = { [golden.input]: new ort.Tensor("float32", data, [1, rows.length, rows[0].length]) };
  const answer = (await session.run(feeds))[golden.output].data;
  golden.torques[i].forEach((torque, side) => {
    const difference = Math.abs(answer[side] - torque);
    worst = Number.isFinite(difference) ? Math.max(worst, difference) : Infinity;
  });
}
console.log(`${name}: ${golden.windows.length} windows, largest difference ${worst.toExponential(1)} Nm/kg`);
process.exit(worst <= golden.tolerance ? 0 : 1);
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Puts an exported file and its checks into a folder of their own."""

    file: Annotated[Path, tyro.conf.Positional]
    """An exported file, whole-window form."""
    out: Path
    """The folder to fill."""


def write_standalone(file: Path, folder: Path) -> list[Path]:
    """Fills `folder`; returns the files. Raises UserError for what is no such export, or an unwritable folder."""
    opened = open_onnx(file)
    contract = SignalContract.from_dict(opened.metadata, str(file))
    if opened.metadata.get("form", "window") != "window":
        raise UserError(f"{file}: is the {opened.metadata['form']} form; export the whole-window form")
    golden = {
        "input": opened.session.get_inputs()[0].name,
        "output": opened.session.get_outputs()[0].name,
        "tolerance": GOLDEN_TOLERANCE_NM_PER_KG,
        "contract": contract.to_dict(),
        "windows": opened.windows.astype(float).tolist(),
        "torques": opened.torques.astype(float).tolist(),
    }
    texts = {GOLDEN: json.dumps(golden) + "\n", PYTHON: CHECK_PY, JAVASCRIPT: CHECK_MJS}
    try:
        write_atomically(folder / MODEL, lambda path: shutil.copyfile(file, path))
        for name, text in texts.items():
            write_atomically(folder / name, functools.partial(Path.write_text, data=text, encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None
    return [folder / name for name in (MODEL, *texts)]


def main() -> int:
    """Parses the command line and writes the folder."""
    settings = tyro.cli(Settings, prog="python -m export.standalone", description=__doc__)
    files = write_standalone(settings.file, settings.out)
    print("written   " + ", ".join(str(path) for path in files))
    print(f"check     python {settings.out / PYTHON}; or, with onnxruntime-web: node {settings.out / JAVASCRIPT}")
    return 0


if __name__ == "__main__":
    run_command(main)
