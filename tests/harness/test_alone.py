"""The room of the tests: many may share it, or one has it alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from harness.alone import Room
from harness.wait import wait_until

FLOCK = {"x86_64": "73", "aarch64": "32"}[os.uname().machine]
"""The number of flock(2)."""


class Guest(threading.Thread):
    """Somebody who goes in, and stays until sent out."""

    def __init__(self, way_in: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(daemon=True)
        self._way_in = way_in
        self.inside = threading.Event()
        self.sent_out = threading.Event()
        self.start()

    def run(self) -> None:
        with self._way_in():
            self.inside.set()
            self.sent_out.wait()

    def leave(self) -> None:
        self.sent_out.set()
        self.join(10)
        assert not self.is_alive()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Callable[[], Room]]:
    """Makes a process's view of one room; locks of one open file exclude nobody in a process."""
    door = tmp_path / "door"
    door.mkdir()
    with ExitStack() as stack:

        def make() -> Room:
            made = Room(door, tmp_path)
            stack.callback(made.close)
            return made

        yield make


def waiting(guest: Guest) -> bool:
    """Whether the kernel says that this thread waits for a lock."""
    return Path(f"/proc/self/task/{guest.native_id}/syscall").read_text().split()[0] == FLOCK


def test_many_share_the_room(room: Callable[[], Room]) -> None:
    guests = [Guest(room().shared) for _ in range(3)]
    assert all(guest.inside.wait(10) for guest in guests)
    for guest in guests:
        guest.leave()


def test_one_that_is_to_be_alone_waits_for_all_and_those_who_come_later_for_it(
    room: Callable[[], Room],
) -> None:
    early = [Guest(room().shared) for _ in range(2)]
    assert all(guest.inside.wait(10) for guest in early)
    alone = Guest(room().alone)
    wait_until(lambda: waiting(alone), 10, "it to wait")
    late = Guest(room().shared)
    wait_until(lambda: waiting(late), 10, "the late one to wait")
    early[0].leave()
    wait_until(lambda: waiting(alone), 10, "it to wait on")  # an unlock wakes it for a moment
    assert not alone.inside.is_set()
    early[1].leave()
    assert alone.inside.wait(10)
    assert not late.inside.is_set()
    alone.leave()
    assert late.inside.wait(10)
    late.leave()


def test_two_are_alone_one_after_the_other(room: Callable[[], Room]) -> None:
    first = Guest(room().alone)
    assert first.inside.wait(10)
    second = Guest(room().alone)
    wait_until(lambda: waiting(second), 10, "it to wait")
    first.leave()
    assert second.inside.wait(10)
    second.leave()
