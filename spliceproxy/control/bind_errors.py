"""What a user reads when an address could not be had: the reason, and the remedy."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from spliceproxy.control.addresses import Place
from spliceproxy.control.holder import holder_of
from spliceproxy.control.options import remedy_by_capability


def explain_bind(listener: str, place: Place, error: OSError) -> str:
    """The line for the user who could not have `place`, with the remedy where one is known."""
    return f"listeners.{listener}.bind: {place}: {explain_place(place, error)}"


def explain_place(place: Place, error: OSError) -> str:
    """Why a socket could not be bound to `place`, and the remedy where one is known."""
    if error.errno == errno.EADDRINUSE:
        return _in_use(place)
    if isinstance(place.address, tuple):
        return explain_tcp(place, error)
    directory = Path(os.fsdecode(place.address)).parent
    if error.errno == errno.EACCES:
        return f"not permitted: this user may not create files in {directory}"
    if error.errno == errno.ENOENT:
        return f"the directory {directory} does not exist"
    return error.strerror or str(error)


def explain_tcp(place: Place, error: OSError) -> str:
    """Why a TCP socket could not be bound to `place`, and the remedy."""
    if error.errno == errno.EACCES:
        return (
            f"not permitted: port {place.port} is privileged; "
            f"{remedy_by_capability('CAP_NET_BIND_SERVICE')}; "
            f"or sysctl net.ipv4.ip_unprivileged_port_start={place.port}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        version = "ipv6" if place.family == socket.AF_INET6 else "ipv4"
        return (
            "no interface of this machine has this address; `ip address` lists them, "
            f"and sysctl net.{version}.ip_nonlocal_bind=1 allows one that comes later"
        )
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no IPv6"
    return error.strerror or str(error)


def _in_use(place: Place) -> str:
    if isinstance(place.address, str) and not Path(place.address).is_socket():
        return "a file that is no socket is in the way"
    holder = holder_of(place.family, place.address)
    return f"in use by {holder}" if holder else "in use by a process that cannot be seen from here"
