"""`python -m mjx_exo.average POLICY POLICY … --out DIR`: one policy out of several that grew out of one another.

Parameters are averaged, each policy weighing the same; name one twice to make it weigh twice. Give runs that went on
from one another, or from the same start: the average then falls less often than the last of them. Policies learned
apart have no meaningful average.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mjx_exo.errors import UserError, run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m mjx_exo.average", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("policies", nargs="+", metavar="POLICY", help="run or policy folder, or a pretrained policy's name")
    p.add_argument("--out", type=Path, required=True, help="folder of the new policy; it must not hold one")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0."""
    arguments = parser().parse_args(sys.argv[1:] if argv is None else argv)
    from mjx_exo.learning.policy_average import average_policies
    from mjx_exo.learning.policy_file import load_policy, write_policy
    from mjx_exo.teacher import find_policy

    if (arguments.out / "policy.json").exists():
        raise UserError(f"--out {arguments.out} holds a policy already; choose another folder")
    policies = [load_policy(find_policy(path)) for path in arguments.policies]
    write_policy(arguments.out, average_policies(policies, arguments.policies))
    print(f"{arguments.out}: the average of {len(policies)} policies; see how it does: "
          f"python -m mjx_exo.evaluate {arguments.out}")  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(main)
