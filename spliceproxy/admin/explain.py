"""Which rule takes a client, which pool and which upstream, and why: what a worker would do.

Nothing here decides: routes are tried by the worker's own `Router`, tiers and tables are its own.
A file and a running proxy are explained alike; they differ in their `Scene`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spliceproxy.admin.explain_access import access_rule
from spliceproxy.admin.explain_pool import explain_pool
from spliceproxy.admin.questions import Client, make_client
from spliceproxy.admin.scene import OnBoard, Scene
from spliceproxy.config.suggest import nearest
from spliceproxy.control.draining import UnknownTargetError
from spliceproxy.ipc import ListenerPlan, PoolPlan, RoutePlan
from spliceproxy.wire.networks import NONE
from spliceproxy.worker.pool import client_key
from spliceproxy.worker.router import NO_ROUTE, Facts, Router, ends_tls

if TYPE_CHECKING:
    from spliceproxy.config import IpNetwork, Listener
    from spliceproxy.control.parts import InForce
    from spliceproxy.telemetry.board import Board

_KEYS = ("source", "protocol", "sni", "alpn", "host")
"""What a route may ask of a client."""

_MET = {
    "rate_limit": "the listener has as many new sessions as its rate allows",
    "client_limit": "its network has as many sessions as it may have",
    "client_rate_limit": "its network has as many new sessions as its rate allows",
}
"""What is said of a limit that is met, by what a record would say."""

Json = dict[str, Any]


def explain_live(
    in_force: InForce,
    board: Board,
    draining: Collection[str],
    query: Mapping[str, Sequence[str]],
) -> Json:
    """The answer to `GET /api/v1/explain` with these parameters, each with all its values.

    Reads the files of networks that access rules name: to be called in a thread. Raises
    TargetError, UnknownTargetError.
    """

    def one(name: str) -> str | None:
        values = query.get(name)
        return values[-1] if values else None

    client = make_client(
        one("source"),
        one("peer"),
        one("protocol"),
        one("sni"),
        query.get("alpn", ()),
        one("host"),
    )
    snapshot = in_force.snapshot
    scene = Scene(
        in_force.config, snapshot.listeners, snapshot.pools, OnBoard(board), draining=draining
    )
    return explain(scene, one("listener") or "", client)


def explain(scene: Scene, listener: str, client: Client) -> Json:
    """What becomes of `client` at the listener of this name. Raises UnknownTargetError."""
    plan = next((one for one in scene.listeners if one.name == listener), None)
    if plan is None:
        names = [one.name for one in scene.listeners]
        near = nearest(listener, names)
        known = f"did you mean {near}?" if near else f"there are {', '.join(names) or 'none'}"
        raise UnknownTargetError(f"there is no listener {listener}; {known}")
    return _Explanation(scene, plan, scene.config.listeners[listener], client).answer()


class _Explanation:
    """The way of one client through one listener."""

    def __init__(self, scene: Scene, plan: ListenerPlan, written: Listener, client: Client) -> None:
        self._scene = scene
        self._plan = plan
        self._written = written
        intake = plan.intake
        self._routes: tuple[RoutePlan, ...] = intake.routes if intake else ()
        self._router = Router(self._routes, hello=intake is not None and intake.hello)
        self._header, self._client = self._announced(self._guessed(client))
        self._in_tls = False
        self._facts = self._find_facts()

    def answer(self) -> Json:
        """All that is known of the client's way, from the listener to the upstream."""
        client, plan = self._client, self._plan
        access = access_rule(self._written.access, plan.access, client.source)
        answer: Json = {
            "listener": plan.name,
            "live": self._scene.live,
            "client": {
                "source": client.source or None,
                "peer": client.peer or None,
                "protocol": client.protocol,
                "sni": client.sni,
                "alpn": [name.decode("ascii", "backslashreplace") for name in client.alpn],
                "host": client.host,
            },
            "sessions": self._scene.sight.listener_live(plan.slot),
            "max_sessions": plan.max_sessions,
            "proxy_header": self._header,
            "access": access,
            "limits": _limits(self._written),
            "routes": [],
            "route": None,
            "tls": None,
            "pools": [],
            "refused": None,
        }
        if why := self._refusal(access):
            return {**answer, "refused": why}
        return answer | self._way()

    def _guessed(self, client: Client) -> Client:
        """Where nothing is told of what it says, it says what the listener waits for."""
        if client.protocol is None and self._plan.tls is not None:
            return replace(client, protocol="tls")
        return client

    def _announced(self, client: Client) -> tuple[str, Client]:
        """Whether a PROXY header comes first, and who the client is then."""
        intake = self._plan.intake
        peer = client.peer or client.source
        if intake is None or intake.proxy_from is None:
            return "off", replace(client, source=peer, peer="")
        if intake.proxy_from.find(peer) != NONE:
            return "expected", replace(client, source=client.source or peer, peer=peer)
        return "none", replace(client, source=peer, peer="")

    def _find_facts(self) -> Facts:
        """What a worker finds out about the client, as far as it looks."""
        client, router = self._client, self._router
        facts = Facts(client.source)
        facts.protocol = client.protocol
        names = client.sni is not None or bool(client.alpn)
        if client.protocol == "postgres":
            self._in_tls = names and router.negotiates(client.source)
        else:
            self._in_tls = client.protocol == "tls"
        if self._in_tls and router.wants_hello:
            facts.sni, facts.alpn = client.sni, client.alpn
        if router.wants_host:
            facts.host = client.host
        return facts

    def _refusal(self, access: Json) -> Json | None:
        """Why the client does not get in at all."""
        plan, intake = self._plan, self._plan.intake
        if plan.name in self._scene.draining:
            return {"why": None, "text": "the listener is draining: nobody gets in"}
        others = intake is not None and intake.others == "refuse" and self._header == "none"
        if access["answer"] == "deny":
            return self._refused("access_denied", "an access rule denies its address")
        if others:
            return self._refused("access_denied", "it is none of those that send PROXY headers")
        most = plan.max_sessions
        if most is not None and self._scene.sight.listener_live(plan.slot) >= most:
            return {"why": None, "text": "the listener is full: it waits in the kernel's queue"}
        limit = self._scene.sight.limit_met(plan, self._client.source)
        return None if limit is None else self._refused(limit, _MET[limit])

    def _refused(self, why: str, text: str) -> Json:
        return {"why": why, "how": self._plan.on_refuse, "text": text}

    def _way(self) -> Json:
        """The routes, TLS, and the pools."""
        plan, chosen = self._plan, self._router.choose(self._facts)
        route = None if chosen == NO_ROUTE else self._routes[chosen]
        way: Json = {
            "routes": [self._explain_route(n, one, chosen) for n, one in enumerate(self._routes)],
            "route": None if route is None else route.name,
        }
        targets = _targets(plan, route)
        if not targets:
            text = "no route matches, and the listener has no pool for others"
            return {**way, "refused": self._refused("no_route", text)}
        way["tls"] = self._tls(route)
        if way["tls"] == "refused":
            text = "TLS ends here, and it speaks none"
            return {**way, "refused": self._refused("tls_handshake", text)}
        shares = sum(share for _, share in targets)
        pools = {pool.name: pool for pool in self._scene.pools}
        way["pools"] = [
            explain_pool(
                pools[name],
                self._scene.sight,
                self._key(pools[name]),
                share / shares,
                self._scene.unknown.get(name, ()),
            )
            for name, share in targets
        ]
        return way

    def _explain_route(self, number: int, route: RoutePlan, chosen: int) -> Json:
        """Each key of a route, tried alone by a router that has nothing else."""
        keys = []
        for key in _KEYS:
            if getattr(route, key):
                only = RoutePlan(route.name, route.pools, **{key: getattr(route, key)})
                matches = Router([only]).choose(self._facts) != NO_ROUTE
                wants = [_written(one) for one in getattr(self._written.routes[number], key)]
                keys.append({"key": key, "wants": wants, "matches": matches})
        return {
            "name": route.name,
            "keys": keys,
            "matches": all(one["matches"] for one in keys),
            "taken": number == chosen,
            "pools": dict(route.pools),
        }

    def _tls(self, route: RoutePlan | None) -> str:
        """`ended` here, `passed` on, `none`, or `refused`."""
        protocol = "tls" if self._in_tls else self._facts.protocol
        here = self._plan.tls is not None and (route is None or ends_tls(route, protocol))
        if here:
            return "ended" if self._in_tls else "refused"
        return "passed" if self._in_tls else "none"

    def _key(self, pool: PoolPlan) -> str | None:
        """What a pool that hashes knows the client by."""
        if pool.balance == "sni_hash" and self._facts.sni is not None:
            return self._facts.sni
        if pool.balance in ("source_hash", "sni_hash"):
            return client_key((self._client.source,)).decode()
        return None


