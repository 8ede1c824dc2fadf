"""The limits of listeners, as one worker keeps them.

A reload makes `Limits` anew, while the counts of a listener stay for as long as a session or a
listener needs them: so nothing is counted twice, and what was taken is given back where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from spliceproxy.limits.clients import Clients, Place, network_key
from spliceproxy.wire.networks import packed_ip

if TYPE_CHECKING:
    from spliceproxy.ipc import LimitsPlan, ListenerPlan
    from spliceproxy.telemetry.board import Board
    from spliceproxy.telemetry.record import Why

_WELCOME: Final = None, None


class Limits:
    """The limits of one listener."""

    __slots__ = ("_clients", "_plan")

    def __init__(self, plan: LimitsPlan, clients: Clients) -> None:
        self._plan = plan
        self._clients = clients

    def enter(self, ip: str, now: float) -> tuple[Why | None, Place | None]:
        """Count a client that comes at `now` (the loop's time), if it may: what forbids it, and
        what it has taken, to be given back by `leave`.

        Who is refused is not counted. A client without an IP address is in no network.
        """
        plan, clients = self._plan, self._clients
        rate, client_rate, most = plan.rate, plan.client_rate, plan.client_sessions
        packed = packed_ip(ip) if client_rate is not None or most is not None else b""
        if not packed:
            if rate is not None:
                if not clients.anybody_may_come(rate, now):
                    return "rate_limit", None
                clients.somebody_came(rate, now)
            return _WELCOME
        network = network_key(packed, plan.v4, plan.v6)
        cells = clients.cells(network)
        if most is not None and clients.full(network, cells, most):
            return "client_limit", None
        if client_rate is not None and not clients.may_come(cells, client_rate, now):
            return "rate_limit", None
        if rate is not None:
            if not clients.anybody_may_come(rate, now):
                return "rate_limit", None
            clients.somebody_came(rate, now)
        if client_rate is not None:
            clients.came(cells, client_rate, now)
        if most is None:
            return _WELCOME
        clients.enter(network, cells)
        return None, (network, cells)

    def leave(self, place: Place) -> None:
        """Give back what a session has taken."""
        self._clients.leave(place)


class LimitsOfAll:
    """Finds the counts of each listener on the board, where it has limits."""

    def __init__(self, board: Board, index: int) -> None:
        """`index` is this worker's."""
        self._board = board
        self._index = index
        self._clients: WeakValueDictionary[int, Clients] = WeakValueDictionary()
        """By the listener's slot: sessions of the one before may live on."""

    def of(self, plan: ListenerPlan) -> Limits | None:
        """The limits of a listener; None where it has none."""
        if plan.limits is None:
            return None
        clients = self._clients.get(plan.slot)
        if clients is None:
            board = self._board
            clients = Clients(board.planes.of(plan.slot), self._index, board.key)
            self._clients[plan.slot] = clients
        return Limits(plan.limits, clients)
