"""A run that was killed goes on as if nothing had happened: really killed, compared bit for bit."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mjx_exo.learning.checkpoint import Checkpoints
from tests.toy_training import OPTIONS, UPDATES

ROOT = Path(__file__).parent.parent


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.toy_training", str(folder), *words]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], expected: int) -> str:
    _, said = process.communicate(timeout=300)
    assert process.returncode == expected, said
    return said


def updates_logged(folder: Path) -> list[int]:
    """Update numbers of the whole lines of the log."""
    lines = (folder / "log.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line)["updates"] for line in lines]


def wait_for_update(process: subprocess.Popen[str], folder: Path, update: int) -> None:
    while not (folder / "log.jsonl").exists() or max(updates_logged(folder), default=0) < update:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The whole training state at the end of a run."""
    checkpoints = Checkpoints(folder / "checkpoints")
    stored, manifest = checkpoints.read()
    checkpoints.close()
    assert manifest.updates == UPDATES
    return stored


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    finish(start(folder), 0)
    return folder


def assert_same_end(one: Path, other: Path) -> None:
    expected, found = arrays(one), arrays(other)
    assert sorted(expected) == sorted(found)
    different = [name for name, array in expected.items() if not np.array_equal(array, found[name])]
    assert not different, different
    assert updates_logged(other) == list(range(1, UPDATES + 1))


def test_killed_twice_at_random_moments(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    chance = random.Random()
    earliest = OPTIONS.checkpoint_every_updates
    for words, latest in ((("pause",), UPDATES // 2), (("resume", "pause"), UPDATES - 10)):
        process = start(folder, *words)
        wait_for_update(process, folder, chance.randrange(earliest, latest))
        time.sleep(chance.uniform(0, 0.5))
        assert process.poll() is None, "killed while it runs"
        process.send_signal(signal.SIGKILL)
        finish(process, -signal.SIGKILL)
        earliest = max(updates_logged(folder))
    finish(start(folder, "resume"), 0)
    assert_same_end(uninterrupted, folder)
