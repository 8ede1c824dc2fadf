"""The queue alone: what joining, leaving and a turn cost, when it looks, and whose a mistake is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest
from harness.lines import lines_run

from spliceproxy.ipc import PoolPlan, QueuePlan, TcpPlan, UpstreamPlan
from spliceproxy.ipc.sealed import at_once
from spliceproxy.telemetry.board import Board
from spliceproxy.worker.connector import Connector
from spliceproxy.worker.loop import Loop
from spliceproxy.worker.pool import Pool, Upstream, make_upstreams
from spliceproxy.worker.queue import TURNS, Queue, Wait

POOL_SLOT = 60_000


class MistakeError(Exception):
    """Something that nobody thought of."""


@dataclass(eq=False)
class Client:
    """Stands for a connector: takes its turn, and keeps its place until it is told to end."""

    house: House
    name: int
    tried: tuple[int, ...] = ()
    fails: bool = False
    wait: Wait = field(default_factory=Wait)
    held: Upstream | None = None

    def join(self) -> str | None:
        return self.house.queue.join(cast(Connector, self), self.wait)

    def leave(self) -> None:
        self.house.queue.leave(cast(Connector, self), self.wait)

    def take_turn(self, pool: Pool) -> bool:
        self.held = pool.take_turn(self.tried, b"")
        return self.held is not None

    def on_turn(self) -> None:
        self.leave()
        if self.fails:
            raise MistakeError(self.name)
        (self.house.turned_away if self.held is None else self.house.served).append(self.name)


class House:
    """Upstreams with few places, a queue, a loop, and who was served in which order."""

    def __init__(self, board: Board, places: int, *, upstreams: int = 1) -> None:
        plans = tuple(
            UpstreamPlan(f"u{slot}", 2, ("", 1), slot=slot, max_sessions=places)
            for slot in range(upstreams)
        )
        plan = PoolPlan(
            "app", "round_robin", plans, 2, 5.0, 60.0, 60.0, None, TcpPlan(), slot=POOL_SLOT,
            queue=QueuePlan(100_000, None, when_down=False),
        )  # fmt: skip
        self.failures: list[tuple[object, str]] = []
        self.loop = Loop(lambda owner, error: self.failures.append((owner, str(error))))
        self.board = board
        self.counts = board.upstreams.waiting[0]
        members = at_once(make_upstreams(plan, range(0)))
        self.pool = Pool(plan, 0.0, members, board.upstreams, 0)
        self.pool.queue = self.queue = Queue(self.pool, self.loop, self.counts)
        self.served: list[int] = []
        self.turned_away: list[int] = []
        self.slot = 0

    def run(self, seconds: float) -> int:
        """Let the loop run for so long; how often it woke."""
        before = self.loop.batches
        self.loop.arm(self, self.loop.now + seconds)
        self.loop.run()
        return self.loop.batches - before

    def on_deadline(self, _now: float) -> None:
        self.loop.stop()


@pytest.fixture
def board() -> Iterator[Board]:
    fd = Board.create(1)
    yield Board(fd, 1)
    os.close(fd)


def test_it_looks_at_each_tick_while_somebody_waits_and_never_otherwise(board: Board) -> None:
    house = House(board, 1)
    taken = house.pool.take()
    assert taken is not None
    assert house.run(0.5) <= 3
    clients = [Client(house, number) for number in range(100)]
    assert [client.join() for client in clients] == [None] * 100
    woke = house.run(1.0)
    print(f"woke {woke} times in a second")
    assert 15 <= woke <= 25
    for client in clients:
        client.leave()
    assert house.counts[POOL_SLOT] == house.queue.waiting == 0
    assert house.queue.slot == 0
    assert house.run(0.5) <= 3
    assert house.served == []


def test_a_place_freed_elsewhere_goes_to_the_first_one(board: Board) -> None:
    house = House(board, 1)
    board.upstreams.sessions[0][0] = 1  # as if it were another worker's
    for number in range(3):
        assert Client(house, number).join() is None
    house.run(0.12)
    assert house.served == []
    board.upstreams.sessions[0][0] = 0
    house.run(0.12)
    assert house.served == [0]
    assert house.counts[POOL_SLOT] == 2


def test_many_places_at_once_are_given_in_order_and_a_part_at_a_time(board: Board) -> None:
    size = 10 * TURNS
    house = House(board, size)
    board.upstreams.sessions[0][0] = size
    for number in range(size):
        assert Client(house, number).join() is None
    board.upstreams.sessions[0][0] = 0
    woke = house.run(0.3)
    assert house.served == list(range(size))
    assert woke >= size // TURNS // 2  # a tick may come on top
    assert house.queue.waiting == house.counts[POOL_SLOT] == 0


def test_one_place_among_a_thousand_full_upstreams_is_found_at_the_next_tick(board: Board) -> None:
    size = 1000
    house = House(board, 1, upstreams=size)
    for slot in range(size):
        board.upstreams.sessions[0][slot] = 1
    assert house.pool.take() is None
    assert Client(house, 0).join() is None
    house.run(0.12)
    board.upstreams.sessions[0][777] = 0
    house.run(0.12)
    assert house.served == [0]


@pytest.mark.parametrize(("freed", "served"), [(1, [7]), (0, [0])])
def test_who_came_back_goes_first_and_holds_nobody_up(
    board: Board, freed: int, served: list[int]
) -> None:
    """He tried the first of two upstreams, so a place with that one is for the others."""
    house = House(board, 1, upstreams=2)
    board.upstreams.sessions[0][0] = board.upstreams.sessions[0][1] = 1
    clients = [Client(house, 0), Client(house, 1), Client(house, 7, tried=(0,))]
    assert [client.join() for client in clients] == [None] * 3
    board.upstreams.sessions[0][freed] = 0
    house.run(0.12)
    assert house.served == served
    board.upstreams.sessions[0][1 - freed] = 0
    house.run(0.12)
    assert sorted(house.served) == [0, 7]


def test_among_those_who_came_back_nobody_holds_up_who_tried_others(board: Board) -> None:
    """Each of two upstreams has failed for some, who wait for the other one."""
    house = House(board, 1, upstreams=2)
    board.upstreams.sessions[0][0] = board.upstreams.sessions[0][1] = 1
    for name, tried in enumerate([(0,), (0,), (1,), (1,)]):
        assert Client(house, name, tried=tried).join() is None
    board.upstreams.sessions[0][0] = 0
    house.run(0.12)
    assert house.served == [2]
    board.upstreams.sessions[0][1] = 0
    house.run(0.12)
    assert house.served == [2, 0]


def test_a_mistake_in_one_turn_costs_that_session_alone(board: Board) -> None:
    house = House(board, 10)
    board.upstreams.sessions[0][0] = 10
    clients = [Client(house, number, fails=number == 1) for number in range(4)]
    for client in clients:
        client.join()
    board.upstreams.sessions[0][0] = 0
    house.run(0.12)
    assert house.served == [0, 2, 3]
    assert house.failures == [(clients[1], "1")]


def test_what_joining_leaving_and_a_turn_cost_does_not_grow_with_the_queue(board: Board) -> None:
    def cost(size: int) -> list[int]:
        house = House(board, 1)
        board.upstreams.sessions[0][0] = 1
        clients = [Client(house, number) for number in range(size)]
        for client in clients:
            client.join()
        one = Client(house, -1)

        def serve_one() -> None:
            board.upstreams.sessions[0][0] = 0
            house.queue._serve()

        costs = [
            lines_run(one.join),
            lines_run(clients[size // 2].leave),
            lines_run(clients[0].leave),
            lines_run(serve_one),
        ]
        assert house.served == [1]
        assert house.counts[POOL_SLOT] == size - 2
        house.counts[POOL_SLOT] = 0
        return costs

    few, many = cost(10), cost(10_000)
    print(f"lines: {few} among 10, {many} among 10,000")
    # The slot of the next tick is there already, or is made.
    assert all(one <= another + 20 for one, another in zip(many, few, strict=True))
