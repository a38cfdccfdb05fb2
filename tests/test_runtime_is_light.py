"""The loop starts on a computer that has numpy, onnxruntime, pyserial and cobs, and nothing of the simulation."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from loop_bench import Bench
from tiny_policy import write_policy

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = ("numpy", "onnxruntime", "serial", "cobs", "runtime", "mjx_exo")

BLOCKER = textwrap.dedent("""
    import importlib.abc, runpy, sys

    class Blocker(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or top in ALLOWED or not outside(name, path):
                return None
            raise ImportError(f"{name} is not part of the base installation")

    def outside(name, path):
        import importlib.machinery
        return path is None and importlib.machinery.PathFinder.find_spec(name, path) is not None

    sys.meta_path.insert(0, Blocker())
    sys.argv = ["exo_loop", *sys.argv[1:]]
    try:
        runpy.run_module("runtime.exo_loop", run_name="__main__")
    finally:
        heavy = {"jax", "jaxlib", "mujoco", "flax", "brax", "onnx", "scipy", "matplotlib"} & set(sys.modules)
        print("heavy:", sorted(heavy))
""")


def run_blocked(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"ALLOWED = {ALLOWED!r}\n{BLOCKER}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_loop_loads_a_policy_and_looks_for_its_device_without_jax_or_mujoco(tmp_path):
    policy = write_policy(tmp_path / "student.onnx")
    done = run_blocked("--policy", str(policy), "--port", str(tmp_path / "no-port"))
    assert done.returncode == 2, done.stderr
    assert "there is no such port" in done.stderr and "golden vectors agree" in done.stdout
    assert "heavy: []" in done.stdout


@pytest.mark.flaky(reruns=2)  # a machine that holds the loop up for a second makes it stop with a fault
def test_with_the_base_package_alone_it_drives_a_device_and_says_how_long_that_took_to_begin(tmp_path):
    bench = Bench(tmp_path)
    try:
        plan = ("--duration", "5", "--dry-run", "--skip-commissioning", "--log", str(tmp_path / "log"))
        done = run_blocked("--policy", str(bench.policy), "--port", str(tmp_path / "port"), *plan)
    finally:
        bench.device.end()
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout and "gyroscopes zeroed" in done.stdout
    said = re.search(r"ready for the wearer, (\d+\.\d\d) s after this program was started", done.stdout)
    summary = json.loads((next((tmp_path / "log").iterdir()) / "summary.json").read_text())
    assert summary["start_s"] == pytest.approx(float(said[1]), abs=0.006) and 0.0 < summary["start_s"] < 120.0
    assert f"start to ready         {said[1]} s" in done.stdout


def test_the_blocker_blocks(tmp_path):
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", f"ALLOWED = {ALLOWED!r}\n{BLOCKER.partition('sys.argv')[0]}\nimport jax"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "not part of the base installation" in done.stderr


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    policy = str(write_policy(tmp_path / "student.onnx"))
    for arguments, words in (
        (("--policy", str(tmp_path / "no.onnx"), "--port", "x"), "cannot be read"),
        (("--policy", policy, "--port", "x", "--torque-scale", "0.5"), "needs --wearer-mass"),
        (("--policy", policy, "--port", "x", "--wearer-mass", "20"), "20 kg is outside 30..150 kg"),
        (("--policy", policy, "--port", "x", "--torque-scale", "2", "--wearer-mass", "70"), "torque scale = 2"),
        (("--policy", policy, "--port", "x", "--skip-commissioning"), "dry run only"),
        (("--policy", policy, "--port", "x", "--rate", "50"), "wrong rate"),
        (("--policy", policy, "--port", "x", "--profile", "hip_1900g"), "wrong device profile"),
        (("--policy", policy, "--port", "x", "--walk", "fast"), "--walk: 'fast'"),
        (("--policy", policy, "--port", "x", "--duration", "0"), "--duration"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "runtime.exo_loop", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 2 and words in done.stderr, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1
