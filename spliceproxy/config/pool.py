"""The keys of pools and of their upstreams."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, PrivateAttr, model_validator

from spliceproxy.config import scalars
from spliceproxy.config.address import Address  # noqa: F401  (pydantic looks it up)
from spliceproxy.config.health import PoolHealth
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, none_if_off, required, section, setting
from spliceproxy.config.tcp import PoolTcp
from spliceproxy.config.tls import PoolTls, on_or_off


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


class Upstream(Section):
    """One address that serves. Its address alone may stand for it."""

    address: scalars.UpstreamAddress = required(
        "Where to connect: host:port, [v6]:port, unix:/path or unix:@abstract. A host name may "
        "stand for several upstreams, one for each of its addresses, and is asked for again when "
        "its TTL is over. `srv:` and a name: the upstreams that its SRV records tell, with their "
        "ports and weights; the lowest priority is tier 0, the next one tier 1. `file:` and an "
        "absolute path: a list of upstreams as it could stand here, followed as it changes. What "
        "stands beside it here holds for each upstream that is found: weights multiply, tiers add "
        "up, the lower `max_sessions` holds.",
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


class Queue(Section):
    """Clients that wait while no upstream can be chosen, in the order in which they came. One that
    hangs up leaves; one that has only finished sending is served."""

    size: scalars.QueueSize = setting(
        "500",
        "Clients that may wait, further ones are refused; each worker has a queue of its own.",
        example="5000",
    )
    timeout: scalars.PositiveTimeOff = setting(
        "5s", "How long one may wait in all; `off`: until it hangs up.", example="30s"
    )
    when: scalars.QueueWhen = setting(
        "full",
        "`full`: while the upstreams that could be chosen have as many sessions as they may. "
        "`full_or_down`: also while there is none that could be chosen. A session whose connects "
        "failed waits for the upstreams that it has not tried.",
        example="full_or_down",
    )


class Pool(Section):
    """A named group of upstreams with one balancing policy."""

    balance: scalars.Balance = setting(
        "round_robin",
        "How an upstream is chosen, always by weight. `round_robin`: each in turn. `random`: by "
        "lot. `power_of_two`: of two that are drawn, the one with fewer sessions. "
        "`least_sessions`: the one with the fewest. `source_hash`: by the client's IP address, the "
        "same one on every machine with the same upstreams; clients of UNIX sockets count as one. "
        "`sni_hash`: the same by the name that a TLS client asks for, PostgreSQL's SSLRequest "
        "answered for it; others by their address, and one that is silent after "
        "`timeouts.preread`.",
        example="least_sessions",
    )
    upstreams: Annotated[tuple[Upstream, ...], OneOrMore] = required(
        "The addresses that serve, or where they are found; text, or a mapping with `address`. A "
        "pool whose upstreams are not found yet refuses its clients until they are.",
        "[127.0.0.1:9001, 127.0.0.1:9002]",
    )
    required: scalars.Flag = setting(
        "false",
        "Whether the proxy is ready (`/readyz`) only while an upstream of this pool can be used.",
        example="true",
    )
    max_sessions: scalars.CountOff = setting(
        "off",
        "Sessions with this pool at the same time; further clients wait in `queue`, or are "
        "refused.",
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
    queue: Annotated[Queue | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "Where clients wait while no upstream can be chosen; `off`: they are refused.",
        example="{size: 5000}",
    )
    replay: scalars.ReplaySizeOff = setting(
        "off",
        "An upstream that ends a session, by FIN or reset, before its first byte is replaced by "
        "another one, which is sent again what the client had sent, its FIN included; counts as "
        "one of `retries`. Not once the client has sent more bytes than this, nor where the "
        "upstream's FIN answers the client's. Upstreams may so see the same bytes twice: only for "
        "protocols to which that does no harm.",
        example="16KiB",
    )
    send_proxy: scalars.SendProxyOff = setting(
        "off",
        "A PROXY header of this version goes first to each upstream: the client's address and the "
        "one that it connected to; `v2` tells the `session` of the session's record as well "
        "(UNIQUE_ID). Clients of UNIX sockets are announced without addresses. Health checks send "
        "one too, in their own name, but not to another port (`health.port`).",
        example="v2",
    )
    tls: Annotated[PoolTls | None, BeforeValidator(on_or_off)] = setting(
        "off",
        "TLS with the upstreams, whose certificates are verified. `on`: with all defaults; `off`: "
        "bytes go to them as the session has them.",
        example="{ca: ca.pem, name: internal.example.com}",
    )
    slow_start: scalars.PositiveTimeOff = setting(
        "off",
        "An upstream that came back or that was found later gets its full share of sessions only "
        "after this time, and grows to it from a tenth. It came back when it was found up again or "
        "its ejection ended. Not at the start, nor with `source_hash` or `sni_hash`: "
        "each client has its place.",
        example="30s",
    )
    on_down: scalars.KeepOrReset = setting(
        "keep",
        "What becomes of the sessions of an upstream that its health checks find down. `keep`: "
        "they go on for as long as they can. `reset`: both sides get a reset at once, so that the "
        "client comes again and gets another upstream; who is still connecting goes there by "
        "itself.",
        example="reset",
    )
    on_remove: scalars.KeepOrReset = setting(
        "keep",
        "The same for an upstream that left the configuration, or that its name no longer stands "
        "for.",
        example="reset",
    )
    on_failback: scalars.KeepOrReset = setting(
        "keep",
        "The same for sessions with a higher tier, when a lower one can be used again after it "
        "had none that could.",
        example="reset",
    )
    eject: Annotated[Eject | None, BeforeValidator(none_if_off)] = section(
        Eject, "When an upstream that fails is passed over for a while; `off`: never.", "off"
    )
    health: Annotated[PoolHealth | None, BeforeValidator(none_if_off)] = section(
        PoolHealth, "Health checks of its upstreams; `off`: none.", "off"
    )
    timeouts: PoolTimeouts = section(PoolTimeouts, "Timeouts of sessions with this pool.")
    tcp: PoolTcp = section(PoolTcp, "Socket options.")

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Its key in `pools`."""
        return self._name
