"""Flax networks with their sizes as arguments, and small trained ones under `pretrained/`."""
