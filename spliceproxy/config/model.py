"""The configuration as the rest of the program knows it: frozen, typed, inheritance resolved.

Times are seconds, sizes are bytes, and what is `off` or `auto` is None. The descriptions, units,
defaults and examples below are the only ones: the JSON schema and the reference come from them.
Defaults are written in the language itself and read like a user's values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from spliceproxy.config import scalars
from spliceproxy.config.address import Address, IpAddress  # noqa: F401  (pydantic looks them up)
from spliceproxy.config.health import Health, PoolHealth
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, required, section, setting


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


def _off(raw: object) -> object:
    return None if raw == "off" else raw


class Tcp(Section):
    """Socket options of TCP connections."""

    nodelay: scalars.Flag = setting(
        "true",
        "TCP_NODELAY: small messages leave at once instead of waiting for an answer.",
        example="false",
    )
    keepalive: Annotated[Keepalive | None, BeforeValidator(_off)] = section(
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


class ListenerLog(Section):
    """Which session records of a listener are written."""

    inherits: ClassVar[str] = "log.sessions"

    keep: scalars.Keep = setting(
        "all",
        "Which records are written: all, those of sessions that ended in an error, or none.",
        example="errors",
    )
    sample: scalars.Share = setting(
        "1", "The share of them that is written, chosen at random.", example="10%"
    )


class SessionLog(ListenerLog):
    """Session records: one line for each session, at its end."""

    inherits: ClassVar[str] = ""

    to: scalars.Destination = setting(
        "stdout",
        "Where the records go: `stdout`, or `file:` and an absolute path.",
        example="file:/var/log/spliceproxy/sessions.log",
    )


class Log(Section):
    """The program's own log, which goes to stderr, and the session records."""

    level: scalars.LogLevel = setting(
        "info", "The least important message that is written.", example="debug"
    )
    format: scalars.LogFormat = setting(
        "auto", "How lines look; `auto`: console on a terminal, else json.", example="json"
    )
    sessions: SessionLog = section(SessionLog, "Session records.")


class Relay(Section):
    """How bytes are moved."""

    mode: scalars.RelayMode = setting(
        "adaptive",
        "`adaptive`: small messages are copied, bulk goes through pipes inside the "
        "kernel. `splice`: pipes from the first byte. `copy`: never a pipe.",
        example="splice",
    )
    pipe_size: scalars.PipeSize = setting(
        "1MiB",
        "Bytes that a pipe is asked to hold: what may be under way in one direction. "
        "An unprivileged user cannot have more than fs.pipe-max-size.",
        example="256KiB",
    )
    max_pipes: scalars.CountAuto = setting(
        "auto",
        "Pipes of all workers together; `auto`: what the user's limits allow. A "
        "session that gets no pipe is copied.",
        example="512",
    )


class PoolTimeouts(Section):
    """How long a session may take over what it does."""

    inherits: ClassVar[str] = "timeouts"

    connect: scalars.PositiveTimeOff = setting(
        "5s",
        "One attempt to connect to one upstream; `off`: as long as the kernel tries.",
        example="1s",
    )
    idle: scalars.PositiveTimeOff = setting("1h", "Silence in both directions.", example="10m")
    half_close: scalars.PositiveTimeOff = setting(
        "5m", "Silence, not age, after one side has finished sending.", example="30s"
    )
    session: scalars.PositiveTimeOff = setting("off", "Total age of a session.", example="1d")


class Timeouts(PoolTimeouts):
    """How long things may take. `off`: without limit."""

    inherits: ClassVar[str] = ""

    drain: scalars.TimeOff = setting(
        "30s", "On stop, how long sessions may go on before they are reset.", example="5m"
    )


