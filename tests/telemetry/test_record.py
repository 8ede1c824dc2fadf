"""telemetry/record.py: fields, closed lists, the small texts in a record, and what one costs."""

from __future__ import annotations

import json
import re
import socket
import timeit

import pytest
from harness import load, upstreams
from harness.proxy import connect
from harness.wait import wait_until

from spliceproxy.telemetry import record as module
from spliceproxy.telemetry.record import (
    CLOSED_BY,
    FIELDS,
    HOWS,
    NORMAL_ENDS,
    PHASES,
    WHYS,
    Record,
    address_text,
    iso_ms,
    milliseconds,
    render,
    render_console,
    session_ids,
    tcp_info,
    wanted,
    worker_died_record,
)


def a_record() -> Record:
    return {
        "session": "0-1a2b3c4d-1",
        "worker": 0,
        "listener": "web",
        "route": None,
        "pool": "app",
        "upstream": "127.0.0.1:9001",
        "client": "127.0.0.1:51234",
        "peer": "127.0.0.1:51234",
        "local": "127.0.0.1:8080",
        "start": "2026-01-31T23:59:59.999Z",
        "duration_ms": 1234.567,
        "phase": "relay",
        "closed_by": "client",
        "how": "fin",
        "why": "done",
        "bytes_up": 300,
        "bytes_down": 3 * 1024 * 1024,
        "spliced_up": 0,
        "spliced_down": 3 * 1024 * 1024,
        "queue_ms": None,
        "tls_ms": None,
        "tls_version": None,
        "tls_error": None,
        "connect_ms": 0.2,
        "first_byte_ms": 0.9,
        "retries": 0,
        "sni": None,
        "alpn": None,
        "client_rtt_us": 31,
        "client_retrans": 0,
        "upstream_rtt_us": 28,
        "upstream_retrans": 0,
    }


def test_json_is_one_line_with_the_fields_in_their_order() -> None:
    line = render(a_record())
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert tuple(json.loads(line)) == FIELDS


def test_the_table_in_the_docstring_describes_every_field_in_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", module.__doc__ or "", re.MULTILINE)
    assert tuple(rows) == FIELDS


def test_the_closed_lists_hold_what_the_design_names() -> None:
    assert {"accept", "proxy", "preread", "tls", "route", "queue", "connect", "relay"} == PHASES
    assert {"client", "upstream", "proxy"} == CLOSED_BY
    assert {"fin", "reset", "close"} == HOWS
    assert NORMAL_ENDS < WHYS
    named = """done client_reset upstream_reset idle_timeout half_close_timeout session_timeout
    connect_refused connect_timeout no_upstream no_source_port queue_full queue_timeout
    access_denied client_limit rate_limit preread_timeout bad_proxy_header tls_handshake
    tls_truncated drained removed upstream_down failback operator stopped worker_died"""
    assert set(named.split()) <= WHYS


def test_building_and_rendering_a_record_costs_a_few_microseconds() -> None:
    rounds = 2000
    best = min(timeit.repeat(lambda: render(a_record()), number=rounds, repeat=20)) / rounds
    assert best < 8e-6  # 2 µs where it was measured; the rest is for slow machines


def test_a_dead_worker_leaves_one_record_with_the_same_fields_and_its_loss() -> None:
    record = worker_died_record(worker=1, pid=77, lost=12, lost_records=3, start=0.5, duration=2.0)
    assert tuple(record) == (*FIELDS, "pid", "lost", "lost_records")
    assert {key: value for key, value in record.items() if value is not None} == {
        "worker": 1,
        "start": "1970-01-01T00:00:00.500Z",
        "duration_ms": 2000.0,
        "closed_by": "proxy",
        "why": "worker_died",
        "pid": 77,
        "lost": 12,
        "lost_records": 3,
    }
    assert render_console(record, colour=False).endswith(
        b" worker 1 worker_died (pid 77, 12 sessions lost, and 3 records)\n"
    )


def test_console_line_of_a_finished_session() -> None:
    text = render_console(a_record(), colour=False).decode()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} web → 127\.0\.0\.1:9001  127\.0\.0\.1:51234  1\.2s  "
        r"↑ 300B ↓ 3\.0MiB  done\n",
        text,
    )


