"""What the kernel does that shapes the relay, and that the relay loses nothing by it."""

from __future__ import annotations

import array
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from relay_rig import (
    KINDS,
    MIXES,
    MODES,
    Reader,
    Rig,
    acknowledged,
    bench,
    bytes_in,
    carry,
    connected,
    parts,
    pattern,
    reset,
    rig,
    write,
)

from spliceproxy.relay.flow import SPLICE_FLAGS
from spliceproxy.relay.means import COPY_SIZE
from spliceproxy.relay.pipes import Pipe

mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)
pipe_modes = pytest.mark.parametrize("mode", ["adaptive", "splice"])
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def pipe() -> Any:
    made = Pipe(65536)
    yield made
    made.close()


@pytest.fixture
def tcp() -> Any:
    """(far, near): what is sent into `far` is spliced from `near`."""
    ends = connected("v4", mss=1460)
    yield ends
    for end in ends:
        end.close()


def fill(near: socket.socket, pipe: Pipe, count: int = 1 << 20) -> int:
    return os.splice(near.fileno(), pipe.write_fd, count, None, None, SPLICE_FLAGS)


# ---------------------------------------------------------------------- facts of the kernel


def test_a_pipe_refuses_by_slots_long_before_it_holds_its_bytes(pipe: Pipe, tcp: Any) -> None:
    far, near = tcp
    for number in range(40):
        far.sendall(pattern(number, 1))
        acknowledged(far)
        try:
            assert fill(near, pipe) == 1
        except BlockingIOError:
            break
    assert bytes_in(near.fileno()) > 0, "EAGAIN, and the socket is not dry"
    assert bytes_in(pipe.read_fd) == 16


def test_a_splice_of_nothing_looks_like_an_end(pipe: Pipe, tcp: Any) -> None:
    far, near = tcp
    far.sendall(b"x")
    acknowledged(far)
    assert fill(near, pipe, 0) == 0


def test_splice_does_not_pass_an_urgent_byte_and_recv_does(pipe: Pipe, tcp: Any) -> None:
    far, near = tcp
    far.sendall(b"abc")
    far.send(b"!", socket.MSG_OOB)
    far.sendall(b"def")
    acknowledged(far)
    assert fill(near, pipe) == 3
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            fill(near, pipe)
    assert near.recv(100) == b"def"


def test_splice_tells_an_end_with_bytes_behind_an_urgent_one(pipe: Pipe, tcp: Any) -> None:
    far, near = tcp
    far.sendall(b"abc")
    far.send(b"!", socket.MSG_OOB)
    far.sendall(b"def")
    far.shutdown(socket.SHUT_WR)
    acknowledged(far)
    assert fill(near, pipe) == 3
    assert fill(near, pipe) == 0
    assert near.recv(100) == b"def"
    assert near.recv(100) == b""


def test_a_reset_is_told_once_after_what_came_before_it(pipe: Pipe, tcp: Any) -> None:
    far, near = tcp
    far.sendall(b"abc")
    acknowledged(far)
    reset(far)
    assert fill(near, pipe) == 3
    with pytest.raises(ConnectionResetError):
        fill(near, pipe)
    assert fill(near, pipe) == 0
    assert near.recv(1) == b""


# ---------------------------------------------------------------------- fallbacks of the relay


