"""exo_loop with a policy that fails in the middle of walking."""

import itertools

from mjx_exo.errors import run_command
from runtime import exo_loop
from runtime.policy import Policy

_calls = itertools.count()
_infer = Policy.infer


def _failing(policy):
    return 1 / 0 if next(_calls) > 1200 else _infer(policy)


Policy.infer = _failing

if __name__ == "__main__":
    run_command(exo_loop.main)
