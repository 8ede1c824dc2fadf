"""What was drained stays drained, and which sessions that ends."""

from __future__ import annotations

import os

import pytest
from harness.found import find_upstreams

from spliceproxy import config
from spliceproxy.control.draining import Draining, UnknownTargetError
from spliceproxy.control.machine import Machine
from spliceproxy.control.parts import InForce, UpstreamStates
from spliceproxy.control.plan import make_snapshot
from spliceproxy.control.slots import UpstreamSlots
from spliceproxy.ipc import End, Message, Spare
from spliceproxy.telemetry.board import DOWN, DRAINING, Board

MACHINE = Machine(
    nofile=4096, somaxconn=4096, ports=28232, pipe_max_size=None, pipe_user_pages=None
)
ONE, TWO, SOCKET = "127.0.0.1:9001", "127.0.0.1:9002", "unix:/run/app/in.sock"


class Rig:
    """A board, and configurations for it."""

    def __init__(self) -> None:
        fd = Board.create(2)
        self.board = Board(fd, 2)
        os.close(fd)
        self.states = UpstreamStates(self.board.upstreams)
        self._slots = UpstreamSlots()
        self.told: list[Message] = []
        """What the workers were told."""

    def in_force(self, *upstreams: str) -> InForce:
        text = (
            'listeners: {web: {bind: "127.0.0.1:0", pool: app}}\n'
            f"pools: {{app: {{upstreams: [{', '.join(upstreams)}]}}}}\n"
        )
        loaded = config.loads(text, "test.yaml", {})
        return InForce(
            loaded, make_snapshot(loaded, find_upstreams(loaded), MACHINE, 2, 0, self._slots)
        )

    def forget(self, *kept: str) -> None:
        """What the supervisor does after a reload: take back the slots of those that left."""
        self._slots.forget({("app", name) for name in kept}, self.board.upstreams)

    def slot(self, upstream: str) -> int:
        return self._slots.slot("app", upstream)


def test_draining_survives_a_reload_and_the_upstreams_own_absence() -> None:
    rig = Rig()
    draining = Draining(rig.states, rig.board, rig.told.append, None)
    draining.apply(rig.in_force(ONE, TWO))
    draining.drain(f"pool/app/{ONE}", True)
    draining.apply(rig.in_force(TWO, ONE, SOCKET))
    assert rig.states.has(rig.slot(ONE), DRAINING)
    assert not rig.states.has(rig.slot(TWO), DRAINING)
    draining.apply(rig.in_force(TWO))
    rig.board.upstreams.set_state(rig.slot(ONE), 0)
    with pytest.raises(UnknownTargetError):
        draining.drain(f"pool/app/{ONE}", False)
    draining.apply(rig.in_force(ONE, TWO))
    assert rig.states.has(rig.slot(ONE), DRAINING)


def test_an_upstream_with_slashes_in_its_name_is_a_target() -> None:
    rig = Rig()
    draining = Draining(rig.states, rig.board, rig.told.append, None)
    draining.apply(rig.in_force(ONE, SOCKET))
    drained = draining.drain(f"pool/app/{SOCKET}", True)
    assert drained.upstreams == (SOCKET,)
    assert rig.states.has(rig.slot(SOCKET), DRAINING)


def test_draining_leaves_what_health_found_alone() -> None:
    rig = Rig()
    draining = Draining(rig.states, rig.board, rig.told.append, None)
    draining.apply(rig.in_force(ONE))
    rig.states.mark(rig.slot(ONE), DOWN, True)
    draining.drain("pool/app", True)
    draining.drain("pool/app", False)
    assert rig.board.upstreams.state(rig.slot(ONE)) == DOWN


def test_an_order_tells_the_live_sessions_of_all_workers() -> None:
    rig = Rig()
    draining = Draining(rig.states, rig.board, rig.told.append, None)
    draining.apply(rig.in_force(ONE, TWO))
    for worker, number in enumerate((3, 4)):
        rig.board.upstreams.sessions[worker][rig.slot(ONE)] = number
    rig.board.upstreams.sessions[0][rig.slot(TWO)] = 5
    assert draining.drain(f"pool/app/{ONE}", True).sessions == 7
    assert draining.drain("pool/app", True).sessions == 12


def test_a_pool_that_is_drained_stays_so_with_the_upstreams_that_a_reload_brings() -> None:
    rig = Rig()
    draining = Draining(rig.states, rig.board, rig.told.append, None)
    draining.apply(rig.in_force(ONE))
    draining.drain("pool/app", True)
    draining.apply(rig.in_force(ONE, TWO))
    assert rig.states.has(rig.slot(TWO), DRAINING)
    draining.drain(f"pool/app/{TWO}", False)
    draining.apply(rig.in_force(ONE, TWO, SOCKET))
    drained = [rig.states.has(rig.slot(name), DRAINING) for name in (ONE, TWO, SOCKET)]
    assert drained == [True, False, False]


def test_an_order_with_a_time_has_the_workers_end_sessions_and_undrain_calls_it_off() -> None:
    rig = Rig()
    draining = Draining(rig.states, rig.board, rig.told.append, None)
    draining.apply(rig.in_force(ONE, TWO))
    one, two = rig.slot(ONE), rig.slot(TWO)
    draining.drain("pool/app", True)
    assert rig.told == []
    draining.drain("pool/app", True, 60)
    assert rig.told == [End("drained", upstreams=[one, two], over=60)]
    rig.told.clear()
    draining.drain(f"pool/app/{TWO}", True, 5)
    assert rig.told == [Spare(upstreams=[two]), End("drained", upstreams=[two], over=5)]
    rig.told.clear()
    draining.drain("pool/app", False)
    assert rig.told == [Spare(upstreams=[one, two])]
    rig.told.clear()
    draining.drain("pool/app", False)
    assert rig.told == []


def test_a_slot_that_a_reload_gives_to_another_upstream_is_not_ended() -> None:
    rig = Rig()
    draining = Draining(rig.states, rig.board, rig.told.append, None)
    draining.apply(rig.in_force(ONE, TWO))
    slot = rig.slot(ONE)
    draining.drain(f"pool/app/{ONE}", True, 3600)
    rig.told.clear()
    draining.apply(rig.in_force(TWO))
    assert rig.told == [], "its sessions are still to end"
    rig.forget(TWO)
    draining.apply(rig.in_force(TWO, SOCKET))
    assert rig.slot(SOCKET) == slot
    assert rig.told == [Spare(upstreams=[slot])]
    assert not rig.states.has(slot, DRAINING)