class Refusing:
    """Stands in for splice: refuses fills, or flushes, with an errno."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, fills: bool) -> None:
        self.number = number
        self.fills = fills
        self.refused = 0
        monkeypatch.setattr(parts.flow, "_splice", self)

    def __call__(self, src: int, dst: int, count: int, *rest: Any) -> int:
        is_fill = "pipe" in str(Path(f"/proc/self/fd/{dst}").readlink())
        if is_fill == self.fills:
            self.refused += 1
            raise OSError(self.number, os.strerror(self.number))
        return os.splice(src, dst, count, *rest)


@pipe_modes
@mixes
@pytest.mark.parametrize("fills", [True, False])
def test_sockets_that_cannot_be_spliced_are_copied_without_a_loss(
    monkeypatch: pytest.MonkeyPatch, client: str, upstream: str, mode: str, fills: bool
) -> None:
    # UNIX sockets of older kernels: EINVAL, with the bytes in the pipe already where a flush fails.
    refusing = Refusing(monkeypatch, errno.EINVAL, fills)
    with rig(client, upstream, mode, upstream_buffers=32768) as r:
        reader = Reader(r.upstream)
        for start in range(0, 1_500_000, 300_000):
            carry(r.bench, r.client, reader, pattern(start, 300_000))
        r.client.shutdown(socket.SHUT_WR)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == pattern(0, 1_500_000)
        assert r.up.spliced == 0
    assert refusing.refused


@pipe_modes
@mixes
def test_a_socket_on_which_splice_says_eagain_for_ever_is_copied(
    monkeypatch: pytest.MonkeyPatch, client: str, upstream: str, mode: str
) -> None:
    # So it is behind an eBPF verdict program of somebody else.
    Refusing(monkeypatch, errno.EAGAIN, True)
    with rig(client, upstream, mode) as r:
        reader = Reader(r.upstream)
        carry(r.bench, r.client, reader, pattern(0, 700_000))
        assert r.bench.wakes() <= 3
        r.client.shutdown(socket.SHUT_WR)
        assert reader.read_to_end(r.bench) == "fin"


@modes
@pytest.mark.parametrize("upstream", KINDS)
def test_messages_that_carry_fds_end_a_recv_early_and_lose_nothing(
    upstream: str, mode: str
) -> None:
    with rig("unix", upstream, mode) as r, open(os.devnull) as file:
        reader = Reader(r.upstream)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))]
        data = pattern(0, 3000)
        r.client.sendall(data[:1000])
        r.client.sendmsg([data[1000:2000]], rights)
        r.client.sendall(data[2000:])
        r.bench.drive(lambda: (reader.read(), len(reader.data) == 3000)[1], "three messages")
        assert bytes(reader.data) == data


@modes
def test_a_short_recv_ends_a_turn_on_tcp_until_the_source_is_wary(mode: str) -> None:
    with rig("v4", "v4", "copy" if mode == "copy" else "adaptive") as r:
        reader = Reader(r.upstream)
        carry(r.bench, r.client, reader, b"abc")
        assert not r.up.wary
        assert not r.up.readable
        r.client.send(b"!", socket.MSG_OOB)
        carry(r.bench, r.client, reader, b"def")
        assert r.up.wary
        carry(r.bench, r.client, reader, b"ghi")
        assert r.up.wary, "for ever: no event tells what an urgent byte hides"


@modes
def test_an_end_that_came_while_the_flow_was_blocked_is_not_missed(mode: str) -> None:
    # RDHUP comes once, while nothing can be moved; no event repeats it.
    with rig("v4", "unix", mode) as r:
        reader = Reader(r.upstream)
        sent = 0
        while not r.up.held:
            sent += write(r.client, pattern(sent, 1 << 20))
            r.bench.step()
        sent += write(r.client, pattern(sent, 1 << 20))
        r.client.shutdown(socket.SHUT_WR)
        r.bench.settle()
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == pattern(0, sent)


# ---------------------------------------------------------------------- promotion


def test_a_bulk_is_spliced_and_small_messages_after_it_are_copied_again() -> None:
    with rig("v4", "v4", "adaptive") as r:
        reader = Reader(r.upstream)
        carry(r.bench, r.client, reader, b"small")
        assert r.up.spliced == 0
        carry(r.bench, r.client, reader, pattern(0, 2_000_000))
        assert r.up.spliced > 1_000_000
        for _ in range(6):
            carry(r.bench, r.client, reader, b"small")
            r.bench.settle()
        spliced = r.up.spliced
        carry(r.bench, r.client, reader, b"small")
        assert r.up.spliced == spliced, "small messages go through a pipe"
        assert r.bench.pipes.statistics().lent == 0


def test_an_idle_session_holds_no_pipe_in_any_mode() -> None:
    for mode in MODES:
        with bench(mode) as b:
            rigs = [Rig(b, *MIXES[number % 4]) for number in range(8)]
            for r in rigs:
                carry(b, r.client, Reader(r.upstream), pattern(0, 500_000))
            b.settle()
            assert b.pipes.statistics().lent == 0


# ---------------------------------------------------------------------- no pipe to be had


@pipe_modes
@mixes
def test_without_a_pipe_to_be_had_everything_is_copied(
    client: str, upstream: str, mode: str
) -> None:
    with bench(mode, max_pipes=0) as b:
        r = Rig(b, client, upstream, upstream_buffers=32768)
        reader = Reader(r.upstream)
        carry(b, r.client, reader, pattern(0, 2_000_000))
        r.client.shutdown(socket.SHUT_WR)
        assert reader.read_to_end(b) == "fin"
        assert r.up.spliced == 0
        assert b.pipes.statistics().refused > 0


@pipe_modes
def test_fewer_pipes_than_blocked_flows_is_slower_and_no_error(mode: str) -> None:
    with bench(mode, max_pipes=2, pipe_size=65536) as b:
        rigs = [Rig(b, *MIXES[number % 4], upstream_buffers=32768) for number in range(8)]
        sent = [0] * len(rigs)
        for _ in range(20):
            for number, r in enumerate(rigs):
                sent[number] += write(r.client, pattern(sent[number], 200_000))
            b.step()
        assert b.pipes.statistics().lent == 2
        assert all(r.up.held for r in rigs)
        for number, r in enumerate(rigs):
            r.client.shutdown(socket.SHUT_WR)
            reader = Reader(r.upstream)
            assert reader.read_to_end(b) == "fin"
            assert bytes(reader.data) == pattern(0, sent[number])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_no_fd_for_a_pipe_is_no_error(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no_pipe(_flags: int) -> tuple[int, int]:
        raise OSError(number, os.strerror(number))

    with rig("v4", "unix", "splice") as r:
        monkeypatch.setattr(parts.pipes.os, "pipe2", no_pipe)
        reader = Reader(r.upstream)
        carry(r.bench, r.client, reader, pattern(0, 4 * COPY_SIZE))
        assert r.up.spliced == 0
        monkeypatch.undo()
