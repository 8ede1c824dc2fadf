"""How sessions end: FIN by FIN, by the reset of one side, and what the other side then sees."""

from __future__ import annotations

import socket
import threading

import pytest
from harness import upstreams
from harness.fds import same_fds
from harness.load import blocks, pump, read_to_end, stream_bytes
from harness.serving import Upstream, serving
from harness.serving import reset as send_reset
from harness.wait import wait_until
from session_support import (
    check_record,
    name_of,
    one_record,
    proxy_yaml,
    read_until_reset,
    running_proxy,
    unsent,
)

MIB = 1024 * 1024
BINDS = {"v4": "127.0.0.1:0", "v6": "[::1]:0", "unix": "unix:@session-ends-test"}
MIXES = [("v4", "v4"), ("v6", "unix"), ("unix", "v4"), ("unix", "unix")]
SPLICED = ("spliced_up", "spliced_down")


@pytest.mark.parametrize(("client_family", "family"), MIXES)
def test_a_client_that_finishes_first_still_gets_its_answer(
    client_family: str, family: str, seed: int
) -> None:
    with (
        upstreams.sink(family) as sink,
        running_proxy(proxy_yaml(sink.address, bind=BINDS[client_family])) as proxy,
        proxy.connect("web") as client,
    ):
        peer, [local] = name_of(client), proxy.addresses("web")
        sent = pump(client, 3 * MIB, seed)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client).decode() == sent
        record = one_record(proxy)
    assert sink.results == [(3 * MIB, sent)]
    check_record(
        record,
        peer=peer,
        local=local,
        upstream=sink.address,
        bytes_up=3 * MIB,
        bytes_down=64,
        spliced_up=record["spliced_up"],
        closed_by="client",
        how="fin",
        why="done",
    )
    assert record["spliced_up"] > MIB


@pytest.mark.parametrize(("client_family", "family"), MIXES)
def test_an_upstream_that_finishes_first_still_gets_the_rest(
    client_family: str, family: str, seed: int
) -> None:
    with (
        upstreams.half_close(family, b"enough\n") as upstream,
        running_proxy(proxy_yaml(upstream.address, bind=BINDS[client_family])) as proxy,
        proxy.connect("web") as client,
    ):
        assert read_to_end(client) == b"enough\n"
        sent = pump(client, 3 * MIB, seed)
        client.shutdown(socket.SHUT_WR)
        record = one_record(proxy)
    assert upstream.results == [(3 * MIB, sent)]
    check_record(
        record,
        upstream=upstream.address,
        bytes_up=3 * MIB,
        bytes_down=7,
        spliced_up=record["spliced_up"],
        closed_by="upstream",
        how="fin",
        why="done",
    )


def test_a_client_that_says_nothing_and_leaves_is_a_session_that_is_done() -> None:
    with (
        upstreams.echo() as echo,
        running_proxy(proxy_yaml(echo.address)) as proxy,
    ):
        [pid] = proxy.worker_pids()
        with same_fds(pid):
            proxy.connect("web").close()
            record = one_record(proxy)
    check_record(record, upstream=echo.address, closed_by="client", how="fin", why="done")


@pytest.mark.alone
def test_an_upstreams_reset_reaches_a_slow_client_after_all_the_data(seed: int) -> None:
    size = 8 * MIB
    with (
        upstreams.sends_then_resets(size, seed) as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
        proxy.connect("web") as client,
    ):
        received = bytearray()
        while not upstream.results:  # slow, until the reset is sent
            received += client.recv(16 * 1024)
        behind = size - len(received)
        assert behind > MIB, "megabytes were queued when the reset came"
        received += read_until_reset(client)
        record = one_record(proxy)
    assert received == stream_bytes(size, seed)
    check_record(
        record,
        upstream=upstream.address,
        bytes_down=size,
        spliced_down=record["spliced_down"],
        closed_by="upstream",
        how="reset",
        why="upstream_reset",
    )


def test_a_clients_reset_reaches_a_slow_upstream_after_all_the_data(seed: int) -> None:
    size = 8 * MIB
    reset_sent = threading.Event()

    def slow(sock: socket.socket, _upstream: Upstream) -> tuple[int, bytes]:
        received = bytearray()
        # The last MiB stays in the kernels until the client has reset.
        while len(received) < size - MIB and not reset_sent.wait(0.002):
            received += sock.recv(16 * 1024)
        reset_sent.wait()
        behind = size - len(received)
        return behind, bytes(received) + read_until_reset(sock)

    with (
        serving("v4", slow) as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
    ):
        client = proxy.connect("web", timeout=30)
        for block in blocks(size, seed):
            client.sendall(block)
        wait_until(lambda: unsent(client) == 0, 30, "the proxy's kernel to have it all")
        send_reset(client)
        reset_sent.set()
        [(behind, received)] = wait_until(lambda: upstream.results, 30, "the upstream's end")
        record = one_record(proxy)
    assert behind > MIB, "megabytes were queued when the reset came"
    assert received == stream_bytes(size, seed)
    check_record(
        record,
        upstream=upstream.address,
        bytes_up=size,
        spliced_up=record["spliced_up"],
        closed_by="client",
        how="reset",
        why="client_reset",
    )


