"""All listening sockets of a configuration, or none and a line for each that was not to be had."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place, place_of, places_to_bind
from spliceproxy.control.bind_errors import explain_bind
from spliceproxy.control.handed import Activation, adopt
from spliceproxy.control.sockets import ListeningSocket, bind
from spliceproxy.control.systemd import Handed
from spliceproxy.errors import BindError

if TYPE_CHECKING:
    from spliceproxy.config import Address, Listener

_ANY_PORT_TRIES = 20
"""Port 0: the port that is free on the first address may be taken on the second."""


def open_sockets(
    listeners: Sequence[Listener], workers: int, handed: Iterable[Handed] = ()
) -> list[ListeningSocket]:
    """Bind every address of `listeners`, then let clients in.

    Raises BindError, one line for each address that could not be had; then nothing is left open.
    """
    opened: list[ListeningSocket] = []
    problems: list[str] = []
    activation = Activation(handed, listeners)
    for listener in listeners:
        _open_listener(listener, workers, activation, opened, problems)
    problems += activation.close_unused()
    # Only when all addresses are ours may the first client come in.
    for one in opened if not problems else ():
        try:
            one.sock.listen(one.backlog)
        except OSError as error:
            problems.append(explain_bind(one.listener, place_of(one.sock), error))
    if problems:
        for one in opened:
            one.close()
        raise BindError("\n".join(dict.fromkeys(problems)))
    return opened


def _open_listener(
    listener: Listener,
    workers: int,
    activation: Activation,
    opened: list[ListeningSocket],
    problems: list[str],
) -> None:
    """Add the sockets of one listener to `opened`, or what went wrong to `problems`."""
    named = activation.take_named(listener.name)
    for one in named:
        try:
            opened += adopt(one, listener, workers)
        except BindError as error:
            problems.append(str(error))
    for address in listener.bind if not named else ():
        try:
            opened += _open_address(listener, address, workers, activation)
        except BindError as error:
            problems += str(error).splitlines()


def _open_address(
    listener: Listener, address: Address, workers: int, activation: Activation
) -> list[ListeningSocket]:
    """The sockets of one `bind`; with port 0 all its places get the same port."""
    try:
        found, places = activation.take_at(places_to_bind(address))
    except socket.gaierror as error:
        raise BindError(f"listeners.{listener.name}.bind: {address}: {error.strerror}") from None
    group = [one for handed in found for one in adopt(handed, listener, workers)]
    tries = _ANY_PORT_TRIES if any(place.any_port for place in places) else 1
    while True:
        tries -= 1
        problems, again = _bind_places(listener, places, workers, group)
        if not problems:
            return group
        for one in group:
            one.close()
        if not again or not tries:
            raise BindError("\n".join(problems))
        group = []


def _bind_places(
    listener: Listener, places: list[Place], workers: int, group: list[ListeningSocket]
) -> tuple[list[str], bool]:
    """Bind `places` into `group`. Returns the problems, and whether another free port may help."""
    problems: list[str] = []
    again = False
    port = 0
    for place in places:
        wanted = place.with_port(port) if place.any_port and port else place
        try:
            bound = bind(listener, wanted, workers)
        except OSError as error:
            problems.append(explain_bind(listener.name, wanted, error))
            again = wanted != place and error.errno == errno.EADDRINUSE
        except BindError as error:
            problems.append(str(error))
        else:
            group += bound
            port = place_of(bound[0].sock).port
    return problems, again
