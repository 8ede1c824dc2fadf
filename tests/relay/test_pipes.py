"""The pool of pipes: its budgets, its refusals, and what it does with pipes that are in use."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Any

import pytest
from harness.fds import same_fds

from spliceproxy.relay import pipes as module
from spliceproxy.relay.pipes import DEFAULT_SIZE, PAGE, REFUSALS_SKIPPED, PipePool

MIB = 1 << 20


@pytest.fixture(autouse=True)
def no_fd_left() -> Iterator[None]:
    with same_fds():
        yield


def lend(pool: PipePool, count: int) -> list[Any]:
    pipes = [pool.lend() for _ in range(count)]
    return [pipe for pipe in pipes if pipe is not None]


def give_back(pool: PipePool, pipes: list[Any]) -> None:
    for pipe in pipes:
        pool.take_back(pipe)
    pool.close()
    assert pool.owned == 0


def test_a_pipe_that_was_given_back_is_lent_again() -> None:
    pool = PipePool(MIB, 4)
    first = pool.lend()
    assert first is not None
    assert first.size == MIB
    assert os.get_blocking(first.read_fd) is os.get_blocking(first.write_fd) is False
    pool.take_back(first)
    assert pool.lend() is first
    assert pool.statistics() == module.PipeStatistics(lent=1, pooled=0, made=1, refused=0)
    give_back(pool, [first])


def test_no_more_pipes_than_allowed_exist() -> None:
    pool = PipePool(65536, 3)
    pipes = lend(pool, 10)
    assert len(pipes) == pool.owned == 3
    assert pool.statistics().refused == 7
    give_back(pool, pipes)


def test_a_discarded_pipe_makes_room_at_once() -> None:
    pool = PipePool(65536, 1)
    [pipe] = lend(pool, 2)
    pool.discard(pipe)
    assert pipe.read_fd == pipe.write_fd == -1
    [another] = lend(pool, 1)
    assert pool.statistics().made == 2
    give_back(pool, [another])


def test_past_the_budget_of_pages_pipes_are_of_the_default_size_and_then_refused() -> None:
    pages = MIB // PAGE + 2 * (DEFAULT_SIZE // PAGE)
    pool = PipePool(MIB, 100, pages)
    pipes = lend(pool, 10)
    assert [pipe.size for pipe in pipes] == [MIB, DEFAULT_SIZE, DEFAULT_SIZE]
    for pipe in pipes:
        pool.discard(pipe)
    again = lend(pool, 10)
    assert [pipe.size for pipe in again] == [MIB, DEFAULT_SIZE, DEFAULT_SIZE]
    give_back(pool, again)


def refused_size(monkeypatch: pytest.MonkeyPatch, granted: int) -> None:
    """The kernel's answer to a user who is past fs.pipe-user-pages-soft."""
    real = fcntl.fcntl

    def fake(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            real(fd, command, granted)
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(fd, command, argument)

    monkeypatch.setattr(module.fcntl, "fcntl", fake)


def test_a_smaller_pipe_than_asked_for_is_taken_and_counted_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused_size(monkeypatch, DEFAULT_SIZE)
    pool = PipePool(MIB, 4, 3 * MIB // PAGE)
    pipes = lend(pool, 4)
    assert [pipe.size for pipe in pipes] == [DEFAULT_SIZE] * 4
    give_back(pool, pipes)


@pytest.mark.parametrize("pages", [1, 2])
def test_tiny_pipes_are_refused_and_the_kernel_is_not_asked_at_each_loan(
    monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    refused_size(monkeypatch, pages * PAGE)
    asked = 0
    real = os.pipe2

    def counted(flags: int) -> tuple[int, int]:
        nonlocal asked
        asked += 1
        return real(flags)

    monkeypatch.setattr(module.os, "pipe2", counted)
    pool = PipePool(MIB, 4)
    assert lend(pool, 3 * (REFUSALS_SKIPPED + 1)) == []
    assert asked == 3
    assert pool.owned == 0
    assert pool.statistics().refused == 3 * (REFUSALS_SKIPPED + 1)
