"""The log in systemd's journal, which keeps a time and a priority of its own for each line.

systemd says in JOURNAL_STREAM, `DEVICE:INODE`, which stream leads to the journal (systemd.exec(5)):
a standard error that was redirected since is another file. A line there may begin with its
priority, `<4>`, which the journal takes off (sd-daemon(3)).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_PRIORITIES = {
    "debug": b"<7>",
    "info": b"<6>",
    "warning": b"<4>",
    "error": b"<3>",
    "critical": b"<2>",
}


def leads_to_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `fd` is the stream that systemd connected to its journal."""
    try:
        device, inode = environ.get("JOURNAL_STREAM", "").split(":")
        there = os.fstat(fd)
        return (there.st_dev, there.st_ino) == (int(device), int(inode))
    except (ValueError, OSError):  # it is not set, or no such thing; the fd is closed
        return False


def with_priority(level: str, text: bytes) -> bytes:
    """`text`, each of its lines with the priority of `level`: to the journal they are messages of
    their own, and no line that somebody else chose has a priority of his."""
    mark = _PRIORITIES.get(level, b"<6>")
    return b"".join(mark + line for line in text.splitlines(keepends=True))
