"""What a proxy would say of itself, by numbers that follow from a count of rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

Json = dict[str, Any]
KEPT = 120
INTERVAL = 5


class FakeUpstream:
    """One upstream: its state, and how busy it is."""

    def __init__(self, pool: str, name: str, busy: float, tier: int = 0) -> None:
        self.pool, self.name, self.busy, self.tier = pool, name, busy, tier
        self.states: set[str] = set()
        self.weight = self.configured_weight = 1
        self.held_back = 0
        self.errors = 0.0

    @property
    def usable(self) -> bool:
        return not self.states


class FakePool:
    """A pool and its upstreams."""

    def __init__(
        self, name: str, upstreams: list[FakeUpstream], balance: str = "round_robin"
    ) -> None:
        self.name, self.upstreams, self.balance = name, upstreams, balance
        self.required = False
        self.waiting = 0


class FakeListener:
    """A listener, and the share of each pool's traffic that comes through it."""

    def __init__(
        self, name: str, address: str, shares: Mapping[str, float], tls: bool = False
    ) -> None:
        self.name, self.address, self.shares, self.tls = name, address, dict(shares), tls
        self.draining = False
        self.certificates: list[Json] = []


class FakeProxy:
    """Listeners, pools, upstreams, sessions and ends. A test changes what it likes."""

    def __init__(self, listeners: list[FakeListener], pools: list[FakePool]) -> None:
        self.listeners, self.pools = listeners, pools
        self.round = 0
        self.pid = 4711
        self.older = 0
        """Sessions of before an upgrade."""
        self.silent: Json = {"silent_workers": [], "silent_processes": []}
        """Who does not answer questions about sessions."""
        self.version = "0.1.0"
        self.began = time.time() - 93_784
        self.not_ready: list[str] = []
        self.workers = 2
        self.events: list[Json] = []
        self.ends: list[Json] = []
        self.sessions: list[Json] = []
        self.calm = False
        """Whether nothing moves."""
        self.log_level = "info"
        self.changes: list[str] = []
        """What a reload will find changed."""
        self.mistake = ""
        """What is wrong with the configuration's file."""

    def upstreams(self) -> list[FakeUpstream]:
        return [one for pool in self.pools for one in pool.upstreams]

    def upstream(self, name: str) -> FakeUpstream:
        return next(one for one in self.upstreams() if one.name == name)

    def reads(self) -> dict[str, Callable[[Any], Json]]:
        """The answers to GET, by path."""
        return {
            "status": lambda _query: self.status(),
            "traffic": lambda _query: self.traffic(),
            "history": lambda _query: self.history(),
            "events": lambda _query: {"events": self.events},
            "sessions": self.find,
        }

    def orders(self) -> dict[str, Callable[[Json], Json]]:
        """What POST does, by path."""
        return {
            "drain": lambda body: self.drain(body, True),
            "undrain": lambda body: self.drain(body, False),
            "weight": self.set_weight,
            "reset": self.reset,
            "reload": self.reload,
            "log-level": self.set_log_level,
        }

    def status(self) -> Json:
        live = sum(self.live(one) for one in self.upstreams())
        return {
            "version": self.version, "pid": self.pid, "uptime_seconds": time.time() - self.began,
            "started": moment(self.began), "ready": not self.not_ready, "not_ready": self.not_ready,
            "sessions": live, "older_sessions": self.older,
            "config_files": ["/etc/spliceproxy/app.yaml"],
            "log_level": self.log_level, "max_sessions": 50000, "writable": True,
            "workers": [
                {"worker": index, "pid": self.pid + 1 + index, "ready": True,
                 "sessions": live // self.workers, "age_seconds": time.time() - self.began}
                for index in range(self.workers)
            ],
            "listeners": [self._listener(one) for one in self.listeners],
            "pools": [self._pool(one) for one in self.pools],
        }  # fmt: skip

    def _listener(self, listener: FakeListener) -> Json:
        pools = sorted(listener.shares)
        return {
            "name": listener.name, "addresses": [listener.address],
            "pool": pools[0], "pools": pools,
            "routes": [
                {"name": f"routes[{at}]", "match": f"sni {pool}.example.com",
                 "pools": [{"pool": pool, "share": 1.0}]}
                for at, pool in enumerate(pools[1:])
            ],
            "sessions": self._listener_traffic(listener)["sessions"], "max_sessions": 20000,
            "draining": listener.draining, "tls": listener.tls,
            "certificates": listener.certificates, "broken_files": [], "failed_handshakes": 3,
        }  # fmt: skip

    def _pool(self, pool: FakePool) -> Json:
        return {
            "name": pool.name, "balance": pool.balance, "required": pool.required,
            "usable": sum(one.usable for one in pool.upstreams), "waiting": pool.waiting,
            "sessions": sum(self.live(one) for one in pool.upstreams), "max_sessions": None,
            "upstreams": [
                {"name": one.name, "states": sorted(one.states) or ["up"], "weight": one.weight,
                 "configured_weight": one.configured_weight, "held_back": one.held_back,
                 "tier": one.tier, "sessions": self.live(one), "max_sessions": None}
                for one in pool.upstreams
            ],
        }  # fmt: skip

    def live(self, upstream: FakeUpstream) -> int:
        """Sessions of an upstream now."""
        return 0 if "down" in upstream.states else self._live(upstream, self.round)

    def _live(self, upstream: FakeUpstream, at: int) -> int:
        return int(upstream.busy * (8 + 3 * wave(at, 40, upstream.name)))

    def rates(self, upstream: FakeUpstream, at: int | None = None) -> dict[str, float]:
        """What moves, per second, in this round or at another one."""
        at = self.round if at is None else at
        idle = self.calm or bool(upstream.states)
        swing = 1 + 0.35 * wave(at, 37, upstream.name) + 0.2 * wave(at, 11, upstream.name + "x")
        busy = 0.0 if idle else upstream.busy * swing
        return {
            "bytes_up": 40_000 * busy, "bytes_down": 900_000 * busy, "ended": 21 * busy,
            "errors": upstream.errors, "connect_failures": upstream.errors,
        }  # fmt: skip

    def _upstream_traffic(self, upstream: FakeUpstream) -> Json:
        rates = self.rates(upstream)
        quiet = not rates["ended"]
        connect = {"p50": None, "p99": None, "count": 0}
        if not quiet:
            middle = 0.2 + upstream.busy / 10
            connect = {"p50": middle, "p99": middle * (4 + self.round % 5), "count": 1260}
        seconds = time.time() - self.began
        found = traffic_of(self.live(upstream), rates, connect, seconds)
        # Counts only grow, however the rates swing.
        steady = {"ended": 21, "bytes_up": 40_000, "bytes_down": 900_000}
        for name, each in steady.items():
            found[name] = int(each * upstream.busy * seconds)
        return {**found, "spliced_down": int(found["bytes_down"] * 0.9)}

    def _listener_traffic(self, listener: FakeListener) -> Json:
        parts = [
            scaled(self._upstream_traffic(one), listener.shares[pool.name])
            for pool in self.pools if pool.name in listener.shares
            for one in pool.upstreams
        ]  # fmt: skip
        return added(parts)

    def traffic(self) -> Json:
        self.round += 1
        upstreams = {
            pool.name: {one.name: self._upstream_traffic(one) for one in pool.upstreams}
            for pool in self.pools
        }
        pools = {name: added(list(parts.values())) for name, parts in upstreams.items()}
        return {
            "time": time.time(), "uptime_seconds": time.time() - self.began,
            "total": added(list(pools.values())),
            "listeners": {one.name: self._listener_traffic(one) for one in self.listeners},
            "pools": pools, "upstreams": upstreams, "edges": list(self._edges(upstreams)),
            "ends": self.ends,
            "workers": [
                {"worker": index, "cpu": 0.31 + index * 0.11, "busy": 0.3, "lag_ms": 0.4,
                 "events_per_wake": 3.1, "pipes_lent": 4, "pipes_pooled": 12, "pipes_made": 16,
                 "pipes_refused": 0, "accept_pauses": 0, "records": 1000, "records_dropped": 0,
                 "deaths": 0, "memory_bytes": 31457280}
                for index in range(self.workers)
            ],
        }  # fmt: skip

    def _edges(self, upstreams: dict[str, dict[str, Json]]) -> Any:
        for listener in self.listeners:
            for pool, share in listener.shares.items():
                for name, whole in upstreams[pool].items():
                    part = scaled(whole, share)
                    rates = {key: part["rates"][key] for key in ("bytes_up", "bytes_down", "ended")}
                    yield {
                        "listener": listener.name, "route": None, "pool": pool, "upstream": name,
                        "sessions": part["sessions"], "ended": part["ended"],
                        "bytes_up": part["bytes_up"], "bytes_down": part["bytes_down"],
                        "rates": rates,
                    }  # fmt: skip

    def history(self) -> Json:
        moments = range(-KEPT, 0)
        now = time.time()

        each = {one: self._series(one, moments) for one in self.upstreams()}

        def together(parts: list[tuple[FakeUpstream, float]]) -> Json:
            found = {name: [0.0] * KEPT for name in ("sessions", *RATES)}
            for one, share in parts:
                for name, sums in found.items():
                    for at, number in enumerate(each[one][name]):
                        sums[at] += number * share
            return found

        def of_listener(listener: FakeListener) -> Json:
            shares = [(self.pool(name), share) for name, share in listener.shares.items()]
            return together([(one, share) for pool, share in shares for one in pool.upstreams])

        short = ("sessions", "bytes_up", "bytes_down")
        return {
            "interval_seconds": INTERVAL,
            "times": [now + at * INTERVAL for at in moments],
            "total": together([(one, 1.0) for one in self.upstreams()]),
            "listeners": {one.name: of_listener(one) for one in self.listeners},
            "pools": {
                pool.name: together([(one, 1.0) for one in pool.upstreams]) for pool in self.pools
            },
            "upstreams": {
                pool.name: {
                    one.name: {name: each[one][name] for name in short} for one in pool.upstreams
                }
                for pool in self.pools
            },
        }

    def _series(self, upstream: FakeUpstream, moments: range) -> Json:
        rates = [self.rates(upstream, at) for at in moments]
        found: Json = {name: [one[name] for one in rates] for name in RATES}
        return {**found, "sessions": [self._live(upstream, at) for at in moments]}

    def pool(self, name: str) -> FakePool:
        return next(one for one in self.pools if one.name == name)

    def find(self, query: Any) -> Json:
        try:
            found = [one for one in self.sessions if matches(one, query)]
        except ValueError as error:
            return {"error": str(error)}
        sort = query.get("sort", "age")
        found.sort(key=SORTS[sort.lstrip("-")], reverse=not sort.startswith("-"))
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        part = [
            {**one, "bytes_down": one["bytes_down"] + self.round * int(one["rate_down"])}
            for one in found[offset : offset + limit]
        ]
        return {"matching": len(found), "offset": offset, "process": self.pid, **self.silent,
                "sessions": part}  # fmt: skip

    def drain(self, body: Json, drained: bool) -> Json:
        kind, _, rest = body["target"].partition("/")
        if kind == "listener":
            [listener] = [one for one in self.listeners if one.name == rest]
            changed = listener.draining != drained
            listener.draining = drained
            return {"target": body["target"], "upstreams": [], "listeners": [rest], "left": 0,
                    "changed": int(changed), "sessions": 0, "older_sessions": 0,
                    "silent_processes": self.silent["silent_processes"]}  # fmt: skip
        name, _, upstream = rest.partition("/")
        meant = [one for one in self.pool(name).upstreams if not upstream or one.name == upstream]
        if not meant:
            return {"error": f"pool {name} has no upstream {upstream}"}
        changed = sum(("draining" in one.states) != drained for one in meant)
        for one in meant:
            (one.states.add if drained else one.states.discard)("draining")
        sessions = sum(self.live(one) for one in meant)
        left = len(self.pool(name).upstreams) - len(meant)
        return {"target": body["target"], "upstreams": [one.name for one in meant], "listeners": [],
                "changed": changed, "sessions": sessions, "left": left, "older_sessions": 0,
                "silent_processes": self.silent["silent_processes"],
                }  # fmt: skip

    def set_weight(self, body: Json) -> Json:
        upstream = self.upstream(body["target"].split("/", 2)[2])
        weight = body["weight"]
        if weight is not None and weight > 500:
            return {"error": "weight: at most 500"}
        upstream.weight = upstream.configured_weight if weight is None else weight
        return {"target": body["target"], "weight": upstream.weight,
                "configured_weight": upstream.configured_weight, "changed": True}  # fmt: skip

    def reset(self, body: Json) -> Json:
        if "sessions" in body:
            meant = [one for one in self.sessions if one["session"] in body["sessions"]]
        else:
            meant = [one for one in self.sessions if matches(one, body["where"])]
        self.sessions = [one for one in self.sessions if one not in meant]
        return {"reset": len(meant), **self.silent}

    def reload(self, _body: Json) -> Json:
        return {"error": self.mistake} if self.mistake else {"changes": self.changes}

    def set_log_level(self, body: Json) -> Json:
        before, self.log_level = self.log_level, body["level"]
        return {"level": self.log_level, "before": before}


SORTS: dict[str, Callable[[Json], float]] = {
    "age": lambda one: one["age_seconds"],
    "idle": lambda one: one["idle_seconds"],
    "bytes": lambda one: one["bytes_up"] + one["bytes_down"],
    "rate": lambda one: one["rate_up"] + one["rate_down"],
    "rtt": lambda one: one["client_rtt_us"] or 0,
}


def matches(session: Json, where: Mapping[str, Any]) -> bool:
    """Whether a session passes the filters of the API."""
    if client := where.get("client"):
        network = ip_network(client)
        if ip_address(session["client"].rpartition(":")[0]) not in network:
            return False
    if session["idle_seconds"] < float(where.get("min_idle") or 0):
        return False
    names = ("listener", "pool", "upstream")
    return all(session[name] == where[name] for name in names if where.get(name))


def wave(at: int, period: int, name: str) -> float:
    """Something between -1 and 1 that goes up and down, each name by its own beat."""
    step = (at + sum(name.encode()) * 7) % period
    return 1 - 4 * abs(step / period - 0.5)


def moment(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


RATES = ("bytes_up", "bytes_down", "ended", "errors", "connect_failures")
NO_QUANTILES = {"p50": None, "p99": None, "count": 0}


def traffic_of(sessions: int, rates: dict[str, float], connect: Json, seconds: float) -> Json:
    """What the API calls TRAFFIC, as if it had gone on like this for so many seconds."""
    slower = {**connect}
    for name in ("p50", "p99"):
        slower[name] = None if connect[name] is None else connect[name] * 4
    return {
        "sessions": sessions, "ended": int(rates["ended"] * seconds),
        "errors": int(rates["errors"] * seconds), "retries": int(rates["errors"]),
        "bytes_up": int(rates["bytes_up"] * seconds),
        "bytes_down": int(rates["bytes_down"] * seconds),
        "spliced_up": 0, "spliced_down": int(rates["bytes_down"] * seconds * 0.9),
        "connect_failures": {"connect_refused": int(rates["connect_failures"] * seconds)},
        "tls_ok": 0, "tls_failed": 0, "rates": rates,
        "connect_ms": connect, "first_byte_ms": slower, "duration_ms": slower,
    }  # fmt: skip


def scaled(traffic: Json, share: float) -> Json:
    """A share of it."""
    numbers = {n: int(value * share) for n, value in traffic.items() if isinstance(value, int)}
    rates = {name: value * share for name, value in traffic["rates"].items()}
    return {**traffic, **numbers, "rates": rates}


def added(parts: list[Json]) -> Json:
    """The sum of several; quantiles are the largest ones."""
    if not parts:
        return traffic_of(0, dict.fromkeys(RATES, 0.0), NO_QUANTILES, 0)
    found = {**parts[0]}
    for part in parts[1:]:
        for name, value in part.items():
            if isinstance(value, int):
                found[name] += value
            elif name in ("rates", "connect_failures"):
                found[name] = {key: found[name][key] + value[key] for key in value}
            elif (value["p99"] or 0) > (found[name]["p99"] or 0):
                found[name] = value
    return found