def _written(value: IpNetwork | str) -> str:
    """As people write it: one address without its prefix."""
    if isinstance(value, str) or value.num_addresses > 1:
        return str(value)
    return str(value.network_address)


def _targets(plan: ListenerPlan, route: RoutePlan | None) -> Sequence[tuple[str, int]]:
    """Names of the pools, and their shares."""
    if route is not None:
        return route.pools
    return () if plan.pool is None else ((plan.pool, 1),)


def _limits(written: Listener) -> list[str]:
    """The limits of a listener, each as a line."""
    limits, lines = written.limits, []
    if limits is None:
        return []
    if limits.rate is not None:
        lines.append(f"{limits.rate.per_second} new sessions a second (burst {limits.rate.burst})")
    if limits.handshakes is not None:
        lines.append(f"{limits.handshakes} TLS handshakes under way")
    clients = limits.per_client
    if clients is not None:
        whom = f"for each client network (/{clients.v4} of IPv4, /{clients.v6} of IPv6)"
        if clients.max_sessions is not None:
            lines.append(f"{clients.max_sessions} sessions {whom}")
        if clients.rate is not None:
            rate = f"{clients.rate.per_second} new sessions a second (burst {clients.rate.burst})"
            lines.append(f"{rate} {whom}")
    return lines
