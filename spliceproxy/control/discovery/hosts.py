"""Files that are read again when they have changed, and the hosts file as one of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

HOSTS = Path("/etc/hosts")

Signature = tuple[int, ...] | None
"""What tells one state of a file from another; None: there is no file."""


def signature(path: Path) -> Signature:
    """The state of the file that `path` leads to, through all links."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Fresh(Generic[T]):
    """What `read` made of a file, made again when the file is another one."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self._path = path
        self._read = read
        self._value: T | None = None
        self._of: Signature = (-1,)

    def get(self) -> T:
        """What the file says now. Raises what `read` raises."""
        now = signature(self._path)
        if self._value is None or now != self._of:
            self._value, self._of = self._read(self._path), now
        return self._value


def read_hosts(path: Path) -> dict[str, list[str]]:
    """Names in lower case → IP addresses, in file order; hosts(5). No file is no names."""
    names: dict[str, list[str]] = {}
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            ip, *aliases = line.partition("#")[0].split() or [""]
            with suppress(ValueError):
                ipaddress.ip_address(ip)
                for alias in aliases:
                    known = names.setdefault(alias.lower().rstrip("."), [])
                    if ip not in known:
                        known.append(ip)
    return names
