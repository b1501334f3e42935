"""Sets Stentor up on a fresh machine and hands over to the command line.

Runs on the system's Python with the standard library alone, because it is what installs everything else. The
start of an installed Stentor imports only `layout`, `stamps` and `packages`; the rest is loaded when
something is missing.

Guarantees: everything that can be checked is checked before anything is installed; `.venv` is either complete
or as it was before; no service is left started or enabled that was not there before. Any refusal is one
sentence per missing thing on standard error and exit code 2.
"""
