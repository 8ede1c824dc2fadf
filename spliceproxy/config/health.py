"""The keys of health checks."""

from __future__ import annotations

from typing import Annotated, ClassVar

from spliceproxy.config import scalars
from spliceproxy.config.scalars import OneOrMore
from spliceproxy.config.section import Section, setting


class PoolHealth(Section):
    """How the supervisor finds out whether the upstreams of a pool serve."""

    inherits: ClassVar[str] = "health"

    check: scalars.HealthCheck = setting(
        "tcp",
        "`tcp`: it accepts a connection. `http`: GET. `tls`: a handshake; a certificate that ends "
        "within 14 days is logged. `exchange`: `send`, then `expect`. `redis`: PING. `postgres`: "
        "SSLRequest. `smtp`: the greeting 220, then QUIT. In a pool with `tls` all but `tcp` speak "
        "TLS as sessions do, and fail where the upstream cannot prove who it is.",
        example="http",
    )
    interval: scalars.Period = setting(
        "2s",
        "Time between two checks of one upstream, varied by 10 %; half of it while a state "
        "is changing.",
        example="5s",
    )
    timeout: scalars.Period = setting(
        "1s", "Time for one check, from the connect to the end of the answer.", example="3s"
    )
    rise: scalars.InARow = setting(
        "2", "Checks in a row that an upstream must pass to come back.", example="1"
    )
    fall: scalars.InARow = setting(
        "3",
        "Checks in a row that an upstream must fail to be taken down. The first check after "
        "the start decides alone.",
        example="2",
    )
    port: scalars.PortAuto = setting(
        "auto",
        "The port to check; `auto`: the upstream's own. Another one is another service, to which "
        "the pool's `tls` and `send_proxy` do not apply. Not for UNIX sockets.",
        example="8008",
    )
    path: scalars.UrlPath = setting("/", "`http`: what is asked for.", example="/healthz")
    host: scalars.HostAuto = setting(
        "auto",
        "`http`: the Host header; `auto`: the upstream's address, or the name that the pool's "
        "`tls` asks for. `tls`: the server name (SNI); `auto`: none; in a pool with `tls` always "
        "the name that sessions ask for.",
        example="www.example.com",
    )
    status: Annotated[tuple[scalars.StatusRange, ...], OneOrMore] = setting(
        "200-399", "`http`: the statuses that pass.", example="[200-299, 401]"
    )
    send: scalars.TextOff = setting(
        "off",
        "`exchange`: what is sent first: text with \\r \\n \\t \\0 \\xNN, or `hex:` and digits.",
        example="'PING\\r\\n'",
    )
    expect: scalars.TextOff = setting(
        "off",
        "`exchange`: what the answer must contain, written like `send`; `off`: any answer. "
        "`http`: a regular expression that must be found in the first MiB of the body; "
        "a $ is written $$.",
        example="+PONG",
    )


class Health(PoolHealth):
    """How the supervisor finds out whether upstreams serve; also on pools."""

    inherits: ClassVar[str] = ""
