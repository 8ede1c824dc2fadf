"""The limits of listeners, as one worker keeps them.

A reload makes `Limits` anew, while the counts of clients stay for as long as a session or a
listener needs them: so nothing is counted twice, and what was taken is given back where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from spliceproxy.limits.clients import Clients, Place, network_key
from spliceproxy.limits.window import Arrivals
from spliceproxy.telemetry.board import listener_arrivals, listener_handshakes
from spliceproxy.wire.networks import packed_ip

if TYPE_CHECKING:
    from spliceproxy.ipc import LimitsPlan, ListenerPlan
    from spliceproxy.telemetry.board import Board
    from spliceproxy.telemetry.record import Why

_WELCOME: Final = None, None


class Limits:
    """The limits of one listener."""

    __slots__ = ("_arrivals", "_board", "_clients", "_handshakes", "_plan", "_region")

    def __init__(
        self, plan: LimitsPlan, slot: int, board: Board, index: int, clients: Clients | None
    ) -> None:
        """`slot` is the listener's and `index` the worker's; `clients` counts where `plan` has
        planes."""
        self._plan = plan
        self._clients = clients
        self._arrivals = Arrivals(board.regions, index, listener_arrivals(slot))
        self._board, self._region = board, board.regions[index]
        self._handshakes = listener_handshakes(slot)

    def enter(self, ip: str, now: float) -> tuple[Why | None, Place | None]:
        """Count a client that comes at `now` (the loop's time), if it may: what forbids it, and
        what it has taken, to be given back by `leave`.

        Who is refused is not counted. A client without an IP address is in no network.
        """
        plan, clients, arrivals = self._plan, self._clients, self._arrivals
        rate, client_rate, most = plan.rate, plan.client_rate, plan.client_sessions
        packed = b"" if clients is None else packed_ip(ip)
        if clients is None or not packed:
            if rate is not None:
                if not arrivals.one_more(rate, now):
                    return "rate_limit", None
                arrivals.came(rate, now)
            return _WELCOME
        network = network_key(packed, plan.v4, plan.v6)
        cells = clients.cells(network)
        if most is not None and clients.full(network, cells, most):
            return "client_limit", None
        if client_rate is not None and not clients.may_come(cells, client_rate, now):
            return "client_rate_limit", None
        if rate is not None:
            if not arrivals.one_more(rate, now):
                return "rate_limit", None
            arrivals.came(rate, now)
        if client_rate is not None:
            clients.came(cells, client_rate, now)
        if most is None:
            return _WELCOME
        clients.enter(network, cells)
        return None, (network, cells)

    def look(self, ip: str, now: float) -> Why | None:
        """What would forbid a client that comes at `now`, as `enter` says; nothing is counted."""
        plan, clients = self._plan, self._clients
        packed = b"" if clients is None else packed_ip(ip)
        if clients is not None and packed:
            network = network_key(packed, plan.v4, plan.v6)
            cells = clients.cells(network)
            if plan.client_sessions is not None and clients.full(
                network, cells, plan.client_sessions
            ):
                return "client_limit"
            if plan.client_rate is not None and not clients.may_come(cells, plan.client_rate, now):
                return "client_rate_limit"
        if plan.rate is not None and not self._arrivals.one_more(plan.rate, now):
            return "rate_limit"
        return None

    def leave(self, place: Place) -> None:
        """Give back what a session has taken."""
        assert self._clients is not None
        self._clients.leave(place)

    def enter_handshake(self) -> bool:
        """Count one more TLS handshake under way, if there may be one; `leave_handshake` follows,
        once, of this object, also where a reload has made another one."""
        most = self._plan.handshakes
        if most is not None and self._board.total(self._handshakes) >= most:
            return False
        self._region[self._handshakes] += 1
        return True

    def leave_handshake(self) -> None:
        """One is over: what `enter_handshake` counted, however it ended."""
        self._region[self._handshakes] -= 1


class LimitsOfAll:
    """Finds the counts of each listener on the board, where it has limits."""

    def __init__(self, board: Board, index: int) -> None:
        """`index` is this worker's."""
        self._board = board
        self._index = index
        self._clients: WeakValueDictionary[int, Clients] = WeakValueDictionary()
        """By the number of planes: sessions of the listener before may live on."""

    def of(self, plan: ListenerPlan) -> Limits | None:
        """The limits of a listener; None where it has none."""
        if plan.limits is None:
            return None
        planes, board = plan.limits.planes, self._board
        clients = None if planes is None else self._clients_of(planes)
        return Limits(plan.limits, plan.slot, board, self._index, clients)

    def _clients_of(self, planes: int) -> Clients:
        clients = self._clients.get(planes)
        if clients is None:
            board = self._board
            clients = self._clients[planes] = Clients(
                board.planes.of(planes), self._index, board.key
            )
        return clients
