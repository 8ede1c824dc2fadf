"""admin/guard.py: who may do what at which door."""

from __future__ import annotations

import pytest

from spliceproxy.admin.guard import Claims, Entry, Need, Tokens, is_ours, may_write, refusal

READ, WRITE = "reading-reading-reading", "writing-writing-writing"
TOKENS = Tokens(write=WRITE.encode(), read=READ.encode())
HOSTS = frozenset({"proxy.example.com", "box"})
HOST = "127.0.0.1:9900"


def claims(
    token: str | None = None,
    host: str | None = HOST,
    origin: str | None = None,
    site: str | None = None,
) -> Claims:
    return Claims(
        host=() if host is None else (host,),
        origin=() if origin is None else (origin,),
        fetch_site=() if site is None else (site,),
        authorization=() if token is None else (f"Bearer {token}",),
    )


def status(entry: Entry, need: Need, what: Claims, tokens: Tokens = TOKENS) -> int:
    """The HTTP status of the refusal; 0: none."""
    found = refusal(entry, need, what, tokens, HOSTS)
    return 0 if found is None else found.status


ALL = (None, READ, WRITE, "something-else-entirely")
TABLE = {
    # no token, the read token, the write token, another one
    (Entry.UNIX, Need.OPEN): (0, 0, 0, 0),
    (Entry.UNIX, Need.PAGE): (0, 0, 0, 0),
    (Entry.UNIX, Need.READ): (0, 0, 0, 0),
    (Entry.UNIX, Need.WRITE): (0, 0, 0, 0),
    (Entry.LOOPBACK, Need.OPEN): (0, 0, 0, 0),
    (Entry.LOOPBACK, Need.PAGE): (0, 0, 0, 0),
    (Entry.LOOPBACK, Need.READ): (0, 0, 0, 0),
    (Entry.LOOPBACK, Need.WRITE): (401, 401, 0, 401),
    (Entry.ELSEWHERE, Need.OPEN): (0, 0, 0, 0),
    (Entry.ELSEWHERE, Need.PAGE): (0, 0, 0, 0),
    (Entry.ELSEWHERE, Need.READ): (401, 0, 0, 401),
    (Entry.ELSEWHERE, Need.WRITE): (401, 401, 0, 401),
    (Entry.METRICS, Need.OPEN): (0, 0, 0, 0),
}


@pytest.mark.parametrize(("entry", "need"), TABLE)
def test_each_door_asks_for_the_token_that_it_must(entry: Entry, need: Need) -> None:
    found = tuple(status(entry, need, claims(token)) for token in ALL)
    assert found == TABLE[entry, need]


@pytest.mark.parametrize(
    "authorization",
    [
        ("",),
        ("Bearer",),
        ("Bearer ",),
        (f"Bearer {WRITE[:-1]}",),
        (f"Bearer {WRITE}x",),
        (f"Bearer {WRITE.upper()}",),
        (f"Bearer {WRITE} {WRITE}",),
        (f"Bearer {WRITE[:4]}",),
        (f"Basic {WRITE}",),
        (f"Token {WRITE}",),
        (WRITE,),
        (f"Bearer{WRITE}",),
        (f'Bearer "{WRITE}"',),
        (f"Bearer {WRITE}\x00",),
        (f"Bearer {WRITE}, Bearer {WRITE}",),
        (f"Bearer {WRITE}", f"Bearer {WRITE}"),
        ("Bearer wrong-wrong-wrong", f"Bearer {WRITE}"),
        ("Bearer \udcff\udcfe",),
        ("Bearer ü" + WRITE,),
    ],
)
def test_what_is_nearly_the_token_is_not(authorization: tuple[str, ...]) -> None:
    what = Claims(host=(HOST,), authorization=authorization)
    assert status(Entry.LOOPBACK, Need.WRITE, what) == 401
    assert status(Entry.ELSEWHERE, Need.READ, what) == 401
    assert not may_write(Entry.LOOPBACK, what, TOKENS)


@pytest.mark.parametrize("text", [f"Bearer {WRITE}", f"bearer {WRITE}", f"BEARER  {WRITE} "])
def test_the_scheme_is_written_as_http_allows(text: str) -> None:
    what = Claims(host=(HOST,), authorization=(text,))
    assert status(Entry.ELSEWHERE, Need.WRITE, what) == 0


