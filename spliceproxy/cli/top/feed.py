"""Asks the proxy again and again, in a thread of its own, so that keys are obeyed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spliceproxy.cli.client import Admin, DoorError, with_query
from spliceproxy.cli.top.rows import Answers

if TYPE_CHECKING:
    from spliceproxy.cli.connection import Connection

_HISTORY = 5.0
"""Seconds after which the history is another one."""
_TIMEOUT = 5.0
"""Seconds for one answer."""

Query = list[tuple[str, object]]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps answers away."""

    since: float
    """As time.monotonic() tells it."""
    text: str


class Feed:
    """The answers, as they come. All that is public may be used from another thread."""

    def __init__(self, admin: Admin, interval: float, on_news: Callable[[], None]) -> None:
        """`on_news` is called in the feed's thread, when there are other answers or none."""
        self._admin = admin
        self._interval = interval
        self._on_news = on_news
        self._connection: Connection | None = None
        self._history: Json = {}
        self._history_at = -_HISTORY
        self._asked = threading.Event()
        self._query: Query | None = None
        self.paused = False
        """Do not look by itself."""
        self.answers: Answers | None = None
        """The last ones."""
        self.trouble: Trouble | None = None
        """Why there are no newer ones; None: nothing is wrong."""

    def first(self, query: Query | None) -> Answers:
        """The first answers, in this thread. Raises DoorError."""
        self._query = query
        self.answers = self._ask()
        return self.answers

    def start(self) -> None:
        """Go on by itself."""
        threading.Thread(target=self._run, daemon=True).start()

    def look(self, query: Query | None) -> None:
        """Look again at once, for these sessions (None: for no sessions)."""
        self._query = query
        self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait(self._interval)
            asked = self._asked.is_set()
            self._asked.clear()
            if self.paused and not asked:
                continue
            try:
                answers = self._ask()
                if self.paused and not asked:  # it came too late
                    continue
                self.answers, self.trouble = answers, None
            except DoorError as error:
                since = self.trouble.since if self.trouble else time.monotonic()
                self.trouble = Trouble(since, str(error))
            self._on_news()

    def _ask(self) -> Answers:
        query = self._query
        try:
            connection = self._connection or self._admin.connect(_TIMEOUT)
            self._connection = connection
            if time.monotonic() - self._history_at >= _HISTORY:
                self._history = connection.ask("GET", "/api/v1/history")
                self._history_at = time.monotonic()
            status = connection.ask("GET", "/api/v1/status")
            traffic = connection.ask("GET", "/api/v1/traffic")
        except DoorError:
            self._history_at = -_HISTORY
            raise
        sessions, problem = None, ""
        if query is not None:
            try:
                sessions = connection.ask("GET", with_query("/api/v1/sessions", query))
            except DoorError as error:
                if not error.status:
                    raise
                problem = str(error)
        clock = time.strftime("%H:%M:%S")
        return Answers(status, traffic, self._history, clock, sessions, problem)
