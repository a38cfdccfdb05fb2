"""Where compiled bodies and compiled programs are kept between runs. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$MJX_EXO_CACHE_DIR`, else `mjx-exo` in the user's cache directory; created if missing."""
    configured = os.environ.get("MJX_EXO_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(configured) if configured else Path(base) / "mjx-exo"
    path.mkdir(parents=True, exist_ok=True)
    return path


def use_jax_cache() -> None:
    """Lets JAX keep compiled programs in the cache directory, unless the user already chose one."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
