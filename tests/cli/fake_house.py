"""What a fake admin API tells: a house of listeners, pools, upstreams and sessions, as docs/api.md
shapes them. The numbers are functions of the clock, so that they move where it does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Json = dict[str, Any]

UPSTREAMS = {
    "app": ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.9.0.1:80"],
    "canary": ["10.0.0.20:9000"],
    "db": ["10.0.1.1:5432", "10.0.1.2:5432", "unix:/run/postgresql/.s.PGSQL.5432"],
}
LISTENERS = {"web": ["app", "canary"], "postgres": ["db"]}
STATES = {"10.0.0.3:80": "down", "10.0.1.2:5432": "draining", "10.9.0.1:80": "ejected"}
RECORDS = [
    ("done", "client", "fin", "relay"),
    ("done", "upstream", "fin", "relay"),
    ("client_reset", "client", "reset", "relay"),
    ("done", "client", "fin", "relay"),
    ("connect_timeout", "proxy", "reset", "connect"),
    ("idle_timeout", "proxy", "reset", "relay"),
    ("done", "client", "fin", "relay"),
    ("access_denied", "proxy", "reset", "accept"),
]


class House:
    """`clock` returns seconds since the epoch; a test that wants numbers to stay leaves it out."""

    def __init__(self, clock: Callable[[], float] = lambda: 1_790_000_000.0) -> None:
        self.clock = clock
        self.upstreams = {pool: list(names) for pool, names in UPSTREAMS.items()}
        self.states = dict(STATES)
        self.weights = {"10.0.0.2:80": 5}
        self.not_ready: list[str] = []
        self.live = 40
        """Live sessions."""

    def status(self) -> Json:
        return {
            "version": "0.1.0",
            "pid": 4711,
            "uptime_seconds": self.clock() - 1_789_900_000,
            "started": "2026-11-30T09:00:00.000Z",
            "ready": not self.not_ready,
            "not_ready": self.not_ready,
            "sessions": self._of(self._names()),
            "older_sessions": 0,
            "config_files": ["/etc/spliceproxy/spliceproxy.yaml"],
            "log_level": "info",
            "max_sessions": None,
            "writable": True,
            "workers": [
                {
                    "worker": n,
                    "pid": 4712 + n,
                    "ready": True,
                    "sessions": (self._of(self._names()) + n) // 2,
                    "age_seconds": 9.0,
                }
                for n in range(2)
            ],
            "listeners": [self._listener(name, pools) for name, pools in LISTENERS.items()],
            "pools": [self._pool(name, names) for name, names in self.upstreams.items()],
        }

    def traffic(self) -> Json:
        upstreams = {
            pool: {name: self._traffic(name) for name in names}
            for pool, names in self.upstreams.items()
        }
        pools = {pool: _sum(list(each.values())) for pool, each in upstreams.items()}
        return {
            "time": self.clock(),
            "uptime_seconds": self.clock() - 1_789_900_000,
            "total": _sum(list(pools.values())),
            "listeners": {
                name: _sum([pools[pool] for pool in of if pool in pools])
                for name, of in LISTENERS.items()
            },
            "pools": pools,
            "upstreams": upstreams,
            "edges": [],
            "ends": [],
            "workers": [
                {"worker": 0, "cpu": 0.31, "busy": 0.30, "lag_ms": 0.4, "pipes_lent": 3},
                {"worker": 1, "cpu": 0.92, "busy": 0.90, "lag_ms": 12.5, "pipes_lent": 1},
            ],
        }

    def history(self) -> Json:
        now = self.clock()
        times = [now - 5 * back for back in range(119, -1, -1)]
        down = [2e8 * (1.2 + math.sin(at / 60)) for at in times]
        return {
            "interval_seconds": 5,
            "times": times,
            "total": {
                "sessions": [1000] * 120,
                "ended": [400.0] * 120,
                "errors": [0.5] * 120,
                "bytes_up": [value / 40 for value in down],
                "bytes_down": down,
                "connect_failures": [0.0] * 120,
            },
        }

    def sessions(self, query: Mapping[str, str]) -> Json:
        found = [one for one in map(self._session, range(self.live)) if _fits(one, query)]
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        return {
            "matching": len(found),
            "offset": offset,
            "process": 4711,
            "silent_workers": [],
            "silent_processes": [],
            "sessions": found[offset : offset + limit],
        }

    def record(self, number: int) -> Json:
        why, closed_by, how, phase = RECORDS[number % len(RECORDS)]
        pool = ("app", "app", "db", "canary")[number % 4]
        served = phase == "relay"
        return {
            "session": f"0-eb810881-{number:x}",
            "worker": number % 2,
            "listener": "postgres" if pool == "db" else "web",
            "route": "routes[0]" if pool == "canary" else None,
            "pool": pool if phase != "accept" else None,
            "upstream": UPSTREAMS[pool][0] if phase != "accept" else None,
            "client": f"192.0.2.{number % 250 + 1}:44430",
            "peer": f"192.0.2.{number % 250 + 1}:44430",
            "local": "192.0.2.1:443",
            "start": "2026-11-30T09:00:00.000Z",
            "duration_ms": 12.5 * (number % 97 + 1) ** 2,
            "phase": phase,
            "closed_by": closed_by,
            "how": how,
            "why": why,
            "bytes_up": 81 * number * served,
            "bytes_down": 300205 * number * served,
            "sni": "www.example.com" if pool == "app" else None,
        }

    def event(self, number: int) -> Json:
        up = number % 2
        return {
            "time": "2026-11-30T09:00:00.000Z",
            "level": "info" if up else "warning",
            "event": "upstream up" if up else "upstream down",
            "pool": "app",
            "upstream": "10.0.0.3:80",
            "reason": "connection refused",
        }

    def _names(self) -> list[str]:
        return [name for names in self.upstreams.values() for name in names]

    def _of(self, names: Iterable[str]) -> int:
        return sum(map(self._sessions, names))

    def _sessions(self, name: str) -> int:
        return 0 if name in self.states else len(name) * 13 % 97 + int(self.clock()) % 7

    def _listener(self, name: str, pools: list[str]) -> Json:
        web = name == "web"
        certificate = {
            "file": "/etc/spliceproxy/certs/www.pem",
            "names": ["www.example.com", "example.com"],
            "state": "soon",
            "not_after": "2027-02-01T00:00:00Z",
            "days_left": 6.2,
        }
        return {
            "name": name,
            "addresses": ["0.0.0.0:443", "[::]:443"] if web else ["10.0.0.5:5432"],
            "pool": pools[0],
            "pools": pools,
            "routes": [],
            "sessions": sum(
                self._sessions(n) for pool in pools for n in self.upstreams.get(pool, ())
            ),
            "max_sessions": 50000 if web else None,
            "draining": False,
            "tls": web,
            "certificates": [certificate] if web else [],
            "broken_files": [],
            "failed_handshakes": 3 if web else 0,
        }

    def _pool(self, name: str, names: list[str]) -> Json:
        upstreams = [
            {
                "name": one,
                "states": [self.states.get(one, "up")],
                "weight": self.weights.get(one, 1),
                "configured_weight": 1,
                "held_back": 60 if one == "10.0.0.20:9000" else 0,
                "tier": int(one.startswith("10.9.")),
                "sessions": self._sessions(one),
                "max_sessions": 200 if name == "app" else None,
            }
            for one in names
        ]
        return {
            "name": name,
            "balance": "least_sessions",
            "required": name == "app",
            "usable": sum(one["states"] == ["up"] for one in upstreams),
            "waiting": 2 if name == "db" else 0,
            "sessions": sum(one["sessions"] for one in upstreams),
            "max_sessions": None,
            "upstreams": upstreams,
        }

    def _traffic(self, name: str) -> Json:
        busy = 0 if name in self.states else 1
        chance = random.Random(f"{name} {int(self.clock())}")
        down = busy * chance.uniform(5e6, 9e7)
        return {
            "sessions": self._sessions(name),
            "ended": 1000 * len(name),
            "errors": 10,
            "retries": 2,
            "bytes_up": 123_456_789,
            "bytes_down": 45_678_901_234,
            "spliced_up": 0,
            "spliced_down": 45_000_000_000,
            "connect_failures": {"connect_refused": 2},
            "tls_ok": 0,
            "tls_failed": 0,
            "rates": {
                "ended": busy * chance.uniform(10, 200),
                "errors": busy * chance.choice([0.0, 0.0, 0.3]) + (1 - busy) * 0.1,
                "bytes_up": down / 40,
                "bytes_down": down,
                "connect_failures": 0.0 if busy else 0.1,
            },
            "connect_ms": _quantiles(busy, 0.3, 1.2),
            "first_byte_ms": _quantiles(busy, 1.1, 9.0),
            "duration_ms": _quantiles(busy, 20.0, 900.0),
        }

    def _session(self, number: int) -> Json:
        pool = ("app", "app", "db", "canary")[number % 4]
        rate = float((number * 7919) % 5000) * 1000
        return {
            "session": f"0-eb810881-{number:x}",
            "worker": number % 2,
            "process": 4711,
            "listener": "postgres" if pool == "db" else "web",
            "route": "routes[0]" if pool == "canary" else None,
            "pool": pool,
            "upstream": UPSTREAMS[pool][0],
            "client": f"192.0.2.{number % 250 + 1}:44430",
            "peer": f"192.0.2.{number % 250 + 1}:44430",
            "local": "192.0.2.1:443",
            "phase": "connect" if number % 11 == 5 else "relay",
            "start": "2026-11-30T09:00:00.000Z",
            "age_seconds": 12.5 * (number + 1),
            "idle_seconds": 0.1 * number,
            "bytes_up": 81 * number,
            "bytes_down": 3000205 * number,
            "spliced_up": 0,
            "spliced_down": 2934464 * number,
            "rate_up": rate / 50,
            "rate_down": rate,
            "flow_up": "open",
            "flow_down": "blocked" if number % 5 == 0 else "moving",
            "retries": 0,
            "sni": "www.example.com" if pool == "app" else None,
            "alpn": None,
            "tls_version": None,
            "client_rtt_us": 112 * (number + 1),
            "client_retrans": 0,
            "upstream_rtt_us": 6,
            "upstream_retrans": 0,
        }


def _quantiles(busy: int, p50: float, p99: float) -> Json:
    return (
        {"p50": p50, "p99": p99, "count": 270} if busy else {"p50": None, "p99": None, "count": 0}
    )


def _sum(parts: list[Json]) -> Json:
    """TRAFFIC of several; quantiles are those of the first one that has any."""
    total: Json = {}
    for part in parts:
        for key, value in part.items():
            if key.endswith("_ms"):
                if total.get(key, {}).get("p50") is None:
                    total[key] = value
            elif isinstance(value, dict):
                sums = total.setdefault(key, {})
                for name, number in value.items():
                    sums[name] = sums.get(name, 0) + number
            else:
                total[key] = total.get(key, 0) + value
    return total


def _fits(session: Json, query: Mapping[str, str]) -> bool:
    same = ("listener", "pool", "upstream", "route", "sni", "phase")
    if any(query[key] != session[key] for key in same if key in query):
        return False
    if "id" in query and query["id"] != session["session"]:
        return False
    if not session["client"].startswith(query.get("client", "")):
        return False
    return session["age_seconds"] >= float(query.get("min_age", 0))
