"""Connecting: which failures cost an upstream its turn, which are ours, and what is tried next."""

from __future__ import annotations

import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from harness import upstreams
from harness.fds import open_fds
from harness.load import read_to_end
from harness.serving import HOLD, Upstream, serving
from harness.serving import reset as send_reset
from harness.wait import wait_until
from session_support import (
    Record,
    check_record,
    count_sockets,
    exchange,
    expect_refusal,
    name_of,
    one_record,
    private_network,
    proxy_yaml,
    read_until_reset,
    running_proxy,
    set_nofile,
    set_sysctl,
    wait_sockets,
)

IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h


@contextmanager
def missing_path() -> Iterator[upstreams.Address]:
    """A UNIX path that does not exist."""
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.bind(f"{directory}/gone")
        address = upstreams.Address(sock)
    yield address


REFUSING = {
    "v4": lambda: upstreams.refuse("v4"),
    "v6": lambda: upstreams.refuse("v6"),
    "unix": lambda: upstreams.refuse("unix"),
    "missing path": missing_path,
}


@pytest.mark.parametrize("kind", REFUSING)
def test_a_refusing_upstream_costs_a_try_and_another_one_serves(kind: str) -> None:
    with (
        REFUSING[kind]() as refusing,
        upstreams.echo() as echo,
        running_proxy(proxy_yaml(refusing.address, echo.address)) as proxy,
    ):
        for _ in range(2):  # at least one of two sessions begins with the refusing one
            with proxy.connect("web") as client:
                assert exchange(client, b"ping") == b"ping"
        records = proxy.wait_records(2)
    assert any(record["retries"] for record in records)
    for record in records:
        check_record(
            record,
            upstream=echo.address,
            retries=record["retries"],
            bytes_up=4,
            bytes_down=4,
            closed_by="client",
            how="fin",
            why="done",
        )
        assert record["retries"] <= 1


def test_each_upstream_is_tried_once_at_most_and_then_the_client_gets_a_reset() -> None:
    with ExitStack() as stack:
        refusing = [stack.enter_context(REFUSING[kind]()).address for kind in REFUSING]
        proxy = stack.enter_context(running_proxy(proxy_yaml(*refusing, pool={"retries": 10})))
        expect_refusal(proxy)
        record = one_record(proxy)
    assert record["upstream"] in refusing
    check_record(
        record,
        upstream=record["upstream"],
        retries=len(refusing) - 1,
        phase="connect",
        closed_by="proxy",
        how="reset",
        why="connect_refused",
    )


def test_without_retries_the_first_failure_is_the_last() -> None:
    with (
        upstreams.refuse() as refusing,
        upstreams.echo() as echo,
        running_proxy(proxy_yaml(refusing.address, echo.address, pool={"retries": 0})) as proxy,
    ):
        served = []
        for _ in range(4):
            try:
                with proxy.connect("web") as client:
                    served.append(exchange(client, b"ping") == b"ping")
            except ConnectionResetError:
                served.append(False)
        records = proxy.wait_records(4)
    assert served in ([True, False] * 2, [False, True] * 2)
    assert Counter(record["why"] == "done" for record in records) == Counter(served)
    for record in records:
        failed = record["why"] != "done"
        assert record["why"] == ("connect_refused" if failed else "done")
        assert record["upstream"] == (refusing.address if failed else echo.address)
        assert record["retries"] == 0


def test_retries_is_a_number_of_further_upstreams() -> None:
    with ExitStack() as stack:
        refusing = [stack.enter_context(upstreams.refuse()).address for _ in range(4)]
        proxy = stack.enter_context(running_proxy(proxy_yaml(*refusing, pool={"retries": 2})))
        expect_refusal(proxy)
        assert one_record(proxy)["retries"] == 2


