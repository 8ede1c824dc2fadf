"""Proxies for the page to show: small, large, broken, empty."""

from __future__ import annotations

import time
from typing import Any

from fake_proxy import FakeListener, FakePool, FakeProxy, FakeUpstream, Json, moment


def one_upstream() -> FakeProxy:
    """The README's first minute."""
    pool = FakePool("app", [FakeUpstream("app", "127.0.0.1:9001", 1.0)])
    proxy = FakeProxy([FakeListener("web", "0.0.0.0:8080", {"app": 1.0})], [pool])
    proxy.workers = 1
    proxy.sessions = some_sessions(proxy, 8)
    proxy.ends = [end("client", "fin", "done", 81_022, 21.0)]
    return proxy


def usual() -> FakeProxy:
    """Two listeners and three pools; three upstreams in one, and something wrong in another."""
    app = FakePool(
        "app",
        [
            FakeUpstream("app", "10.0.0.1:9000", 4.0),
            FakeUpstream("app", "10.0.0.2:9000", 3.4),
            FakeUpstream("app", "10.0.0.3:9000", 2.1),
        ],
        "least_sessions",
    )
    app.required = True
    app.upstreams[2].weight = 1
    app.upstreams[2].configured_weight = 2
    canary = FakePool("canary", [FakeUpstream("canary", "10.0.0.20:9000", 0.4)])
    database = FakePool(
        "postgres",
        [
            FakeUpstream("postgres", "10.0.1.1:5432", 1.2),
            FakeUpstream("postgres", "10.0.1.2:5432", 0.3, tier=1),
        ],
    )
    database.upstreams[1].states.add("down")
    listeners = [
        FakeListener("web", "0.0.0.0:443", {"app": 1.0, "canary": 1.0}, tls=True),
        FakeListener("postgres", "10.0.0.5:5432", {"postgres": 1.0}),
    ]
    proxy = FakeProxy(listeners, [app, canary, database])
    proxy.sessions = some_sessions(proxy, 130)
    proxy.ends = usual_ends()
    proxy.events = usual_events()
    return proxy


def many_upstreams(number: int = 500) -> FakeProxy:
    """One large pool, and a small one."""
    large = [
        FakeUpstream("large", f"10.{n // 250}.{n % 250}.7:9000", 0.2 + n % 17 / 10)
        for n in range(number)
    ]
    large[3].states.add("down")
    large[7].states.add("ejected")
    large[11].states.add("draining")
    large[19].held_back = 60
    small = [FakeUpstream("small", "10.9.0.1:80", 1.0)]
    pools = [FakePool("large", large, "power_of_two"), FakePool("small", small)]
    listeners = [
        FakeListener("web", "[::]:443", {"large": 0.8, "small": 1.0}),
        FakeListener("mail", "[::]:25", {"large": 0.2}),
    ]
    proxy = FakeProxy(listeners, pools)
    proxy.sessions = some_sessions(proxy, 1234)
    proxy.ends = usual_ends()
    proxy.events = usual_events()
    return proxy


def all_down() -> FakeProxy:
    """The usual one, at its worst hour."""
    proxy = usual()
    for upstream in proxy.upstreams():
        upstream.states = {"down"}
        upstream.errors = 3.2
    proxy.not_ready = ["pool app has no upstream that can be used"]
    proxy.sessions = []
    proxy.pools[0].waiting = 31
    return proxy


def empty() -> FakeProxy:
    """Just started; nobody has come yet."""
    proxy = one_upstream()
    proxy.calm = True
    proxy.began = time.time() - 3
    proxy.upstreams()[0].busy = 0.0
    proxy.sessions, proxy.ends, proxy.events = [], [], []
    return proxy


def end(closed_by: str, how: str, why: str, count: int, rate: float, error: bool = False) -> Json:
    """One of the API's `ends`."""
    whole = {"closed_by": closed_by, "how": how, "why": why, "error": error}
    return {**whole, "count": count, "rate": rate}


