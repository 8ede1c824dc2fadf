"""All listening sockets of a configuration, or none and a line for each that was not to be had.

Binding and letting clients in are two steps: between them the start may still fail, and a client
who was let in would be reset.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spliceproxy.control.addresses import Place, place_of
from spliceproxy.control.bind_errors import explain_bind
from spliceproxy.control.budget import FdBudgetError, nofile_remedy
from spliceproxy.control.handed import Activation, adopt
from spliceproxy.control.names import Places
from spliceproxy.control.sockets import ListeningSocket, bind
from spliceproxy.control.systemd import Handed
from spliceproxy.errors import BindError

if TYPE_CHECKING:
    from spliceproxy.config import Listener

_ANY_PORT_TRIES = 20
"""Port 0: the port that is free on the first address may be taken on the second."""


_ENOUGH_FDS = 65536
"""Suggested where it is not known how many sockets there would have been."""


def bind_sockets(
    listeners: Sequence[Listener],
    places: Places,
    workers: int,
    handed: Iterable[Handed] = (),
    problems: Iterable[str] = (),
) -> list[ListeningSocket]:
    """Bind every address of `listeners`, which are at `places`. Nobody is let in yet.

    Raises BindError, one line for each address that could not be had, after the `problems` that
    are known already; then nothing is left open. Raises FdBudgetError for a lack of fds.
    """
    opened: list[ListeningSocket] = []
    problems = list(problems)
    activation = Activation(handed, listeners)
    try:
        for listener in listeners:
            _open_listener(listener, places, workers, activation, opened, problems)
        problems += activation.close_unused()
        if problems:
            raise BindError("\n".join(dict.fromkeys(problems)))
    except BaseException:
        activation.close_unused()
        close_sockets(opened)
        raise
    return opened


def let_in(sockets: Iterable[ListeningSocket]) -> None:
    """Let clients in. Raises BindError; then some sockets listen, and all are to be closed."""
    for one in sockets:
        try:
            one.sock.listen(one.backlog)
        except OSError as error:
            raise BindError(explain_bind(one.listener, place_of(one.sock), error)) from None


def close_sockets(sockets: Iterable[ListeningSocket]) -> None:
    """Close all of them, and remove their files."""
    for one in sockets:
        one.close()


def _open_listener(
    listener: Listener,
    places: Places,
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
            group = _open_address(listener, places[address], workers, activation)
        except BindError as error:
            problems += str(error).splitlines()
        else:
            for sock in group:
                sock.address = address
            opened += group


def _open_address(
    listener: Listener, wanted: list[Place], workers: int, activation: Activation
) -> list[ListeningSocket]:
    """The sockets of one `bind`; with port 0 all its places get the same port."""
    found, places = activation.take_at(wanted)
    group = [one for handed in found for one in adopt(handed, listener, workers)]
    tries = _ANY_PORT_TRIES if any(place.any_port for place in places) else 1
    while True:
        tries -= 1
        problems, again = _bind_places(listener, places, workers, group)
        if not problems:
            return group
        close_sockets(group)
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
            if error.errno == errno.EMFILE:
                close_sockets(group)
                raise FdBudgetError(
                    "RLIMIT_NOFILE: too few open files for the listening sockets (one for each "
                    f"address and worker); {nofile_remedy(_ENOUGH_FDS)}"
                ) from None
            problems.append(explain_bind(listener.name, wanted, error))
            again = wanted != place and error.errno == errno.EADDRINUSE
        except BindError as error:
            problems.append(str(error))
        else:
            group += bound
            port = place_of(bound[0].sock).port
    return problems, again