def test_an_upstream_of_weight_0_is_not_even_the_last_resort() -> None:
    with (
        upstreams.refuse() as refusing,
        upstreams.echo() as echo,
        running_proxy(
            proxy_yaml(refusing.address, {"address": echo.address, "weight": 0})
        ) as proxy,
    ):
        expect_refusal(proxy)
        record = one_record(proxy)
    assert (record["why"], record["retries"]) == ("connect_refused", 0)
    assert echo.accepted == 0


def test_a_client_that_resets_while_connecting_ends_the_search_at_once() -> None:
    with (
        upstreams.refuse() as refusing,
        upstreams.blackhole() as silent,
        running_proxy(
            proxy_yaml(
                {"address": refusing.address, "weight": 256},
                silent.address,
                pool={"timeouts": {"connect": "60s"}},
            )
        ) as proxy,
    ):
        [pid] = proxy.worker_pids()
        idle = count_sockets(pid)
        records: list[Record] = []
        for number in range(1, 3):  # at least one of two begins with the refusing one
            client = proxy.connect("web")
            wait_sockets(pid, idle + 1, "the session's two sockets")
            send_reset(client)
            records = proxy.wait_records(number)
            wait_until(lambda: count_sockets(pid) == idle, 5, "all sockets to be closed")
    tried_both = [record for record in records if record["retries"]]
    assert tried_both, "the tries count, also where none of them succeeded"
    check_record(
        tried_both[0],
        upstream=silent.address,
        retries=1,
        phase="connect",
        closed_by="client",
        how="reset",
        why="client_reset",
    )


def test_what_a_client_sent_and_finished_before_the_connect_arrives() -> None:
    with (
        upstreams.blackhole() as silent,
        upstreams.sink() as sink,
        running_proxy(
            proxy_yaml(
                {"address": silent.address, "weight": 256},
                sink.address,
                pool={"timeouts": {"connect": "200ms"}},
            )
        ) as proxy,
        proxy.connect("web") as client,
    ):
        client.sendall(b"early")
        client.shutdown(socket.SHUT_WR)
        assert len(read_to_end(client)) == 64
        record = one_record(proxy)
    assert [size for size, _digest in sink.results] == [5]
    assert (record["why"], record["closed_by"], record["bytes_up"]) == ("done", "client", 5)


def test_an_unreachable_network_costs_a_try_and_another_upstream_serves() -> None:
    with private_network(), upstreams.echo() as echo:
        text = proxy_yaml(
            {"address": "192.0.2.1:80", "weight": 256}, echo.address, bind="unix:@unreachable-test"
        )
        with running_proxy(text) as proxy:
            for _ in range(2):
                with proxy.connect("web") as client:
                    assert exchange(client, b"ping") == b"ping"
            records = proxy.wait_records(2)
    assert {record["upstream"] for record in records} == {echo.address}
    assert any(record["retries"] for record in records)


SELF = "127.0.0.1:40001"


@contextmanager
def only_port() -> Iterator[None]:
    """The only ephemeral port is that of SELF: the kernel picks it as the source too."""
    with private_network(ip_local_port_range="40001 40001"):
        yield


def test_a_dead_upstream_that_connects_to_itself_is_refused() -> None:
    with only_port(), running_proxy(proxy_yaml(SELF, bind="unix:@self-test")) as proxy:
        with proxy.connect("web") as client:
            assert client.recv(1) == b""
        record = one_record(proxy)
    check_record(
        record,
        upstream=SELF,
        phase="connect",
        closed_by="proxy",
        how="reset",
        why="connect_refused",
    )


def test_after_an_upstream_that_connects_to_itself_another_one_serves() -> None:
    with only_port(), upstreams.echo("unix") as echo:
        dead = {"address": SELF, "weight": 256}
        with running_proxy(proxy_yaml(dead, echo.address, bind="unix:@self-test")) as proxy:
            for _ in range(2):
                with proxy.connect("web") as client:
                    assert exchange(client, b"ping") == b"ping"
            records = proxy.wait_records(2)
    assert {record["upstream"] for record in records} == {echo.address}
    assert any(record["retries"] for record in records)


