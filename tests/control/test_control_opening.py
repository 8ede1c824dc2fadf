"""Binding: groups, conflicts that name their holder, options, and no half-started proxy."""

from __future__ import annotations

import gc
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.fds import open_fds
from unprivileged import as_nobody, needs_root

from spliceproxy import config
from spliceproxy.control.names import resolve_binds
from spliceproxy.control.opening import bind_sockets, let_in
from spliceproxy.control.sockets import ListeningSocket
from spliceproxy.control.systemd import Handed
from spliceproxy.errors import BindError

POOLS = "pools: {app: {upstreams: 127.0.0.1:9}}\n"


@pytest.fixture(autouse=True)
def _no_fd_is_left() -> Iterator[None]:
    gc.collect()  # what earlier tests left in cycles would go meanwhile
    before = open_fds()
    yield
    assert open_fds() == before


def opened(
    stack: ExitStack, listeners: str, workers: int = 2, *handed: Handed
) -> list[ListeningSocket]:
    """Open `listeners`, a YAML mapping, until `stack` ends."""
    loaded = config.loads(f"listeners: {listeners}\n{POOLS}", "test.yaml")
    places = resolve_binds(loaded)
    sockets = bind_sockets(tuple(loaded.listeners.values()), places, workers, handed)
    for one in sockets:
        stack.callback(one.close)
    let_in(sockets)
    return sockets


def problem(listeners: str, *handed: Handed) -> str:
    with ExitStack() as stack, pytest.raises(BindError) as caught:
        opened(stack, listeners, 2, *handed)
    return str(caught.value)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def me() -> str:
    return f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


def test_each_worker_has_a_socket_of_its_own_at_the_same_port(stack: ExitStack) -> None:
    sockets = opened(stack, '{web: {bind: ":0", pool: app}}', workers=3)
    assert [one.owner for one in sockets] == [0, 1, 2, 0, 1, 2]
    assert len({one.sock.getsockname()[1] for one in sockets}) == 1
    assert {one.sock.family for one in sockets} == {socket.AF_INET, socket.AF_INET6}


def test_the_group_spreads_clients_over_its_sockets(stack: ExitStack) -> None:
    sockets = opened(stack, "{web: {bind: 127.0.0.1:0, pool: app}}", workers=2)
    for _ in range(64):
        stack.enter_context(socket.create_connection(sockets[0].sock.getsockname()))
    for one in sockets:
        one.sock.setblocking(False)
    found: Counter[int] = Counter()
    for one in sockets:
        while True:
            try:
                stack.enter_context(one.sock.accept()[0])
            except BlockingIOError:
                break
            found[one.number] += 1
    assert sum(found.values()) == 64
    assert len(found) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0", "[::]"])
def test_a_second_instance_fails_and_reads_who_is_there(stack: ExitStack, host: str) -> None:
    first = opened(stack, f'{{web: {{bind: "{host}:0", pool: app}}}}')
    address = str(first[0])
    text = problem(f'{{web: {{bind: "{address}", pool: app}}}}')
    assert text == f"listeners.web.bind: {address}: in use by {me()}"


def test_a_wildcard_elsewhere_stands_in_the_way_of_an_address(stack: ExitStack) -> None:
    first = opened(stack, "{web: {bind: 0.0.0.0:0, pool: app}}")
    address = f"127.0.0.1:{first[0].sock.getsockname()[1]}"
    text = problem(f"{{web: {{bind: {address}, pool: app}}}}")
    assert text == f"listeners.web.bind: {address}: in use by {me()}"


def test_a_port_in_time_wait_can_be_bound_at_once() -> None:
    with ExitStack() as first:
        sockets = opened(first, "{web: {bind: 127.0.0.1:0, pool: app}}", workers=1)
        address = sockets[0].sock.getsockname()
        with socket.create_connection(address) as client:
            # The side that closes first keeps the connection in TIME_WAIT.
            sockets[0].sock.accept()[0].close()
            assert client.recv(1) == b""
    with ExitStack() as second:
        opened(second, f"{{web: {{bind: 127.0.0.1:{address[1]}, pool: app}}}}")


def test_all_problems_are_told_at_once_and_nothing_stays_bound(
    stack: ExitStack, tmp_path: Path
) -> None:
    taken = opened(stack, "{web: {bind: 127.0.0.1:0, pool: app}}")[0]
    path = tmp_path / "good.sock"
    text = problem(
        f"{{a: {{bind: [unix:{path}, 192.0.2.1:80], pool: app}}, b: {{bind: {taken}, pool: app}},"
        f" c: {{bind: unix:{tmp_path}/no/such.sock, pool: app}}}}"
    )
    first, second, third = text.splitlines()
    assert first == (
        "listeners.a.bind: 192.0.2.1:80: no interface of this machine has this address; "
        "`ip address` lists them, and sysctl net.ipv4.ip_nonlocal_bind=1 allows one that comes "
        "later"
    )
    assert second == f"listeners.b.bind: {taken}: in use by {me()}"
    missing = tmp_path / "no"
    assert third == (
        f"listeners.c.bind: unix:{missing}/such.sock: the directory {missing} does not exist"
    )
    assert not path.exists()


@needs_root
def test_a_privileged_port_names_the_capability_and_its_remedies() -> None:
    def check() -> None:
        assert problem("{web: {bind: 127.0.0.1:81, pool: app}}") == PRIVILEGED_PORT

    as_nobody(check)


PRIVILEGED_PORT = (
    "listeners.web.bind: 127.0.0.1:81: not permitted: port 81 is privileged; it needs "
    "CAP_NET_BIND_SERVICE: AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit, or "
    "--cap-add NET_BIND_SERVICE for a container; or sysctl net.ipv4.ip_unprivileged_port_start=81"
)


