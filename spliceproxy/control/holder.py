"""Who holds an address that we wanted: /proc/net names the socket, /proc/PID/fd its process."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from spliceproxy.ipc import Sockaddr

_LISTEN = "0A"
"""TCP_LISTEN of tcp_states.h, as /proc/net/tcp prints it."""


def holder_of(family: int, address: Sockaddr) -> str | None:
    """Name the process that listens at `address`: `nginx (pid 812)`.

    None where nobody is seen: another user's process, another container's, or a socket that is
    bound without listening, which /proc/net/tcp does not list.
    """
    inodes = _unix_inodes(address) if family == socket.AF_UNIX else _tcp_inodes(address)
    holders = _processes_with({f"socket:[{inode}]" for inode in inodes})
    # Workers hold what their supervisor bound: name the one whose parent holds nothing of it.
    pids = [pid for pid in holders if _parent(pid) not in holders]
    if not pids:
        return None
    pid = min(pids)
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"
    except OSError:
        return f"pid {pid}"


def _tcp_inodes(address: Sockaddr) -> set[str]:
    """Inodes of the listening sockets that stand in the way of `address`.

    A wildcard address stands in the way of every address of its port, and the other way round;
    an IPv6 wildcard may take IPv4 as well, so both tables are read.
    """
    assert isinstance(address, tuple)
    host, port = address[:2]
    wildcard = host in ("0.0.0.0", "::")
    in_the_way = set() if wildcard else {_hex(host), _hex("0.0.0.0"), _hex("::")}
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for fields in _rows(table):
            local, _, number = fields[1].partition(":")
            listens = fields[3] == _LISTEN and int(number, 16) == port
            if listens and (wildcard or local in in_the_way):
                inodes.add(fields[9])
    return inodes


def _hex(host: str) -> str:
    """An address as /proc/net prints it: 32-bit words in the byte order of this machine."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    words = (int.from_bytes(packed[n : n + 4], sys.byteorder) for n in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words)


def _unix_inodes(address: Sockaddr) -> set[str]:
    """Inodes of the sockets bound to a path, or to an abstract name, shown with a leading @."""
    name = os.fsdecode(address) if isinstance(address, bytes) else address
    assert isinstance(name, str)
    if name.startswith("\0"):
        name = "@" + name[1:]
    return {fields[6] for fields in _rows("/proc/net/unix") if " ".join(fields[7:]) == name}


def _rows(table: str) -> list[list[str]]:
    """The rows of a table of /proc/net, split at blanks."""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            return [line.split() for line in file.readlines()[1:]]
    except OSError:
        return []


def _processes_with(links: set[str]) -> set[int]:
    """Pids of the processes, as far as we may look, that have one of `links` among their fds."""
    pids = set()
    for process in Path("/proc").iterdir():
        if not links or not process.name.isdecimal():
            continue
        try:
            if any(str(fd.readlink()) in links for fd in (process / "fd").iterdir()):
                pids.add(int(process.name))
        except OSError:
            continue  # it ended while we looked, or it is another user's
    return pids


def _parent(pid: int) -> int:
    try:
        # The name, in parentheses, may hold blanks and parentheses itself (proc_pid_stat(5)).
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
