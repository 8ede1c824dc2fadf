"""The duty of PID 1: to take the exit status of children that it never started."""

from __future__ import annotations

import os
from collections.abc import Container


def reap_strangers(ours: Container[int]) -> None:
    """Reap every child that has ended, except `ours`, whose exit status others wait for.

    WNOWAIT looks at the next dead child and leaves it there. A dead worker is shown again and
    again in front of the strangers, so the caller takes its workers' statuses first; one that
    dies in between brings another SIGCHLD.
    """
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, look)
        except ChildProcessError:
            return
        if found is None or found.si_pid in ours:
            return
        os.waitpid(found.si_pid, 0)