def test_an_unknown_interface_is_named_with_its_key() -> None:
    text = problem("{web: {bind: 127.0.0.1:0, pool: app, tcp: {interface: nosuch0}}}")
    assert text == "listeners.web.tcp.interface: nosuch0: no such interface; `ip link` lists them"


def test_the_file_of_a_dead_process_is_replaced_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with ExitStack() as stack:
        (one,) = opened(stack, f"{{web: {{bind: unix:{path}, pool: app}}}}")
        assert one.shared
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_the_file_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as successor:
        opened(stack, f"{{web: {{bind: unix:{path}, pool: app}}}}")
        path.unlink()
        successor.bind(str(path))
        stack.close()
        assert path.exists()


@pytest.mark.parametrize("name", ["path", "abstract"])
def test_a_living_unix_socket_is_in_use(stack: ExitStack, tmp_path: Path, name: str) -> None:
    address = f"unix:{tmp_path}/s" if name == "path" else f'"unix:@{tmp_path.name}"'
    opened(stack, f"{{web: {{bind: {address}, pool: app}}}}")
    text = problem(f"{{web: {{bind: {address}, pool: app}}}}")
    plain = address.strip('"')
    assert text == f"listeners.web.bind: {plain}: in use by {me()}"


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    text = problem(f"{{web: {{bind: unix:{path}, pool: app}}}}")
    assert text.endswith("precious: a file that is no socket is in the way")
    assert path.read_text() == "data"


def test_clients_inherit_the_options_of_the_listening_socket(stack: ExitStack) -> None:
    tcp = (
        "{keepalive: {idle: 7s, interval: 3s, count: 4}, user_timeout: 1500ms,"
        " buffers: {receive: 64KiB}, nodelay: true}"
    )
    (one,) = opened(stack, f"{{web: {{bind: 127.0.0.1:0, pool: app, tcp: {tcp}}}}}", 1)
    stack.enter_context(socket.create_connection(one.sock.getsockname()))
    client = stack.enter_context(one.sock.accept()[0])

    def option(name: int) -> int:
        return client.getsockopt(socket.IPPROTO_TCP, name)

    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert option(socket.TCP_KEEPIDLE) == 7
    assert option(socket.TCP_KEEPINTVL) == 3
    assert option(socket.TCP_KEEPCNT) == 4
    assert option(socket.TCP_USER_TIMEOUT) == 1500
    assert option(socket.TCP_NODELAY) == 1
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 64 * 1024


def handed(name: str, address: tuple[str, int] = ("127.0.0.1", 0)) -> Handed:
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    if address[0] == "::":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(address)
    sock.listen()
    return Handed(name, sock)


def test_a_handed_socket_with_the_name_of_a_listener_replaces_its_bind(stack: ExitStack) -> None:
    one = handed("web")
    port = one.sock.getsockname()[1]
    sockets = opened(stack, "{web: {bind: 192.0.2.1:80, pool: app}}", 3, one)
    assert [s.owner for s in sockets] == [0, 1, 2]
    assert [s.handed for s in sockets] == [True, False, False]
    assert {s.sock.getsockname()[1] for s in sockets} == {port}


@needs_root
def test_a_handed_socket_of_another_user_grows_a_group_where_we_may(stack: ExitStack) -> None:
    one = handed("web")
    os.fchown(one.sock.fileno(), 65534, -1)
    sockets = opened(stack, "{web: {bind: 192.0.2.1:80, pool: app}}", 2, one)
    assert [s.owner for s in sockets] == [0, 1]


@needs_root
def test_a_handed_socket_of_another_user_is_shared_where_we_may_not(stack: ExitStack) -> None:
    one = handed("web")

    def check() -> None:
        sockets = opened(stack, "{web: {bind: 192.0.2.1:80, pool: app}}", 2, one)
        assert [s.owner for s in sockets] == [None]

    with one.sock:
        as_nobody(check)


def test_a_handed_socket_is_recognised_by_its_address(stack: ExitStack) -> None:
    one = handed("")
    address = one.sock.getsockname()
    sockets = opened(stack, f"{{web: {{bind: 127.0.0.1:{address[1]}, pool: app}}}}", 1, one)
    assert [s.sock for s in sockets] == [one.sock]


def test_a_handed_wildcard_that_takes_ipv4_too_serves_both(stack: ExitStack) -> None:
    one = handed("", ("::", 0))
    port = one.sock.getsockname()[1]
    sockets = opened(stack, f'{{web: {{bind: ":{port}", pool: app}}}}', 2, one)
    assert [s.owner for s in sockets] == [0, 1]
    found = set()
    for _ in range(32):
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    for s in sockets:
        s.sock.setblocking(False)
        try:
            stack.enter_context(s.sock.accept()[0])
            found.add(s.owner)
        except BlockingIOError:
            pass
    assert found == {0, 1}


def test_a_handed_socket_for_nobody_is_an_error() -> None:
    one = handed("wbe")
    text = problem("{web: {bind: 127.0.0.1:0, pool: app}}", one)
    assert text.startswith("the socket wbe at 127.0.0.1:")
    assert "no listener has this name or address; FileDescriptorName=" in text


def test_a_handed_unix_socket_is_shared_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    with ExitStack() as stack:
        sockets = opened(stack, "{web: {bind: 192.0.2.1:80, pool: app}}", 2, Handed("web", sock))
        assert [s.owner for s in sockets] == [None]
    assert path.exists()


def test_a_handed_socket_that_does_not_listen_is_an_error() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    text = problem("{web: {bind: 127.0.0.1:0, pool: app}}", Handed("web", sock))
    assert text.endswith("that systemd handed over: not a listening stream socket")
