"""What happens in the demo, in order."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spliceproxy.cli.demo.cast import DemoError, Proxy, Upstream, free_port
from spliceproxy.cli.demo.ending import Ending
from spliceproxy.cli.demo.screen import Screen, Status
from spliceproxy.cli.demo.traffic import REQUESTS_PER_SECOND, Traffic
from spliceproxy.errors import EXIT_OK

LISTENER_PORT = 8080
UPSTREAM_PORT = 9001

STOPS, TOLD, RETURNS, AGAIN = 4.0, 7.0, 9.0, 12.0
"""When b stops, when that is told, when b is back, and when that is told: seconds."""
SHORTEST = 13.0
"""Seconds that the story takes. A demo that shall end earlier tells it faster."""
REFRESH = 0.25
"""Seconds between two looks at the numbers."""

YAML = """\
health: {{interval: 400ms, timeout: 200ms, rise: 1, fall: 2}}
listeners:
  web: {{bind: 127.0.0.1:{port}, pool: app}}
pools:
  app:
    upstreams: [{upstreams}]
    eject: {{time: 500ms}}
"""
"""Patience for a story of seconds: with the defaults b would be back after ten."""


class Ended(Exception):  # noqa: N818 - it is no error
    """A signal came, or the time is over, and the story stops where it is."""


def tell(seconds: float | None) -> int:
    """Run the demo until a signal comes, or for `seconds`; returns the exit code.

    Raises DemoError when it cannot go on. Whatever happens, its processes and files are gone
    when this returns.
    """
    with contextlib.ExitStack() as stack:
        ending = stack.enter_context(Ending())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spliceproxy-demo-")))
        upstreams = []
        for n, name in enumerate("abc"):
            upstreams.append(Upstream(name, UPSTREAM_PORT + n))
            stack.callback(upstreams[-1].stop)
        proxy = start_proxy(place / "demo.yaml", upstreams, ending, stack)
        traffic = Traffic(proxy.port)
        stack.callback(traffic.stop)
        screen = Screen()
        stack.callback(screen.close)
        if not ending.came:
            screen.open(proxy)
            story = Story(ending, screen, upstreams, proxy, traffic, seconds)
            with contextlib.suppress(Ended):
                story.tell()
            screen.close()
            story.close()
    return EXIT_OK


def start_proxy(
    file: Path, upstreams: Sequence[Upstream], ending: Ending, stack: contextlib.ExitStack
) -> Proxy:
    """A proxy in front of `upstreams` that is ready; `stack` will end it. Raises DemoError."""
    addresses = ", ".join(upstream.address for upstream in upstreams)
    while True:
        port = free_port(LISTENER_PORT)
        file.write_text(YAML.format(port=port, upstreams=addresses))
        with contextlib.ExitStack() as attempt:
            proxy = Proxy(file, port)
            attempt.callback(proxy.stop)
            try:
                proxy.wait_ready(ending)
            except DemoError:
                # Somebody may have taken the port between our look and the proxy's bind.
                if free_port(port) == port:
                    raise
                continue
            stack.push(attempt.pop_all())
            return proxy


class Story:
    """One run of the demo, from the first request on."""

    def __init__(
        self,
        ending: Ending,
        screen: Screen,
        upstreams: Sequence[Upstream],
        proxy: Proxy,
        traffic: Traffic,
        seconds: float | None,
    ) -> None:
        self._ending = ending
        self._screen = screen
        self._upstreams = upstreams
        self._proxy = proxy
        self._traffic = traffic
        self._seconds = seconds
        self._pace = min(1.0, seconds / SHORTEST) if seconds else 1.0
        self._start = time.monotonic()

    def tell(self) -> None:
        """The story, and then traffic without end. Raises Ended."""
        self._traffic.start()
        self._screen.tell(
            "a, b and c serve.", f" {REQUESTS_PER_SECOND} requests/s, each a new connection."
        )
        self._play_until(STOPS)
        self._stop_and_tell(self._upstreams[1])
        self._play_until(RETURNS)
        self._start_and_tell(self._upstreams[1])
        if self._seconds is None:
            self._screen.tell("That was it.", " The demo goes on until Ctrl-C.", style="")
        self._play_until(None)

    def close(self) -> None:
        """Tell how it ended."""
        self._traffic.stop()
        answered, failed = self._traffic.statistics()
        self._screen.tell("The end.", f" In all {_counts(answered)}; {failed} failed.", style="")

    def _stop_and_tell(self, upstream: Upstream) -> None:
        before = self._traffic.statistics()
        upstream.stop()
        self._screen.tell(f"{upstream.name} stops.", " Nobody told the proxy.", style="bold red")
        self._play_until(TOLD)
        passed_on = [record for record in self._records() if record.get("retries")]
        answered, failed = self._since(before)
        self._screen.tell(
            f"{upstream.name} stopped: {failed} failed requests.",
            f" Since then {_counts(answered)}. {len(passed_on)} sessions were sent to"
            f" {upstream.name} first, found it closed, and went on to another upstream.",
        )
        if passed_on:
            self._screen.show_record(passed_on[0], "The record of one of these sessions:")

    def _start_and_tell(self, upstream: Upstream) -> None:
        try:
            upstream.start()
        except OSError as error:
            self._screen.tell(f"{upstream.name} cannot come back: {error.strerror}", style="red")
            return
        before = self._traffic.statistics()
        self._screen.tell(f"{upstream.name} is back.", style="bold green")
        self._play_until(AGAIN)
        answered, failed = self._since(before)
        self._screen.tell(
            f"{upstream.name} serves again: {failed} failed requests.",
            f" Since then {_counts(answered)}.",
        )

    def _play_until(self, moment: float | None) -> None:
        """Show the traffic until `moment`, in seconds since the beginning of the story."""
        while True:
            now = time.monotonic() - self._start
            until = now + REFRESH if moment is None else moment * self._pace
            if self._seconds is not None:
                if now >= self._seconds:
                    raise Ended
                until = min(until, self._seconds)
            if now >= until:
                return
            self._ending.wait(min(REFRESH, until - now))
            if self._ending.came:
                raise Ended
            self._proxy.check()
            answered, failed = self._traffic.statistics()
            running = {upstream.name: upstream.running for upstream in self._upstreams}
            self._screen.update(Status(running, answered, failed))

    def _since(self, before: tuple[Counter[str], int]) -> tuple[Counter[str], int]:
        answered, failed = self._traffic.statistics()
        return answered - before[0], failed - before[1]

    def _records(self) -> list[dict[str, Any]]:
        lines = self._proxy.records.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]  # the last one may be half written


def _counts(answered: Counter[str]) -> str:
    if not answered:
        return "nobody answered"
    return ", ".join(f"{name} answered {answered[name]}" for name in sorted(answered))