def test_where_there_is_no_read_token_only_the_write_token_reads_elsewhere() -> None:
    tokens = Tokens(write=WRITE.encode())
    found = [status(Entry.ELSEWHERE, Need.READ, claims(token), tokens) for token in ALL]
    assert found == [401, 401, 0, 401]


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9900", True),
        ("10.1.2.3:1", True),
        ("[::1]", True),
        ("[::1]:9900", True),
        ("[2001:db8::7]:9900", True),
        ("localhost", True),
        ("LOCALHOST:9900", True),
        ("localhost.:9900", True),
        ("proxy.example.com:9900", True),
        ("Proxy.Example.COM", True),
        ("box", True),
        ("evil.example:9900", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1.nip.io:9900", False),
        ("evil.example@127.0.0.1", False),
        ("127.0.0.1@evil.example", False),
        ("127.0.0.1:9900:9900", False),
        ("127.0.0.1:port", False),
        ("127.0.0.1, evil.example", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("[::1", False),
        ("[fe80::1%eth0]", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("127.1", False),
        ("", False),
        ("/", False),
        ("127.0.0.1/", False),
        ("http://127.0.0.1", False),
        ("sub.proxy.example.com", False),
        ("\uff10.0.0.0", False),
    ],
)
def test_a_host_is_ours_or_not(host: str, ours: bool) -> None:
    assert is_ours(host, HOSTS) is ours
    for entry in (Entry.LOOPBACK, Entry.ELSEWHERE):
        for need in (Need.PAGE, Need.READ, Need.WRITE):
            assert status(entry, need, claims(WRITE, host=host)) == (0 if ours else 403)


def test_a_request_names_one_host() -> None:
    for hosts in ((), (HOST, HOST)):
        what = Claims(host=hosts, authorization=(f"Bearer {WRITE}",))
        assert status(Entry.LOOPBACK, Need.READ, what) == 400


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        (HOST, f"http://{HOST}", 0),
        (HOST, f"HTTP://{HOST}", 403),  # browsers write it in lower case
        ("proxy.example.com", "https://proxy.example.com", 0),
        ("Proxy.example.com", "https://proxy.example.com", 0),
        (HOST, "http://127.0.0.1", 403),
        (HOST, "http://127.0.0.1:9901", 403),
        (HOST, "http://localhost:9900", 403),
        (HOST, "http://evil.example", 403),
        (HOST, f"http://{HOST}.evil.example", 403),
        (HOST, f"http://evil.example/{HOST}", 403),
        (HOST, f"http://evil.example@{HOST}", 403),
        (HOST, f"ftp://{HOST}", 403),
        (HOST, HOST, 403),
        (HOST, "null", 403),
        (HOST, "", 403),
        (HOST, f"http://{HOST}/", 403),
    ],
)
def test_only_a_page_of_ours_may_ask(host: str, origin: str, expected: int) -> None:
    for entry in (Entry.LOOPBACK, Entry.ELSEWHERE):
        for need in (Need.READ, Need.WRITE):
            assert status(entry, need, claims(WRITE, host, origin)) == expected
        assert status(entry, Need.PAGE, claims(None, host, origin)) == 0


def test_of_two_origins_both_must_be_ours() -> None:
    what = Claims(host=(HOST,), origin=(f"http://{HOST}", "http://evil.example"))
    assert status(Entry.LOOPBACK, Need.READ, what) == 403


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("same-origin", 0),
        ("none", 0),
        ("same-site", 403),
        ("cross-site", 403),
        ("", 403),
        ("new-word", 403),
    ],
)
def test_what_a_browser_says_of_the_page_that_asks_is_believed(site: str, expected: int) -> None:
    for need in (Need.READ, Need.WRITE):
        assert status(Entry.LOOPBACK, need, claims(WRITE, site=site)) == expected
    assert status(Entry.LOOPBACK, Need.PAGE, claims(site=site)) == 0


def test_probes_may_name_any_host() -> None:
    for entry in Entry:
        assert status(entry, Need.OPEN, claims(host="lb.example", site="cross-site")) == 0
        assert status(entry, Need.OPEN, claims(host=None)) == 0


def test_who_could_write_is_who_would_get_through() -> None:
    assert [may_write(Entry.UNIX, claims(token), TOKENS) for token in ALL] == [True] * 4
    for entry in (Entry.LOOPBACK, Entry.ELSEWHERE):
        found = [may_write(entry, claims(token), TOKENS) for token in ALL]
        assert found == [False, False, True, False]
    assert not may_write(Entry.METRICS, claims(WRITE), TOKENS)


def test_a_refusal_shows_no_more_of_a_host_than_a_line_can_hold() -> None:
    found = refusal(Entry.LOOPBACK, Need.READ, claims(host="x\n\x1b[31m" * 50), TOKENS, HOSTS)
    assert found is not None
    assert found.text.isprintable()
    assert len(found.text) < 150
