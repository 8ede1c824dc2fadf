"""When the intake looks at the bytes of a client: one that has sent none is left alone."""

from __future__ import annotations

import socket
from select import EPOLLIN, EPOLLOUT, EPOLLRDHUP
from types import SimpleNamespace
from typing import Any

import pytest

from spliceproxy.ipc import IntakePlan, RoutePlan
from spliceproxy.worker.intake import Intake, Preread


class Client:
    """A socket on which nothing has come, and who has looked there."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.looks = 0

    def recv_into(self, *_how: object) -> int:
        self.looks += 1
        raise BlockingIOError


@pytest.fixture
def silent() -> Preread:
    """The intake of a client that has said nothing yet, and of which a name is wanted."""
    pools: Any = {"app": SimpleNamespace(name="app")}
    plan = IntakePlan(10.0, routes=(RoutePlan("1", (("app", 1),), sni=("a.example",)),))
    loop = SimpleNamespace(now=1.0, arm=lambda *_when: None)
    session: Any = SimpleNamespace(
        client=Client(),
        client_address=("192.0.2.1", 4711),
        known=None,
        listener=SimpleNamespace(pool=None, access=None),
        started=1.0,
        worker=SimpleNamespace(loop=loop, pools=pools),
    )
    preread = Preread(session, Intake(plan, pools))
    preread.start()
    return preread


def test_a_client_that_can_be_written_to_is_not_looked_at(silent: Preread) -> None:
    silent.on_event(EPOLLOUT)
    assert looks(silent) == 0


@pytest.mark.parametrize("events", [EPOLLIN, EPOLLIN | EPOLLOUT, EPOLLRDHUP], ids=str)
def test_a_client_that_may_have_said_something_is_looked_at(silent: Preread, events: int) -> None:
    silent.on_event(EPOLLOUT)
    silent.on_event(events)
    assert looks(silent) == 1


def looks(preread: Preread) -> int:
    client: Any = preread.session.client
    assert isinstance(client, Client)
    return client.looks
