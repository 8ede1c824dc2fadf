"""What a worker is told: plain values, resolved, inherited, never changed."""

from __future__ import annotations

import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from spliceproxy.limits.window import Rate
from spliceproxy.wire.networks import NetworkTable

ALLOW, DENY = 0, 1
"""The answers of a listener's access rules."""

Sockaddr = tuple[str, int] | tuple[str, int, int, int] | str | bytes
"""What connect() and bind() take: (host, port) and its IPv6 form, or a UNIX path; bytes that
begin with NUL are an abstract name."""


@dataclass(frozen=True, slots=True)
class TcpPlan:
    """Socket options of the connections to one pool's upstreams. 0 or "" means: leave as it is."""

    nodelay: bool = True
    keepalive: tuple[int, int, int] | None = None
    """Idle seconds, seconds between probes, number of probes; None: no keepalive."""
    user_timeout_ms: int = 0
    receive_buffer: int = 0
    """Bytes."""
    send_buffer: int = 0
    """Bytes."""
    interface: str = ""
    mark: int = 0
    sources: tuple[str, ...] = ()
    """IP addresses to connect from."""


class UpstreamPlan(NamedTuple):
    """One address that serves. A tuple, because there may be thousands to unpickle."""

    name: str
    """As the record and the logs show it: `10.0.0.1:80`, `[::1]:80`, `unix:/run/app.sock`."""
    family: int
    """socket.AF_INET, AF_INET6 or AF_UNIX."""
    address: Sockaddr
    weight: int = 1
    """0: takes no new sessions."""
    slot: int = 0
    """Its place among the board's upstreams."""
    tier: int = 0
    """Used when no lower tier has a usable one."""
    max_sessions: int | None = None
    """Over all workers; None: no limit of its own."""
    server_name: str = ""
    """The host name or the IP address by which it was written; empty for UNIX sockets."""
    configured_weight: int | None = None
    """What the configuration says, where somebody set `weight`; None: nobody did."""


@dataclass(frozen=True, slots=True)
class EjectPlan:
    """When a worker says that an upstream fails."""

    after: int
    """Failures of one kind in a row."""
    connect: bool
    """Failed connects count."""
    early_close: bool
    """Upstreams that end first, without a byte, count."""


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """Where clients wait while no upstream can be chosen."""

    size: int
    """Clients of one worker."""
    timeout: float | None
    """Seconds that one may wait; None: no limit."""
    when_down: bool
    """Also while no upstream may be chosen at all, not only while they are full."""


@dataclass(frozen=True, slots=True)
class PoolTlsPlan:
    """How a pool's upstreams are spoken to by TLS. PEM texts, read and tried by the supervisor."""

    verify: bool = True
    """An upstream whose certificate is not valid for its name is not connected with."""
    ca: str = ""
    """Who may have signed it; empty: whom this machine trusts."""
    name: str = ""
    """What each upstream is asked for, and has to prove; empty: `UpstreamPlan.server_name`."""
    certificate: str = field(default="", repr=False)
    """The chain and the key that upstreams are shown; empty: none."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A named group of upstreams. Times are seconds; None is off."""

    name: str
    balance: str
    upstreams: tuple[UpstreamPlan, ...]
    retries: int
    connect_timeout: float | None
    idle_timeout: float | None
    half_close_timeout: float | None
    session_timeout: float | None
    tcp: TcpPlan
    slot: int = 0
    """Its place among the board's upstreams, where its sessions are counted."""
    max_sessions: int | None = None
    """Over all workers; None: no limit of its own."""
    panic: float | None = None
    """Where less than this share of a tier is healthy, all of it is used; None: never."""
    tables: Mapping[int, array.array[int]] = field(default_factory=dict)
    """For what hashes: a Maglev table of indices into `upstreams`, for each tier."""
    eject: EjectPlan | None = None
    """None: failures are not counted."""
    slow_start: bool = False
    """A part of an upstream's share may be held back on the board."""
    queue: QueuePlan | None = None
    """None: nobody waits."""
    replay: int | None = None
    """Bytes of a client that are kept for another upstream until the first byte from this one;
    None: a session stays with the upstream that it was connected with."""
    send_proxy: str | None = None
    """Version of the PROXY header that each upstream gets first: v1 or v2; None: it gets none."""
    tls: PoolTlsPlan | None = None
    """None: bytes go to the upstreams as the session has them."""


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Sends clients to a pool that match in all that is not empty."""

    name: str
    """As the record tells it."""
    pools: tuple[tuple[str, int], ...]
    """Names and shares, of which none is 0."""
    source: NetworkTable | None = None
    protocol: tuple[str, ...] = ()
    sni: tuple[str, ...] = ()
    """Names in lower case, or `*.` and a name."""
    alpn: tuple[bytes, ...] = ()
    host: tuple[str, ...] = ()
    """As `sni`."""
    passthrough: bool = False
    """TLS goes to the upstream as it came, also where the listener terminates it."""


@dataclass(frozen=True, slots=True)
class IntakePlan:
    """What a listener must know of a client before it is connected."""

    timeout: float | None
    """Seconds from accept; None: no limit."""
    proxy_from: NetworkTable | None = None
    """Peers whose connections begin with a PROXY header; None: nobody's."""
    others: str = "plain"
    """What becomes of other peers where some send headers: plain or refuse."""
    routes: tuple[RoutePlan, ...] = ()
    hello: bool = False
    """A pool wants to know SNI, whatever the routes say."""


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """What a listener shows to clients that ask for one of `names`."""

    names: tuple[str, ...]
    """In lower case: a name, or `*.` and a name, which stands for one label."""
    chains: tuple[str, ...] = field(repr=False)
    """PEM texts, each a chain and its key: several where their keys are of several kinds."""


