"""A relay that speaks TLS against the plain model of test_relay_model.py, and its trials.

Of TLS the model promises more: what ended without close_notify looks broken to the other side,
over UNIX sockets too where that one speaks TLS.

SPLICEPROXY_EXAMPLES=5000 looks longer.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Any

import pytest
from harness.fds import open_fds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relay_rig import KINDS, Bench, Reader, Rig, carry, parts, pattern, reset, write
from test_relay_model import Model, Side, actions, limits
from tls_peers import TlsFar
from tls_rig import Ends, raw, sides, tls_rig

from spliceproxy.relay.relay import unsent
from spliceproxy.relay.verdicts import RUNNING

EXAMPLES = int(os.environ.get("SPLICEPROXY_EXAMPLES", "300"))
MIXES = (("v4", "v4"), ("unix", "v4"), ("v4", "unix"))
LIMIT = 4096
mixes = pytest.mark.parametrize(("client", "upstream"), MIXES)


def speaks_tls(side: Side) -> bool:
    return isinstance(side.sock, TlsFar)


class TlsModel(Model):
    """Knows that bytes may wait in a far end, and what an end without close_notify is."""

    def _all_acknowledged(self, side: Side) -> bool:
        if side.reader.end == "reset" or (speaks_tls(side) and side.sock.backlog):
            return False
        return not side.tcp or unsent(side.sock) == 0

    def close_notify(self, side: Side, _size: int) -> None:
        """A half-close without a FIN."""
        if side.gone or side.fin or not speaks_tls(side):
            return
        side.fin = True
        side.sock.close_notify()

    def key_update(self, side: Side, size: int) -> None:
        """Keys that change amid the data."""
        if side.gone or side.fin or not speaks_tls(side) or side.sock.tls.version() != "TLSv1.3":
            return
        side.sock.key_update(asked=bool(size % 2))
        side.sock.pump()

    def check(self, side: Side) -> None:
        writer, data = self.other(side), side.reader.data
        assert len(data) <= writer.written, "invented bytes"
        assert bytes(data) == pattern(writer.start, len(data)), "wrong bytes"
        if side.reader.end == "fin" and (side.tcp or speaks_tls(side)):
            assert writer.fin or writer.gone, "an invented end"
            if not (speaks_tls(writer) and writer.gone):
                assert len(data) == writer.written, "an end with bytes missing"

    def check_end(self, side: Side) -> None:
        writer = self.other(side)
        if speaks_tls(writer) and writer.gone and not side.gone and not side.fin:
            told = side.tcp or speaks_tls(side)
            if not writer.fin and told:
                assert side.reader.end == "reset", "a truncated stream looks like a finished one"
        if not side.gone and writer.owed is not None and not side.told:
            assert len(side.reader.data) == writer.owed, "bytes from before the end are lost"
        if not side.gone and not writer.gone:
            assert len(side.reader.data) == writer.written, "a finished direction lost bytes"
            assert side.reader.end == "fin"
            assert self.rig.fate is None


own = st.tuples(st.sampled_from(["close_notify", "key_update"]), st.integers(0, 1), st.just(1))
small = st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 3000))


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    tls=st.sampled_from([("1.3", ""), ("", "1.3"), ("1.2", ""), ("1.3", "1.2"), ("1.2", "1.3")]),
    buffers=st.tuples(limits, limits),
    replay=st.sampled_from([None, None, 1, 16, 4096, 1 << 20]),
    rate=st.sampled_from([None, None, None, 3_000_000]),
    script=st.lists(st.one_of(actions, actions, own, small), min_size=1, max_size=25),
)
def test_a_relay_that_speaks_tls_keeps_the_promises_of_the_model(
    kinds: tuple[str, str],
    tls: tuple[str, str],
    buffers: tuple[int | None, int | None],
    replay: int | None,
    rate: int | None,
    script: list[tuple[str, int, int]],
) -> None:
    before = open_fds()
    bench = Bench()
    try:
        rig: Any = Rig(
            bench,
            *kinds,
            buffers=buffers[0],
            upstream_buffers=buffers[1],
            mss=1448,
            replay=replay,
            prepare=Ends(tls, rate),
        )
        model = TlsModel(bench, rig)
        for name, index, size in script:
            getattr(model, name)(model.sides[index], size)
        model.finish()
    finally:
        bench.close()
    assert open_fds() == before


# Trials.


def end(far: Any, how: str) -> None:
    """End an upstream: by FIN after it read everything (and close_notify), or by a reset."""
    if how == "reset":
        reset(far)
        return
    Reader(far).read()
    if isinstance(far, TlsFar) and how == "fin":
        far.shutdown(socket.SHUT_WR)
    far.close()


@sides
@mixes
@pytest.mark.parametrize("how", ["fin", "truncated", "reset"])
@pytest.mark.parametrize("replay", [100, LIMIT, 100_000])
def test_kept_bytes_come_again_to_another_upstream_once(
    tls: tuple[str, str], client: str, upstream: str, how: str, replay: int
) -> None:
    data = pattern(0, min(replay, 40_000))
    with tls_rig(tls, client, upstream, replay=replay, spares=2) as r:
        write(r.client, data)
        for number in (1, 2):
            r.bench.drive(lambda: r.up.moved == len(data), "all sent")
            end(r.upstream, how)
            r.bench.drive(lambda n=number: len(r.left) == n, "another upstream")
        upper, lower = Reader(r.upstream), Reader(r.client)
        r.bench.drive(lambda: (upper.read(), len(upper.data) >= len(data))[1], "all bytes")
        assert bytes(upper.data) == data
        carry(r.bench, r.upstream, lower, b"answer")
        carry(r.bench, r.client, upper, pattern(5, 50_000))
        r.client.shutdown(socket.SHUT_WR)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == data + pattern(5, 50_000)


@sides
@mixes
def test_an_upstream_that_was_full_amid_a_chunk_is_replaced_and_the_rest_is_not_sent_twice(
    tls: tuple[str, str], client: str, upstream: str
) -> None:
    with tls_rig(tls, client, upstream, replay=1 << 20, spares=1, buffers=16384, mss=1448) as r:
        sent = 0
        for _ in range(40):
            sent += write(r.client, pattern(sent, 50_000))
            r.bench.step()
        assert r.up.moved < sent
        r.bench.wakes()
        assert r.bench.wakes() == 0
        reset(r.upstream)
        r.bench.drive(lambda: r.left, "another upstream")
        upper = Reader(r.upstream)
        r.bench.drive(lambda: (upper.read(), len(upper.data) >= sent)[1], "all bytes")
        carry(r.bench, r.client, upper, b"and more")
        assert bytes(upper.data) == pattern(0, sent) + b"and more"


@sides
@mixes
def test_a_full_upstream_that_answers_gets_the_rest_by_the_relay(
    tls: tuple[str, str], client: str, upstream: str
) -> None:
    with tls_rig(tls, client, upstream, replay=1 << 20, buffers=16384, mss=1448) as r:
        sent = 0
        for _ in range(40):
            sent += write(r.client, pattern(sent, 50_000))
            r.bench.step()
        lower, upper = Reader(r.client), Reader(r.upstream)
        carry(r.bench, r.upstream, lower, b"answer")
        r.client.shutdown(socket.SHUT_WR)
        assert upper.read_to_end(r.bench) == "fin"
        assert bytes(upper.data) == pattern(0, sent)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_an_alert_of_an_upstream_between_two_turns_ends_the_session(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.trial, "READS", 1)
    with tls_rig(("", version), replay=1 << 20) as r:
        r.bench.settle()
        write(r.client, b"read, and not sent in this turn")
        raw(r.upstream).sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert Reader(r.client).read_to_end(r.bench) == "reset"
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is r.near_upstream


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_an_alert_of_a_full_upstream_ends_the_session_without_another_one(version: str) -> None:
    with tls_rig(("", version), replay=1 << 20, buffers=16384, mss=1448) as r:
        sent = 0
        for _ in range(40):
            sent += write(r.client, pattern(sent, 50_000))
            r.bench.step()
        raw(r.upstream).sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert Reader(r.client).read_to_end(r.bench) == "reset"
        r.bench.drive(lambda: r.parted, "the end")
        assert r.fate is r.near_upstream


def test_tickets_are_no_answer_and_an_upstream_that_sent_them_is_replaced() -> None:
    with tls_rig(("", "1.3"), replay=LIMIT, spares=1) as r:
        write(r.client, b"question")
        r.bench.drive(lambda: r.up.moved == 8, "all sent")
        r.upstream.key_update(asked=True)
        r.upstream.pump()
        r.bench.settle()
        assert r.up.end == RUNNING
        end(r.upstream, "reset")
        r.bench.drive(lambda: r.left, "another upstream")
        carry(r.bench, r.upstream, Reader(r.client), b"answer")


@pytest.mark.parametrize("client", ["v4", "unix"])
def test_answers_of_a_trial_to_a_client_that_does_not_read_go_when_it_does(client: str) -> None:
    with tls_rig(("1.3", ""), client, replay=1 << 20, buffers=4096, mss=1448) as r:
        asked = 0
        while not r.down.held and asked < 3000:
            r.client.key_update(asked=True)
            r.client.tls.write(b"x")
            r.client.pump()
            r.bench.step()
            asked += 1
        assert r.down.held
        r.bench.wakes()
        assert r.bench.wakes() == 0
        upper, lower = Reader(r.upstream), Reader(r.client)
        r.bench.drive(
            lambda: (lower.read(), upper.read(), len(upper.data) == asked)[2], "all bytes"
        )
        r.bench.drive(lambda: (lower.read(), not r.near.client.unsent)[1], "all answers")
        assert not r.down.held
        carry(r.bench, r.upstream, lower, b"answer")
        assert not r.down.watching


def test_whatever_tls_upstreams_do_the_last_one_has_every_byte_once(seed: int) -> None:
    for number in range(int(os.environ.get("SPLICEPROXY_EXAMPLES", "60"))):
        choice = random.Random(f"{seed} {number}")
        replay = choice.choice([1, 100, LIMIT, 100_000])
        total = choice.choice([1, replay, replay + 1, 200_000])
        spares = deaths = choice.randint(0, 2)
        tls = choice.choice([("1.3", ""), ("", "1.3"), ("1.2", "1.3")])
        buffers = choice.choice([None, 16384])
        with tls_rig(
            tls, *choice.choice(MIXES), replay=replay, spares=deaths, buffers=buffers, mss=1448
        ) as r:
            sent = 0
            upper = Reader(r.upstream)

            def turn(
                choice: random.Random = choice,
                total: int = total,
                spares: int = spares,
                replay: int = replay,
            ) -> bool:
                nonlocal sent, upper, deaths
                if sent < total:
                    most = choice.choice([1, 700, total])
                    sent += write(r.client, pattern(sent, min(most, total - sent)))
                if upper.sock is not r.upstream:
                    upper = Reader(r.upstream)
                if len(r.left) == spares - deaths and deaths and sent <= replay:
                    if choice.random() < 0.3:
                        deaths -= 1
                        end(r.upstream, choice.choice(["fin", "truncated", "reset"]))
                else:
                    upper.read(choice.choice([1, 5000, 1 << 20]))
                return len(upper.data) == total

            r.bench.drive(turn, f"the upload, session {number}")
            assert bytes(upper.data) == pattern(0, total), f"session {number}"
            lower = Reader(r.client)
            carry(r.bench, r.upstream, lower, b"answer")
