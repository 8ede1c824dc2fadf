"""admin/front.py and admin/gate.py: how much, how long and how many; what an error looks like."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, closing, suppress

import pytest
from fronts import WRITE, Need, Route, Serving, serving_front
from harness.door import Connection, ask, ask_by, bearer, connected, heard, request, say
from harness.wait import wait_until

from spliceproxy.admin.asking import Answer, Asked, AskError, Stream, tell
from spliceproxy.admin.gate import Bounds
from spliceproxy.control.draining import TargetError, UnknownTargetError
from spliceproxy.errors import SpliceproxyError

QUICK = Bounds(request_time=0.4, listen_time=0.4, parting_time=0.4)
GET = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n"
POST = (
    b"POST /order HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + WRITE.encode() + b"\r\n"
)

MISTAKES = {
    "ask": (AskError("no sense", 400), 400),
    "target": (TargetError("no target"), 400),
    "unknown": (UnknownTargetError("not there"), 404),
    "conflict": (SpliceproxyError("not now"), 409),
    "ours": (ZeroDivisionError("a secret"), 500),
}


async def hello(_asked: Asked) -> Answer:
    return tell({"hello": "you"})


async def large(_asked: Asked) -> Answer:
    return Answer(b"x" * 20_000_000)


async def order(asked: Asked) -> Answer:
    return tell({"bytes": len(asked.body), "may_write": asked.may_write})


async def mistake(asked: Asked) -> Answer:
    raise MISTAKES[asked.word("which")][0]


async def endless(_asked: Asked) -> Stream:
    async def lines() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 100_000

    return Stream(lines(), lambda: None)


PATHS = {
    "/hello": Route(Need.READ, hello),
    "/large": Route(Need.READ, large),
    "/order": Route(Need.WRITE, order),
    "/mistake": Route(Need.READ, mistake, frozenset({"which"})),
    "/endless": Route(Need.READ, endless),
}


@pytest.fixture
def front() -> Iterator[Serving]:
    with serving_front(PATHS) as serving:
        yield serving


@pytest.fixture
def quick() -> Iterator[Serving]:
    with serving_front(PATHS, bounds=QUICK) as serving:
        yield serving


def statuses(text: bytes) -> list[int]:
    """The statuses of all answers in a row."""
    return [int(found) for found in re.findall(rb"HTTP/\d\.\d (\d{3}) ", text)]


@pytest.mark.parametrize("which", MISTAKES)
def test_every_error_is_one_sentence_of_json_and_tells_nothing_of_our_insides(
    which: str, front: Serving
) -> None:
    error, status = MISTAKES[which]
    code, answer = request(front.where, "GET", f"/mistake?which={which}")
    assert (code, list(answer)) == (status, ["error"])
    assert "secret" not in answer["error"]
    assert status == 500 or answer["error"] == str(error)


def test_every_answer_tells_browsers_what_they_may_not_do_with_it(front: Serving) -> None:
    for method, target in (("GET", "/hello"), ("GET", "/nowhere"), ("POST", "/order")):
        headers = ask(front.where, method, target).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src")
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Server"] == "spliceproxy"


def test_who_lacks_a_token_is_told_which_kind_is_wanted(front: Serving) -> None:
    answer = ask(front.where, "POST", "/order")
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_a_connection_is_kept_and_asked_again(front: Serving) -> None:
    with closing(Connection(front.where)) as connection:
        for number in range(3):
            assert ask_by(connection, "GET", "/hello").json == {"hello": "you"}
            answer = ask_by(connection, "POST", "/order", b"x" * number, bearer(WRITE))
            assert answer.json == {"bytes": number, "may_write": True}
        assert ask_by(connection, "GET", "/nowhere").status == 404
        assert ask_by(connection, "HEAD", "/hello").body == b""
        assert ask_by(connection, "GET", "/hello").status == 200


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "BREW"])
def test_other_methods_are_not_known(method: str, front: Serving) -> None:
    answer = ask(front.where, method, "/hello")
    assert answer.status in (400, 405)
    assert list(answer.json) == ["error"]
    assert ask(front.where, method, "/order", headers=bearer(WRITE)).status in (400, 405)


@pytest.mark.parametrize(
    "target",
    [
        "/hello/",
        "//hello",
        "/./hello",
        "/x/../hello",
        "/%68ello",
        "/hello%00",
        "/hello;x",
        "/HELLO",
        "/hello#x",
        "/../../../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/\\hello",
    ],
)
def test_a_path_is_what_it_says_and_nothing_else(target: str, front: Serving) -> None:
    text = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert statuses(say(front.where, text.encode()))[0] in (400, 404)


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://localhost/hello HTTP/1.1",
        b"GET http://evil.example/hello HTTP/1.1",
        b"CONNECT localhost:80 HTTP/1.1",
        b"CONNECT a HTTP/1.1",
        b"GET http://a:b@[::1]:99@/hello HTTP/1.1",
        b"GET http://a:b@xn--a:99/hello HTTP/1.1",
        b"GET http://[::1 HTTP/1.1",
        b"GET //[/hello HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET hello HTTP/1.1",
        b"GET /hello\x00 HTTP/1.1",
        b"GET /hello HTTP/9.9",
        b"GET /hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0",
    ],
)
def test_other_request_lines_lead_nowhere(line: bytes, quick: Serving) -> None:
    answer = say(quick.where, line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert statuses(answer)[0] in (400, 404, 405, 408), answer
    assert b"hello" not in answer.partition(b'{"error"')[0]
    assert b'{"error":' in answer
    assert not quick.failures


SMUGGLED = b"POST /order HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: -5\r\n\r\nhello",
        b"Content-Length: 0x5\r\n\r\nhello",
        b"Content-Length: 5, 5\r\n\r\nhello",
        b"Content-Length: 99999999999999999999999\r\n\r\nhello",
        b" Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_a_body_of_doubtful_length_is_refused_and_what_follows_is_not_heard(
    head: bytes, quick: Serving
) -> None:
    answer = say(quick.where, POST + head + SMUGGLED)
    assert statuses(answer) in ([400], [413]), answer


def test_what_is_smuggled_behind_a_request_meets_the_guard_too(front: Serving) -> None:
    last = SMUGGLED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert statuses(say(front.where, GET + b"\r\n" + SMUGGLED + last)) == [200, 401, 401]


def test_a_body_is_not_unpacked(front: Serving) -> None:
    headers = {**bearer(WRITE), "Content-Encoding": "gzip"}
    answer = ask(front.where, "POST", "/order", gzip.compress(b"x" * 50_000_000), headers)
    assert (answer.status, answer.json["error"]) == (400, "a body is sent as it is, not encoded")


@pytest.mark.parametrize("size", [65_536, 65_537, 200_000, 50_000_000])
def test_a_body_has_a_largest_size(size: int, front: Serving) -> None:
    answer = ask(front.where, "POST", "/order", b"x" * size, bearer(WRITE))
    assert answer.status == (200 if size == 65_536 else 413)


def test_a_body_in_chunks_has_the_same_largest_size(front: Serving) -> None:
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    assert statuses(say(front.where, head, *[chunk] * 16, b"0\r\n\r\n")) == [200]
    assert statuses(say(front.where, head, *[chunk] * 17, b"0\r\n\r\n")) == [413]


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"x" * 9_000 + b"\r\n\r\n",
        b"X: x\r\n" * 30_000 + b"\r\n",
        b"x" * 500_000,
    ],
)
def test_a_head_has_a_largest_size(head: bytes, front: Serving) -> None:
    answer = say(front.where, GET + head)
    assert statuses(answer) in ([400], [413]), answer[:200]


def test_a_long_path_and_many_parameters_are_too_large(front: Serving) -> None:
    assert ask(front.where, "GET", f"/{'x' * 9000}").status == 413
    assert ask(front.where, "GET", "/mistake?" + "&".join(["which=ask"] * 800)).status == 400


def test_get_has_no_body(front: Serving) -> None:
    answer = ask(front.where, "GET", "/hello", b"hello")
    assert (answer.status, answer.json["error"]) == (400, "GET has no body here")


@pytest.mark.parametrize("query", ["x=1", "which", "which=%ff", "token=" + WRITE, "=", "&&"])
def test_parameters_are_those_that_are_known(query: str, front: Serving) -> None:
    assert ask(front.where, "GET", f"/mistake?{query}").status == 400


@pytest.mark.parametrize(
    "said",
    [
        b"G",
        GET,
        GET + b"X: ",
        POST + b"Content-Length: 10\r\n\r\n",
        POST + b"Content-Length: 10\r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_a_request_that_does_not_come_to_its_end_is_told_so_and_closed(
    said: bytes, quick: Serving
) -> None:
    began = time.monotonic()
    answer = say(quick.where, said)
    assert statuses(answer) == [408]
    assert b"did not come in whole within 0.4 s" in answer
    assert 0.3 < time.monotonic() - began < 3


def test_trickling_gains_nobody_more_time(quick: Serving) -> None:
    with closing(connected(quick.where)) as sock:
        began = time.monotonic()
        sock.setblocking(False)
        text = iter(GET * 1000)

        def over() -> bool:
            try:
                sock.send(bytes([next(text)]))
                return not sock.recv(65536)
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        wait_until(over, 5, "the end")
        assert time.monotonic() - began < 3


def test_who_says_nothing_is_closed_without_a_word(quick: Serving) -> None:
    assert say(quick.where) == b""


def test_an_answer_that_nobody_reads_is_cut_off(quick: Serving) -> None:
    with closing(connected(quick.where)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
        wait_until(lambda: _is_reset(sock), 10, "a reset")


def _is_reset(sock: socket.socket) -> bool:
    """Whether the other side has cut it off, without a look at what waits to be read."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_a_stream_that_nobody_reads_is_cut_off_and_its_place_is_free(quick: Serving) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(closing(connected(quick.where))) for _ in range(8)]
        for sock in socks:
            sock.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for sock in socks:
            wait_until(lambda sock=sock: _is_reset(sock), 10, "a reset")
        assert ask(quick.where, "GET", "/hello").status == 200


