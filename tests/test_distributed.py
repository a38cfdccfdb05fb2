"""Training on two devices, and in two processes, teaches what one device teaches from the same global batch."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax")

from mjx_exo.cache import cache_dir
from mjx_exo.errors import UserError

WORKER = Path(__file__).parent / "distributed_worker.py"


def _start(name: str, file: Path, devices: int = 1, processes: int = 1, index: int = 0, port: int = 0):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache_dir() / "jax"),
        "PYTHONPATH": os.pathsep.join([str(WORKER.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(WORKER), name, str(file), str(processes), str(index), str(port)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(*runs: subprocess.Popen) -> None:
    try:
        for run in runs:
            output, _ = run.communicate(timeout=900)
            assert run.returncode == 0, output[-4000:]
    finally:
        for run in runs:
            run.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def _same(one: Path, other: Path, devices: int) -> None:
    with np.load(one) as a, np.load(other) as b:
        assert (int(a["devices"]), int(b["devices"]), int(b["devices_used"])) == (1, devices, devices)
        assert set(a.files) == set(b.files) and len(a.files) > 20
        for name in set(a.files) - {"devices", "devices_used"}:
            np.testing.assert_allclose(b[name], a[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.fixture(scope="module")
def toy_on_one_device(tmp_path_factory):
    file = tmp_path_factory.mktemp("one") / "toy.npz"
    _finish(_start("toy", file))
    return file


def test_two_devices_learn_what_one_learns(toy_on_one_device, tmp_path):
    _finish(_start("toy", tmp_path / "two.npz", devices=2))
    _same(toy_on_one_device, tmp_path / "two.npz", 2)


def test_two_processes_learn_what_one_learns(toy_on_one_device, tmp_path):
    port = _free_port()
    _finish(*(_start("toy", tmp_path / "two.npz", processes=2, index=i, port=port) for i in range(2)))
    _same(toy_on_one_device, tmp_path / "two.npz", 2)


@pytest.fixture(scope="module")
def run_on_one_device(tmp_path_factory):
    """A toy run, and the same run resumed for as long again."""
    first = tmp_path_factory.mktemp("one") / "first.npz"
    _finish(_start("run", first))
    whole = first.with_name("whole.npz")
    shutil.copytree(first.with_suffix(".run"), whole.with_suffix(".run"))
    _finish(_start("run", whole))
    return first, whole


def _log(file: Path) -> list[int]:
    return [json.loads(line)["updates"] for line in (file.with_suffix(".run") / "log.jsonl").read_text().splitlines()]


def test_a_run_of_one_device_goes_on_on_two(run_on_one_device, tmp_path):
    first, whole = run_on_one_device
    file = tmp_path / "two.npz"
    shutil.copytree(first.with_suffix(".run"), file.with_suffix(".run"))
    _finish(_start("run", file, devices=2))
    _same(whole, file, 2)
    assert _log(file) == [1, 2, 3, 4]


def test_a_run_of_two_processes_and_its_resumption_are_those_of_one(run_on_one_device, tmp_path):
    file = tmp_path / "two.npz"
    for expected, updates in zip(run_on_one_device, (2, 4), strict=True):
        port = _free_port()
        _finish(*(_start("run", file, processes=2, index=index, port=port) for index in range(2)))
        _same(expected, file, 2)
        assert _log(file) == list(range(1, updates + 1))


def test_walking_on_two_devices_learns_what_one_learns(tmp_path):
    _finish(_start("walking", tmp_path / "one.npz"))
    _finish(_start("walking", tmp_path / "two.npz", devices=2))
    _same(tmp_path / "one.npz", tmp_path / "two.npz", 2)


def test_a_process_outside_the_count_is_refused():
    from mjx_exo.learning import parallel

    with pytest.raises(UserError, match="process index 2"):
        parallel.join_processes("localhost:1", 2, 2)
