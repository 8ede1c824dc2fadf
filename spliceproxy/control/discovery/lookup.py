"""One name that is asked for again and again, and what it stands for meanwhile.

1.  An answer holds for its TTL, within the bounds of `dns`.
2.  A question that fails changes nothing. It is repeated after 1 s, and then after pauses that
    double up to 30 s.
3.  That there is nothing of that name is an answer as well, but it may be a hiccup of a server that
    has just started: upstreams that are known go only when it was repeated for 30 s.
4.  The families of IP addresses are apart in this: what fails or ends for one leaves the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import structlog

from spliceproxy.control.discovery.resolver import Reply, Service

if TYPE_CHECKING:
    from spliceproxy.config import Dns

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast discovery goes. All of them seconds."""

    first_retry: float = 1.0
    longest_retry: float = 30.0
    hold: float = 30.0
    """How long a name must be gone until its upstreams are."""
    gather: float = 0.05
    """How long changes are gathered before they are put in force together."""
    first_answers: float = 2.0
    """How long the start and a reload wait for names that were never asked for."""
    lists: float = 10.0
    """How long they wait for files that were never read."""


DEFAULT_PACE = Pace()

Ask = Callable[[], Awaitable[Sequence[Reply]]]
"""Asks once; one reply for each family, always in the same order."""


Values = tuple[str, ...] | tuple[Service, ...]

Known = Sequence[Values]
"""What a name stands for, for each family of records."""


@dataclass(slots=True)
class _Family:
    """What is known of one kind of records."""

    values: Values = ()
    gone_since: float | None = None
    """When it was first said that there are none any more."""

    def take(self, reply: Reply, now: float, hold: float) -> float | None:
        """Follow a reply that is no failure; for how many seconds the old values are still held,
        None: they are not."""
        if reply.values or not self.values:
            self.values, self.gone_since = reply.values, None
            return None
        if self.gone_since is None:
            self.gone_since = now
        left = self.gone_since + hold - now
        if left > 0:
            return left
        self.values, self.gone_since = (), None
        return None


class Lookup:
    """Keeps what one name stands for; needs a running loop."""

    def __init__(
        self,
        name: str,
        ask: Ask,
        dns: Dns,
        pace: Pace,
        on_news: Callable[[], None],
        known: Known = (),
    ) -> None:
        """`on_news` hears when it stands for something else, and of the first reply and answer.

        `known` is what another process knew of it, which holds until there is an answer.
        """
        self.name = name
        self.ask = ask
        self.dns = dns
        self.ttl = 0.0
        """Seconds until it is asked for again, when last looked at."""
        self.tried = False
        """Whether there was a reply, of whatever kind."""
        self.answered = False
        """Whether one of them had values, or said for all families that there are none."""
        self._pace = pace
        self._on_news = on_news
        self._families = [_Family(values) for values in known]
        self._unanswered = 0
        """Questions since the last one that found something."""
        self._trouble = ""
        self._again = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"lookup {name}")

    def values(self) -> list[str | Service]:
        """What it stands for now."""
        return [value for family in self._families for value in family.values]

    def known(self) -> Known:
        """What it stands for, for each family of records."""
        return [family.values for family in self._families]

    def ask_again(self) -> None:
        """Ask at once: something is different."""
        self._again.set()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            self._again.clear()
            try:
                replies = await self.ask()
            except Exception as error:
                _log.exception("a look-up broke", name=self.name)
                replies = [Reply(problem=repr(error)) for _ in self._families or (None,)]
            pause = self.take(replies, time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(None if pause == inf else pause):
                    await self._again.wait()

    def take(self, replies: Sequence[Reply], now: float) -> float:
        """Follow the replies to one question; returns the seconds until the next one."""
        before = self.tried, self.answered, self.values()
        while len(self._families) < len(replies):
            self._families.append(_Family())
        held = [
            family.take(reply, now, self._pace.hold)
            for family, reply in zip(self._families, replies, strict=False)
            if not reply.problem
        ]
        pauses = [left for left in held if left is not None]
        problem = next((reply.problem for reply in replies if reply.problem), "")
        nothing = not any(reply.values for reply in replies)
        self._tell(problem or ("there is no such name" if nothing else ""))
        if problem or nothing or pauses:
            pace = self._pace
            retry = min(pace.first_retry * float(2**self._unanswered), pace.longest_retry)
            self._unanswered = min(self._unanswered + 1, 16)
            pause = min(retry, self.dns.max_ttl, *pauses)
        else:
            self._unanswered = 0
            ttl = min(reply.ttl for reply in replies if reply.values)
            pause = ttl
            if ttl != inf:
                pause = max(self.dns.min_ttl, min(self.dns.max_ttl, ttl))
        _log.debug("looked up", name=self.name, known=len(self.values()), next_seconds=pause)
        self.ttl = pause
        self.tried = True
        self.answered = self.answered or not problem or not nothing
        if (self.tried, self.answered, self.values()) != before:
            self._on_news()
        return pause

    def _tell(self, trouble: str) -> None:
        """Say once that something is wrong, and once that it is not any more."""
        if trouble and not self._trouble:
            _log.warning(
                "a name cannot be looked up",
                name=self.name,
                reason=trouble,
                known=len(self.values()),
            )
        elif self._trouble and not trouble:
            _log.info("a name can be looked up again", name=self.name)
        self._trouble = trouble
