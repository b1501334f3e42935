"""The `stentor` command line: reads what is on NATS, drives the lab, and never changes a cluster by itself.

Start: `python -m deploy.cli ARGS`. Whatever is slow to import is imported inside the command that needs it,
so that `--help` and shell completion answer at once.
"""
