"""Which paths there are at which kind of door, and what each asks of who comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spliceproxy.admin.asking import Answer, Asked, Handler
from spliceproxy.admin.guard import Entry, Need
from spliceproxy.admin.orders import Orders
from spliceproxy.admin.pages import load_pages
from spliceproxy.admin.reading import EXPLAIN, FILTERS, Reading, TellToken
from spliceproxy.admin.stream import PARAMETERS
from spliceproxy.admin.traffic import Traffic
from spliceproxy.control.house import House

API = "/api/v1"


@dataclass(frozen=True, slots=True)
class Route:
    """One path."""

    need: Need
    handler: Handler
    parameters: frozenset[str] = frozenset()
    """What may stand behind the path."""

    @property
    def methods(self) -> tuple[str, ...]:
        return ("POST",) if self.need is Need.WRITE else ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Routes:
    """All paths of one kind of door."""

    exact: Mapping[str, Route]
    named: Mapping[str, Route] = field(default_factory=dict)
    """By what stands before a name: `/api/v1/pools/`."""
    first: str = f"{API}/status"
    """Where somebody who is lost may begin."""

    def find(self, path: str) -> tuple[Route, str] | None:
        """The route of a path, and the name in it; None: there is none. Paths are compared as they
        were sent: what is encoded, doubled or climbs up is no path of ours."""
        if route := self.exact.get(path):
            return route, ""
        above, slash, name = path.rpartition("/")
        route = self.named.get(above + slash)
        return (route, name) if route is not None and name else None


def make_routes(house: House, traffic: Traffic, token: TellToken) -> Mapping[Entry, Routes]:
    """The paths of each kind of door. `token` is what a UNIX socket tells of the write token."""
    reading, orders = Reading(house, traffic, token), Orders(house)
    probes = {
        "/healthz": Route(Need.OPEN, reading.healthz),
        "/readyz": Route(Need.OPEN, reading.readyz),
    }
    paths = {
        **probes,
        "/metrics": Route(Need.READ, reading.metrics),
        **{path: Route(Need.PAGE, _always(page)) for path, page in load_pages().items()},
        f"{API}/status": Route(Need.READ, reading.status),
        f"{API}/config": Route(Need.READ, reading.config),
        f"{API}/listeners": Route(Need.READ, reading.listeners),
        f"{API}/pools": Route(Need.READ, reading.pools),
        f"{API}/upstreams": Route(Need.READ, reading.upstreams, frozenset({"pool"})),
        f"{API}/traffic": Route(Need.READ, reading.traffic),
        f"{API}/history": Route(Need.READ, reading.history),
        f"{API}/sessions": Route(Need.READ, reading.sessions, FILTERS),
        f"{API}/events": Route(Need.READ, reading.events),
        f"{API}/explain": Route(Need.READ, reading.explain, EXPLAIN),
        f"{API}/stream": Route(Need.READ, reading.stream, PARAMETERS),
        f"{API}/drain": Route(Need.WRITE, orders.drain),
        f"{API}/undrain": Route(Need.WRITE, orders.undrain),
        f"{API}/weight": Route(Need.WRITE, orders.weight),
        f"{API}/log-level": Route(Need.WRITE, orders.log_level),
        f"{API}/reset": Route(Need.WRITE, orders.reset),
        f"{API}/reload": Route(Need.WRITE, orders.reload),
        f"{API}/upgrade": Route(Need.WRITE, orders.upgrade),
    }
    named = {
        f"{API}/listeners/": Route(Need.READ, reading.listener),
        f"{API}/pools/": Route(Need.READ, reading.pool),
    }
    everything = Routes(paths, named)
    local = Routes({**paths, f"{API}/token": Route(Need.READ, reading.token)}, named)
    return {
        Entry.UNIX: local,
        Entry.LOOPBACK: everything,
        Entry.ELSEWHERE: everything,
        Entry.METRICS: Routes(
            {**probes, "/metrics": Route(Need.OPEN, reading.metrics)}, first="/metrics"
        ),
    }


def _always(answer: Answer) -> Handler:
    async def handler(_asked: Asked) -> Answer:
        return answer

    return handler
