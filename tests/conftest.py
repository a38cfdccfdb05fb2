"""Shared by all tests: compiled programs and bodies are kept between tests and runs, and small things are made once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")


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