@dataclass(frozen=True, slots=True)
class TlsPlan:
    """How a listener terminates TLS. PEM texts, read and tried by the supervisor."""

    certificates: tuple[CertificatePlan, ...]
    """The first one is for clients that ask for no name, or for one that no certificate has."""
    min_version: str = "1.2"
    """1.2 or 1.3."""
    alpn: tuple[str, ...] = ()
    """Application protocols that are accepted, the best one first; empty: none is negotiated."""
    client_ca: str = ""
    """Who may have signed clients' certificates; empty: clients are asked for none."""
    client_certificate: str = "off"
    """off, optional (checked where one is shown) or required."""
    timeout: float | None = 10.0
    """Seconds of a handshake; None: no limit."""


@dataclass(frozen=True, slots=True)
class LimitsPlan:
    """What a listener takes, of all workers together. None: no such limit."""

    rate: Rate | None = None
    """New sessions of everybody."""
    handshakes: int | None = None
    """TLS handshakes under way."""
    client_rate: Rate | None = None
    """New sessions of one client network."""
    client_sessions: int | None = None
    """Live sessions of one client network."""
    v4: int = 32
    """Bits that addresses of one network have in common."""
    v6: int = 64
    planes: int | None = None
    """The number of its planes on the board; None: no client network is limited."""


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """A named set of addresses that accept clients."""

    name: str
    slot: int
    """Which of the board's session counters is this listener's."""
    pool: str | None
    """For clients that no route matches; None: they are refused."""
    max_sessions: int | None
    """Over all workers; None: no limit of its own."""
    keep: str
    """Which session records are written: all, errors, off."""
    sample: float
    """The share of them that is written, 0 to 1."""
    access: NetworkTable | None = None
    """Which clients are refused; None: nobody."""
    limits: LimitsPlan | None = None
    """None: clients come as often and as many as they like."""
    on_refuse: str = "reset"
    """How clients are refused: reset or close."""
    rate_up: int | None = None
    """Bytes per second of one session towards its upstream; None: no limit."""
    rate_down: int | None = None
    """The same towards its client."""
    intake: IntakePlan | None = None
    """None: nothing."""
    tls: TlsPlan | None = None
    """None: bytes go to the pool as they came. With one there is an `intake`."""

    @property
    def pools(self) -> frozenset[str]:
        """The names of all pools that its clients may be sent to."""
        routes = self.intake.routes if self.intake is not None else ()
        routed = {name for route in routes for name, _ in route.pools}
        return frozenset(routed if self.pool is None else {self.pool, *routed})


@dataclass(frozen=True, slots=True)
class RelayPlan:
    """How one worker may move bytes."""

    mode: str
    """adaptive, splice or copy."""
    pipe_size: int
    """Bytes that a pipe is asked to hold."""
    max_pipes: int
    """Pipes that this worker may own."""
    pipe_pages: int | None
    """This worker's share of the user's pipe pages; None: the user has no such limit."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one worker knows: resolved, inherited, never changed. A reload brings another."""

    listeners: tuple[ListenerPlan, ...]
    pools: tuple[PoolPlan, ...]
    relay: RelayPlan
    max_sessions: int | None
    """Over all workers; None: as many as the fds of each worker allow."""
    worker_sessions: int
    """Sessions that the fds of one worker allow."""
    sessions_to: str
    """Where session records go: `stdout` or `file:/path`."""
    log_level: str
    log_format: str
    """auto, console or json; auto looks at each stream: stderr, and stdout for the records."""
