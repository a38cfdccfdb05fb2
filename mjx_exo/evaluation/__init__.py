"""What `python -m mjx_exo.evaluate` walks and writes: the grid, courses of commands, other bodies, other steps."""