def test_those_that_do_nothing_make_place_for_who_comes(front: Serving) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(connected(front.where))) for _ in range(40)]
        for sock in idle[::2]:
            with suppress(ConnectionError):  # it had to go already
                sock.sendall(b"GET /hel")
        assert ask(front.where, "GET", "/hello").status == 200
        assert heard(idle[0]) == b""
        idle[-1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            idle[-1].recv(1)


def test_while_all_are_being_answered_one_more_is_told_to_try_again(front: Serving) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(connected(front.where))) for _ in range(8)]
        for stream in streams:
            stream.sendall(GET.replace(b"hello", b"endless") + b"\r\n")
            assert stream.recv(15) == b"HTTP/1.1 200 OK"
        answer = say(front.where)
        assert statuses(answer) == [503]
        assert b"there are too many connections; try again" in answer
        streams[0].close()
        again = GET + b"Connection: close\r\n\r\n"
        wait_until(lambda: statuses(say(front.where, again)) == [200], 5, "a place")


def test_after_handing_over_nothing_is_carried_out_any_more(front: Serving) -> None:
    with closing(Connection(front.where)) as idle, closing(connected(front.where)) as half:
        assert ask_by(idle, "GET", "/hello").status == 200
        half.sendall(POST + b"Content-Length: 2\r\n\r\n{")
        wait_until(lambda: ask(front.where, "GET", "/hello").status == 200, 5, "it was heard")
        front.hand_over()
        assert heard(idle.sock) == b""
        half.sendall(b"}")
        answer = heard(half)
        assert statuses(answer) == [503]
        assert json.loads(answer.split(b"\r\n\r\n")[1])["error"].startswith("another process")
    with pytest.raises(TimeoutError):
        say(front.where, GET + b"\r\n", timeout=0.3)
