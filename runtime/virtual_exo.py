"""`python -m runtime.virtual_exo`: a simulated wearer and device on a pseudo-terminal. Needs the training packages.

A thin door: everything is in `mjx_exo.virtual`, which is allowed to know JAX and MuJoCo as the runtime is not.
"""

from mjx_exo.errors import run_command

if __name__ == "__main__":
    from mjx_exo.virtual.command import main

    run_command(main)
