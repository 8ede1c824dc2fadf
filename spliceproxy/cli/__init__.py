"""The command line: one module per command.

What a command needs is imported inside it, so that `--help` and `--version` answer at once.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from spliceproxy.errors import EXIT_FAILED


def main() -> NoReturn:
    """Run the command that sys.argv names; never returns, the process ends with its exit code.

    The other systems have no splice(2) and no epoll, and half of our modules would not even be
    imported there: nothing more is loaded before that is known.
    """
    if sys.platform != "linux":
        print(f"spliceproxy: runs on Linux only, and this is {sys.platform}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    from spliceproxy.cli.app import run_command

    sys.exit(run_command(sys.argv[1:]))
