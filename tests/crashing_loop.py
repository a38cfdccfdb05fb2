"""exo_loop with a policy that fails while it assists: by an exception, or (`SPIN=1`) by computing on and on."""

import os
import time

from mjx_exo.errors import run_command
from runtime import exo_loop
from runtime.guard import Guard
from runtime.policy import Policy
from runtime.stages import Stage

_infer, _decide = Policy.infer, Guard.decide
_active = 0


def _counting(guard, *arguments):
    global _active
    _active += guard.stage == Stage.ACTIVE
    return _decide(guard, *arguments)


def _failing(policy):
    if _active < 100:
        return _infer(policy)
    until_s = time.monotonic() + 0.5
    while os.environ.get("SPIN") and time.monotonic() < until_s:
        pass
    return _infer(policy) if os.environ.get("SPIN") else 1 / 0


Policy.infer, Guard.decide = _failing, _counting

if __name__ == "__main__":
    run_command(exo_loop.main)