def usual_ends() -> list[Json]:
    return [
        end("client", "fin", "done", 812_023, 150.2),
        end("upstream", "fin", "done", 91_544, 21.0),
        end("client", "reset", "client_reset", 1_803, 0.4, error=True),
        end("client", "fin", "tls_truncated", 640, 0.1, error=True),
        end("proxy", "reset", "connect_refused", 211, 0.0, error=True),
        end("upstream", "reset", "upstream_reset", 88, 0.0, error=True),
        end("proxy", "close", "idle_timeout", 31, 0.0, error=True),
        end("proxy", "reset", "drained", 12, 0.0),
        end("proxy", "reset", "access_denied", 7, 0.0, error=True),
    ]  # fmt: skip


def usual_events() -> list[Json]:
    now = time.time()

    def line(ago: float, level: str, event: str, **fields: object) -> Json:
        return {"time": moment(now - ago), "level": level, "event": event, **fields}

    return [
        line(93_784, "info", "listening", listener="web", address="0.0.0.0:443"),
        line(93_783, "info", "ready", workers=2),
        line(5_420, "info", "reloaded",
             changes=["~ pool app: upstream 10.0.0.3:9000: weight 1 → 2"]),
        line(1_312, "info", "weight set", pool="app", upstream="10.0.0.3:9000", weight=1),
        line(312, "warning", "upstream down", pool="postgres", upstream="10.0.1.2:5432",
             reason="connection refused"),
        line(44, "warning", "certificate ends soon", listener="web", file="www.pem", days_left=9),
    ]  # fmt: skip


def some_sessions(proxy: FakeProxy, number: int) -> list[Json]:
    """Live sessions, spread over listeners and upstreams; no two are alike."""
    ways = [
        (listener.name, one)
        for listener in proxy.listeners
        for pool in proxy.pools if pool.name in listener.shares
        for one in pool.upstreams if one.usable
    ]  # fmt: skip
    found = []
    for n in range(number):
        listener, upstream = ways[n % len(ways)]
        age = 0.4 + n * n * 0.7
        client = f"192.0.{n % 5}.{n % 200 + 7}:{40_000 + n}"
        found.append(session(n, listener, upstream, client, age))
    return found


def session(n: int, listener: str, upstream: FakeUpstream, client: str, age: float) -> Json:
    fast = n % 4 == 0
    flow: dict[str, Any] = {"flow_up": "open", "flow_down": "moving" if fast else "open"}
    if n % 9 == 0:
        flow["flow_down"] = "blocked"
    return {
        "session": f"{n % 2}-eb810881-{n:x}", "worker": n % 2, "process": 4711,
        "listener": listener, "route": None,
        "pool": upstream.pool, "upstream": upstream.name, "client": client, "peer": client,
        "local": "192.0.2.1:443", "phase": "relay", "start": moment(time.time() - age),
        "age_seconds": age, "idle_seconds": age * (n % 3) / 7, "bytes_up": 81 + n * 997,
        "bytes_down": 3_000 + n * 190_553, "spliced_up": 0, "spliced_down": n * 100_000,
        "rate_up": 900.0 * fast, "rate_down": 240_000.0 * fast * (n % 7 + 1), **flow,
        "retries": 0, "sni": None, "alpn": None, "tls_version": None, "client_rtt_us": 112 + n * 31,
        "client_retrans": n % 3, "upstream_rtt_us": 60 + n, "upstream_retrans": 0,
    }  # fmt: skip


def record(**fields: object) -> Json:
    """A session record that ended in an error, with some fields as they are asked for."""
    return {
        "session": "0-eb810881-9", "worker": 0, "process": 4711,
        "listener": "web", "route": None, "pool": "app",
        "upstream": "10.0.0.1:9000", "client": "192.0.2.7:44430", "peer": "192.0.2.7:44430",
        "local": "192.0.2.1:443", "start": moment(time.time() - 1.5), "duration_ms": 1500.0,
        "phase": "relay", "closed_by": "upstream", "how": "reset", "why": "upstream_reset",
        "bytes_up": 81, "bytes_down": 3000, "spliced_up": 0, "spliced_down": 0, "queue_ms": None,
        "tls_ms": None, "tls_version": None, "tls_error": None, "connect_ms": 0.4,
        "first_byte_ms": 3.0, "retries": 0, "sni": None, "alpn": None, "client_rtt_us": 112,
        "client_retrans": 0, "upstream_rtt_us": 6, "upstream_retrans": 0, **fields,
    }  # fmt: skip
