"""What it costs to be watched: the same load through a proxy that nobody can look at, and one with
the dashboard open in Chromium, and Prometheus scraping it each second.

    PYTHONPATH=tests python -m bench.watched

Both proxies run all the time. While the unwatched one has its turn the watchers are stopped
(SIGSTOP); they have gone on for a moment before the other one is measured. The proxy with all its
processes, also the supervisor that answers them, has one CPU. In life the browser and Prometheus
are on other machines; on one of two CPUs they would take time from the load, and that is what would
be measured. So a program stands in for them that asks the same, as often, and does nothing with the
answers; `--browser` has the real ones. Printed are medians, and the ratio round by round.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
from harness.door import write_token
from harness.proxy import running_proxy

from bench.cpu import process_seconds, process_tree
from bench.load.wrk import wrk
from bench.origins import Origins
from bench.place import Loopback, Pinning, choose_pinning
from bench.programs import (
    FailedError,
    MissingError,
    find,
    free_port,
    raise_fd_limit,
    script,
    script_environment,
)

CONNECTIONS = 64
SETTLE = 2.5
"""Seconds that watchers are given before they are measured with: a poll and a scrape at least."""
CHROMIUM = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1000",
)
SCRAPES = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: spliceproxy
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
CONFIG = """\
workers: 1
{doors}
log: {{sessions: {{to: "file:{directory}/{name}.jsonl"}}}}
listeners:
  web: {{bind: "127.0.0.1:{port}", pool: app, tcp: {{backlog: 4096}}}}
pools:
  app: {{upstreams: ["{origin}"]}}
"""
Load = Callable[[int], tuple[float, float]]
"""Through the proxy at a port: requests per second, and how many there were."""


class Watchers:
    """A browser that has the dashboard open, and a Prometheus; groups of processes of their own."""

    def __init__(
        self, directory: Path, url: str, metrics: int, pinning: Pinning, *, browser: bool
    ) -> None:
        self._groups: list[subprocess.Popen[bytes]] = []
        if not browser:
            page = str(urlsplit(url).port)
            self._start(pinning, *script("load.onlooker", page, str(metrics)))
            return
        scrapes = directory / "prometheus.yml"
        scrapes.write_text(SCRAPES.format(port=metrics))
        self._start(
            pinning,
            find("chromium"),
            *CHROMIUM,
            f"--user-data-dir={directory}/browser",
            "--remote-debugging-port=0",  # so that it stays
            url,
        )
        self._start(
            pinning,
            find("prometheus"),
            f"--config.file={scrapes}",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{free_port()}",
        )

    def _start(self, pinning: Pinning, *command: str) -> None:
        words = [find("nice", "coreutils"), "-n19", *pinning.prefix("load"), *command]
        self._groups.append(
            subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **script_environment()},
            )
        )

    def _signal(self, number: int) -> None:
        for group in self._groups:
            os.killpg(group.pid, number)

    def rest(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)
        time.sleep(SETTLE)
        if any(group.poll() is not None for group in self._groups):
            raise FailedError("a watcher has ended: nobody watches any more")

    def end(self) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)
        for group in self._groups:
            group.wait()


def small(pinning: Pinning, seconds: int) -> Load:
    """Keep-alive requests."""

    def load(port: int) -> tuple[float, float]:
        report = wrk(pinning.prefix("load"), ("127.0.0.1", port), "/12", CONNECTIONS, seconds)
        return report.requests / report.seconds, report.requests

    return load


def sessions(pinning: Pinning, seconds: int) -> Load:
    """A session for each request."""

    def load(port: int) -> tuple[float, float]:
        report = wrk(
            pinning.prefix("load"),
            ("127.0.0.1", port),
            "/12",
            CONNECTIONS,
            seconds,
            ["Connection: close"],
        )
        return report.requests / report.seconds, report.requests

    return load


@contextmanager
def _two_proxies(
    directory: Path, origin: str, pinning: Pinning
) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[str, int]]]:
    """Port and pid of one that nobody watches and of one that can be watched, and where: the
    dashboard's address with its token, and the port of the metrics."""
    page, metrics = free_port(), free_port()
    door = f"unix:{directory}/admin.sock"
    local = "127.0.0.1"
    doors = (
        "admin: off",
        f"admin: {{bind: ['{door}', '{local}:{page}']}}\nmetrics: {{bind: '{local}:{metrics}'}}",
    )
    found = []
    with ExitStack() as stack:
        for number, text in enumerate(doors):
            port = free_port()
            config = CONFIG.format(
                doors=text, directory=directory, name=number, port=port, origin=origin
            )
            how = {"wrapper": tuple(pinning.prefix("proxy")), "expect_exit": None}
            proxy = stack.enter_context(running_proxy(config, **how))  # type: ignore[arg-type]
            found.append((port, proxy.pid))
        url = f"http://127.0.0.1:{page}/#token={write_token(directory / 'admin.sock')}"
        yield found[0], found[1], (url, metrics)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=9)
@click.option("--seconds", type=click.IntRange(1), default=4, help="Length of a measurement.")
@click.option("--browser", is_flag=True, help="With a real Chromium and a real Prometheus.")
def main(rounds: int, seconds: int, browser: bool) -> None:
    """Measure what the dashboard and a scraper take of the throughput."""
    raise_fd_limit()
    pinning = choose_pinning("split", 1)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        origins = Origins(directory / "origins", Loopback(), pinning)
        stack.callback(origins.close)
        host, port = origins.addresses["http"]
        alone, seen, (url, metrics) = stack.enter_context(
            _two_proxies(directory, f"{host}:{port}", pinning)
        )
        watchers = Watchers(directory, url, metrics, pinning, browser=browser)
        stack.callback(watchers.end)
        time.sleep(SETTLE)
        for what, load in (
            ("keep-alive, 12 B: requests/s", small(pinning, seconds)),
            ("connect, request, close: sessions/s", sessions(pinning, seconds)),
        ):
            _compare(what, load, alone, seen, watchers, rounds)


def _compare(
    what: str,
    load: Load,
    alone: tuple[int, int],
    seen: tuple[int, int],
    watchers: Watchers,
    rounds: int,
) -> None:
    found: list[list[tuple[float, float]]] = [[], []]
    for number in range(rounds + 1):
        for index, (port, pid) in enumerate((alone, seen)):
            (watchers.go_on if index else watchers.rest)()
            pids = process_tree(pid)
            before = process_seconds(pids)
            rate, times = load(port)
            if number:  # the first round warms up
                found[index].append((rate, (process_seconds(pids) - before) / times * 1e6))
    rates = [[rate for rate, _ in one] for one in found]
    one, other = (statistics.median(each) for each in rates)
    costs = [statistics.median(cost for _, cost in each) for each in found]
    ratio = statistics.median(b / a for a, b in zip(*rates, strict=True))
    print(f"{what}: alone {one:.0f}, watched {other:.0f}; round by round {ratio:.3f}")
    print(f"  CPU of the proxy, µs each: {costs[0]:.2f} and {costs[1]:.2f}")


if __name__ == "__main__":
    try:
        main()
    except (MissingError, FailedError) as error:
        sys.exit(str(error))