def test_a_client_that_takes_nothing_still_gets_the_reset_at_last(seed: int) -> None:
    size = 256 * 1024
    with (
        upstreams.sends_then_resets(size, seed) as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
        proxy.connect("web") as client,
    ):
        wait_until(lambda: upstream.results, 10, "the reset to be sent")
        assert read_until_reset(client) == stream_bytes(size, seed)
        record = one_record(proxy)
    assert (record["why"], record["bytes_down"]) == ("upstream_reset", size)


def test_a_reset_is_an_eof_on_unix_sockets_and_the_record_tells_the_truth(seed: int) -> None:
    with (
        upstreams.sends_then_resets(2 * MIB, seed) as upstream,
        running_proxy(proxy_yaml(upstream.address, bind="unix:@reset-eof-test")) as proxy,
        proxy.connect("web") as client,
    ):
        assert read_to_end(client) == stream_bytes(2 * MIB, seed)
        record = one_record(proxy)
    check_record(
        record,
        peer="unix:",
        local="unix:@reset-eof-test",
        upstream=upstream.address,
        bytes_down=2 * MIB,
        spliced_down=record["spliced_down"],
        closed_by="upstream",
        how="reset",
        why="upstream_reset",
    )


def test_a_clients_reset_is_an_eof_to_a_unix_upstream(seed: int) -> None:
    with (
        upstreams.sink("unix") as sink,
        running_proxy(proxy_yaml(sink.address)) as proxy,
    ):
        client = proxy.connect("web")
        sent = pump(client, MIB, seed)
        wait_until(lambda: unsent(client) == 0, 10, "the proxy's kernel to have it all")
        send_reset(client)
        record = one_record(proxy)
        wait_until(lambda: sink.results or sink.errors, 5, "the upstream's end")
    # The upstream read all of it, to an EOF; nobody was left to take its answer.
    assert sink.results == [(MIB, sent)] or isinstance(sink.errors[0], BrokenPipeError)
    check_record(
        record,
        upstream=sink.address,
        bytes_up=MIB,
        spliced_up=record["spliced_up"],
        closed_by="client",
        how="reset",
        why="client_reset",
    )


@pytest.mark.parametrize("family", ["v4", "unix"])
def test_an_answer_reaches_a_client_that_is_still_sending_when_the_upstream_closes(
    family: str, seed: int
) -> None:
    """As TLS servers and HTTP errors do: answer early, close, and never read the rest."""
    size = 4 * MIB

    def answer_early(sock: socket.socket, _upstream: Upstream) -> int:
        sock.recv(1000)
        for block in blocks(size, seed):
            sock.sendall(block)
        wait_until(lambda: unsent(sock) == 0, 30, "the proxy to have the answer")
        return size  # close with unread input is a reset

    errors = []

    def send_without_end() -> None:
        try:
            while True:
                client.sendall(bytes(65536))
        except OSError as error:
            errors.append(error)

    with (
        serving(family, answer_early) as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
        proxy.connect("web", timeout=30) as client,
    ):
        sender = threading.Thread(target=send_without_end)
        sender.start()
        received = bytearray()
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionResetError as error:
            errors.append(error)
        sender.join(30)
        record = one_record(proxy)
    assert received == stream_bytes(size, seed)
    # The kernel tells a reset once, to whoever asks first; after a FIN it would be EPIPE to both.
    assert any(isinstance(error, ConnectionResetError) for error in errors), errors
    check_record(
        record,
        upstream=upstream.address,
        **{key: record[key] for key in ("bytes_up", *SPLICED)},
        bytes_down=size,
        closed_by="upstream",
        how="reset",
        why="upstream_reset",
    )


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_after_a_half_close_is_told_to_the_side_that_had_the_fin(who: str) -> None:
    def fin_then(sock: socket.socket, _upstream: Upstream) -> None:
        sock.shutdown(socket.SHUT_WR)
        if who == "upstream":
            sock.recv(1)
            send_reset(sock)
        else:
            read_until_reset(sock)

    with (
        serving("v4", fin_then) as upstream,
        running_proxy(proxy_yaml(upstream.address)) as proxy,
    ):
        client = proxy.connect("web")
        assert read_to_end(client) == b""
        if who == "client":
            send_reset(client)
        else:
            with client:
                client.sendall(b"x")
                one_record(proxy)
        record = one_record(proxy)
    assert (record["closed_by"], record["how"], record["why"]) == (who, "reset", f"{who}_reset")
