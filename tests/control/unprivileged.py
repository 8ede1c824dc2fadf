"""A part of a test as an unprivileged user, to whom the kernel's rules apply."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import pytest

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes the user of a child process")


def as_nobody(check: Callable[[], None]) -> None:
    """Run `check` in a child process without user, groups and capabilities; it must not fail."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "see the child's traceback"


def as_we_are(check: Callable[[], None]) -> None:
    """The same in this process, with the rights that it has."""
    check()