class Listener(Section):
    """A named set of addresses that accept clients."""

    bind: Annotated[tuple[scalars.BindAddress, ...], OneOrMore] = required(
        "Where to listen: host:port, [v6]:port, :port (every address, IPv4 and "
        "IPv6), unix:/path or unix:@abstract. Port 0: any free port; the log says which.",
        '":8080"',
        "[127.0.0.1:8080, unix:/run/app.sock]",
    )
    pool: scalars.PoolName = required("The pool that serves the clients.", "app")
    max_sessions: scalars.CountOff = setting(
        "off",
        "Sessions of this listener at the same time; further clients wait in the kernel's queue.",
        example="50000",
    )
    tcp: ListenerTcp = section(ListenerTcp, "Socket options.")
    log: ListenerLog = section(ListenerLog, "Session records of this listener.")

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Its key in `listeners`."""
        return self._name


class Upstream(Section):
    """One address that serves. Its address alone may stand for it."""

    address: scalars.UpstreamAddress = required(
        "Where to connect: host:port, [v6]:port, unix:/path or unix:@abstract. A "
        "host name is resolved, and each of its addresses is an upstream.",
        "10.0.0.1:9000",
    )
    weight: scalars.Weight = setting(
        "1",
        "Its share of new sessions, next to the weights of the others; 0: takes none.",
        example="2",
    )
    tier: scalars.Tier = setting(
        "0",
        "Upstreams of a higher tier are used when no lower one has any that can be used.",
        example="1",
    )
    max_sessions: scalars.CountOff = setting(
        "off", "Sessions with it at the same time; a full one is not chosen.", example="200"
    )

    @model_validator(mode="before")
    @classmethod
    def _address_alone(cls, raw: Any) -> Any:
        return {"address": raw} if isinstance(raw, str) else raw


class Eject(Section):
    """When live traffic fails on an upstream, it is passed over for a while."""

    on: scalars.EjectReasons = setting(
        "connect",
        "What counts as a failure. `connect`: no connection could be made, and not for a lack of "
        "this machine. `early_close`: the upstream ended first, without a byte, after the client "
        "had sent something.",
        example="[connect, early_close]",
    )
    after: scalars.Failures = setting(
        "5", "Failures of one kind in a row; each worker counts its own.", example="3"
    )
    time: scalars.SomeTime = setting(
        "10s",
        "How long it is passed over at first. Each repeat doubles that, up to 16 times as long; "
        "each quiet stretch, 16 times as long as this, takes one doubling back.",
        example="30s",
    )
    at_most: scalars.Share = setting(
        "50%",
        "The share of the pool's upstreams that may be ejected at the same time, rounded down; of "
        "two or more always one, unless it is 0. The only upstream of a pool never is.",
        example="30%",
    )


class Pool(Section):
    """A named group of upstreams with one balancing policy."""

    balance: scalars.Balance = setting(
        "round_robin",
        "How an upstream is chosen, always by weight. `round_robin`: each in turn. `random`: by "
        "lot. `power_of_two`: of two that are drawn, the one with fewer sessions. "
        "`least_sessions`: the one with the fewest. `source_hash`: by the client's IP address, the "
        "same one on every machine with the same upstreams; clients of UNIX sockets count as one.",
        example="least_sessions",
    )
    upstreams: Annotated[tuple[Upstream, ...], OneOrMore] = required(
        "The addresses that serve; text, or a mapping with `address`.",
        "[127.0.0.1:9001, 127.0.0.1:9002]",
    )
    max_sessions: scalars.CountOff = setting(
        "off",
        "Sessions with this pool at the same time; further clients are refused.",
        example="5000",
    )
    panic: scalars.ShareOff = setting(
        "off",
        "Where a smaller share of a tier is healthy, sessions are first tried on all of it "
        "that is not draining; `off`: never.",
        example="30%",
    )
    retries: scalars.Retries = setting(
        "2", "Other upstreams that are tried when a connection cannot be made.", example="0"
    )
    eject: Annotated[Eject | None, BeforeValidator(_off)] = section(
        Eject, "When an upstream that fails is passed over for a while; `off`: never.", "off"
    )
    health: Annotated[PoolHealth | None, BeforeValidator(_off)] = section(
        PoolHealth, "Health checks of its upstreams; `off`: none.", "off"
    )
    timeouts: PoolTimeouts = section(PoolTimeouts, "Timeouts of sessions with this pool.")
    tcp: PoolTcp = section(PoolTcp, "Socket options.")

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Its key in `pools`."""
        return self._name


class Admin(Section):
    """The operator's door: what `spliceproxy status` and `drain` talk to."""

    bind: scalars.AdminAddressAuto = setting(
        "auto",
        "The UNIX socket of the door; its file is for its owner only (mode 0600). `auto`: "
        "`/run/spliceproxy/admin.sock` for root, `$XDG_RUNTIME_DIR/spliceproxy/admin.sock` for "
        "others; where it cannot be had, there is no door.",
        example="unix:/run/spliceproxy/admin.sock",
    )


class Config(Section):
    """All that one file, and the files that it includes, say."""

    workers: scalars.WorkersAuto = setting(
        "auto",
        "Worker processes; `auto`: one for each usable CPU (affinity and cgroup quota).",
        example="4",
    )
    include: Annotated[tuple[scalars.IncludePattern, ...], OneOrMore] = setting(
        (),
        "Further files, relative to this one, as glob patterns. Names and top-level "
        "keys are defined once in all of them.",
        example="[conf.d/*.yaml]",
    )
    max_sessions: scalars.CountAuto = setting(
        "auto",
        "Sessions of all workers at the same time; further clients wait in the "
        "kernel's queue. `auto`: what the limit of open files allows.",
        example="100000",
    )
    log: Log = section(Log, "Logging.")
    admin: Annotated[Admin | None, BeforeValidator(_off)] = section(
        Admin, "The operator's door, over HTTP on a UNIX socket; `off`: none.", "off"
    )
    relay: Relay = section(Relay, "How bytes are moved.")
    timeouts: Timeouts = section(Timeouts, "Timeouts; those of sessions also on pools.")
    health: Annotated[Health | None, BeforeValidator(_off)] = section(
        Health, "Health checks of upstreams, key by key also on pools; `off`: none.", "off"
    )
    tcp: Tcp = section(Tcp, "Socket options; also on listeners and pools.")
    listeners: Mapping[scalars.Name, Listener] = Field(
        default_factory=dict,
        description="Where clients come in, each listener under its name.",
        examples=['{web: {bind: ":8080", pool: app}}'],
    )
    pools: Mapping[scalars.Name, Pool] = Field(
        default_factory=dict,
        description="Where sessions go, each pool under its name.",
        examples=["{app: {upstreams: [127.0.0.1:9001, 127.0.0.1:9002]}}"],
    )