def test_console_line_of_an_error_is_red_and_tells_who_how_and_where() -> None:
    record = a_record()
    record.update(why="connect_refused", how="reset", closed_by="proxy", phase="connect")
    text = render_console(record).decode()
    assert "\x1b[31mconnect_refused (reset by proxy, in connect)\x1b[0m\n" in text
    assert "\x1b" not in render_console(record, colour=False).decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0.40ms"), (12.3, "12ms"), (3210, "3.2s"), (307_000, "5m07s"), (8_100_000, "2h15m")],
)
def test_durations_read_well(value: float, text: str) -> None:
    record = a_record()
    record["duration_ms"] = value
    assert f"  {text}  " in render_console(record, colour=False).decode()


@pytest.mark.parametrize(
    ("keep", "why", "written"),
    [
        ("all", "done", True),
        ("all", "idle_timeout", True),
        ("errors", "done", False),
        ("errors", "drained", False),
        ("errors", "client_reset", True),
        ("errors", "worker_died", True),
        ("off", "idle_timeout", False),
    ],
)
def test_keep_decides_what_is_written(keep: str, why: str, written: bool) -> None:
    assert wanted(keep, 1.0, why, lambda: 0.999) is written


def test_sample_writes_its_share() -> None:
    assert wanted("all", 0.25, "done", lambda: 0.2499)
    assert not wanted("all", 0.25, "done", lambda: 0.25)
    assert not wanted("all", 0.0, "done", lambda: 0.0)


def test_session_ids_are_unique_across_workers_and_lives() -> None:
    sources = [session_ids(0), session_ids(0), session_ids(11)]
    ids = [next(source) for source in sources for _ in range(1000)]
    assert len(set(ids)) == 3000
    assert re.fullmatch(r"b-[0-9a-f]{8}-3e8", ids[-1])


def test_iso_times_are_utc_with_milliseconds_also_when_seconds_change() -> None:
    assert iso_ms(0.0) == "1970-01-01T00:00:00.000Z"
    assert iso_ms(1769903999.9999) == "2026-01-31T23:59:59.999Z"
    assert iso_ms(1769904000.25) == "2026-02-01T00:00:00.250Z"
    assert iso_ms(1769903999.5) == "2026-01-31T23:59:59.500Z"


def test_milliseconds_keep_microseconds() -> None:
    assert milliseconds(0.0012346) == 1.235


@pytest.mark.parametrize(
    ("family", "address", "text"),
    [
        (socket.AF_INET, ("10.0.0.1", 443), "10.0.0.1:443"),
        (socket.AF_INET6, ("::1", 443, 0, 0), "[::1]:443"),
        (socket.AF_INET6, ("fe80::1", 443, 0, 2), "[fe80::1%2]:443"),
        (socket.AF_UNIX, "/run/app.sock", "unix:/run/app.sock"),
        (socket.AF_UNIX, b"\0app", "unix:@app"),
        (socket.AF_UNIX, "", "unix:"),
        (socket.AF_UNIX, "/\x1b[31m\n", r"unix:/\x1b[31m\n"),
        (socket.AF_UNIX, "/\udcff", r"unix:/\xff"),
    ],
)
def test_addresses_as_text(family: int, address: object, text: str) -> None:
    assert address_text(family, address) == text
    render({"client": address_text(family, address)})


def test_tcp_info_tells_the_round_trip_time() -> None:
    with upstreams.echo() as upstream, connect(upstream.name) as client:
        client.sendall(b"x")
        assert load.read_exactly(client, 1) == b"x"
        rtt, retrans = tcp_info(client)
    assert rtt is not None
    assert 0 < rtt < 1_000_000
    assert retrans == 0


def test_tcp_info_counts_segments_sent_again() -> None:
    """A SYN that a full backlog drops is sent again after a second."""
    with upstreams.blackhole() as upstream, socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(upstream.name)
        assert tcp_info(client) == (None, 0)
        wait_until(lambda: tcp_info(client)[1] == 1, 5, "a SYN sent again")


def test_tcp_info_of_what_is_not_tcp_is_unknown() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert tcp_info(here) == (None, None)
    assert tcp_info(here) == (None, None)
