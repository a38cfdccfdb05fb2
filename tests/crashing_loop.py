"""exo_loop with a policy that fails in the middle of walking: by an exception, or (`SPIN=1`) by computing on and on."""

import itertools
import os
import time

from mjx_exo.errors import run_command
from runtime import exo_loop
from runtime.policy import Policy

_calls = itertools.count()
_infer = Policy.infer


def _failing(policy):
    if next(_calls) < 1200:
        return _infer(policy)
    until_s = time.monotonic() + 0.5
    while os.environ.get("SPIN") and time.monotonic() < until_s:
        pass
    return _infer(policy) if os.environ.get("SPIN") else 1 / 0


Policy.infer = _failing

if __name__ == "__main__":
    run_command(exo_loop.main)
