"""Who serves which listening socket: its owner; a sibling while the owner is away; nobody new at
the end.

The rules, for a socket that one worker owns:

1. Its owner is told to serve it when it starts.
2. While the owner is not ready, a ready sibling is lent the socket: clients never wait in a queue
   that nobody empties.
3. When the owner is ready, the sibling is told to release it.

A shared socket is served by every worker from its start, so it is never lent.

Retiring a socket: no new client gets in, whoever serves it is told to empty it, and it is closed
when they all have. If the last worker that serves it dies meanwhile, a sibling takes over. `remove`
retires some sockets (they left the configuration), `retire` all that are left (the end).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from spliceproxy.control.options import remedy_by_capability
from spliceproxy.control.sockets import ListeningSocket
from spliceproxy.control.worker_process import WorkerProcess
from spliceproxy.ipc import Release, Retire, Serve

_log = structlog.get_logger()


class Service:
    """The listening sockets, and which workers were told to serve each of them."""

    def __init__(self, sockets: Iterable[ListeningSocket]) -> None:
        """Takes over the sockets: `close` or retirement closes them."""
        self._sockets = {one.number: one for one in sockets}
        self._retiring: set[int] = set()
        self._ending = False
        self.settled = asyncio.Event()
        """Set while no socket is being retired."""
        self.settled.set()
        self.closed = asyncio.Event()
        """Set when no socket is left, at the end."""

    def sockets(self) -> list[ListeningSocket]:
        """Those that let clients in."""
        return [one for one in self._sockets.values() if one.number not in self._retiring]

    def retiring(self) -> list[ListeningSocket]:
        """Those that let nobody in any more, and whose queues are being emptied."""
        return [one for one in self._sockets.values() if one.number in self._retiring]

    def add(self, sockets: Iterable[ListeningSocket], workers: Iterable[WorkerProcess]) -> None:
        """Serve these too; takes them over. Workers must know their listeners by now."""
        workers = list(workers)
        for one in sockets:
            self._sockets[one.number] = one
            for worker in workers:
                if one.shared or one.owner == worker.index:
                    _serve(worker, one)
        self.settle(workers)

    def rename(self, one: ListeningSocket, listener: str, workers: Iterable[WorkerProcess]) -> None:
        """A socket that has become another listener's; its queue stays."""
        one.listener = listener
        for worker in _serving(one, workers):
            _serve(worker, one)

    def addresses(self) -> dict[str, list[str]]:
        """Where each listener that is open listens, by its name."""
        found: dict[str, dict[str, None]] = {}
        for one in self._sockets.values():
            found.setdefault(one.listener, {})[str(one)] = None
        return {name: list(addresses) for name, addresses in found.items()}

    def begin(self, worker: WorkerProcess) -> None:
        """Tell a worker that just started what is its own to serve."""
        for one in self.sockets():
            if one.shared or one.owner == worker.index:
                _serve(worker, one)

    def settle(self, workers: Iterable[WorkerProcess]) -> None:
        """Make the rules true again, after one of `workers` became ready or another ended."""
        workers = list(workers)
        for one in list(self._sockets.values()):
            if one.number in self._retiring:
                self._settle_retiring(one, workers)
            elif not one.shared:
                _settle_owned(one, workers)

    def retire(self, workers: Iterable[WorkerProcess]) -> None:
        """Let no new client in, and have the queues emptied. `closed` tells the end."""
        self._ending = True
        self.remove(self.sockets(), workers)
        if not self._sockets:
            self.closed.set()

    def remove(self, sockets: Iterable[ListeningSocket], workers: Iterable[WorkerProcess]) -> None:
        """Let no new client in by these, have their queues emptied, and close them then."""
        workers = list(workers)
        leaky: list[str] = []
        for one in sockets:
            self._retiring.add(one.number)
            self.settled.clear()
            if one.handed:
                # The service manager keeps the socket, and who waits in it meets our successor.
                for worker in _serving(one, workers):
                    _release(worker, one)
                self._close(one)
                continue
            try:
                refused = one.refuse_new_clients()
            except OSError as error:
                _log.warning("new clients cannot be refused", address=str(one), error=str(error))
            else:
                leaky += [] if refused else [str(one)]
            for worker in _serving(one, workers):
                worker.send(Retire(one.number))
        if leaky:
            _log.warning(
                "new clients cannot be refused: the last ones to come may be reset",
                addresses=list(dict.fromkeys(leaky)),
                remedy=remedy_by_capability("CAP_NET_RAW"),
            )
        self.settle(workers)

    def hand_over(
        self, sockets: Iterable[ListeningSocket], workers: Iterable[WorkerProcess]
    ) -> None:
        """Another process serves the queues of these: stop accepting, and let go of them."""
        workers = list(workers)
        for one in sockets:
            for worker in _serving(one, workers):
                _release(worker, one)
            one.file = None
            self._close(one)

    def on_retired(
        self, worker: WorkerProcess, number: int, workers: Iterable[WorkerProcess]
    ) -> None:
        """`worker` emptied the queue of a socket and closed its copy."""
        worker.serving.discard(number)
        one = self._sockets.get(number)
        if one is not None and not _serving(one, workers):
            self._close(one)

    def _settle_retiring(self, one: ListeningSocket, workers: list[WorkerProcess]) -> None:
        if _serving(one, workers):
            return
        if not workers:
            self._close(one)
            return
        worker = _least_busy([worker for worker in workers if worker.ready] or workers)
        _serve(worker, one)
        worker.send(Retire(one.number))

    def close(self) -> None:
        """Close every socket that is left, with the clients in its queue."""
        for one in list(self._sockets.values()):
            self._close(one)

    def _close(self, one: ListeningSocket) -> None:
        del self._sockets[one.number]
        self._retiring.discard(one.number)
        if not self._retiring:
            self.settled.set()
        one.close()
        if self._ending and not self._sockets:
            self.closed.set()


def _settle_owned(one: ListeningSocket, workers: list[WorkerProcess]) -> None:
    ready = [worker for worker in workers if worker.ready]
    borrowers = [worker for worker in _serving(one, workers) if worker.index != one.owner]
    if any(worker.index == one.owner for worker in ready):
        for worker in borrowers:
            _release(worker, one)
    elif ready and not borrowers:
        _serve(_least_busy(ready), one)


def _serving(one: ListeningSocket, workers: Iterable[WorkerProcess]) -> list[WorkerProcess]:
    return [worker for worker in workers if one.number in worker.serving]


def _least_busy(workers: list[WorkerProcess]) -> WorkerProcess:
    return min(workers, key=lambda worker: len(worker.serving))


def _serve(worker: WorkerProcess, one: ListeningSocket) -> None:
    worker.serving.add(one.number)
    worker.send(Serve(one.number, one.listener, one.shared), one.sock)


def _release(worker: WorkerProcess, one: ListeningSocket) -> None:
    worker.serving.discard(one.number)
    worker.send(Release(one.number))
