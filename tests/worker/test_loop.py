"""The worker's loop: order, closing, failures, signals."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from select import EPOLLET, EPOLLIN, EPOLLOUT

import pytest
from harness.fds import same_fds
from harness.wait import wait_until

from spliceproxy.worker.loop import BATCH, Loop


class Stop:
    """A timer that ends a run, so that no test waits for ever."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.slot = 0
        self.rang = 0

    def on_deadline(self, _now: float) -> None:
        self.rang += 1
        self.loop.stop()


class Case:
    """A loop, what failed in it, and sockets that are closed afterwards."""

    def __init__(self) -> None:
        self.failures: list[tuple[object, str]] = []
        self.loop = Loop(lambda owner, error: self.failures.append((owner, str(error))))
        self.heard: list[object] = []
        self._sockets: list[socket.socket] = []

    def pair(self) -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair()
        self._sockets += ends
        return ends

    def ready(self, name: object, then: Callable[[], None] = lambda: None) -> socket.socket:
        """A socket that is readable, whose handler notes `name` and then calls `then`."""
        near, far = self.pair()

        def on_event(_events: int) -> None:
            self.heard.append(name)
            then()

        self.loop.add(near.fileno(), EPOLLIN | EPOLLET, on_event)
        far.sendall(b"x")
        return near

    def turn(self) -> None:
        """One batch, without waiting."""
        self.loop.run_again(self.loop.stop)
        self.loop.run()

    def run(self, seconds: float = 5.0) -> bool:
        """Run until stopped; False where nobody did within `seconds`."""
        stop = Stop(self.loop)
        self.loop.now = time.monotonic()
        self.loop.arm(stop, self.loop.now + seconds)
        self.loop.run()
        self.loop.wheel.disarm(stop)
        return not stop.rang

    def close(self) -> None:
        self.loop.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def case() -> Iterator[Case]:
    with same_fds():
        made = Case()
        yield made
        made.close()


def test_events_of_a_batch_come_before_the_calls_that_were_queued_for_again(case: Case) -> None:
    loop, heard = case.loop, case.heard
    case.ready("a", lambda: loop.run_again(lambda: heard.append("again a")))
    case.ready("b", lambda: loop.run_again(lambda: heard.append("again b")))
    case.turn()
    assert heard == ["a", "b", "again a", "again b"]


def test_what_is_queued_again_by_a_queued_call_waits_for_the_next_batch(case: Case) -> None:
    loop, heard = case.loop, case.heard

    def bulk() -> None:
        heard.append("bulk")
        if heard.count("bulk") == 1:
            case.ready("small")
        if heard.count("bulk") < 3:
            loop.run_again(bulk)
        else:
            loop.stop()

    loop.run_again(bulk)
    loop.run()
    assert heard == ["bulk", "small", "bulk", "bulk"]
    assert loop.batches == 3


def test_a_queued_call_keeps_the_loop_from_waiting(case: Case) -> None:
    case.loop.run_again(case.loop.stop)
    began = time.monotonic()
    case.loop.run()  # nothing is registered: it would wait for ever
    assert time.monotonic() - began < 5
    assert case.loop.batches == 1


def test_more_ready_fds_than_a_batch_holds_are_all_heard(case: Case) -> None:
    count = BATCH + 40
    for number in range(count):
        case.ready(number)
    case.turn()
    assert len(case.heard) == BATCH
    case.turn()
    assert sorted(map(int, case.heard)) == list(range(count))  # type: ignore[call-overload]


def test_a_socket_is_closed_at_the_end_of_the_batch_and_not_before(case: Case) -> None:
    near = case.ready("closes", lambda: case.loop.close_socket_later(near))
    open_then: list[bool] = []
    case.ready("later", lambda: open_then.append(near.fileno() >= 0))
    case.loop.run_again(lambda: open_then.append(near.fileno() >= 0))
    case.turn()
    assert open_then == [True, True]
    assert near.fileno() == -1