@contextmanager
def full_unix_socket() -> Iterator[tuple[str, socket.socket]]:
    """An address, and its listening socket, whose backlog has no room."""
    with ExitStack() as stack:
        path = stack.enter_context(tempfile.TemporaryDirectory()) + "/socket"
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        listening.listen(0)
        listening.settimeout(10)
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(path)
        yield f"unix:{path}", listening


def test_a_full_unix_socket_is_waited_for_and_then_serves() -> None:
    with full_unix_socket() as (address, listening), running_proxy(proxy_yaml(address)) as proxy:
        [pid] = proxy.worker_pids()
        idle = count_sockets(pid)
        with proxy.connect("web") as client:
            client.sendall(b"patience")
            wait_sockets(pid, idle, "the client's socket")
            assert not proxy.records()
            listening.accept()[0].close()  # makes room, and brings the proxy no event
            with listening.accept()[0] as upstream:
                assert upstream.recv(100) == b"patience"
                upstream.sendall(b"rewarded")
            assert read_to_end(client) == b"rewarded"
        record = one_record(proxy)
    check_record(
        record,
        upstream=address,
        bytes_up=8,
        bytes_down=8,
        closed_by="upstream",
        how="fin",
        why="done",
    )


def test_a_unix_socket_that_stays_full_is_a_connect_timeout() -> None:
    with (
        full_unix_socket() as (address, _listening),
        running_proxy(proxy_yaml(address, pool={"timeouts": {"connect": "300ms"}})) as proxy,
        proxy.connect("web") as client,
    ):
        assert read_until_reset(client) == b""
        record = one_record(proxy)
    assert record["duration_ms"] >= 300
    assert (record["why"], record["phase"]) == ("connect_timeout", "connect")


def tell_peer_and_hold(sock: socket.socket, upstream: Upstream) -> object:
    """Tell the peer its own address, and leave the connection open."""
    upstream.results.append(sock.getpeername()[:2])
    sock.sendall(b"!")
    return HOLD


def fill(proxy_connect: object, stack: ExitStack, number: int) -> int:
    """Open up to `number` sessions that stay; how many were served before one was refused."""
    for served in range(number):
        client = stack.enter_context(proxy_connect("web"))  # type: ignore[operator]
        if client.recv(1) != b"!":
            return served
    return number


def test_several_sources_share_the_sessions_and_each_port_serves_every_upstream() -> None:
    with private_network(), ExitStack() as stack:
        one = stack.enter_context(serving("v4", tell_peer_and_hold))
        two = stack.enter_context(serving("v4", tell_peer_and_hold))
        # Two ports for two sources and two upstreams: eight sessions. A bind() that reserves the
        # port before the upstream is known would allow four.
        set_sysctl(ip_local_port_range="40001 40002")
        text = proxy_yaml(
            one.address,
            two.address,
            bind="unix:@sources-test",
            pool={"tcp": {"source": ["127.0.0.2", "127.0.0.3"]}},
        )
        proxy = stack.enter_context(running_proxy(text))
        assert fill(proxy.connect, stack, 9) == 8
        record = one_record(proxy)
        wait_until(lambda: len(one.results) + len(two.results) == 8, 5, "eight connections")
    places = [(host, port) for host in ("127.0.0.2", "127.0.0.3") for port in (40001, 40002)]
    assert sorted(one.results) == sorted(two.results) == places
    check_record(
        record,
        peer="unix:",
        local="unix:@sources-test",
        upstream=record["upstream"],
        retries=1,
        phase="connect",
        closed_by="proxy",
        how="reset",
        why="no_source_port",
    )


