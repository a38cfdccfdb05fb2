"""What the figures of the README are made with; each prints a table and writes JSON with `--json`."""
