"""The keys of listeners that say how many clients may come, and how often."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, model_validator

from spliceproxy.config import scalars
from spliceproxy.config.section import Section, none_if_off, required, setting


class RateLimit(Section):
    """New sessions: so many per second in the long run, and so many at once after a quiet time.
    They are counted in a sliding window as long as `burst` lasts, here 50 sessions in 2.5 s."""

    per_second: scalars.PerSecond = required("New sessions per second, in the long run.", "20")
    burst: scalars.PerSecond = required("New sessions at once, after a quiet time.", "50")


class ClientLimits(Section):
    """Limits of each client network. The counts take up to 32 MiB of shared memory for each
    listener, all workers together (64 MiB with more than eight workers), and do not grow with the
    number of clients. Up to 100,000 clients, fewer than one of 1,000 is refused for what others do,
    also where the limit is 1. A new process (upgrade) and a worker in the place of a dead one count
    from nothing."""

    v4: scalars.PrefixV4 = setting(
        "/32", "How many bits the IPv4 addresses of one client network share.", example="/24"
    )
    v6: scalars.PrefixV6 = setting("/64", "The same of IPv6 addresses.", example="/56")
    max_sessions: scalars.CountOff = setting(
        "off",
        "Sessions of one client network at the same time; further ones are refused, and the "
        "record says client_limit. Sessions that began without this limit do not count.",
        example="100",
    )
    rate: Annotated[RateLimit | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "New sessions of one client network; further ones are refused, do not count, and the "
        "record says client_rate_limit.",
        example="{per_second: 20, burst: 50}",
    )

    @model_validator(mode="after")
    def _some_limit(self) -> ClientLimits:
        if self.max_sessions is None and self.rate is None:
            raise ValueError("nothing is limited; write max_sessions or rate, or per_client: off")
        return self


class Limits(Section):
    """How many clients may come, and how often, of all workers together; what is beyond is
    refused as `on_refuse` says. Clients of UNIX sockets are in no network: only `rate` holds."""

    rate: Annotated[RateLimit | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "New sessions of all clients; further ones are refused, do not count, and the record says "
        "rate_limit.",
        example="{per_second: 2000, burst: 4000}",
    )
    handshakes: scalars.CountOff = setting(
        "off",
        "TLS handshakes with clients under way at the same time, where TLS ends here; further "
        "clients are refused, and the record says handshake_limit.",
        example="500",
    )
    per_client: Annotated[ClientLimits | None, BeforeValidator(none_if_off)] = setting(
        "off",
        "Limits of each client network.",
        example="{max_sessions: 100, rate: {per_second: 20, burst: 50}}",
    )

    @model_validator(mode="after")
    def _some_limit(self) -> Limits:
        if self.rate is None and self.handshakes is None and self.per_client is None:
            raise ValueError(
                "nothing is limited; write rate, handshakes or per_client, or limits: off"
            )
        return self
