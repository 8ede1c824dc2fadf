"""What the tests of sessions share: configurations, whole records, and looks into a worker."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import harness.proxy
import pytest
from harness.fds import context_switches, open_fds
from harness.proxy import Proxy
from harness.wait import wait_until

from spliceproxy.telemetry.board import Board
from spliceproxy.telemetry.record import FIELDS

Record = dict[str, Any]

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_PIDFD_GETFD = 438
_CLONE_NEWNET = 0x40000000


def proxy_yaml(
    *upstreams: object,
    bind: object = "127.0.0.1:0",
    pool: dict[str, Any] | None = None,
    listener: dict[str, Any] | None = None,
    **top: Any,
) -> str:
    """A configuration with the listener `web` and the pool `app`, and more keys for each level."""
    keys = {
        "listeners": {"web": {"bind": bind, "pool": "app", **(listener or {})}},
        "pools": {"app": {"upstreams": list(upstreams), **(pool or {})}},
        **top,
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items())


@contextmanager
def running_proxy(yaml_text: str, **how: Any) -> Iterator[Proxy]:
    """The harness's, ended by SIGINT: no draining, which is not the matter of these tests."""
    with harness.proxy.running_proxy(yaml_text, **how) as proxy:
        yield proxy
        if proxy.process.poll() is None:
            proxy.signal(signal.SIGINT)
        proxy.wait()


@contextmanager
def board_of(proxy: Proxy, workers: int) -> Iterator[Board]:
    """The running proxy's own board, as its supervisor has it."""
    number = next(fd for fd, target in open_fds(proxy.pid).items() if "spliceproxy-board" in target)
    fd = os.open(f"/proc/{proxy.pid}/fd/{number}", os.O_RDWR)
    try:
        yield Board(fd, workers)
    finally:
        os.close(fd)


def name_of(sock: socket.socket) -> str:
    """The socket's own address in the record's words."""
    return _text(sock.getsockname())


def _text(name: Any) -> str:
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return "unix:" + os.fsdecode(name).replace("\0", "@", 1)


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send `data` to an echo, and wait for all of it to come back."""
    sock.sendall(data)
    back = b""
    while len(back) < len(data) and (more := sock.recv(65536)):
        back += more
    return back


def read_until_reset(sock: socket.socket) -> bytes:
    """What comes before the reset. Fails where the stream ends by FIN."""
    data = bytearray()
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            return bytes(data)
        assert more, f"FIN instead of a reset, after {len(data)} bytes"
        data += more


def expect_refusal(proxy: Proxy, listener: str = "web") -> None:
    """Be a client that gets a reset and no byte; it may come before connect() has returned."""
    try:
        with proxy.connect(listener) as client:
            assert read_until_reset(client) == b""
    except ConnectionResetError:
        pass


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer's kernel does not have yet (on UNIX: that the peer has not read)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def wait_broken(sock: socket.socket, timeout: float = 10.0) -> None:
    """Wait for the peer's reset. After its FIN no recv tells it, only poll does."""
    poll = select.poll()
    poll.register(sock, 0)  # POLLERR and POLLHUP are always told
    assert poll.poll(timeout * 1000), "no reset"


def check_record(record: Record, **expected: Any) -> None:
    """Compare a record in full: `expected`, defaults for what it leaves out, and what is measured.

    `local` and `peer` (which is `client` too) are checked where they are expected.
    """
    known = {
        **dict.fromkeys(("route", "queue_ms", "tls_ms", "tls_version", "tls_error", "sni", "alpn")),
        **dict.fromkeys(("bytes_up", "bytes_down", "spliced_up", "spliced_down", "retries"), 0),
        "worker": 0,
        "listener": "web",
        "pool": "app",
        "phase": "relay",
        **expected,
    }
    if "peer" in known:
        known["client"] = known["peer"]
    assert set(record) == set(FIELDS)
    differing = {key: record[key] for key in known if record[key] != known[key]}
    assert not differing, f"expected { {key: known[key] for key in differing} }, got {differing}"
    _check_measures(record)