def test_a_source_that_has_no_port_left_is_replaced_by_the_next() -> None:
    with private_network(), ExitStack() as stack:
        upstream = stack.enter_context(serving("v4", tell_peer_and_hold))
        set_sysctl(ip_local_port_range="40001 40002")
        for _ in range(2):  # somebody else has both ports of the first source to this upstream
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            taken.bind(("127.0.0.2", 0))
            taken.connect(upstream.name)
        text = proxy_yaml(
            upstream.address,
            bind="unix:@next-source-test",
            pool={"tcp": {"source": ["127.0.0.2", "127.0.0.3"]}},
        )
        proxy = stack.enter_context(running_proxy(text))
        assert fill(proxy.connect, stack, 2) == 2
        wait_until(lambda: len(upstream.results) == 4, 5, "four connections")
        hosts = Counter(host for host, _port in upstream.results)
    assert hosts == {"127.0.0.2": 2, "127.0.0.3": 2}


@pytest.mark.parametrize("second", ["::1", "127.0.0.3"])
def test_sources_are_used_in_turn_by_the_upstreams_of_their_family(second: str) -> None:
    def tell_peer(sock: socket.socket, _upstream: Upstream) -> str:
        sock.sendall(b"!")
        return str(sock.getpeername()[0])

    family = "v6" if second == "::1" else "v4"
    sources = ["127.0.0.2", "127.0.0.3", "::1"]
    with (
        serving(family, tell_peer) as upstream,
        running_proxy(proxy_yaml(upstream.address, pool={"tcp": {"source": sources}})) as proxy,
    ):
        for _ in range(6):
            with proxy.connect("web") as client:
                assert client.recv(1) == b"!"
        proxy.wait_records(6)
    expected = {"::1": 6} if family == "v6" else {"127.0.0.2": 3, "127.0.0.3": 3}
    assert Counter(upstream.results) == expected


def test_a_connect_without_an_fd_is_our_failure_and_not_the_upstreams() -> None:
    with (
        upstreams.echo() as one,
        upstreams.echo() as two,
        running_proxy(proxy_yaml(one.address, two.address)) as proxy,
    ):
        [pid] = proxy.worker_pids()
        with proxy.connect("web") as first:
            exchange(first, b"ping")
            taken = open_fds(pid)
            free = next(fd for fd in range(1024) if fd not in taken)
            set_nofile(pid, free + 1)  # the client's socket fits, the upstream's does not
            expect_refusal(proxy)
            record = one_record(proxy)
            set_nofile(pid, 1024)
            with proxy.connect("web") as third:
                assert exchange(third, b"ping") == b"ping"
            assert exchange(first, b"pong") == b"pong"
    check_record(
        record,
        upstream=record["upstream"],
        retries=0,
        phase="connect",
        closed_by="proxy",
        how="reset",
        why="no_resources",
    )


def test_the_record_names_both_ends_of_the_clients_connection() -> None:
    with tempfile.TemporaryDirectory() as directory, upstreams.named("x") as upstream:
        path = f"{directory}/socket"
        text = proxy_yaml(
            upstream.address,
            bind=["127.0.0.1:0", "[::1]:0", ":0", f"unix:{path}", "unix:@both-ends-test"],
        )
        with running_proxy(text) as proxy:
            ends = []
            ports = [int(a.rpartition(":")[2]) for a in proxy.addresses("web")[:4]]
            assert len(set(ports)) == 3, "both families of a wildcard have one port"
            v4, v6, any4, any6 = ports
            for name in (("127.0.0.1", v4), ("::1", v6), ("127.0.0.7", any4), ("::1", any6)):
                with socket.create_connection(name, 10) as client:
                    assert read_to_end(client) == b"x"
                    local = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
                    ends.append((name_of(client), local))
            for own, there in ((None, path), ("\0own-name", "\0both-ends-test")):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(10)
                    if own:
                        client.bind(own)
                    client.connect(there)
                    assert read_to_end(client) == b"x"
                    text = "unix:" + there.replace("\0", "@")
                    ends.append((f"unix:@{own[1:]}" if own else "unix:", text))
            records = proxy.wait_records(6)
    assert sorted((record["peer"], record["local"]) for record in records) == sorted(ends)
    for record in records:
        check_record(
            record,
            peer=record["peer"],
            upstream=upstream.address,
            bytes_down=1,
            closed_by="upstream",
            how="fin",
            why="done",
        )
