"""Entry of `./stentor`: set up what is missing, then become the command line (or, for `test`, pytest).

Called as `python3 -m deploy.bootstrap SYSTEM [ARGUMENT...]`; SYSTEM is described in `layout`. Nothing of the
set-up is imported when nothing is missing, which keeps the start of an installed Stentor below a tenth of a
second.

Exit codes: 2 when Stentor cannot be set up (the reason is on standard error), 130 on interruption, else those
of the program that takes over.
"""

import os
import sys
from typing import NoReturn

from deploy.bootstrap.layout import Layout, layout_of_this_machine
from deploy.bootstrap.packages import is_complete
from deploy.bootstrap.stamps import is_current

SETUP_USAGE = """\
usage: stentor setup [--dev]

Installs what Stentor needs on this machine and in its working tree, and nothing that is already there. Every
command does this when it finds something missing; `setup` does only this.

  --dev    also the tools for tests and checks, as `stentor test` does
"""


FIRST_USAGE = """\
usage: stentor COMMAND [ARGUMENT...]

Identity-based network policy and service load balancing for Kubernetes, in eBPF.

Stentor is not set up here yet. The first run of any command sets it up, as root: it installs the system
packages that are missing, which it names, and Python packages below the working tree.

  sudo ./stentor demo     see a network policy take effect, with real pods and packets
  sudo ./stentor test     run the test suite
  sudo ./stentor setup    only set up; then `stentor --help` tells of all commands
"""


def main(*, system: str, arguments: list[str]) -> int:
    """Set up, then hand over; returns only where there is nothing to hand over to."""
    layout = layout_of_this_machine(system=system)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "setup" and rest not in ([], ["--dev"]):
        print(SETUP_USAGE, end="", file=sys.stdout if rest in (["--help"], ["-h"]) else sys.stderr)
        return 0 if rest in (["--help"], ["-h"]) else 2

    development = command == "test" or (command == "setup" and rest == ["--dev"])
    environment_current = is_current(layout, layout.runtime_lock) and (
        not development or is_current(layout, layout.development_lock)
    )
    # Without root nothing can be installed, and what needs no root (reading flows, asking for status)
    # needs no system package either: an environment that is in order is enough.
    packages_needed = (os.geteuid() == 0 or command == "setup") and not is_complete(layout)
    if not environment_current and arguments in (["--help"], ["-h"]):
        print(FIRST_USAGE, end="")
        return 0
    if not environment_current or packages_needed:
        from deploy.bootstrap.setup import set_up_or_explain

        status = set_up_or_explain(layout, development=development)
        if status != 0:
            return status

    if command == "setup":
        print("Stentor is set up.")
        return 0
    _hand_over(layout, command=command, arguments=arguments)


def _hand_over(layout: Layout, *, command: str, arguments: list[str]) -> NoReturn:
    python = str(layout.venv / "bin/python")
    sys.stdout.flush()
    if command == "test":
        os.chdir(layout.tree)
        os.execv(python, [python, "-P", "-m", "pytest", *arguments[1:]])
    os.execv(python, [python, "-P", "-m", "deploy.cli", *arguments])


if __name__ == "__main__":
    sys.exit(main(system=sys.argv[1], arguments=sys.argv[2:]))
