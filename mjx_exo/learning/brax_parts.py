"""The parts of brax that the learner is built from, imported in silence.

Importing brax imports MJX, which prints to standard output that its optional Warp engine is missing; a command whose
output is read by a program cannot have that.
"""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    from brax.training import distribution, networks
    from brax.training.acme import running_statistics, specs
    from brax.training.agents.ppo.losses import compute_gae

__all__ = ["compute_gae", "distribution", "networks", "running_statistics", "specs"]
