"""TLS that ends at the proxy: small requests, bulk, and handshakes. Behind it, plain HTTP.

There is no `direct`: without a proxy there is no TLS.
"""

from __future__ import annotations

from bench.cpu import Meter
from bench.load.s_time import handshakes
from bench.load.tls import offer
from bench.load.wrk import wrk
from bench.origins import LARGE
from bench.peers.base import Target
from bench.workloads.base import Metric, Rig, Workload, proxy_cost


class TlsKeepAlive(Workload):
    """wrk fetches 1 KiB again and again."""

    name = "tls-small"
    title = "TLS, keep-alive, 1 KiB body, 64 connections"
    group = "tls"
    label = "1 KiB c64"
    tuning = "tls"
    metrics = (
        Metric("requests_per_s", "requests/s", True),
        Metric("proxy_us", "proxy CPU µs/request", False),
        Metric("machine_us", "machine CPU µs/request", False, plotted=False),
    )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        if target.running is None:
            return {}
        prefix = [*rig.prefix("load"), *offer()]
        meter = Meter(target.pids)
        address = target.addresses["https"]
        report = wrk(prefix, address, "/1024", 64, rig.seconds, scheme="https")
        found = proxy_cost(meter, target, report.requests, "us", 1e6)
        found["requests_per_s"] = report.requests / report.seconds
        return found


class TlsBulk(Workload):
    """wrk fetches 8 MiB again and again, on one or several connections."""

    group = "tls"
    pin = "free"
    tuning = "tls"

    def __init__(self, streams: int) -> None:
        self.name = f"tls-bulk-{streams}-down"
        self.title = f"TLS, bulk, {streams} stream{'s' if streams > 1 else ''} down"
        self.label = f"bulk {streams} down"
        self.quick = streams == 1
        self._streams = streams
        self.metrics = (
            Metric("gbit_per_s", "Gbit/s", True),
            Metric("proxy_s_per_gb", "proxy CPU s/GB", False),
            Metric("machine_s_per_gb", "machine CPU s/GB", False, plotted=False),
        )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        if target.running is None:
            return {}
        prefix = [*rig.prefix("load"), *offer()]
        meter = Meter(target.pids)
        address = target.addresses["https"]
        report = wrk(prefix, address, f"/{LARGE}", self._streams, rig.seconds, scheme="https")
        found = proxy_cost(meter, target, report.bytes / 1e9, "s_per_gb", 1)
        found["gbit_per_s"] = report.bytes * 8 / 1e9 / report.seconds
        return found


class TlsHandshakes(Workload):
    """openssl s_time: new sessions, no resumption, one request each; 8 processes."""

    name = "tls-handshakes"
    title = "TLS 1.3, full handshake (ECDSA P-256, X25519), 12 B request, close; 8 at once"
    group = "tls"
    label = "handshakes"
    tuning = "tls"
    metrics = (
        Metric("handshakes_per_s", "handshakes/s", True),
        Metric("proxy_us", "proxy CPU µs/handshake", False),
        Metric("machine_us", "machine CPU µs/handshake", False, plotted=False),
    )

    def measure(self, rig: Rig, target: Target) -> dict[str, float]:
        if target.running is None:
            return {}
        meter = Meter(target.pids)
        done = handshakes(rig.prefix("load"), target.addresses["https"], "/12", 8, rig.seconds)
        found = proxy_cost(meter, target, done.sessions, "us", 1e6)
        found["handshakes_per_s"] = done.sessions / done.seconds
        return found
