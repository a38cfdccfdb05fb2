"""A simulated wearer with a simulated exoskeleton behind a real serial descriptor: the hardware test as a command.

The only room of `mjx_exo` that knows `runtime`, because it speaks its protocol from the other side.
"""