def _check_measures(record: Record) -> None:
    assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]{8}-[0-9a-f]+", record["session"])
    age = datetime.now().timestamp() - datetime.fromisoformat(record["start"]).timestamp()
    assert -1 < age < 120
    assert 0 <= record["duration_ms"] <= (age + 1) * 1000
    relayed = record["phase"] == "relay"
    assert (record["connect_ms"] is not None) == relayed
    assert not relayed or 0 <= record["connect_ms"] <= record["duration_ms"]
    assert (record["first_byte_ms"] is not None) == (record["bytes_down"] > 0)
    assert not record["bytes_down"] or 0 <= record["first_byte_ms"] <= record["duration_ms"]
    for side, text in (("client", record["peer"]), ("upstream", record["upstream"] or "")):
        on_tcp = not text.startswith("unix:") and (side == "client" or relayed)
        retrans = record[f"{side}_retrans"]
        assert (retrans is not None) == on_tcp, f"{side}_retrans: {retrans}"
        assert on_tcp or record[f"{side}_rtt_us"] is None


def send_one_by_one(client: socket.socket, data: bytes, worker: int) -> int:
    """Send each byte once the worker sleeps again. Returns how often it woke meanwhile, but for
    the wakes of its timers, of which there may be 25 in a second.

    TCP makes one segment of bytes that wait for an acknowledgement: there come some dozens of them.
    """
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stat = Path(f"/proc/{worker}/stat")
    before, began = context_switches(worker), time.monotonic()
    for n in range(len(data)):
        client.sendall(data[n : n + 1])
        deadline = time.monotonic() + 10
        while stat.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, "the worker does not sleep"
    return context_switches(worker) - before - round(25 * (time.monotonic() - began))


def one_record(proxy: Proxy, timeout: float = 10.0) -> Record:
    """The only session's record."""
    [record] = proxy.wait_records(1, timeout)
    return record


@contextmanager
def worker_sockets(pid: int) -> Iterator[list[socket.socket]]:
    """Duplicates of a process's IP sockets: pidfd_getfd(2). Their options are the process's."""
    with ExitStack() as stack:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        found = []
        for fd, target in open_fds(pid).items():
            if not target.startswith("socket:"):
                continue
            copy = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
            if copy < 0:
                code = ctypes.get_errno()
                pytest.skip(f"pidfd_getfd: {os.strerror(code)}")
            sock = stack.enter_context(socket.socket(fileno=copy))
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                found.append(sock)
        yield found


def session_sockets(pid: int, port: int) -> int:
    """How many sockets a process has that are connected from or to `port`."""
    with worker_sockets(pid) as socks:
        return sum(port in (s.getsockname()[1], peer_port(s)) for s in socks if peer_port(s))


def peer_port(sock: socket.socket) -> int:
    """The peer's port; 0 where the socket has no peer."""
    with suppress(OSError):
        return int(sock.getpeername()[1])
    return 0


def set_nofile(pid: int, limit: int) -> None:
    """Change a running process's soft limit of fds; the hard one stays."""
    subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={limit}:"], check=True)


def count_sockets(pid: int) -> int:
    """How many sockets of any kind a process has."""
    return sum(target.startswith("socket:") for target in open_fds(pid).values())


def wait_sockets(pid: int, more_than: int, what: str) -> None:
    """Wait until a process has more than so many sockets."""
    wait_until(lambda: count_sockets(pid) > more_than, 10, what)


@contextmanager
def private_network(**ipv4: str) -> Iterator[None]:
    """A network namespace for this thread, and for what it starts or opens inside.

    It has a loopback interface and nothing else; `ipv4` sets sysctls of net.ipv4.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"unshare: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            set_sysctl(**ipv4)
            yield
        finally:
            assert not _libc.setns(before, _CLONE_NEWNET)
    finally:
        os.close(before)


def set_sysctl(**ipv4: str) -> None:
    """Set sysctls of net.ipv4 in this thread's network namespace."""
    for key, value in ipv4.items():
        Path(f"/proc/sys/net/ipv4/{key}").write_text(value)