def test_an_fd_that_is_about_to_be_closed_hears_nothing_more(case: Case) -> None:
    victim: list[socket.socket] = []
    case.ready("first", lambda: case.loop.close_socket_later(victim[0]))
    victim.append(case.ready("second"))
    case.turn()
    assert case.heard == ["first"]


def test_a_removed_fd_lives_on_and_hears_nothing(case: Case) -> None:
    near, far = case.pair()
    case.loop.add(near.fileno(), EPOLLIN, lambda _: case.heard.append("heard"))
    case.loop.remove(near.fileno())
    far.sendall(b"x")
    case.turn()
    assert case.heard == []
    assert near.recv(1) == b"x"


def test_modify_tells_again_what_is_ready_already(case: Case) -> None:
    near, _far = case.pair()
    case.loop.add(near.fileno(), EPOLLIN | EPOLLET, case.heard.append)
    case.turn()
    assert case.heard == []
    case.loop.modify(near.fileno(), EPOLLIN | EPOLLOUT | EPOLLET)
    case.turn()
    assert case.heard == [EPOLLOUT]


def test_an_fd_beyond_the_table_is_handled_by_the_loop_that_runs(case: Case) -> None:
    near, far = case.pair()
    high = os.dup2(near.fileno(), 900)

    def on_high(_events: int) -> None:
        case.heard.append("high")
        case.loop.stop()

    try:
        case.ready("adds it", lambda: case.loop.add(high, EPOLLIN, on_high))
        far.sendall(b"x")
        assert case.run()
    finally:
        case.loop.remove(high)
        os.close(high)
    assert case.heard == ["adds it", "high"]


class Failing:
    """An owner whose methods fail."""

    slot = 0

    def on_event(self, _events: int) -> None:
        raise ValueError("event")

    def call(self) -> None:
        raise ValueError("call")

    def on_deadline(self, _now: float) -> None:
        raise ValueError("deadline")


def test_a_failing_handler_does_not_lose_the_rest_of_the_batch(case: Case) -> None:
    owner = Failing()
    case.ready("before")
    for _ in range(2):
        near, far = case.pair()
        case.loop.add(near.fileno(), EPOLLIN | EPOLLET, owner.on_event)
        far.sendall(b"x")
    case.ready("after")
    case.loop.run_again(owner.call)
    case.loop.arm(owner, time.monotonic() - 1)
    case.loop.run_again(lambda: case.heard.append("again"))
    wait_until(lambda: time.monotonic() > case.loop.now + 0.06, 5, "the deadline")
    near = case.ready("closed", lambda: case.loop.close_socket_later(near))
    case.turn()
    assert case.heard == ["before", "after", "closed", "again"]
    assert near.fileno() == -1
    assert sorted(text for _, text in case.failures) == ["call", "deadline", "event", "event"]
    assert all(failed is owner for failed, _ in case.failures)


def test_a_failure_may_be_passed_on_by_whoever_is_told_of_it() -> None:
    def give_up(_owner: object, error: Exception) -> None:
        raise error

    loop = Loop(give_up)
    loop.run_again(Failing().call)
    with pytest.raises(ValueError, match="call"):
        loop.run()
    loop.close()


@pytest.fixture
def signals() -> Iterator[None]:
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_signal_wakes_a_loop_that_waits_for_nothing_else(case: Case) -> None:
    case.loop.on_signal(signal.SIGUSR1, case.loop.stop)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    assert case.run(10.0), "the signal was noticed only at the next timeout"
    timer.join()


@pytest.mark.usefixtures("signals")
def test_a_failing_signal_call_does_not_lose_the_next_signal(case: Case) -> None:
    case.loop.on_signal(signal.SIGUSR1, Failing().call)
    case.loop.on_signal(signal.SIGUSR2, lambda: case.heard.append("second"))
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    case.turn()
    assert [text for _, text in case.failures] == ["call"]
    assert case.heard == ["second"]


def test_an_idle_loop_wakes_for_its_timer_alone(case: Case) -> None:
    case.pair()
    assert not case.run(0.3)
    assert case.loop.batches == 1
