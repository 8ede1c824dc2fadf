"""The configuration as the rest of the program knows it: frozen, typed, inheritance resolved.

Times are seconds, sizes are bytes, and what is `off` or `auto` is None. The descriptions, units,
defaults and examples below are the only ones: the JSON schema and the reference come from them.
Defaults are written in the language itself and read like a user's values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from spliceproxy.config import scalars, units
from spliceproxy.config.access import AccessRule, Bandwidth
from spliceproxy.config.address import Address  # noqa: F401  (pydantic looks it up)
from spliceproxy.config.admin import Admin, AdminOff, Metrics, MetricsOrOff
from spliceproxy.config.health import Health
from spliceproxy.config.intake import AcceptProxy, ListenerTimeouts, Route
from spliceproxy.config.limits import Limits
from spliceproxy.config.pool import Pool, PoolTimeouts
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, none_if_off, required, section, setting
from spliceproxy.config.tcp import ListenerTcp, Tcp
from spliceproxy.config.tls import ListenerTls


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
        "auto",
        "How lines look; `auto`: console on a terminal and in systemd's journal, else json.",
        example="json",
    )
    sessions: SessionLog = section(SessionLog, "Session records.")


class Dns(Section):
    """How the host names of upstreams are looked up."""

    servers: Annotated[tuple[scalars.DnsServerSystem, ...], OneOrMore] = setting(
        "system",
        "`system`: the servers and the search list of /etc/resolv.conf. Or addresses of servers, "
        "port 53 where none is given, which alone are asked, and without a search list. The hosts "
        "file comes first in any case.",
        example="[10.0.0.53, 10.0.1.53:5353]",
    )
    min_ttl: scalars.SomeTime = setting(
        "1s",
        "An answer is asked for again after this time at the earliest, whatever its TTL.",
        example="10s",
    )
    max_ttl: scalars.SomeTime = setting(
        "5m",
        "An answer is asked for again after this time at the latest, whatever its TTL.",
        example="1m",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Dns:
        if self.min_ttl > self.max_ttl:
            least, most = units.time_text(self.min_ttl), units.time_text(self.max_ttl)
            raise ValueError(
                f"min_ttl {least} is more than max_ttl {most}; let max_ttl be at least {least}"
            )
        return self


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


class Timeouts(PoolTimeouts, ListenerTimeouts):
    """How long things may take. `off`: without limit."""

    inherits: ClassVar[str] = ""

    drain: scalars.TimeOff = setting(
        "30s", "On stop, how long sessions may go on before they are reset.", example="5m"
    )


class Listener(Section):
    """A named set of addresses that accept clients."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["pool"]}, {"required": ["routes"]}]}
    )

    bind: Annotated[tuple[scalars.BindAddress, ...], OneOrMore] = required(
        "Where to listen: host:port, [v6]:port, :port (every address, IPv4 and "
        "IPv6), unix:/path or unix:@abstract. Port 0: any free port; the log says which.",
        '":8080"',
        "[127.0.0.1:8080, unix:/run/app.sock]",
    )
    routes: Annotated[tuple[Route, ...], OneOrMore] = setting(
        (),
        "Rules in order, of which the first one that matches decides. The first bytes of clients "
        "are looked at only where a rule needs them, and the upstream gets them all.",
        example="[{sni: www.example.com, pool: app}, {protocol: ssh, pool: app}]",
    )
    pool: scalars.PoolName = Field(
        None,
        description="The pool for clients that no route matches; absent, where there are routes: "
        "they are refused.",
        examples=["app"],
    )
    max_sessions: scalars.CountOff = setting(
        "off",
        "Sessions of this listener at the same time; further clients wait in the kernel's queue.",
        example="50000",
    )
    access: Annotated[tuple[AccessRule, ...], OneOrMore] = setting(
        (),
        "Who may come in: rules in order, of which the first one that holds the client's address "
        "decides; where none does, the client may come in. Clients of UNIX sockets are in no "
        "network, and so always may.",
        example="[{allow: 10.1.0.0/16}, {deny: [10.0.0.0/8, file:/etc/spliceproxy/blocklist.txt]}]",
    )
    limits: Annotated[Limits | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "How many clients may come, and how often.",
        example="{per_client: {max_sessions: 100}}",
    )
    on_refuse: scalars.ResetOrClose = setting(
        "reset",
        "How a client is turned away: by a reset, or by an orderly close (FIN).",
        example="close",
    )
    bandwidth: Annotated[Bandwidth | None, BeforeValidator(none_if_off)] = section(
        Bandwidth,
        "What each session may take of the network; `off`: as much as there is.",
        "{up: 10MiB/s, down: 50MiB/s}",
    )
    accept_proxy: Annotated[AcceptProxy | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "Who begins each connection with a PROXY header that names the client: the record's "
        "`client`, and whom `source_hash` knows. `off`: nobody, each client is its peer.",
        example="{from: [10.0.0.0/8], others: plain}",
    )
    tls: Annotated[ListenerTls | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "TLS that ends here; `off`: bytes go to the pool as they came.",
        example="{certificates: /etc/spliceproxy/certs/}",
    )
    timeouts: ListenerTimeouts = section(ListenerTimeouts, "Timeouts of new clients.")
    tcp: ListenerTcp = section(ListenerTcp, "Socket options.")
    log: ListenerLog = section(ListenerLog, "Session records of this listener.")

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Its key in `listeners`."""
        return self._name


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
    admin: AdminOff = section(Admin, "The admin API and dashboard, over HTTP; `off`: none.", "off")
    metrics: MetricsOrOff = section(Metrics, "What Prometheus and probes are told.")
    relay: Relay = section(Relay, "How bytes are moved.")
    dns: Dns = section(Dns, "How the host names of upstreams are looked up.")
    timeouts: Timeouts = section(Timeouts, "Timeouts; those of sessions also on pools.")
    health: Annotated[Health | None, BeforeValidator(none_if_off)] = section(
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

    @property
    def speaks_tls(self) -> bool:
        """Whether any listener or pool does."""
        here = any(one.tls is not None for one in self.listeners.values())
        return here or any(one.tls is not None for one in self.pools.values())
