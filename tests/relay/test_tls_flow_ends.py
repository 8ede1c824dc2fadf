"""How sessions end, the rules I3 and I4, where a side speaks TLS, step by step on real sockets.

Every test here is also run against flows that break its rule: see test_tls_mutants.py.
"""

from __future__ import annotations

import socket

import pytest
from relay_rig import (
    Reader,
    acknowledged,
    carry,
    pattern,
    reset,
    write,
    write_all,
)
from tls_rig import (
    far_ends,
    first_to_close,
    is_tls,
    mixes,
    raw,
    sides,
    tells_resets,
    tls_rig,
)

from spliceproxy.relay.verdicts import FINISHED

# I3: half-closes.


@sides
@mixes
@first_to_close
@pytest.mark.parametrize("by", ["fin", "close_notify"])
def test_i3_one_direction_runs_on_after_the_other_one_ended(
    tls: tuple[str, str], client: str, upstream: str, closes_first: str, by: str
) -> None:
    with tls_rig(tls, client, upstream) as r:
        first, second = far_ends(r, closes_first)
        reader, other = Reader(second), Reader(first)
        data = pattern(0, 50_000)
        write_all(r.bench, first, data)
        if by == "close_notify" and is_tls(first):
            first.close_notify()
        else:
            first.shutdown(socket.SHUT_WR)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == data
        assert not r.relay.over
        carry(r.bench, second, other, pattern(7, 300_000))
        assert r.bench.wakes() == 0
        second.shutdown(socket.SHUT_WR)
        assert other.read_to_end(r.bench) == "fin"
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is None
        assert (r.up.end, r.down.end) == (FINISHED, FINISHED)


@sides
@mixes
@first_to_close
def test_i3_an_end_comes_after_all_that_was_queued_before_it(
    tls: tuple[str, str], client: str, upstream: str, closes_first: str
) -> None:
    with tls_rig(tls, client, upstream, buffers=16384, mss=1448) as r:
        first, second = far_ends(r, closes_first)
        sent = 0
        for _ in range(40):
            sent += write(first, pattern(sent, 30_000))
            r.bench.step()
        first.shutdown(socket.SHUT_WR)
        # The kernels come to rest in their own time, and the flows with them.
        assert any(r.bench.wakes() == 0 for _ in range(40))
        reader = Reader(second)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == pattern(0, sent)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("together", [False, True])
def test_i3_an_end_in_the_segment_of_the_last_data_is_seen(version: str, together: bool) -> None:
    with tls_rig((version, "")) as r:
        r.client.tls.write(b"data")
        wire = r.client.outgoing.read() + r.client.last_words()
        for piece in (wire,) if together else (wire[:-10], wire[-10:]):
            raw(r.client).send(piece)
        reader = Reader(r.upstream)
        assert reader.read_to_end(r.bench) == "fin"
        assert bytes(reader.data) == b"data"


@sides
def test_i3_the_peer_gets_a_fin_behind_close_notify(tls: tuple[str, str]) -> None:
    with tls_rig(tls) as r:
        r.client.shutdown(socket.SHUT_WR)
        reader = Reader(r.upstream)
        assert reader.read_to_end(r.bench) == "fin"
        r.bench.drive(lambda: raw(r.upstream).recv(1) == b"", "the FIN")


# I4: what a broken side means for the other one.


@sides
@mixes
@first_to_close
@pytest.mark.parametrize("how", ["reset", "truncated", "tampered"])
def test_i4_what_came_before_a_break_is_delivered_before_the_reset(
    tls: tuple[str, str], client: str, upstream: str, closes_first: str, how: str
) -> None:
    with tls_rig(tls, client, upstream) as r:
        first, second = far_ends(r, closes_first)
        if not is_tls(first) and (how != "reset" or first.family == socket.AF_UNIX):
            return
        data = pattern(0, 40_000)
        write_all(r.bench, first, data)
        acknowledged(first)
        if how == "reset":
            reset(first)
        elif how == "truncated":
            raw(first).shutdown(socket.SHUT_WR)
        else:
            raw(first).sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        reader = Reader(second)
        assert reader.read_to_end(r.bench) == ("reset" if tells_resets(second) else "fin")
        assert bytes(reader.data) == data
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is (r.near_client if closes_first == "client" else r.near_upstream)
        end = r.near.client if closes_first == "client" else r.near.upstream
        if end is not None and how != "reset":
            assert end.fault.truncated == (how == "truncated")


@sides
@first_to_close
def test_i4_a_break_behind_a_full_destination_is_told_after_all_of_it(
    tls: tuple[str, str], closes_first: str
) -> None:
    with tls_rig(tls, buffers=16384, mss=1448) as r:
        first, second = far_ends(r, closes_first)
        if not is_tls(first):
            return
        sent = 0
        for _ in range(40):
            sent += write(first, pattern(sent, 30_000))
            r.bench.step()
        reader = Reader(second)
        r.bench.drive(lambda: (reader.read(2000), first.pump())[1], "the last segment sent")
        raw(first).shutdown(socket.SHUT_WR)
        r.bench.wakes()
        assert r.bench.wakes() == 0
        assert reader.read_to_end(r.bench) == "reset"
        assert bytes(reader.data) == pattern(0, sent)


@sides
@pytest.mark.parametrize("size", [10, 200_000])
def test_i4_a_response_received_before_the_reset_still_reaches_the_client(
    tls: tuple[str, str], size: int
) -> None:
    with tls_rig(tls) as r:
        reader = Reader(r.client)
        write_all(r.bench, r.client, b"question")
        r.bench.settle()
        write(r.upstream, pattern(0, size)[: 1 << 16])
        expected = min(size, 50_000 if is_tls(r.upstream) else 1 << 16)
        acknowledged(r.upstream)
        reset(r.upstream)
        with_what = write(r.client, b"more")
        assert with_what == 4
        assert reader.read_to_end(r.bench) == "reset"
        assert bytes(reader.data[:expected]) == pattern(0, expected)


@sides
def test_i4_a_destination_that_dies_while_it_is_full_ends_both_flows(
    tls: tuple[str, str],
) -> None:
    with tls_rig(tls, buffers=16384, mss=1448) as r:
        sent = 0
        for _ in range(40):
            sent += write(r.client, pattern(sent, 30_000))
            r.bench.step()
        assert r.up.held
        reset(r.upstream)
        assert Reader(r.client).read_to_end(r.bench) == "reset"
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is r.near_upstream


@pytest.mark.parametrize("tls", [("1.3", ""), ("1.2", "1.3")])
def test_i4_a_write_that_used_up_the_error_leaves_no_clean_end(tls: tuple[str, str]) -> None:
    with tls_rig(tls) as r:
        r.bench.settle()
        write(r.client, b"question")
        acknowledged(r.client)
        reset(r.upstream)
        reader = Reader(r.client)
        assert reader.read_to_end(r.bench) == "reset"
        assert r.client.stream_ended == "reset"
        assert r.near.upstream is None or r.near.upstream.fault is None


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_i4_a_client_that_fails_is_told_by_an_alert(version: str) -> None:
    with tls_rig((version, "")) as r:
        raw(r.client).sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        r.bench.settle()
        with pytest.raises(OSError, match="ALERT"):
            r.client.recv(100)
