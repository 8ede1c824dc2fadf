"""What this process answers to the one that replaced it: about its own sessions, and about those of
the processes before it."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

import orjson
import structlog

from spliceproxy.control.draining import Draining
from spliceproxy.control.handover import Link, Said
from spliceproxy.control.record_streams import RecordStreams
from spliceproxy.control.sessions import LiveSessions, Part, Reached
from spliceproxy.errors import SpliceproxyError
from spliceproxy.ipc import OwnedFd, Watch
from spliceproxy.ipc.queries import SessionQuery, encode_found
from spliceproxy.ipc.sealed import memfd_of

_log = structlog.get_logger()

WORDS: Final = frozenset({"find", "reset", "watch", "drain"})
"""What is a question."""
_RETRY: Final = 0.1
"""Seconds until an answer that could not go is tried again."""


class Answering:
    """Answers one question after the other, while all else goes on."""

    def __init__(self, sessions: LiveSessions, streams: RecordStreams, draining: Draining) -> None:
        self._sessions = sessions
        self._streams = streams
        self._draining = draining
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, link: Link, said: Said) -> None:
        """Answer the question `said`, over `link`."""
        task = asyncio.create_task(self._answer(link, said))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Answer no more."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, link: Link, said: Said) -> None:
        """Without an answer nothing else would be asked: whatever goes wrong, there is one."""
        number, file = 0, None
        silent = [os.getpid()]
        try:
            number, file, silent = await self._ask(said)
        except (KeyError, TypeError, ValueError, OSError, SpliceproxyError) as error:
            _log.warning("a question of the new process cannot be answered", error=repr(error))
        except Exception as error:
            _log.error("a question of the new process failed", exc_info=error)
        more = {"number": said.get("number"), "sessions": number, "silent": silent}
        while not link.say("answer", file, **more) and not link.gone.is_set():
            await asyncio.sleep(_RETRY)

    async def _ask(self, said: Said) -> tuple[int, OwnedFd | None, list[int]]:
        """How many were meant, the sessions, and the pids of those that could not tell of all."""
        patience = float(said["until"]) - time.monotonic()
        if patience <= 0 and said["say"] != "watch":
            raise ValueError("it came too late: whoever asked was told that nothing was done")
        if said["say"] == "drain":
            order = said["target"], bool(said["on"]), said["over"]
            number = self._draining.order_behind(*order)
            older = await self._sessions.older.drain(*order, patience)
            return number + older.number, None, older.silent
        query = SessionQuery.decode(said["query"])
        if said["say"] == "watch":
            watch = Watch(str(said["keep"]), query.encode())
            told = await self._streams.join(watch, _file_of(said), patience)
            return 0, None, told.silent
        if said["say"] == "reset":
            reset = await self._sessions.reset_those(query, patience)
            return reset.number, None, _silent(reset)
        found, part = await self._sessions.find_those(query, patience)
        return found.number, memfd_of(await asyncio.to_thread(_told, part)), _silent(found)


def _told(part: Part) -> bytes:
    return encode_found([key for key, _ in part], [orjson.dumps(session) for _, session in part])


def _file_of(said: Said) -> OwnedFd:
    """The file that came with a question. Raises ValueError."""
    file = said.pop("fd", None)
    if not isinstance(file, OwnedFd):
        raise ValueError("no file came with it")
    return file


def _silent(reached: Reached) -> list[int]:
    own = [os.getpid()] if reached.silent_workers else []
    return [*own, *reached.silent_processes]
