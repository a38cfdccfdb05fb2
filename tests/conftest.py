"""Shared by all tests: compiled programs and bodies are kept between tests and runs, and small things are made once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling takes most of the time, and no test runs long: programs that are compiled sooner and run slower end sooner.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def _keep_to_own_cores() -> None:
    """Each of several test processes gets cores of its own: tests in real time must not wait for others' arithmetic."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        own = cores[int(worker[2:]) :: workers]
        if own:
            os.sched_setaffinity(0, own)


_keep_to_own_cores()  # before anything counts the cores


# Files that take minutes. Begun last, one of them would keep a single process busy at the end.
LONG_FILES = ("test_distributed", "test_student_driving", "test_mjx", "test_virtual_exo", "test_exo_loop", "test_study")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; within a file, and among the others, the order stays."""
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs_are_kept():
    try:
        from mjx_exo.cache import use_jax_cache

        use_jax_cache()
    except ImportError:  # the base package alone has no JAX
        pass


@pytest.fixture(scope="session")
def body():
    """The compiled 26-muscle body."""
    from mjx_exo.musculoskeletal.compiled import compile_body

    return compile_body("myolegs26")
