"""The keys of socket options."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from spliceproxy.config import scalars
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, none_if_off, section, setting


class Keepalive(Section):
    """Probes on a silent connection, tcp(7)."""

    idle: scalars.WholeSeconds = setting("60s", "Silence before the first probe.", example="30s")
    interval: scalars.WholeSeconds = setting("10s", "Time between two probes.", example="5s")
    count: scalars.Probes = setting(
        "3", "Unanswered probes after which the connection is dead.", example="5"
    )


class Buffers(Section):
    """Socket buffers, socket(7). `off` leaves them to the kernel, which tunes them by itself."""

    receive: scalars.BufferSizeOff = setting(
        "off", "SO_RCVBUF: what a connection may receive ahead.", example="1MiB"
    )
    send: scalars.BufferSizeOff = setting(
        "off", "SO_SNDBUF: what a connection may send ahead.", example="1MiB"
    )


class Tcp(Section):
    """Socket options of TCP connections."""

    nodelay: scalars.Flag = setting(
        "true",
        "TCP_NODELAY: small messages leave at once instead of waiting for an answer.",
        example="false",
    )
    keepalive: Annotated[Keepalive | None, BeforeValidator(none_if_off)] = section(
        Keepalive, "Probes that find out dead peers of silent connections; `off`: none.", "off"
    )
    user_timeout: scalars.PositiveTimeOff = setting(
        "off",
        "TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged; `off`: as "
        "long as the kernel tries, about 15 minutes.",
        example="30s",
    )
    buffers: Buffers = section(Buffers, "Socket buffers.")


_INTERFACE = (
    "SO_BINDTODEVICE: the network interface to use, and no other; `off`: any. Linux before 5.7 "
    "wants CAP_NET_RAW for it."
)
_MARK = "SO_MARK: the firewall mark, decimal or 0x…; it needs CAP_NET_ADMIN. `off`: none."


class ListenerTcp(Tcp):
    """Socket options of a listener and of its clients' connections."""

    inherits: ClassVar[str] = "tcp"

    backlog: scalars.Backlog = setting(
        "4096",
        "Clients that may wait to be accepted, on each socket; the kernel cuts it to "
        "net.core.somaxconn.",
        example="65535",
    )
    defer_accept: scalars.WholeSecondsOff = setting(
        "off",
        "TCP_DEFER_ACCEPT: a client is accepted when its first bytes arrive, or after "
        "this time. Not for protocols in which the server speaks first.",
        example="5s",
    )
    interface: scalars.InterfaceOff = setting("off", _INTERFACE, example="eth1")
    mark: scalars.Mark = setting("off", _MARK, example="0x1f")


class PoolTcp(Tcp):
    """Socket options of the connections to a pool's upstreams."""

    inherits: ClassVar[str] = "tcp"

    interface: scalars.InterfaceOff = setting("off", _INTERFACE, example="eth1")
    mark: scalars.Mark = setting("off", _MARK, example="0x1f")
    source: Annotated[tuple[scalars.SourceIp, ...], OneOrMore] = setting(
        (),
        "Local addresses to connect from, in turn. Several of them give more "
        "ephemeral ports. Absent: the kernel chooses.",
        example="[10.0.0.5, 10.0.0.6]",
    )
